"""Ways out of a sandbox."""

from __future__ import annotations

import socket

import pytest

from tests.attacks.stage import Stage

pytestmark = pytest.mark.docker

# From the ranges for documentation, but for the metadata address: no packet could go anywhere in any case.
PLACES = ["192.0.2.1", "198.51.100.1", "10.0.0.1", "172.17.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1"]


async def test_20_nothing_outside_can_be_reached(stage: Stage) -> None:
    visitor = await stage.console()
    with socket.create_server(("127.0.0.1", 0)) as on_host:
        port = on_host.getsockname()[1]
        found = await visitor.run(f"""
            def reach(place, port, kind=socket.SOCK_STREAM):
                family = socket.AF_INET6 if ":" in place else socket.AF_INET
                with socket.socket(family, kind) as sock:
                    sock.settimeout(2)
                    return refused(sock.connect, (place, port)) or refused(sock.send, b"x")
            places = {PLACES!r} + ["2001:db8::1", "fd00:ec2::254"]
            answer = {{place: [reach(place, 80), reach(place, 53, socket.SOCK_DGRAM)] for place in places}}
            answer["host's loopback"] = [reach("127.0.0.1", {port}), reach("127.0.0.1", {stage.server.port})]
            answer["broadcast"] = [reach("255.255.255.255", 67, socket.SOCK_DGRAM)]
            """)
    assert set(found.pop("host's loopback")) == {"ECONNREFUSED"}  # it is the sandbox's own
    no_way = {"ENETUNREACH", "EADDRNOTAVAIL", "EACCES"}
    assert {place: errors for place, errors in found.items() if not set(errors) <= no_way} == {}


async def test_20_no_abstract_socket_of_the_host_is_seen(stage: Stage) -> None:
    """They belong to a network namespace, not to a file system."""
    visitor = await stage.console()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{stage.instance}")
        listener.listen()
        found = await visitor.run(f"""
            with socket.socket(socket.AF_UNIX) as sock:
                answer = refused(sock.connect, "\\0{stage.instance}"), open("/proc/net/unix").read()
            """)
    assert found[0] == "ECONNREFUSED"
    assert stage.instance not in found[1]

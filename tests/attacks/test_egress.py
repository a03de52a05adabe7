"""Ways out of a sandbox."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from htagweb_orchestrator.settings import AppSettings
from tests.attacks.stage import CONSOLE_SOURCE, Stage

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


@pytest.fixture
def walled_network(client: docker.APIClient) -> Iterator[str]:
    """As the documents advise: its members don't reach each other. It leads nowhere."""
    name = f"htagweb-attacks-walled-{os.getpid()}"
    client.create_network(name, internal=True, options={"com.docker.network.bridge.enable_icc": "false"})
    yield name
    client.remove_network(name)


async def test_20_a_network_of_its_own_choosing_is_all_that_an_app_gets(
    walled_network: str, closed_stage: Stage
) -> None:
    stage = closed_stage
    stage.publish("inside.py", CONSOLE_SOURCE)
    await stage.open(apps={"console": AppSettings(overrides={"network": walled_network})})
    visitor, other = await stage.console(), await stage.console()  # their pages came by the socket all the same
    inside = await stage.console(app="inside")
    assert await inside.run("answer = os.listdir('/sys/class/net')", app="inside") == ["lo"]
    for each in (visitor, other):
        assert len(await each.run("answer = os.listdir('/sys/class/net')")) == 2
        networks = stage.inspect(stage.sandbox(each).id)["NetworkSettings"]["Networks"]
        assert list(networks) == [walled_network]
    found = await visitor.run("""
        def reach(place):
            with socket.socket() as sock:
                sock.settimeout(1)
                return refused(sock.connect, (place, 80))
        answer = [reach("192.0.2.1"), reach("169.254.169.254")]
        """)
    assert set(found) <= {"ENETUNREACH", "EHOSTUNREACH", "ETIMEDOUT"}


async def test_20_members_of_a_network_without_icc_do_not_reach_each_other(
    walled_network: str, closed_stage: Stage
) -> None:
    if not _bridges_are_filtered():
        pytest.skip("this kernel doesn't filter what passes between members of a bridge (br_netfilter)")
    stage = closed_stage
    await stage.open(apps={"console": AppSettings(overrides={"network": walled_network})})
    victim, attacker = await stage.console(), await stage.console()
    (network,) = stage.inspect(stage.sandbox(victim).id)["NetworkSettings"]["Networks"].values()
    await victim.run("""
        listening = socket.create_server(("0.0.0.0", 8080))
        reached = []
        threading.Thread(target=lambda: reached.append(listening.accept()), daemon=True).start()
        """)
    await attacker.run(f"""
        with socket.socket() as sock:
            sock.settimeout(1)
            answer = refused(sock.connect, ({network["IPAddress"]!r}, 8080))
        """)
    assert await victim.run("answer = len(reached)") == 0


def _bridges_are_filtered() -> bool:
    setting = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    return setting.exists() and setting.read_text().strip() == "1"

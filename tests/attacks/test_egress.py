"""Ways out of a sandbox, on an engine whose whole outside is ours: see outside.py."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator

import docker
import pytest

from htagweb_orchestrator.settings import AppSettings
from tests.attacks.outside import PORT, Outside, outside
from tests.attacks.own_engine import engine
from tests.attacks.stage import CONSOLE_SOURCE, Stage
from tests.engines.conftest import SOCKET

pytestmark = pytest.mark.docker

REACH = """
def reach(place, port, kind=socket.SOCK_STREAM):
    family = socket.AF_INET6 if ":" in place else socket.AF_INET
    with socket.socket(family, kind) as sock:
        sock.settimeout(0.5)
        return refused(sock.connect, (place, port)) or refused(sock.send, b"x")
"""


@pytest.fixture(scope="module")
def world() -> Iterator[Outside]:
    if os.geteuid() != 0:
        pytest.skip("making network namespaces takes root")
    with outside() as made:
        yield made


@pytest.fixture(scope="module")
def engine_address(world: Outside) -> Iterator[str]:
    """In place of the machine's engine."""
    whole = docker.APIClient(base_url=f"unix://{SOCKET}", version="auto")
    try:
        with engine(whole, within=world.within) as address:
            yield address
    finally:
        whole.close()


@pytest.fixture(scope="module")
def client(engine_address: str) -> Iterator[docker.APIClient]:
    client = docker.APIClient(base_url=engine_address, version="auto")
    yield client
    client.close()


async def test_20_nothing_outside_can_be_reached(stage: Stage, world: Outside) -> None:
    visitor = await stage.console()
    with socket.create_server(("127.0.0.1", 0)) as on_host:
        port = on_host.getsockname()[1]
        found = await visitor.run(
            REACH
            + f"""
places = {list(world.places.values())!r} + ["172.17.0.1", "10.0.0.1", "2001:db8::1", "fd00:ec2::254"]
answer = {{place: [reach(place, {PORT}), reach(place, 53, socket.SOCK_DGRAM)] for place in places}}
answer["host's loopback"] = [reach("127.0.0.1", {port}), reach("127.0.0.1", {stage.server.port})]
answer["broadcast"] = [reach("255.255.255.255", 67, socket.SOCK_DGRAM)]
"""
        )
    assert set(found.pop("host's loopback")) == {"ECONNREFUSED"}  # it is the sandbox's own
    no_way = {"ENETUNREACH", "EADDRNOTAVAIL", "EACCES"}
    assert {place: errors for place, errors in found.items() if not set(errors) <= no_way} == {}


@pytest.fixture
def plain_network(client: docker.APIClient) -> Iterator[str]:
    name = f"htagweb-attacks-plain-{os.getpid()}"
    client.create_network(name, driver="bridge")
    yield name
    client.remove_network(name)


async def test_a_plain_network_opens_all_that_the_documents_say(
    plain_network: str, closed_stage: Stage, world: Outside
) -> None:
    """The same attack with the operator's consent: so it would be seen to succeed."""
    await closed_stage.open(apps={"console": AppSettings(overrides={"network": plain_network})})
    visitor = await closed_stage.console()
    found = await visitor.run(
        REACH + f"answer = {{name: reach(place, {PORT}) for name, place in {world.places!r}.items()}}"
    )
    assert found == dict.fromkeys(world.places, "")


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
    walled_network: str, closed_stage: Stage, world: Outside
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
    away = {key: place for key, place in world.places.items() if key != "host"}
    found = await visitor.run(REACH + f"answer = [reach(place, {PORT}) for place in {list(away.values())!r}]")
    assert set(found) <= {"ENETUNREACH", "EHOSTUNREACH", "ETIMEDOUT"}


async def test_20_members_of_a_network_without_icc_do_not_reach_each_other(
    walled_network: str, closed_stage: Stage, world: Outside
) -> None:
    if not _bridges_are_filtered(world):
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


def _bridges_are_filtered(world: Outside) -> bool:
    setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    found = subprocess.run([*world.within, "cat", setting], capture_output=True, text=True, timeout=10, check=False)
    return found.stdout.strip() == "1"

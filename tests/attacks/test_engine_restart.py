"""The engine is stopped or killed under the platform, and started again: an engine of the tests' own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import pytest
from docker.transport.unixconn import UnixHTTPConnection

from htagweb_orchestrator.model import Ending
from tests.attacks.own_engine import OwnEngine, own_engine
from tests.attacks.stage import Stage, eventually
from tests.engines.conftest import IMAGE

pytestmark = pytest.mark.docker

PATIENCE_S = 60.0  # an engine that comes up looks through all that it had


@pytest.fixture(scope="module")
def own(client: docker.APIClient) -> Iterator[OwnEngine]:
    if os.geteuid() != 0:
        pytest.skip("starting an engine takes root")
    with own_engine(client, "--bridge=none", "--iptables=false", "--ip6tables=false") as engine:
        yield engine


@pytest.fixture(autouse=True)
def _closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver leaves a socket that it can't connect to the garbage collector, which complains of that."""

    def connect(self: UnixHTTPConnection) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            sock.connect(self.unix_socket)
        except OSError:
            sock.close()
            raise
        self.sock = sock

    monkeypatch.setattr(UnixHTTPConnection, "connect", connect)


@pytest.fixture
async def stage(own: OwnEngine, tmp_path: Path) -> AsyncIterator[Stage]:
    client = docker.APIClient(base_url=own.address, version="auto")
    stage = Stage(tmp_path, client, own.address)
    try:
        await stage.open()
        yield stage
    finally:
        if not own.running:
            own.start()
        await stage.close()
        client.close()


@pytest.fixture
def foreign(stage: Stage) -> Iterator[str]:
    """A container that is none of ours; the engine starts it again when it comes up."""
    host = stage.client.create_host_config(network_mode="none", restart_policy={"Name": "always"})
    made: str = stage.client.create_container(
        IMAGE, entrypoint=["sleep", "600"], stop_signal="SIGKILL", host_config=host
    )["Id"]
    stage.client.start(made)
    yield made
    stage.client.remove_container(made, force=True)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_who_was_on_an_engine_that_restarts_is_told_and_everybody_is_served_again(
    own: OwnEngine, stage: Stage, foreign: str, how: signal.Signals
) -> None:
    visitor, late = await stage.console(), stage.visitor()
    lost = stage.sandbox(visitor).id

    await asyncio.to_thread(own.stop, how)
    refused = await late.open("console")
    assert (refused.status, b"neither the app" in refused.body) == (503, True)

    await asyncio.to_thread(own.start)
    (ended,) = await eventually(lambda: stage.control.ended(lost), within_s=PATIENCE_S)
    assert (ended.ending, ended.detail) == (Ending.LOST, "the engine was restarted")
    assert (await visitor.status("console"))["title"] == "This app is gone"
    for each in (late, visitor):
        assert (await each.get("/-/start?app=console&next=/console/", Accept="text/html")).status == 303
        await stage.console(each)
    await eventually(lambda: len(stage.containers()) == 2, within_s=PATIENCE_S)
    assert lost not in stage.run.ids()
    assert stage.client.inspect_container(foreign)["State"]["Running"]

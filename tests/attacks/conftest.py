from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import pytest

from tests.attacks.defences import without
from tests.attacks.stage import Stage
from tests.engines.conftest import SOCKET


@pytest.fixture(scope="session")
def engine_address() -> str:
    return f"unix://{SOCKET}"


@pytest.fixture(scope="session")
def client(engine_address: str) -> Iterator[docker.APIClient]:
    client = docker.APIClient(base_url=engine_address, version="auto")
    yield client
    client.close()


@pytest.fixture
def internal_network(client: docker.APIClient) -> Iterator[str]:
    """A network that leads nowhere."""
    name = f"htagweb-attacks-{os.getpid()}"
    client.create_network(name, internal=True)
    yield name
    client.remove_network(name)


@pytest.fixture(autouse=True)
def _with_one_defence_off(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """ATTACKS_WITHOUT names it; see defences.py."""
    if name := os.environ.get("ATTACKS_WITHOUT"):
        network = request.getfixturevalue("internal_network") if name == "network none" else ""
        without(name, monkeypatch, network)


@pytest.fixture
async def closed_stage(client: docker.APIClient, engine_address: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """Everything is there, and nothing serves yet."""
    if os.geteuid() != 0:
        pytest.skip("does what the orchestrator does, which takes root")
    stage = Stage(tmp_path, client, engine_address)
    try:
        yield stage
    finally:
        await stage.close()


@pytest.fixture
async def stage(closed_stage: Stage) -> Stage:
    """The platform with its defaults."""
    await closed_stage.open()
    return closed_stage

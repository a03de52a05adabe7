from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from htagweb_orchestrator import census, control, endings
from tests.orchestrator.stage import Plane, Stage


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    if os.getuid() != 0:
        pytest.skip("needs root: each sandbox's files get a uid of their own")
    stage = Stage(tmp_path)
    yield stage
    await stage.close()


@pytest.fixture
async def plane(stage: Stage) -> Plane:
    """Open, with the defaults, and nobody watches."""
    return await stage.open()


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often something is tried is no behaviour worth waiting for."""
    for module in (census, control, endings):
        monkeypatch.setattr(module, "RETRY_S", 0.05)


@pytest.fixture(autouse=True)
def _nothing_unforeseen(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Iterator[None]:
    """An exception that only reached the log is a failure too, unless the test expects that."""
    yield
    if request.node.get_closest_marker("unforeseen") is None:
        told = [record for when in ("setup", "call") for record in caplog.get_records(when)]
        errors = [record.getMessage() for record in told if record.exc_info and record.levelno >= logging.ERROR]
        assert not errors


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "unforeseen: the log may tell of an exception that nobody foresaw")

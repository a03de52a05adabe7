from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.sign_in.stage import Stage


@pytest.fixture
async def closed_stage(tmp_path: Path) -> AsyncIterator[Stage]:
    if os.getuid() != 0:
        pytest.skip("needs root: each sandbox's files get a uid of their own")
    stage = Stage(tmp_path)
    yield stage
    await stage.close()


@pytest.fixture
async def stage(closed_stage: Stage) -> Stage:
    """Open, with passwords."""
    await closed_stage.open()
    return closed_stage

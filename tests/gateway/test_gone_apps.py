"""What becomes of a visitor's sandbox when its app is no longer published, or no longer for him."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from htagweb_orchestrator.model import AppName
from tests.gateway.scripted import eventually
from tests.sign_in.stage import Stage, place

OLD = AppName("plot")


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    if os.getuid() != 0:
        pytest.skip("needs root: each sandbox's files get a uid of their own")
    stage = Stage(tmp_path)
    await stage.open(auth="anonymous", max_per_user=1)
    yield stage
    await stage.close()


async def test_a_sandbox_of_an_app_that_was_removed_is_listed_and_can_be_ended(stage: Stage) -> None:
    visitor, other = stage.visitor(), stage.visitor()
    await eventually(lambda: OLD in stage.gateway.routes.apps)
    assert (await visitor.open(OLD)).status == 200
    socket = await visitor.socket(f"/{OLD}/ws")
    (stage.machine.root / "apps" / f"{OLD}.py").unlink()
    await eventually(lambda: OLD not in stage.gateway.routes.apps, within_s=15)
    await socket.send("still there?")
    assert await socket.recv() == "still there?"
    assert (await visitor.page(f"/{OLD}/")).status == 404

    catalogue = (await visitor.page("/")).body.decode()
    assert catalogue.count("No longer published") == 1
    assert f'aria-label="End {OLD}"' in catalogue
    assert b"No longer published" not in (await other.follow("/")).body
    assert "End “plot”, open “Hello”" in (await visitor.page("/hello/")).body.decode()  # it counts
    ended = await visitor.form("/-/stop", app=OLD)
    assert (ended.status, place(ended)) == (303, "/")
    assert b"No longer published" not in (await visitor.page("/")).body
    assert (await visitor.open("hello")).status == 200
    await socket.close()

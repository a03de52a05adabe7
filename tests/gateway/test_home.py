"""An installation with one app: where `/` leads."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from htagweb_orchestrator.catalogue import Catalogue
from tests.gateway.scripted import eventually
from tests.orchestrator.stage import SOURCE
from tests.sign_in.stage import Stage, place


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    if os.getuid() != 0:
        pytest.skip("needs root: each sandbox's files get a uid of their own")
    stage = Stage(tmp_path)
    await stage.open(auth="anonymous", home="hello")
    yield stage
    await stage.close()


async def test_a_home_that_changes_counts_at_once_and_for_a_gateway_that_comes_later(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = stage.visitor()
    assert place(await visitor.page("/")) == "/hello/"
    monkeypatch.setattr(Catalogue, "home", lambda catalogue: "clock")
    (stage.machine.root / "apps" / "another.py").write_text(SOURCE)  # so that something is told
    await eventually(lambda: stage.gateway.routes.platform.home == "clock", within_s=15)
    assert place(await visitor.page("/")) == "/clock/"
    _, server = await stage.worker()
    assert place(await stage.visitor(server=server).page("/")) == "/clock/"


@pytest.mark.parametrize("query", ["", "?41", "?a=1&next=%2F%2Fevil.example&b=%20"])
async def test_the_address_of_an_installation_leads_to_its_one_app_query_and_all(stage: Stage, query: str) -> None:
    answer = await stage.visitor().page(f"/{query}")
    assert (answer.status, place(answer)) == (307, f"/hello/{query}")
    assert answer.header(b"cache-control") == b"no-store"
    visitor = stage.visitor()
    assert (await visitor.follow(f"/{query}")).status in (200, 503)  # there, or on its way
    assert b"hello" in (await visitor.page("/-/status?app=hello")).body

"""An app without htag, from a real browser's request to a real container and back."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import docker
import pytest

from htagweb_orchestrator.model import Ending
from tests.attacks.stage import Stage
from tests.engines.conftest import SOCKET

APP = '''
"""A shop without htag."""
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.routing import Route

basket = []

async def page(request):
    return HTMLResponse(f"<!doctype html><html><head><title>Shop</title></head><body>{len(basket)} things</body>")

async def add(request):
    basket.append(await request.body())
    return RedirectResponse(request.url_for("page"), 303)

async def facts(request):
    return JSONResponse({"url": str(request.url), "has_session": "session" in request.scope})

app = Starlette(routes=[
    Route("/", page, name="page"), Route("/add", add, methods=["POST"]), Route("/facts", facts),
])
'''
pytestmark = [pytest.mark.docker, pytest.mark.skipif(os.geteuid() != 0, reason="does what the orchestrator does")]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    client = docker.APIClient(base_url=f"unix://{SOCKET}", version="auto")
    stage = Stage(tmp_path, client)
    stage.publish("shop.py", APP)
    try:
        await stage.open(warm_max=2, warm_min=1)
        yield stage
    finally:
        await stage.close()
        client.close()


async def test_an_app_without_htag_is_served_like_any_other(stage: Stage) -> None:
    ann, bob = stage.visitor(), stage.visitor()
    pages = [await visitor.open("shop") for visitor in (ann, bob)]
    assert [page.status for page in pages] == [200, 200], pages[0].body
    assert pages[0].body.startswith(b'<!doctype html><html><head><script src="/-/live.js" data-app="shop"')
    added = await ann.post("/shop/add", b"a hat")
    assert (added.status, added.header(b"location")) == (303, b"/shop/")
    counts = [(await visitor.open("shop")).body.partition(b"<body>")[2][:8] for visitor in (ann, bob)]
    assert counts == [b"1 things", b"0 things"]  # to each a process of his own
    facts = await ann.get("/shop/facts")
    assert facts.body == f'{{"url":"http://{ann.host}/shop/facts","has_session":false}}'.encode()
    sandbox = stage.sandbox(ann, "shop")
    assert stage.inspect(sandbox.id)["Config"]["Cmd"] == ["--generation", "0"]
    await stage.control.end([sandbox], Ending.OPERATOR)
    ended = await ann.open("shop")
    assert (ended.status, b"This app was stopped" in ended.body) == (503, True)

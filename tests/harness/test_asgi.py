"""An app that is no htag class but an ASGI application, as its visitor and its author see it."""

from __future__ import annotations

import gzip

import pytest

from tests.harness.conftest import Boot
from tests.harness.driver import Harness

APP = """
import contextlib
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

PAGE = "<!doctype html><html><head><title>Toy</title></head><body>" + "here I am " * 200 + "</body></html>"

@contextlib.asynccontextmanager
async def lifespan(app):
    print("started")
    yield {"greeting": "hello"}
    print("stopped", flush=True)

async def page(request):
    return HTMLResponse(PAGE)

async def fragment(request):
    return HTMLResponse("<h1>part of a page</h1>")

async def facts(request):
    return JSONResponse({
        "url": str(request.url), "own": str(request.url_for("facts")), "root": request.scope["root_path"],
        "prefix": request.headers.get("x-forwarded-prefix"),
        "client": request.client.host if request.client else None, "greeting": request.state.greeting,
    })

async def slowly(request):
    async def parts():
        for part in ("<!-- ours --><!DOCTYPE ht", "ml><html><he", "ad><title>", "slow</title>", "<p>end"):
            yield part
    return StreamingResponse(parts(), media_type="text/html")

async def echo(websocket):
    await websocket.accept()
    await websocket.send_text(f"{websocket.url} {await websocket.receive_text()}")
    await websocket.close(1012)

app = Starlette(lifespan=lifespan, routes=[
    Route("/", page), Route("/fragment", fragment), Route("/facts", facts, name="facts"), Route("/slowly", slowly),
    WebSocketRoute("/echo", echo),
])
app.add_middleware(GZipMiddleware, minimum_size=10)
"""
SCRIPT = '<script src="/-/live.js" data-app="toy" data-sockets="own"></script>'
VISITOR = {
    "host": "apps.example", "x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.7", "x-forwarded-prefix": "/toy",
}  # fmt: skip
SOCKET = {name: value for name, value in VISITOR.items() if name != "host"}  # which the client sends itself
OWN_HOST = {"host": "toy.apps.example", "x-forwarded-proto": "http"}


@pytest.fixture
async def other(boot: Boot) -> Harness:
    return await boot(0)


async def served(harness: Harness, source: str = APP) -> Harness:
    await harness.load(source, "app:app")
    await harness.claim()
    return harness


async def test_a_document_gets_the_platforms_script_and_its_length_is_right(other: Harness) -> None:
    await served(other)
    answer = await other.http.get("/", headers={"accept": "text/html", "accept-encoding": "gzip"})
    assert answer.text.startswith(f"<!doctype html><html><head>{SCRIPT}<title>Toy</title>")
    assert answer.text.count("here I am") == 200
    assert int(answer.headers["content-length"]) == len(answer.content)


async def test_what_is_no_document_stays_as_it_is(other: Harness) -> None:
    await served(other)
    assert (await other.http.get("/fragment")).text == "<h1>part of a page</h1>"
    # Asked for by a program, which may have it compressed.
    async with other.http.stream("GET", "/", headers={"accept": "*/*", "accept-encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        body = gzip.decompress(b"".join([part async for part in answer.aiter_raw()])).decode()
    assert SCRIPT not in body


async def test_a_document_that_comes_in_pieces_gets_it_too(other: Harness) -> None:
    await served(other)
    text = (await other.http.get("/slowly", headers={"accept": "text/html"})).text
    assert text == f"<!-- ours --><!DOCTYPE html><html><head>{SCRIPT}<title>slow</title><p>end"


async def test_it_knows_where_it_is_served_and_to_whom(other: Harness) -> None:
    await served(other)
    assert (await other.http.get("/facts", headers=VISITOR)).json() == {
        "url": "https://apps.example/toy/facts",
        "own": "https://apps.example/toy/facts",
        "root": "/toy",
        "prefix": None,
        "client": "192.0.2.7",
        "greeting": "hello",
    }
    facts = (await other.http.get("/facts", headers=OWN_HOST)).json()
    assert (facts["own"], facts["root"]) == ("http://toy.apps.example/facts", "")
    async with other.websocket("/echo", additional_headers=SOCKET) as websocket:
        await websocket.send("hi")
        assert await websocket.recv() == "wss://sandbox/toy/echo hi"


async def test_its_lifespan_begins_with_its_visitor_and_ends_with_the_sandbox(other: Harness) -> None:
    await other.load(APP, "app:app")
    await other.link.ping()
    assert "started" not in other.link.output
    await other.claim()
    other.link.send({"type": "end", "reason": "idle", "grace_s": 5})
    assert await other.ended() == 0
    assert other.link.output.splitlines() == ["started", "stopped"]


async def test_a_startup_that_fails_is_told_in_its_own_words(other: Harness) -> None:
    source = APP.replace('print("started")', 'raise RuntimeError("no database here")')
    await other.load(source, "app:app")
    failed = await other.claim(expect="failed")
    assert failed["error"] == "RuntimeError: no database here"
    assert 'File "' in failed["traceback"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def app(environ, start_response): ...", "WSGI"),
        ("class app: ...", "can't be called"),
        ("app = 3", "can't be called"),
    ],
)
async def test_what_is_no_asgi_application_is_refused_with_the_reason(other: Harness, source: str, said: str) -> None:
    failed = await other.load(source, "app:app", expect="failed")
    assert "app:app is no ASGI application" in failed["error"]
    assert said in failed["error"]


async def test_a_bare_coroutine_without_a_lifespan_is_an_application(other: Harness) -> None:
    source = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})
"""
    await served(other, source)
    assert (await other.http.get("/a%20b", headers=VISITOR)).text == "/toy/a b"

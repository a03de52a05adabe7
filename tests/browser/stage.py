"""A little gateway for the page shim's tests: a process of its own, so that it can be killed like the real one.

It serves one app, `toy`, behind our own static files and pages. What it knows it reads from its folder on every
request, so a test changes the world by writing `status.json`; what it hears it appends to `heard.txt`.

    python stage.py PORT FOLDER
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route as Path_
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from htagweb_gateway.pages import Pages
from htagweb_orchestrator.model import AppCard, AppName, Ending, Route, SandboxId, State, Step, UserId

PAGE = """<!doctype html><html><head><script src="/-/live.js" data-app="toy"></script><title>toy</title></head>
<body style="font: 16px sans-serif"><h1>Toy</h1><p>An app of somebody's.</p></body></html>"""
ALIVE: dict[str, object] = {"state": "ready", "step": "ready", "left_s": 900.0, "left_why": "idle", "ending": None}
CARD = AppCard(name=AppName("toy"), title="Toy")
pages = Pages()
folder = Path()  # from the command line


def status() -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "status.json").read_text())
    return found


def say(status: dict[str, object]) -> None:
    draft = folder / "draft.json"
    draft.write_text(json.dumps(status))
    draft.rename(folder / "status.json")


def heard(line: str) -> None:
    with (folder / "heard.txt").open("a") as file:
        file.write(line + "\n")


async def app_page(request: Request) -> Response:
    now = status()
    facts = {"user": UserId("u"), "app": CARD.name, "sandbox": SandboxId("0" * 32)}
    if now["state"] == "starting":
        step = Step(str(now["step"]))
        times = {"started_ago_s": now["elapsed_s"], "expected_s": 3.0}
        route = msgspec.convert({**facts, "state": State.STARTING, "step": step, **times}, Route)
        return pages.waiting(CARD, route, target=str(request.url.path))
    if now["state"] == "ended":
        route = msgspec.convert({**facts, "state": State.ENDED, "ending": Ending(str(now["ending"]))}, Route)
        return pages.ended(CARD, route, target=str(request.url.path))
    return HTMLResponse(PAGE)


async def start(request: Request) -> Response:
    heard(f"start {request.query_params['app']} {request.query_params['next']}")
    say(status() | ALIVE | {"sandbox": "b" * 12, "outdated": False})
    return RedirectResponse(request.query_params["next"], 303)


async def stop(request: Request) -> Response:
    form = (await request.body()).decode()
    heard(f"stop {form}")
    return RedirectResponse("/", 303)


async def stay(request: Request) -> Response:
    form = (await request.body()).decode()
    heard(f"stay {form}")
    say(status() | ALIVE)
    return Response(None, 204)


async def asset(request: Request) -> Response:
    return pages.asset(request.path_params["name"]) or Response("no such file", 404)


async def gone(request: Request) -> Response:
    return Response("{}", 503, {"X-Htagweb": "ended"}, media_type="application/problem+json")


async def talk(socket: WebSocket) -> None:
    """Echoes what it hears; `close CODE REASON` makes it close. Lets nobody in while `refuse` exists."""
    if (folder / "refuse").exists():
        await socket.close()
        return
    wanted = socket.scope["subprotocols"]
    await socket.accept(subprotocol=wanted[0] if wanted else None)
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                await socket.send_bytes(message["bytes"])
                continue
            if text.startswith("close "):
                _, code, reason = text.split(" ", 2)
                await socket.close(int(code), reason)
                return
            heard(f"ws {text}")
            await socket.send_text(text)
    except WebSocketDisconnect:
        pass


async def report(request: Request) -> Response:
    heard("status")
    return JSONResponse(status())


app = Starlette(
    routes=[
        Path_("/-/status", report),
        Path_("/-/start", start),
        Path_("/-/stop", stop, methods=["POST"]),
        Path_("/-/stay", stay, methods=["POST"]),
        Path_("/-/{name}", asset),
        Path_("/toy/gone", gone, methods=["GET", "POST"]),
        Path_("/toy/{rest:path}", app_page),
        WebSocketRoute("/toy/ws", talk),
        WebSocketRoute("/other/ws", talk),
    ]
)

if __name__ == "__main__":
    folder = Path(sys.argv[2])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning"))
    asyncio.run(server.serve())

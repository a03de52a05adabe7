"""The orchestrator's two sockets, spoken to by the gateway's own client, by an operator's, and by strangers."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from htagweb_gateway.orchestrator_client import OrchestratorClient
from htagweb_orchestrator import service, wire
from htagweb_orchestrator.errors import AppNotFound, OrchestratorUnavailable, UserLimitReached
from htagweb_orchestrator.hub import QUEUE
from htagweb_orchestrator.model import AppName, Ending, RouteChanged, SandboxId, Seen, Snapshot, State, Step
from tests.orchestrator.stage import ALICE, BOB, HELLO, Plane, Stage, eventually

STRANGER = 12345

CONNECT = """
import os, socket, sys
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as peer:
    peer.settimeout(5)
    peer.connect(sys.argv[1])
    try:
        peer.sendall(b"GET /v1/readyz HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        print(peer.recv(100).decode())
    except ConnectionError:
        pass
"""


@asynccontextmanager
async def served(app: ASGIApp, path: Path, *uids: int) -> AsyncIterator[None]:
    running = service.server(app, allowed_uids={0, *uids})
    running.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(running.serve(sockets=[service.listen(path, mode=0o666)]))
    await eventually(lambda: running.started)
    try:
        yield
    finally:
        running.should_exit = True
        await task


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, as a socket's name must be, and open to pass for other users."""
    path = Path(tempfile.mkdtemp(prefix="htagweb-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def client(plane: Plane, folder: Path) -> AsyncIterator[OrchestratorClient]:
    async with served(Stage.gateway_app(plane), folder / "orch.sock"):
        client = OrchestratorClient(str(folder / "orch.sock"))
        yield client
        await client.close()


@pytest.fixture
async def raw(client: OrchestratorClient, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The gateway's socket, without the gateway's manners."""
    async with speaking(folder, "orch.sock") as http:
        yield http


@pytest.fixture
async def admin(plane: Plane, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with served(Stage.operator_app(plane), folder / "admin.sock"), speaking(folder) as http:
        yield http


def speaking(folder: Path, name: str = "admin.sock") -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(folder / name))
    return httpx.AsyncClient(transport=transport, base_url="http://orchestrator")


# -- gateways --------------------------------------------------------------------------------------------------------


async def test_the_gateways_client_gets_what_the_control_plane_says(plane: Plane, client: OrchestratorClient) -> None:
    route = await client.lease(ALICE, HELLO, query="a=1", wait_s=5)
    assert (route.state, route.user, route.app) == (State.READY, ALICE, HELLO)
    assert route.address == plane.sandboxes()[0].address
    found = await client.find(ALICE, HELLO)
    assert found is not None
    assert found.sandbox == route.sandbox
    assert await client.find(BOB, HELLO) is None
    await client.activity("gateway-1", {route.sandbox: Seen(idle_s=0, sockets=3)})
    assert plane.sandboxes()[0].sockets == {"gateway-1": 3}


async def test_twenty_parallel_leases_over_the_socket_start_one_sandbox(
    plane: Plane, client: OrchestratorClient
) -> None:
    routes = await asyncio.gather(*(client.lease(ALICE, HELLO, wait_s=5) for _ in range(20)))
    assert len({route.sandbox for route in routes}) == plane.engine.calls["start"] == 1


async def test_a_refusal_arrives_as_the_error_that_it_was(plane: Plane, client: OrchestratorClient) -> None:
    with pytest.raises(AppNotFound, match="There is no app nothing here"):
        await client.lease(ALICE, AppName("nothing"))
    plane.engine.hold("start")
    for app in ("hello", "clock", "todo", "form", "plot"):
        await client.lease(ALICE, AppName(app))
    with pytest.raises(UserLimitReached) as refused:
        await client.lease(ALICE, AppName("router"))
    assert refused.value.facts == {"running": "5", "limit": "5", "longest_idle": "hello"}


async def test_a_refusal_is_problem_json(raw: httpx.AsyncClient) -> None:
    answer = await raw.post("/v1/lease", json={"user": "alice", "app": "nothing"})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json()["reason"] == "unknown-app"


async def test_whatever_a_gateway_says_it_ends_for_the_visitor(plane: Plane, client: OrchestratorClient) -> None:
    await client.lease(ALICE, HELLO, wait_s=5)
    assert await client.release(ALICE, HELLO, Ending.OPERATOR)
    assert not await client.release(ALICE, HELLO, Ending.OPERATOR)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.VISITOR


async def test_what_is_not_understood_is_a_bad_request(plane: Plane, raw: httpx.AsyncClient) -> None:
    bodies = {
        "cut": b"{",
        "empty": b"",
        "a list": b"[]",
        "a field missing": b'{"user": "alice"}',
        "a wrong type": b'{"user": 5, "app": "hello"}',
        "not UTF-8": b'{"user": "\xff", "app": "hello"}',
        "too large": b"x" * (wire.MAX_BODY + 1),
    }
    answers = {name: await raw.post("/v1/lease", content=body) for name, body in bodies.items()}
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(bodies, 400)
    assert {answer.json()["reason"] for answer in answers.values()} == {"bad-request"}
    assert plane.sandboxes() == []


async def test_a_wait_below_nothing_is_none(plane: Plane, raw: httpx.AsyncClient) -> None:
    plane.engine.hold("start")
    answer = await raw.post("/v1/lease", json={"user": "alice", "app": "hello", "wait_s": -5})
    assert answer.json()["state"] == "starting"


async def test_no_operators_verb_is_on_the_gateways_socket(raw: httpx.AsyncClient) -> None:
    for path in ("/v1/sandboxes", "/v1/reap", "/v1/logs/00", "/v1/apps"):
        assert (await raw.get(path)).status_code == 404


async def test_a_watch_over_the_socket_begins_with_a_snapshot_and_follows(
    stage: Stage, plane: Plane, client: OrchestratorClient
) -> None:
    async with aclosing(client.watch("gateway-1")) as changes:
        first = await anext(changes)
        assert isinstance(first, Snapshot)
        assert plane.watched
        await plane.until_ready(ALICE, HELLO)
        async for change in changes:
            assert isinstance(change, RouteChanged)
            if change.route.state is State.READY:
                break
    await eventually(lambda: not plane.watched)


async def test_a_watch_says_that_it_lives(raw: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "HEARTBEAT_S", 0.05)
    async with raw.stream("GET", "/v1/watch", params={"gateway": "gateway-1"}) as answer:
        lines = answer.aiter_lines()
        assert "snapshot" in await anext(lines)
        assert [await anext(lines) for _ in range(3)] == ["", "", ""]


async def test_a_watch_that_lags_too_far_behind_ends_and_the_next_one_knows_all(
    plane: Plane, client: OrchestratorClient
) -> None:
    async with aclosing(client.watch("gateway-1")) as changes:
        await anext(changes)
        plane.engine.steps = [Step.CREATING] * (2 * QUEUE)
        await plane.until_ready(ALICE, HELLO)
        async with asyncio.timeout(15):
            async for _ in changes:
                pass
    async with aclosing(client.watch("gateway-1")) as changes:
        first = await anext(changes)
    assert isinstance(first, Snapshot)
    assert [route.state for route in first.routes] == [State.READY]


async def test_a_close_ends_the_watches_of_clients(stage: Stage, plane: Plane, client: OrchestratorClient) -> None:
    async with aclosing(client.watch("gateway-1")) as changes:
        await anext(changes)
        await stage.close_plane(plane)
        async with asyncio.timeout(15):
            async for _ in changes:
                pass


async def test_where_nobody_listens_the_client_says_so(folder: Path) -> None:
    client = OrchestratorClient(str(folder / "orch.sock"))
    with pytest.raises(OrchestratorUnavailable):
        await client.find(ALICE, HELLO)
    with pytest.raises(OrchestratorUnavailable):
        await anext(client.watch("gateway-1"))
    await client.close()


# -- who may speak ---------------------------------------------------------------------------------------------------


async def spoken(path: Path, uid: int) -> str:
    """What a process of that uid gets for a request."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CONNECT, str(path), str(uid), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await asyncio.wait_for(child.communicate(), 10)
    assert child.returncode == 0
    return said.decode()


async def test_a_peer_of_another_uid_is_hung_up_on_before_a_byte_is_read(plane: Plane, folder: Path) -> None:
    path = folder / "orch.sock"
    async with served(service.gateway_api(plane), path, 10001):
        assert await spoken(path, STRANGER) == ""
        assert "HTTP/1.1 404" in await spoken(path, 10001)


async def test_the_gateway_is_hung_up_on_at_the_operators_socket(plane: Plane, folder: Path) -> None:
    path = folder / "admin.sock"
    async with served(service.operator_api(plane.operators), path):
        assert await spoken(path, 10001) == ""
        assert "HTTP/1.1 200" in await spoken(path, 0)


def test_a_socket_left_by_an_earlier_run_is_replaced(folder: Path) -> None:
    for _ in range(2):
        service.listen(folder / "x.sock", mode=0o660, gid=10001).close()
    found = (folder / "x.sock").stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o660, 0, 10001)


# -- operators -------------------------------------------------------------------------------------------------------


async def test_an_operator_sees_sandboxes_apps_and_readiness(plane: Plane, admin: httpx.AsyncClient) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    rows: list[dict[str, Any]] = (await admin.get("/v1/sandboxes")).json()
    assert [(row["id"], row["state"], row["user"]) for row in rows] == [(route.sandbox, "ready", "alice")]
    apps = {row["name"]: row for row in (await admin.get("/v1/apps")).json()}
    assert (apps["hello"]["sandboxes"], apps["clock"]["sandboxes"]) == (1, 0)
    assert (apps["hello"]["state"], apps["hello"]["problem"]) == ("ready", "")
    assert (await admin.get("/v1/apps/hello/log")).text == ""
    assert (await admin.post("/v1/apps/hello/build")).json()["reason"] == "no-build"
    assert (await admin.post("/v1/apps/nowhere/build")).status_code == 404
    assert (await admin.post("/v1/prune", json={})).json() == []
    assert (await admin.get("/v1/readyz")).json() == {"ready": True}


async def test_a_prefix_names_one_sandbox_or_is_refused(stage: Stage, folder: Path) -> None:
    first, second = (SandboxId("a" * 31 + digit) for digit in "12")
    stage.left_behind(sandbox=first)
    stage.left_behind(sandbox=second, user=BOB)
    plane = await stage.open()
    for sandbox in (first, second):
        stage.machine.harness(sandbox).say(type="output", text=f"it is {sandbox}")
        await eventually(lambda: plane.operators.logs(sandbox)[sandbox])  # noqa: B023
    async with served(Stage.operator_app(plane), folder / "admin.sock"), speaking(folder) as admin:
        assert (await admin.get(f"/v1/sandboxes/{first}")).json()["id"] == first
        assert (await admin.get(f"/v1/logs/{second}")).text == f"it is {second}"
        for verb in ("sandboxes", "logs"):
            several = await admin.get(f"/v1/{verb}/aaaa")
            assert (several.status_code, several.json()["reason"]) == (409, "ambiguous")
            none = await admin.get(f"/v1/{verb}/b")
            assert (none.status_code, none.json()["reason"]) == (404, "not-found")


async def test_logs_take_nothing_but_the_digits_of_an_id(plane: Plane, admin: httpx.AsyncClient) -> None:
    await plane.until_ready(ALICE, HELLO)
    for prefix in ("*", "..%2fsessions", "%5b0-9a-f%5d", "xyz", "A", "0" * 33):
        assert (await admin.get(f"/v1/logs/{prefix}")).status_code == 404


async def test_an_operator_reaps_and_the_visitor_is_told(stage: Stage, plane: Plane, admin: httpx.AsyncClient) -> None:
    routes = [await plane.until_ready(user, HELLO) for user in (ALICE, BOB)]
    answer = await admin.post("/v1/reap", json={"ids": [routes[0].sandbox, "0" * 32]})
    assert [row["id"] for row in answer.json()] == [routes[0].sandbox]
    assert stage.nothing_left_of(routes[0].sandbox)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.OPERATOR
    assert (await plane.lease(BOB, HELLO)).sandbox == routes[1].sandbox

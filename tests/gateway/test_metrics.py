"""GET /metrics beside a gateway, with a control plane behind it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from htagweb_gateway import metrics
from htagweb_gateway.__main__ import main
from htagweb_gateway.metrics import MOST, Metrics, serving
from htagweb_orchestrator.model import Ending
from tests.gateway.scripted import Response, Wire
from tests.sign_in.stage import Person, Stage, free_port

ROOT = Path(__file__).parents[2]
ME = str(os.getpid())


async def ask(port: int, request: bytes = b"GET /metrics HTTP/1.1\r\nHost: gateway:9464\r\n\r\n") -> Response:
    wire = Wire(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))
    try:
        await wire.send(request)
        return await wire.response()
    finally:
        wire.abort()


async def opened(person: Person, **headers: str) -> None:
    """Like the waiting page, which comes first where the machine is busy."""
    async with asyncio.timeout(20):
        while (answer := await person.page("/hello/", **headers)).status == 503:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert answer.status == 200


class Scraped:
    def __init__(self, stage: Stage, port: int) -> None:
        self.stage = stage
        self.port = port

    async def text(self) -> str:
        answer = await ask(self.port)
        assert (answer.status, answer.header(b"content-type")) == (200, b"text/plain; version=0.0.4; charset=utf-8")
        return answer.body.decode()

    async def has(self, *lines: str) -> None:
        """At once or soon, all of these."""
        async with asyncio.timeout(15):
            while missing := set(lines) - set((await self.text()).splitlines()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not missing


@pytest.fixture
async def scraped(tmp_path: Path) -> AsyncIterator[Scraped]:
    if os.getuid() != 0:
        pytest.skip("needs root: each sandbox's files get a uid of their own")
    stage = Stage(tmp_path)
    try:
        await stage.open()
        told = Metrics(stage.gateway, stage.gateway.orchestrator.metrics)  # type: ignore[attr-defined]
        async with serving(told.text, host="127.0.0.1", port=0) as port:
            yield Scraped(stage, port)
    finally:
        await stage.close()


async def test_the_documentation_has_each_number_and_no_other(scraped: Scraped) -> None:
    names = set(re.findall(r"(?m)^# TYPE (\S+)", await scraped.text()))
    process = "htagweb_orchestrator_process_"
    names = {f"{process}*" if name.startswith(process) else name for name in names}
    told = (ROOT / "docs" / "operators.md").read_text().partition("\n## metrics\n")[2].partition("\n## ")[0]
    assert names == set(re.findall(r"(?m)^\| `(htagweb_\S+)` \|", told))


async def test_a_visit_is_in_the_numbers_and_the_visitor_is_not(scraped: Scraped) -> None:
    stage = scraped.stage
    stranger = stage.visitor()
    assert (await stranger.sign_in("ann", "wrong")).status == 403
    ann = await stage.person("ann")
    await opened(ann, **{"User-Agent": "peculiar"})
    socket = await ann.socket("/hello/ws")
    await scraped.has(
        "htagweb_up 1.0",
        'htagweb_sign_ins_total{method="password"} 1.0',
        'htagweb_sign_ins_refused_total{why="wrong"} 1.0',
        'htagweb_starts_total{app="hello",kind="cold",outcome="ready"} 1.0',
        'htagweb_sandboxes{app="hello",state="ready"} 1.0',
        'htagweb_websockets{app="hello"} 1.0',
        f'htagweb_gateway_websockets{{worker="{ME}"}} 1.0',
        f'htagweb_gateway_requests{{worker="{ME}"}} 0.0',
        f'htagweb_gateway_watching{{worker="{ME}"}} 1.0',
    )
    await socket.close()
    route = (await stage.plane.audit.entries(event="started"))[0]
    await stage.plane.release(route["who"], route["app"], Ending.VISITOR)
    text = await scraped.text()
    assert 'htagweb_endings_total{app="hello",ending="visitor"} 1.0' in text
    for told in ("ann", "peculiar", "127.0.0.1", route["sandbox"][:12]):
        assert not re.search(rf"\b{told}\b", text)


async def test_a_request_is_counted_while_it_is_with_a_sandbox(scraped: Scraped) -> None:
    ann = await scraped.stage.person("ann")
    await opened(ann)
    assert f'htagweb_gateway_requests{{worker="{ME}"}} 0.0' in await scraped.text()  # its connection is kept
    stream = await scraped.stage.server.connect()
    head = f"GET /hello/events HTTP/1.1\r\nHost: {ann.host}\r\nCookie: {ann.cookie}\r\n\r\n"
    await stream.send(head.encode())
    await scraped.has(f'htagweb_gateway_requests{{worker="{ME}"}} 1.0')
    stream.abort()
    await scraped.has(f'htagweb_gateway_requests{{worker="{ME}"}} 0.0')


async def test_without_the_orchestrator_there_are_the_gateways_own_numbers(scraped: Scraped) -> None:
    await scraped.stage.orchestrator_goes()
    text = await scraped.text()
    assert "htagweb_up 0.0" in text
    assert f'htagweb_gateway_websockets{{worker="{ME}"}} 0.0' in text
    assert "htagweb_sandboxes" not in text
    await scraped.stage.orchestrator_comes()
    await scraped.has("htagweb_up 1.0", "htagweb_ready 1.0")


async def test_visitors_do_not_get_them(scraped: Scraped) -> None:
    ann = await scraped.stage.person("root")
    for path in ("/metrics", "/-/metrics", "/-/api/v1/metrics"):
        answer = await ann.request("GET", path, {})
        assert answer.status in (401, 404), path
        assert b"htagweb_" not in answer.body


async def test_an_operators_program_gets_the_orchestrators_with_its_token(scraped: Scraped) -> None:
    secret, _ = await scraped.stage.plane.tokens.create("prometheus", life_s=None)
    fields = {"Authorization": f"Bearer {secret}"}
    answer = await scraped.stage.visitor().request("GET", "/-/api/v1/metrics", fields)
    assert answer.status == 200
    assert b"htagweb_ready 1.0" in answer.body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics2 HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", 200),
    ],
)
async def test_there_is_nothing_else_at_that_port(scraped: Scraped, request_: bytes, status: int) -> None:
    assert (await ask(scraped.port, request_)).status == status


async def test_callers_who_say_nothing_or_too_much_are_bounded(
    scraped: Scraped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "HEAD_S", 60.0)
    silent = [await asyncio.open_connection("127.0.0.1", scraped.port) for _ in range(MOST)]
    one_more, writer = await asyncio.open_connection("127.0.0.1", scraped.port)
    assert await asyncio.wait_for(one_more.read(), 10) == b""
    writer.close()
    for _, each in silent:
        each.close()
    await scraped.has("htagweb_up 1.0")
    reader, writer = await asyncio.open_connection("127.0.0.1", scraped.port)
    writer.write(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 100_000)
    with suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()


async def test_a_port_that_is_taken_keeps_nobody_from_being_served(caplog: pytest.LogCaptureFixture) -> None:
    async def text() -> bytes:
        return b""

    with socket.create_server(("127.0.0.1", 0)) as other:
        async with serving(text, host="127.0.0.1", port=other.getsockname()[1]) as port:
            assert port == 0
    assert "set HTAGWEB_METRICS_PORT to a free port" in caplog.text


# -- the process -----------------------------------------------------------------------------------------------------


async def gateway_process(folder: Path, **environment: str) -> asyncio.subprocess.Process:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HTAGWEB_")}
    own = {"HTAGWEB_CTL_DIR": str(folder), "HTAGWEB_STATE_DIR": str(folder), "HTAGWEB_LISTEN_HOST": "127.0.0.1"}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "htagweb_gateway", env={**kept, **own, **environment}, stderr=asyncio.subprocess.PIPE
    )


async def test_workers_share_the_port(tmp_path: Path) -> None:
    port = free_port()
    process = await gateway_process(
        tmp_path, HTAGWEB_LISTEN_PORT=str(free_port()), HTAGWEB_METRICS_PORT=str(port), HTAGWEB_WORKERS="2"
    )
    seen: set[str] = set()
    try:
        async with asyncio.timeout(30):
            while len(seen) < 2:
                with suppress(OSError, asyncio.IncompleteReadError):
                    text = (await ask(port)).body.decode()
                    assert "htagweb_up 0.0" in text
                    seen |= set(re.findall(r'worker="(\d+)"', text))
                await asyncio.sleep(0.02)
    finally:
        process.terminate()
        await process.communicate()


@pytest.mark.parametrize(
    ("text", "said"),
    [("many", "expected a port, 0 to 65535, got 'many'"), ("99999", "expected a port"), ("8123", "visitors' port")],
)
def test_a_bad_port_stops_the_start_with_a_sentence(monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.setenv("HTAGWEB_LISTEN_PORT", "8123")
    monkeypatch.setenv("HTAGWEB_METRICS_PORT", text)
    with pytest.raises(SystemExit, match=rf"^HTAGWEB_METRICS_PORT: .*{said}"):
        main()

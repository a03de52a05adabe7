"""What a catalogue of 200 apps costs, 20 of them with images of their own. `make bench-catalogue` runs this.

The gateway and the orchestrator are the real ones, each in a process, and so is the client; sandboxes and images are
played, since it is not about them. A visitor has five of them running, which the orchestrator is asked about.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from htagweb_gateway.app import Gateway
from htagweb_gateway.identity import Identity
from htagweb_gateway.orchestrator_client import OrchestratorClient
from htagweb_orchestrator.catalogue import Catalogue
from htagweb_orchestrator.config_file import ConfigFile
from htagweb_orchestrator.control import ControlPlane
from htagweb_orchestrator.model import AppName, Ending, State, UserId
from htagweb_orchestrator.output import OutputFiles
from htagweb_orchestrator.rundir import RunDirectory
from htagweb_orchestrator.service import gateway_api, listen
from htagweb_orchestrator.service import server as service
from htagweb_orchestrator.sessions import Sessions
from htagweb_orchestrator.settings import Settings
from tests.gateway.scripted import eventually, gateway
from tests.orchestrator.engine import FakeEngine, Machine

from .measures import machine
from .report import table

APPS, OWN_IMAGES, RUNNING = 200, 20, 5
REQUESTS = 500
VISITOR = UserId("anon-bench")
EXAMPLES = sorted((Path(__file__).parent.parent / "apps").glob("*.py"))
CLIENT = """
import http.client, json, sys, time
port, cookie, path, count = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
connection = http.client.HTTPConnection("127.0.0.1", port)
took = []
for _ in range(count + 20):
    began = time.perf_counter()
    connection.request("GET", path, headers={"Host": f"localhost:{port}", "Cookie": cookie, "Accept": "text/html"})
    answer = connection.getresponse()
    body = answer.read()
    took.append((time.perf_counter() - began) * 1000)
    assert answer.status == 200
print(json.dumps({"took": took[20:], "bytes": len(body)}))
"""


def measure() -> str:
    load, nice = os.getloadavg()[0], os.getpriority(os.PRIO_PROCESS, 0)
    with tempfile.TemporaryDirectory(prefix="bench-catalogue-") as folder:
        pages, reloads = asyncio.run(_measured(Path(folder)))
    return "\n\n".join(
        [
            f"Measured by `make bench-catalogue` on a machine with {machine()}, with a load of {load:.1f} by others"
            f" just before{f', at niceness {nice}' if nice else ''}: {APPS} apps, the examples in turn,"
            f" {OWN_IMAGES} of them with images of their own; {REQUESTS} requests of each kind, one after the other. A"
            " reload counts from the change of `htagweb.toml` until the gateway knows of it: it is believed at the"
            " second look, and looks are a third of a second apart.",
            table(["the catalogue, for", "KB", "median, ms", "p95, ms", "target"], pages),
            table(["a change of the configuration", "median, ms", "longest, ms", "target"], reloads),
        ]
    )


async def _measured(folder: Path) -> tuple[list[list[str]], list[list[str]]]:
    for name in ("apps", "run", "state"):
        (folder / name).mkdir()
    for number in range(APPS):
        (folder / "apps" / f"app-{number}.py").write_bytes(EXAMPLES[number % len(EXAMPLES)].read_bytes())
    file = folder / "htagweb.toml"
    tables = {f"app-{number}": {"image": f"own-{number}"} for number in range(OWN_IMAGES)}
    file.write_text(_toml({}, tables))
    environ = {
        "HTAGWEB_CONFIG": str(file), "HTAGWEB_APPS_DIR": str(folder / "apps"), "HTAGWEB_RUN_DIR": str(folder / "run"),
        "HTAGWEB_STATE_DIR": str(folder / "state"), "HTAGWEB_WARM_MAX": "0",
    }  # fmt: skip
    socket = folder / "orchestrator.sock"
    command = [sys.executable, "-m", "benchmarks.catalogue", str(socket)]
    orchestrator = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environ})
    try:
        await eventually(socket.exists, within_s=30)
        return await _at_gateway(OrchestratorClient(str(socket)), file, tables)
    finally:
        orchestrator.terminate()
        await orchestrator.wait()


async def _at_gateway(
    orchestrator: OrchestratorClient, file: Path, tables: dict[str, dict[str, str]]
) -> tuple[list[list[str]], list[list[str]]]:
    identity = Identity(bytes(range(32)))
    front = Gateway(orchestrator=orchestrator, identity=identity)
    running = [AppName(f"app-{number}") for number in range(RUNNING)]

    async def sandboxes() -> list[str]:
        found = [await orchestrator.find(VISITOR, app) for app in running]
        return [each.sandbox for each in found if each is not None and each.state is State.READY]

    async with front.running(), gateway(front) as server:
        await eventually(lambda: len(front.routes.apps) == APPS, within_s=10)
        for app in running:
            await orchestrator.lease(VISITOR, app, wait_s=10)
        before = await sandboxes()
        assert len(before) == RUNNING
        cookie = identity.issue("http", VISITOR).partition(";")[0]
        pages = [
            await _page("a visitor with five apps running", server.port, cookie, "/"),
            await _page("the same, looking for a word", server.port, cookie, "/?q=counter"),
            await _page("a stranger", server.port, "none=none", "/"),
        ]

        def title() -> str:
            return front.routes.apps[AppName("app-7")].title

        def one(n: int) -> str:
            return _toml({}, tables | {"app-7": {"title": f"T{n}"}})

        def every(n: int) -> str:
            return _toml({"memory": f"{64 + n}m"}, {f"app-{m}": {"title": f"U{n}-{m}"} for m in range(APPS)})

        reloads = [
            await _reload("one app's title", title, file, one),
            await _reload("memory and a title for each app", title, file, every),
        ]
        assert await sandboxes() == before  # nobody noticed
    await orchestrator.close()
    return pages, reloads


async def _page(whose: str, port: int, cookie: str, path: str) -> list[str]:
    command = [sys.executable, "-c", CLIENT, str(port), cookie, path, str(REQUESTS)]
    client = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await asyncio.wait_for(client.communicate(), 120)
    found = json.loads(said)
    took = sorted(found["took"])
    p95 = took[len(took) * 95 // 100]
    met = "met" if p95 <= 10 else "**missed**"
    return [whose, f"{found['bytes'] / 1024:.0f}", f"{statistics.median(took):.1f}", f"{p95:.1f}", f"≤ 10 ms: {met}"]


async def _reload(what: str, seen: Callable[[], str], file: Path, toml: Callable[[int], str]) -> list[str]:
    took = []
    for number in range(10):
        before = seen()
        file.write_text(toml(number))  # noqa: ASYNC240
        began = time.perf_counter()
        await eventually(lambda before=before: seen() != before, within_s=10)  # type: ignore[misc]
        took.append((time.perf_counter() - began) * 1000)
    met = "met" if max(took) <= 1000 else "**missed**"
    return [what, f"{statistics.median(took):.0f}", f"{max(took):.0f}", f"≤ 1 s: {met}"]


def _toml(values: dict[str, str], tables: dict[str, dict[str, str]]) -> str:
    images = ", ".join(f'"own-{number}"' for number in range(OWN_IMAGES))
    lines = [f"images = [{images}]", *(f'{key} = "{value}"' for key, value in values.items())]
    for name, table_ in tables.items():
        lines += [f"[apps.{name}]", *(f'{key} = "{value}"' for key, value in table_.items())]
    return "\n".join(lines) + "\n"


async def _serve(socket: Path) -> None:
    """The orchestrator's process: all of it is real but the engine."""
    config = ConfigFile()
    settings = Settings.load()
    sessions = Sessions(settings.state_dir / "sessions.sqlite")
    control = ControlPlane(
        engine=FakeEngine(Machine()),
        catalogue=Catalogue(settings, config=config),
        settings=settings,
        run=RunDirectory(settings.run_dir, 0),
        sessions=sessions,
        output=OutputFiles(settings.state_dir / "output"),
    )
    await control.open()
    try:
        await service(gateway_api(control), allowed_uids={os.getuid()}).serve([listen(socket, mode=0o600)])
    finally:
        await control.end(control.sandboxes(), Ending.OPERATOR)
        await control.close()
        sessions.close()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))

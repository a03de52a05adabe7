"""The main job and the worst attacks under gVisor, where it is installed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import pytest
from playwright.async_api import Page, expect

from htagweb_orchestrator.promises import PROMISES
from tests.attacks.gvisor import engine, runsc
from tests.attacks.stage import Stage, eventually
from tests.chromium import chromium, press, tab
from tests.e2e.stack import REPOSITORY

pytestmark = [pytest.mark.docker, pytest.mark.e2e]

APPS = ("hello", "counter", "counter2", "clock")


@pytest.fixture(scope="module")
def gvisor(client: docker.APIClient) -> Iterator[str]:
    with engine(runsc(), client) as address:
        yield address


@pytest.fixture
async def walled(gvisor: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """The platform over that engine, with the examples."""
    own = docker.APIClient(base_url=gvisor, version="auto")
    stage = Stage(tmp_path, own, base_url=gvisor)
    for name in APPS:
        stage.publish(f"{name}.py", (REPOSITORY / "apps" / f"{name}.py").read_text())
    try:
        await stage.open(runtime="runsc", pids=256, selftest=True)
        yield stage
    finally:
        await stage.close()
        own.close()


async def test_every_check_holds(walled: Stage) -> None:
    assert walled.control.ready
    checks, _ = await walled.control.examine()
    assert [check.promise for check in checks if check.holds] == list(PROMISES)
    assert {check.runtime for check in checks} == {"runsc"}


async def test_the_main_job_is_done_in_a_kernel_of_its_own(walled: Stage) -> None:
    async with chromium() as browser, tab(browser, base_url=f"http://localhost:{walled.server.port}") as page:
        for name in APPS:
            await page.goto(f"/{name}/")
            await page.locator("script[data-app]").wait_for(state="attached")
            await _use(page, name)
        await page.goto("/counter/")  # a reload keeps the state
        await expect(page.locator("output").first).to_have_text("1")
    runtimes = {walled.inspect(sandbox.id)["HostConfig"]["Runtime"] for sandbox in walled.control.sandboxes()}
    assert runtimes == {"runsc"}


async def _use(page: Page, name: str) -> None:
    match name:
        case "hello":
            await expect(page.locator("body")).to_contain_text("hello world")
        case "counter" | "counter2":
            await press(page, "one more")
            await expect(page.locator("output").first).to_have_text("1")
        case "clock":
            shown = await page.locator("time").inner_text()
            await expect(page.locator("time")).not_to_have_text(shown)


async def test_a_hostile_app_is_as_shut_in(walled: Stage) -> None:
    attacker, other = await walled.console(), await walled.console()
    release, written, sealed, interfaces = await attacker.run("""
        places = [refused(open, folder + "/x", "w") for folder in ("/etc", "/var/tmp", "/opt/htagweb")]
        changes = [refused(os.unlink, "/run/app/app.sock"), refused(open, "/run/app/x", "w"),
                   refused(os.symlink, "/x", "/run/app/y"), refused(os.chmod, "/run/app", 0o777)]
        interfaces = [line.partition(":")[0].strip() for line in open("/proc/net/dev") if ":" in line]
        answer = os.uname().release, places, changes, interfaces
        """)
    assert release.startswith("4.4")  # what gVisor says of itself: not the host's
    assert "" not in written
    assert set(sealed) <= {"EACCES", "EPERM"}
    assert interfaces == ["lo"]
    assert (await other.get("/console/")).body == b"console"


async def test_a_fork_bomb_and_a_memory_hog_hurt_their_own_kernel_alone(walled: Stage) -> None:
    other = await walled.console()
    for code in (
        b"while os.fork() >= 0: pass",
        b"held = [bytearray(b'x') * (8 << 20) for _ in range(128)]",
    ):
        attacker = await walled.console()
        wire = await attacker.send("POST", "/console/run", {"Origin": f"http://{attacker.host}"}, code)
        for _ in range(10):
            assert (await other.request("GET", "/console/", within_s=20)).body == b"console"
            await asyncio.sleep(0.1)
        wire.abort()
        began = time.monotonic()
        await attacker.post("/-/stop", b"app=console")
        assert time.monotonic() - began < 10
        await eventually(lambda: len(walled.containers()) == 1)

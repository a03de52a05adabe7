"""The disk under the orchestrator is full: its state, and the folder of the sandboxes. Real processes, small disks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from htagweb_orchestrator.model import AppName
from tests.attacks.processes import gateway, orchestrator, serves
from tests.attacks.stage import Stage
from tests.attacks.visitor import Browser, Visitor
from tests.e2e.conftest import free_port
from tests.engines.conftest import SOCKET

pytestmark = pytest.mark.docker

APP = """
from htag import Tag

class App(Tag.div):
    def init(self):
        self += Tag.button("once more", _onclick=self.bind.more())

    def more(self):
        self.session["n"] = self.session.get("n", 0) + 1
        self += f"n is {self.session['n']}"
"""


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small", folder], capture_output=True)
    if made.returncode:
        pytest.skip(f"no disk can be mounted here: {made.stderr.decode()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    try:
        yield
    finally:
        filler.unlink()


async def test_a_full_disk_ends_no_running_app_and_is_over_when_there_is_room(closed_stage: Stage) -> None:
    if SOCKET != "/var/run/docker.sock":
        pytest.skip("the orchestrator's process looks for the engine at its usual place")
    stage = closed_stage
    stage.publish("count.py", APP)
    state, run = stage.folder / "state", stage.run.path
    async with AsyncExitStack() as open_:
        for folder, size in ((state, "4m"), (run, "1m")):
            open_.enter_context(small_disk(folder, size))
        await open_.enter_async_context(orchestrator(stage))
        client = await serves(stage)
        open_.push_async_callback(client.close)
        port = free_port()
        listening = await open_.enter_async_context(gateway(stage, port))
        ann = Browser(port, "count")
        open_.push_async_callback(ann.http.aclose)
        page = await ann.page("")
        assert "n is 1" in str(await page.click("once more"))
        with full(state), full(run):
            assert "n is 2" in str(await page.click("once more"))  # it goes on, though that can't be kept
            bob = Visitor(listening)
            refused = await bob.open("console")
            assert (refused.status, b"could not be started" in refused.body) == (503, True)
            assert await client.session(ann.user, AppName("count")) == {"n": 1}
        assert "n is 2" in str(await page.click("once more"))
        assert await client.session(ann.user, AppName("count")) == {"n": 2}
        again = await bob.get("/-/start?app=console&next=/console/", Accept="text/html")
        assert again.status == 303
        await bob.take_over()
    log = (stage.folder / "htagweb_orchestrator.log").read_text()
    for said in ("the store of sessions can't be used", "the audit log can't be written", '"reason": "disk"'):
        assert said in log

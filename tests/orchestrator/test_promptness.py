"""How soon a change of apps or of their configuration counts. In simulated time: by the rounds that it takes, however
busy the machine is that tells."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from htagweb_orchestrator.catalogue import Catalogue
from htagweb_orchestrator.config_file import ConfigFile
from htagweb_orchestrator.control import SCAN_S, ControlPlane
from htagweb_orchestrator.model import AppsChanged
from htagweb_orchestrator.output import OutputFiles
from htagweb_orchestrator.rundir import RunDirectory
from htagweb_orchestrator.sessions import Sessions
from htagweb_orchestrator.settings import Settings
from htagweb_orchestrator.verdicts import Verdicts
from tests.orchestrator.engine import FakeEngine, Machine
from tests.orchestrator.virtual_time import run

Change = Callable[["World"], object]
IsSeen = Callable[["World"], bool]
SOURCE = "from htag import Tag\n\nclass App(Tag.div):\n    pass\n"


class World:
    """An orchestrator with the app `hello`, of which another version went well. No version that comes is ever tried out
    while anybody looks, which is the longest that one can wait."""

    first: str  # the version of `hello`

    def __init__(self, root: Path) -> None:
        for folder in ("apps", "run", "state"):
            (root / folder).mkdir(parents=True)
        self.apps, self.toml = root / "apps", root / "htagweb.toml"
        self.toml.write_text("")
        self.hello = self.apps / "hello.py"
        self.hello.write_text(SOURCE)
        names = {"CONFIG": self.toml, "APPS_DIR": self.apps, "STATE_DIR": root / "state", "RUN_DIR": root / "run"}
        environ = {f"HTAGWEB_{name}": str(path) for name, path in names.items()} | {"HTAGWEB_WARM_MAX": "0"}
        config = ConfigFile(environ)
        settings = Settings.load(environ)
        self.verdicts = Verdicts(root / "state" / "verdicts.json")
        now = asyncio.get_running_loop().time
        self.catalogue = Catalogue(settings, verdicts=self.verdicts, config=config, now=now)
        self.sessions = Sessions(root / "state" / "sessions.sqlite")
        self.plane = ControlPlane(
            engine=FakeEngine(Machine()),
            catalogue=self.catalogue,
            settings=settings,
            run=RunDirectory(settings.run_dir, os.getgid()),
            sessions=self.sessions,
            output=OutputFiles(root / "state" / "output"),
            now=now,
        )

    async def took_s(self, change: Change, is_seen: IsSeen, after_s: float) -> float:
        """From the change, which comes then, until the gateways are told."""
        now = asyncio.get_running_loop().time
        async with aclosing(self.plane.watch("gateway")) as changes:
            await anext(changes)
            await asyncio.sleep(after_s)
            change(self)
            began_s = now()
            async with asyncio.timeout(60):
                async for each in changes:
                    if isinstance(each, AppsChanged) and is_seen(self):
                        assert each.home == self.catalogue.home()
                        return now() - began_s
        raise AssertionError("the watch ended")


async def measured(root: Path, change: Change, is_seen: IsSeen, after_s: float) -> float:
    world = World(root)
    await world.plane.open()
    try:
        tried, world.first = world.catalogue.get("hello").tried, world.catalogue.get("hello").version
        world.verdicts.put(tried, "", wanted=[tried])
        return await world.took_s(change, is_seen, after_s)
    finally:
        await world.plane.close()
        world.sessions.close()


@pytest.mark.parametrize(
    ("change", "is_seen"),
    [
        (lambda world: (world.apps / "new.py").write_text(SOURCE), lambda world: len(world.catalogue.cards()) == 2),
        (lambda world: world.hello.unlink(), lambda world: not world.catalogue.cards()),
        (
            lambda world: world.hello.write_text(SOURCE + "# changed\n"),
            lambda world: world.catalogue.get("hello").version != world.first,
        ),
        (
            lambda world: world.toml.write_text('[apps.hello]\ntitle = "Another"\n'),
            lambda world: world.catalogue.cards()[0].title == "Another",
        ),
        (
            lambda world: world.toml.write_text("[apps.hello.env]\nA = 'b'\n"),
            lambda world: bool(world.catalogue.get("hello").env),
        ),
        (lambda world: world.toml.write_text('home = "hello"\n'), lambda world: world.catalogue.home() == "hello"),
    ],
    ids=["added", "removed", "changed", "another title", "another environment", "another home"],
)
def test_a_change_counts_within_two_seconds(tmp_path: Path, change: Change, is_seen: IsSeen) -> None:
    """At whatever point between two looks it comes."""
    took = [run(measured(tmp_path / str(n), change, is_seen, 10 + n * SCAN_S / 10)) for n in range(11)]
    assert 0 < max(took) <= 1.5  # the rest is for the looks themselves, which take no time here

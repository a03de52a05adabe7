"""Two hundred apps, twenty of them with images of their own, and what a change means to those who have one open."""

from __future__ import annotations

import json

import pytest

from htagweb_orchestrator.config_file import ConfigFile
from htagweb_orchestrator.model import AppName
from htagweb_orchestrator.settings import AppSettings
from tests.attacks.stage import eventually
from tests.attacks.visitor import Visitor
from tests.packages.conftest import Stage

pytestmark = pytest.mark.docker

APPS, OWN_IMAGES = 200, 20
PATIENCE_S = 60.0  # a look at so many apps that are new takes seconds where much else runs
OPENED = ("app-0", "app-1", "app-100", "app-150", "app-199")  # the first two on images of their own
CHANGED, REMOVED = "app-150", "app-199"
COUNTS = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

asked = 0

async def page(request):
    global asked
    asked += 1
    return JSONResponse({"version": 1, "asked": asked})

app = Starlette(routes=[Route("/", page)])
"""


class Many:
    """Visitors who have an app each, and what is said of all apps."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.toml = stage.folder / "htagweb.toml"
        self.images = [stage.image_of(f"LABEL number={number}") for number in range(OWN_IMAGES)]
        self.visitors: dict[str, Visitor] = {}
        self.asked = 1
        self.containers: dict[str, str] = {}  # and when each was started

    def say(self, title: str, **limits: str) -> None:
        lines = [f"images = {json.dumps(self.images)}", *(f'{key} = "{value}"' for key, value in limits.items())]
        for number in range(APPS):
            lines += [f"[apps.app-{number}]", f'title = "{title} {number}"']
            lines += [f'image = "{self.images[number]}"'] if number < OWN_IMAGES else []
        self.toml.write_text("\n".join(lines))

    async def serve(self) -> None:
        for number in range(APPS):
            self.stage.publish(f"app-{number}.py", COUNTS)
        self.say("First")
        own = {f"app-{number}": image for number, image in enumerate(self.images)}
        await self.stage.serve(
            config=ConfigFile({"HTAGWEB_CONFIG": str(self.toml)}),
            images=tuple(self.images),
            apps={name: AppSettings(title="First", image=image) for name, image in own.items()},
        )
        await eventually(lambda: len(self.stage.gateway.routes.apps) >= APPS, within_s=PATIENCE_S)
        for name in OPENED:
            self.visitors[name] = self.stage.visitor()
            assert json.loads(await self.stage.shows(name, self.visitors[name])) == {"version": 1, "asked": 1}
        self.containers = self.running()

    def title(self, name: str) -> str:
        card = self.stage.gateway.routes.apps.get(AppName(name))
        return card.title if card else ""

    def running(self) -> dict[str, str]:
        made = [self.stage.client.inspect_container(name) for name in self.stage.containers()]
        return {each["Id"]: each["State"]["StartedAt"] for each in made if each["State"]["Running"]}

    async def nobody_noticed(self, *without: str) -> None:
        """Every container is the one that it was, and every app goes on where it was."""
        assert self.running() == self.containers
        self.asked += 1
        for name, visitor in self.visitors.items():
            if name not in without:
                answer = await visitor.get(f"/{name}/")
                assert json.loads(answer.body) == {"version": 1, "asked": self.asked}, name


async def test_no_change_of_apps_or_configuration_disturbs_a_sandbox(stage: Stage) -> None:
    many = Many(stage)
    await many.serve()
    assert len(many.containers) == len(OPENED)

    many.say("Second", memory="96m")
    await eventually(
        lambda: all(many.title(f"app-{number}") == f"Second {number}" for number in range(APPS)), within_s=PATIENCE_S
    )
    await many.nobody_noticed()

    versions = {name: card.version for name, card in stage.gateway.routes.apps.items()}
    stage.publish(f"{CHANGED}.py", COUNTS.replace('"version": 1', '"version": 2'))
    stage.publish("another.py", COUNTS)
    (stage.folder / "apps" / f"{REMOVED}.py").unlink()
    await eventually(
        lambda: stage.gateway.routes.apps[AppName(CHANGED)].version != versions[AppName(CHANGED)], within_s=PATIENCE_S
    )
    await eventually(lambda: many.title("another") and not many.title(REMOVED), within_s=PATIENCE_S)
    await many.nobody_noticed(REMOVED)
    now = {name: card.version for name, card in stage.gateway.routes.apps.items()}
    assert {name for name in now if now[name] != versions.get(name)} == {CHANGED, "another"}

    newcomer = stage.visitor()
    assert json.loads(await stage.shows(CHANGED, newcomer)) == {"version": 2, "asked": 1}
    assert stage.inspect(stage.sandbox(newcomer, CHANGED).id)["HostConfig"]["Memory"] == 96 << 20

"""An image of an operator's own that lies in a registry, on loopback, and not in the engine yet."""

from __future__ import annotations

import asyncio

import pytest

from htagweb_orchestrator.settings import AppSettings
from tests.attacks.stage import eventually
from tests.packages.conftest import Stage, app
from tests.packages.registry import Registry, serving

pytestmark = pytest.mark.docker


async def test_an_image_is_pulled_before_its_visitor_comes_and_a_failure_is_told(stage: Stage) -> None:
    made = stage.image_of("ENV MARK=pulled")
    saved = await asyncio.to_thread(lambda: b"".join(stage.client.get_image(made)))
    stage.client.remove_image(made)
    registry = Registry(saved)
    with serving(registry) as host:
        name = f"{host}/{stage.instance}:1"
        stage.forget_later(name)
        stage.publish("pulled.py", app(says="os.environ['MARK']", imports="import os"))
        await stage.serve(images=(name,), apps={"pulled": AppSettings(image=name)})
        said = await stage.settled("pulled", "broken")
        assert "could not be pulled" in said["problem"]
        registry.open = True
        assert stage.operators.build("pulled")
        await eventually(lambda: stage.row("pulled")["state"] == "ready", within_s=60)
        assert "pulled" in await stage.shows("pulled")

"""An installation on a real engine whose apps name packages. The packages lie in a folder of wheels of its own."""

from __future__ import annotations

import asyncio
import io
import os
import platform
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest

from htagweb_orchestrator.app_images import AppImages
from htagweb_orchestrator.engines.docker_images import DockerImages
from htagweb_orchestrator.engines.docker_options import BUILDER, MADE_BY
from htagweb_orchestrator.operators import Operators
from htagweb_orchestrator.verdicts import Verdicts
from tests.attacks.stage import Stage as Platform
from tests.attacks.visitor import Visitor
from tests.engines.conftest import IMAGE, SOCKET

MADE_WITHIN_S = 90.0  # a build takes some three seconds of an idle machine

GENERATION_1 = """
class App(Tag.div):
    def init(self):
        self <= SAYS
"""
GENERATION_2 = """
class App(Tag.App):
    def init(self):
        self <= SAYS
"""


def app(*requirements: str, says: str, imports: str = "", generation: int = 1, python: str = "") -> str:
    """An app in the style of htag's documentation, that names what it needs and shows what `says` evaluates to."""
    lines = [f"# requires-python = {python!r}"] if python else []
    lines += ["# dependencies = [", *(f'#     "{each}",' for each in requirements), "# ]"]
    source = GENERATION_1 if generation == 1 else GENERATION_2
    return "\n".join(["# /// script", *lines, "# ///", "from htag import Tag", imports, source.replace("SAYS", says)])


class Stage(Platform):
    def __init__(self, folder: Path, client: docker.APIClient) -> None:
        super().__init__(folder, client)
        self.wheels = folder / "wheels"
        self.wheels.mkdir()
        self._own: list[str] = []

    def download(self, *packages: str) -> None:
        """Their wheels and what these need, from whatever index this machine has. Only it asks there, not the build."""
        kind = [f"--platform=manylinux{each}_{platform.machine()}" for each in ("2014", "_2_17", "_2_28")]
        pip = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--python-version=3.13", *kind]
        try:
            subprocess.run([*pip, "-d", str(self.wheels), *packages], check=True, capture_output=True, timeout=60)
        except (subprocess.SubprocessError, OSError):
            pytest.skip(f"no index that this machine reaches has {' and '.join(packages)}")

    async def serve(self, **values: Any) -> None:
        """With packages from the folder alone, unless `values` say otherwise."""
        settings = {"wheels_dir": self.wheels, "package_index": "", **values}
        verdicts = Verdicts(self.folder / "state" / "verdicts.json")
        images = AppImages(instance=self.instance, sandbox_image=IMAGE)
        await self.open(app_images=images, maker=DockerImages(instance=self.instance), verdicts=verdicts, **settings)
        self.operators = Operators(
            control=self.control, engine=self.engine, catalogue=self.catalogue, output=self.output
        )

    def row(self, name: str) -> dict[str, Any]:
        """What `htagweb apps` says of one."""
        return next((row for row in self.operators.apps() if row["name"] == name), {})

    async def settled(self, name: str, state: str = "ready") -> dict[str, Any]:
        async with asyncio.timeout(MADE_WITHIN_S):
            while (row := self.row(name)).get("state") != state:
                assert state != "ready" or not row.get("problem"), row
                await asyncio.sleep(0.05)
        return row

    async def shows(self, name: str, visitor: Visitor | None = None) -> str:
        """The page that a visitor gets, once there is something to open."""
        await self.settled(name)
        response = await (visitor or self.visitor()).open(name)
        assert response.status == 200, response.body.decode()
        return response.body.decode()

    async def serve_again(self) -> None:
        """Another orchestrator takes over."""
        await self._open.aclose()
        await self.serve()

    def image_of(self, *lines: str, base: str = IMAGE) -> str:
        """An image of an operator's own, made from `base` by a Dockerfile with these lines."""
        name = f"{self.instance}-own-{len(self._own)}"
        dockerfile = "\n".join([f"FROM {base}", *lines, ""]).encode()
        for said in self.client.build(fileobj=io.BytesIO(dockerfile), tag=name, rm=True, forcerm=True, decode=True):
            assert "error" not in said, said
        self._own.append(name)
        return name

    def forget_later(self, image: str) -> None:
        """One that comes while the test runs."""
        self._own.append(image)

    def foreign_image(self) -> str:
        """One with nothing of ours in it."""
        name = f"{self.instance}-foreign"
        empty = io.BytesIO()
        tarfile.open(fileobj=empty, mode="w").close()
        self.client.import_image_from_data(empty.getvalue(), repository=name)
        self._own.insert(0, name)
        return name

    def inside(self, image: str, folder: str) -> dict[str, bytes]:
        """The files of a folder in an image, by path from where the folder lies."""
        made = self.client.create_container(image, "none")
        try:
            stream, _ = self.client.get_archive(made["Id"], folder)
            with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
                return {info.name: file.read() for info in tar if (file := tar.extractfile(info)) is not None}
        finally:
            self.client.remove_container(made["Id"], force=True)

    def images(self) -> list[dict[str, Any]]:
        return list(self.client.images(filters={"label": f"{MADE_BY}={self.instance}"}))

    def builders(self) -> list[dict[str, Any]]:
        return list(self.client.containers(all=True, filters={"label": f"{BUILDER}={self.instance}"}))

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            for container in self.builders():
                with suppress(docker.errors.NotFound):
                    self.client.remove_container(container["Id"], v=True, force=True)
            for image in [*(each["Id"] for each in self.images()), *self._own]:
                with suppress(docker.errors.ImageNotFound):
                    self.client.remove_image(image, force=True)


@pytest.fixture(scope="session")
def client() -> Iterator[docker.APIClient]:
    client = docker.APIClient(base_url=f"unix://{SOCKET}", version="auto")
    yield client
    client.close()


@pytest.fixture
async def stage(client: docker.APIClient, tmp_path: Path) -> AsyncIterator[Stage]:
    """Everything is there, and nothing serves yet."""
    if os.geteuid() != 0:
        pytest.skip("does what the orchestrator does, which takes root")
    stage = Stage(tmp_path, client)
    try:
        yield stage
    finally:
        await stage.close()

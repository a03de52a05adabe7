"""What installs packages is kept in, and what it installs takes part in nothing before its app is loaded."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from htagweb_orchestrator.engines.docker_images import UID, DockerImages
from htagweb_orchestrator.errors import EngineUnavailable
from htagweb_orchestrator.image_maker import BuildFailed, ImageOrder
from tests.attacks.stage import eventually
from tests.engines.conftest import IMAGE
from tests.packages.conftest import Stage, app
from tests.wheels import wheel

pytestmark = pytest.mark.docker

# Each line is run by whatever runs a .pth file; nothing but an app's own sandbox may.
RUNS = "import os; os.environ['TINY_RAN'] = str(os.getpid())\n"

SERVER = ["-m", "http.server", "8000", "--directory", "/index"]
SILENT = ["-c", "import socket, time; socket.create_server(('', 8000)); time.sleep(1000)"]  # answers nobody


async def test_a_package_runs_nowhere_but_in_its_apps_sandboxes(stage: Stage) -> None:
    """It would leave its mark in the image if it ran while that is made, and in /run/app if before the seal."""
    files = {"tiny.pth": RUNS, "sitecustomize.py": RUNS, "tiny.py": "import os\nRAN = os.environ.get('TINY_RAN')\n"}
    files["starlette/__init__.py"] = "raise SystemExit('not the one that the harness runs on')\n"
    wheel(stage.wheels, "tiny", "1.0", files=files)
    stage.publish("demo.py", app("tiny", says="f'ran in {tiny.RAN}, {os.getpid()}'", imports="import os, tiny"))
    await stage.serve()
    visitor = stage.visitor()
    page = await stage.shows("demo", visitor)
    ran_in, _, own = page.partition("ran in ")[2].partition("<")[0].partition(", ")
    assert ran_in == own
    sandbox = stage.sandbox(visitor, "demo")
    assert sandbox.lease.image != IMAGE
    (image,) = stage.images()
    inside = _files(stage, image["Id"], "/opt/htagweb/site-app")
    assert {"site-app/tiny.py", "site-app/tiny.pth"} <= set(inside)
    for info in inside.values():
        assert (info.uid, info.gid, info.mode & 0o7022) == (0, 0, 0), info.name


def _files(stage: Stage, image: str, folder: str) -> dict[str, tarfile.TarInfo]:
    made = stage.client.create_container(image, "none")
    try:
        stream, _ = stage.client.get_archive(made["Id"], folder)
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
            return {info.name: info for info in tar}
    finally:
        stage.client.remove_container(made["Id"], force=True)


@pytest.fixture
async def maker(stage: Stage) -> AsyncIterator[DockerImages]:
    maker = DockerImages(instance=stage.instance)
    yield maker
    await maker.close()


async def order(maker: DockerImages, stage: Stage, *requirements: str, **values: Any) -> ImageOrder:
    base = await maker.look(IMAGE)
    values = {"wheels": tuple(stage.wheels.iterdir()), **values}
    return ImageOrder(
        name=f"{stage.instance}-app:test",
        base=base.id,
        generation=1,
        requirements=requirements,
        constraints=(),
        **values,
    )


async def test_a_build_has_the_wall_of_a_sandbox(stage: Stage, maker: DockerImages) -> None:
    wheel(stage.wheels, "tiny", "1.0")
    wanted = await order(maker, stage, "tiny")
    builders: list[dict[str, Any]] = []

    def look(log: str) -> None:  # is told of it while the container is there, and once at least
        builders.extend(stage.client.inspect_container(each["Id"]) for each in stage.builders())

    await maker.make(wanted, look)
    made = builders[0]
    host = made["HostConfig"]
    assert made["Config"]["User"] == f"{UID}:{UID}"
    assert (host["NetworkMode"], host["CapDrop"], host["PidsLimit"]) == ("none", ["ALL"], 64)
    assert host["SecurityOpt"][0] == "no-new-privileges:true"
    assert json.loads(host["SecurityOpt"][1].partition("=")[2])["defaultAction"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (512 * 2**20, 512 * 2**20, 10**9)
    assert not made["Mounts"]
    assert not stage.builders()


async def test_a_build_that_takes_too_long_or_too_much_is_ended(stage: Stage, maker: DockerImages) -> None:
    wheel(stage.wheels, "tiny", "1.0", files={"tiny/big.txt": "x" * 3_000_000})
    with pytest.raises(BuildFailed, match="more than 1m"):
        await maker.make(await order(maker, stage, "tiny", most_bytes=2**20), lambda text: None)
    with pytest.raises(BuildFailed, match="not installed"):
        await maker.make(await order(maker, stage, "tiny", timeout_s=0.1), lambda text: None)
    assert not stage.builders()
    assert not stage.images()


@contextmanager
def _served(stage: Stage, folder: Path, command: Sequence[str] = SERVER) -> Iterator[tuple[str, str]]:
    """These files by HTTP, in a network that leads nowhere else; its name, and that of the host in it."""
    name = f"{stage.instance}-index"
    client = stage.client
    network = client.create_network(name, internal=True)["Id"]
    server = ""
    try:
        server = client.create_container(
            IMAGE,
            list(command),
            entrypoint=["python3", "-u"],
            name=name,
            host_config=client.create_host_config(network_mode=name),
        )["Id"]
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as tar:
            tar.add(folder, "index")
        client.put_archive(server, "/", content.getvalue())
        client.start(server)
        yield name, name
    finally:
        if server:
            client.remove_container(server, force=True)
        client.remove_network(network)


async def test_what_a_killed_orchestrator_left_of_a_build_is_removed(stage: Stage, maker: DockerImages) -> None:
    (stage.folder / "index").mkdir()
    with _served(stage, stage.folder / "index", SILENT) as (network, host):
        wanted = await order(maker, stage, "tiny", index_url=f"http://{host}:8000/simple/", network=network)
        making = asyncio.create_task(maker.make(wanted, lambda text: None))
        await eventually(lambda: [each for each in stage.builders() if each["State"] == "running"])
        await maker.tidy()  # as the next one does at its start
        with pytest.raises(EngineUnavailable):
            await making
    assert not stage.builders()


async def test_an_indexs_password_stays_out_of_everything_that_is_kept(stage: Stage, maker: DockerImages) -> None:
    wheel(stage.folder / "index" / "simple" / "tiny", "tiny", "1.0")
    (stage.folder / "index" / "simple" / "tiny" / "index.html").write_text('<a href="tiny-1.0-py3-none-any.whl">t</a>')
    logs: list[str] = []
    with _served(stage, stage.folder / "index") as (network, host):
        index = f"http://someone:s3cret@{host}:8000/simple/"
        await maker.make(await order(maker, stage, "tiny", index_url=index, network=network), logs.append)
    (image,) = stage.images()
    kept = "".join(
        [stage.client.get(f"{stage.client.base_url}/images/{image['Id']}/{view}").text for view in ("json", "history")]
    )
    kept += "".join(logs)
    assert "tiny==1.0" in kept
    assert image["Id"] in kept
    assert "s3cret" not in kept
    inside = _files(stage, image["Id"], "/opt/htagweb/site-app")
    assert "site-app/tiny.py" in inside

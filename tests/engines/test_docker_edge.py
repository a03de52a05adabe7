"""Engines that don't answer, answer late, or are none of ours: scripted sockets stand where the engine's would."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from htagweb_orchestrator.engines.base import SandboxSpec
from htagweb_orchestrator.engines.docker import DockerEngine
from htagweb_orchestrator.engines.docker_images import DockerImages
from htagweb_orchestrator.engines.docker_options import Image, Machine, create_options
from htagweb_orchestrator.errors import EngineUnavailable
from htagweb_orchestrator.image_maker import PullFailed
from htagweb_orchestrator.model import SandboxId

from .probes import eventually, new_id

VERSION = {
    "Version": "28.2.2",
    "ApiVersion": "1.50",
    "Os": "linux",
    "Arch": "amd64",
    "Components": [{"Name": "Engine"}],
}
INFO = {
    "NCPU": 2,
    "SwapLimit": True,
    "MemoryLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "CgroupDriver": "systemd",
    "SecurityOptions": ["name=seccomp,profile=builtin"],
}


@asynccontextmanager
async def scripted(path: Path, version: dict[str, Any], info: dict[str, Any]) -> AsyncIterator[DockerEngine]:
    """An engine that knows two answers."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        body = json.dumps(version if "/version" in head.split()[1] else info).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    engine = DockerEngine(instance="i", run_volume="run", base_url=f"unix://{path}", call_timeout_s=5)
    try:
        yield engine
    finally:
        await engine.close()
        server.close()


@pytest.mark.parametrize(
    ("version", "info", "sentence"),
    [
        ({"Components": [{"Name": "Podman Engine"}]}, {}, "this is Podman"),
        ({"ApiVersion": "1.40", "Version": "19.03.15"}, {}, "19.03.15 is too old"),
        ({"Os": "windows"}, {}, "Linux containers"),
        ({}, {"SecurityOptions": []}, "no seccomp"),
        ({}, {"PidsLimit": False}, "can't limit.*PidsLimit"),
        ({}, {"CgroupDriver": "none"}, "can't limit.*no cgroups"),
        ({"Arch": "riscv64"}, {}, "riscv64"),
    ],
)
async def test_an_engine_without_the_wall_is_refused_in_one_sentence(
    version: dict[str, Any], info: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    async with scripted(tmp_path / "engine.sock", VERSION | version, INFO | info) as engine:
        with pytest.raises(EngineUnavailable, match=sentence):
            await engine.check([])


async def test_no_engine_is_said_at_once(tmp_path: Path) -> None:
    engine = DockerEngine(instance="i", run_volume="run", base_url=f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineUnavailable, match=r"no container engine answers at unix://.*none\.sock"):
        await engine.check([])
    with pytest.raises(EngineUnavailable):
        await engine.stop(new_id())
    with pytest.raises(EngineUnavailable):
        await engine.stats([new_id()])
    await engine.close()


async def test_a_hanging_engine_costs_a_deadline_and_a_few_threads(tmp_path: Path) -> None:
    took: list[asyncio.StreamWriter] = []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        took.append(writer)

    server = await asyncio.start_unix_server(hang, tmp_path / "engine.sock")
    engine = DockerEngine(instance="i", run_volume="run", base_url=f"unix://{tmp_path}/engine.sock", call_timeout_s=0.3)
    others = set(threading.enumerate())
    began = time.monotonic()
    refusals = await asyncio.gather(*(engine.list_managed() for _ in range(50)), return_exceptions=True)
    assert time.monotonic() - began < 3
    assert {type(refusal) for refusal in refusals} == {EngineUnavailable}
    assert 1 <= engine.hung_calls <= 8
    assert len(set(threading.enumerate()) - others) <= 8
    for writer in took:
        writer.close()
    await eventually(lambda: engine.hung_calls == 0)
    await engine.close()
    server.close()


async def test_a_registry_that_falls_silent_costs_a_pull_and_no_thread(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError), contextlib.closing(writer):
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                pull = "/images/create" in head
                body = b'{"status": "Pulling from team/numpy"}\r\n' if pull else json.dumps(VERSION).encode()
                length = 1000 if pull else len(body)  # of a pull, the rest never comes
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (length, body))

    server = await asyncio.start_unix_server(serve, tmp_path / "engine.sock")
    images = DockerImages(instance="i", base_url=f"unix://{tmp_path}/engine.sock", silence_s=1)
    for _ in range(2):  # there is one thread for all of them
        with pytest.raises(EngineUnavailable, match="timed out"):
            async with asyncio.timeout(30):
                await images.pull("registry.test/team/numpy:3", lambda done, total: None)
    await images.close()
    server.close()


async def test_a_name_that_none_can_have_is_told_as_such(tmp_path: Path) -> None:
    async with scripted(tmp_path / "engine.sock", VERSION, INFO):
        images = DockerImages(instance="i", base_url=f"unix://{tmp_path}/engine.sock")
        with pytest.raises(PullFailed, match="hyphen"):
            await images.pull("-registry.test/team/numpy:3", lambda done, total: None)
        await images.close()


async def test_no_call_waits_for_figures_that_the_engine_is_slow_to_give(tmp_path: Path) -> None:
    waiting: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readuntil(b"\r\n\r\n")).decode().split()[1]
        if "/stats" in target:
            waiting.append(writer)
            return
        body = json.dumps(VERSION if "/version" in target else []).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "engine.sock")
    engine = DockerEngine(instance="i", run_volume="run", base_url=f"unix://{tmp_path}/engine.sock", call_timeout_s=5)
    async with asyncio.TaskGroup() as tasks:
        measuring = tasks.create_task(engine.stats([new_id() for _ in range(20)]))
        await eventually(lambda: len(waiting) == 20)
        assert await engine.list_managed() == []
        measuring.cancel()
    for writer in waiting:
        writer.close()
        await writer.wait_closed()
    await eventually(lambda: engine.hung_calls == 0)
    await engine.close()
    server.close()


MACHINE = Machine(
    api=(1, 41),
    cpus=2,
    limits_swap=True,
    run_volume="run",
    run_mountpoint="/var/lib/docker/volumes/run/_data",
)


def options(machine: Machine, **values: Any) -> dict[str, Any]:
    spec = SandboxSpec(sandbox_id=SandboxId("a" * 32), uid=20000, directory="/r", image="i", generation=2)
    spec = dataclasses.replace(spec, **values)
    return create_options(spec, instance="i", image=Image("sha256:1", {}), machine=machine, seccomp="{}")


def test_an_engine_that_knows_subpath_is_given_the_volumes_name() -> None:
    """Its mountpoint means nothing outside of Docker Desktop's machine."""
    newer = Machine(api=(1, 45), cpus=2, limits_swap=True, run_volume="run", run_mountpoint="/nowhere")
    assert options(newer)["HostConfig"]["Mounts"] == [
        {
            "Type": "volume",
            "Source": "run",
            "Target": "/run/app",
            "VolumeOptions": {"NoCopy": True, "Subpath": f"{'a' * 32}/s"},
        }
    ]


def test_an_older_engine_is_given_the_directory_itself() -> None:
    source = f"/var/lib/docker/volumes/run/_data/{'a' * 32}/s"
    assert options(MACHINE)["HostConfig"]["Mounts"] == [{"Type": "bind", "Source": source, "Target": "/run/app"}]


def test_what_a_user_keeps_is_one_folder_more_and_no_file_of_it_outgrows_it() -> None:
    kept = {"data": "b" * 40, "data_bytes": 40 << 20}
    older = dataclasses.replace(MACHINE, data_volume="data", data_mountpoint="/var/lib/docker/volumes/data/_data")
    newer = dataclasses.replace(older, api=(1, 45))
    source = f"/var/lib/docker/volumes/data/_data/{'b' * 40}/d"
    assert options(older, **kept)["HostConfig"]["Mounts"][1:] == [{"Type": "bind", "Source": source, "Target": "/data"}]
    (mount,) = options(newer, **kept)["HostConfig"]["Mounts"][1:]
    assert (mount["Source"], mount["VolumeOptions"]["Subpath"]) == ("data", f"{'b' * 40}/d")
    limits = {limit["Name"]: limit["Hard"] for limit in options(newer, **kept)["HostConfig"]["Ulimits"]}
    assert limits == {"core": 0, "nofile": 512, "fsize": 40 << 20}
    assert "fsize" not in {limit["Name"] for limit in options(newer)["HostConfig"]["Ulimits"]}


def test_gvisor_gets_room_for_its_own_threads() -> None:
    assert options(MACHINE, runtime="runsc")["HostConfig"]["PidsLimit"] == 256
    assert options(MACHINE)["HostConfig"]["PidsLimit"] == 64


def test_the_generation_is_all_that_the_image_is_told() -> None:
    assert options(MACHINE)["Cmd"] == ["--generation", "2"]


def test_under_gvisor_the_peer_of_a_socket_proves_nothing() -> None:
    engine = DockerEngine(instance="i", run_volume="run")
    spec = SandboxSpec(sandbox_id=new_id(), uid=20000, directory="/r", image="i", generation=1, runtime="runsc")
    assert not engine.address(spec).peer_uid
    assert engine.address(spec).path == "/r/app.sock"
    assert engine.control_address(spec).path == "/r/control.sock"

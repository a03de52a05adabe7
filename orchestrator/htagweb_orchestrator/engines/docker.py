"""Sandboxes as Docker containers. Keeps the promises of base.Engine."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections.abc import AsyncGenerator, Callable, Collection, Sequence

import docker

from ..errors import EngineUnavailable, ImageNotFound, IsolationBroken
from ..model import SandboxId, Step, UnixAddress
from .base import Advice, Died, Found, Relist, SandboxSpec, Stats
from .docker_advice import advice
from .docker_answers import api_version, refuse_unfit, sandbox_found, sandbox_life, sandbox_stats
from .docker_calls import Call, Client, DockerCalls, T, unavailable
from .docker_events import EventThread
from .docker_options import (
    INSTANCE,
    Image,
    Machine,
    Options,
    container_name,
    create_options,
    differences,
    seccomp_profile,
)

log = logging.getLogger(__name__)

STATS_AT_ONCE = 32


class DockerEngine:
    """One installation's sandboxes (`instance`, a label) on one Docker engine.

    `run_volume` names the volume that holds the run directory, `data_volume` the one with what apps keep.
    `call_timeout_s` is the deadline of every single call.
    """

    name = "docker"

    def __init__(
        self,
        *,
        instance: str,
        run_volume: str,
        data_volume: str = "",
        base_url: str = "unix:///var/run/docker.sock",
        call_timeout_s: float = 20.0,
    ) -> None:
        self._instance = instance
        self._run_volume = run_volume
        self._data_volume = data_volume
        self._base_url = base_url
        self._call_timeout_s = call_timeout_s
        self._calls = DockerCalls(base_url, timeout_s=call_timeout_s)
        # Some engines take a second over each answer: many at a time, and no start waits for them.
        self._stats_calls = DockerCalls(base_url, timeout_s=call_timeout_s, threads=STATS_AT_ONCE)
        self._machine: Machine | None = None
        self._seccomp = ""
        self._streams: set[EventThread] = set()

    @property
    def hung_calls(self) -> int:
        """How many threads the engine has not answered in time, and still keeps."""
        return self._calls.hung + self._stats_calls.hung

    async def check(self, images: Sequence[str]) -> str:
        version: Options = await self._ask(lambda client: client.version())
        info: Options = await self._ask(lambda client: client.info())
        refuse_unfit(version, info)
        self._seccomp, self._machine = await self._look_at_machine(version, info)
        for image in images:
            await self._resolve(image)
        return f"docker {version['Version']} (API {version['ApiVersion']})"

    async def start(self, spec: SandboxSpec, *, on_step: Callable[[Step], None]) -> None:
        if self._machine is None:
            await self.check([spec.image])
        on_step(Step.CREATING)
        options, container = await self._create(spec)
        try:
            made: Options = await self._ask(lambda client: client.inspect_container(container))
            _refuse_differences(options, made)
            on_step(Step.STARTING)
            await self._ask(lambda client: client.start(container))
        except BaseException:
            await self._remove_after_failure(spec.sandbox_id)
            raise

    async def probe(self, spec: SandboxSpec, program: str, argument: str) -> Found:
        """Keeps the promise of selftest.Prover. A crash on the way leaves what the next census removes."""
        if self._machine is None:
            await self.check([spec.image])
        try:
            command = {"Entrypoint": ["python3", "-I", "-S", "-c", program], "Cmd": [argument]}
            options, container = await self._create(spec, command)
            made: Options = await self._ask(lambda client: client.inspect_container(container))
            _refuse_differences(options, made)
            await self._ask(lambda client: client.start(container))
            await self._ask(lambda client: client.wait(container))
            for found in await self.list_managed():
                if found.sandbox_id == spec.sandbox_id:
                    return found
            raise EngineUnavailable("the sandboxes' self-test was removed before it was done")
        finally:
            await self._remove_after_failure(spec.sandbox_id)

    async def advice(self, networks: Collection[str]) -> list[Advice]:
        """Keeps the promise of selftest.Prover."""
        return await self._ask(lambda client: advice(client, networks))

    def address(self, spec: SandboxSpec) -> UnixAddress:
        return UnixAddress(path=f"{spec.directory}/app.sock", uid=spec.uid, peer_uid=spec.runtime != "runsc")

    def control_address(self, spec: SandboxSpec) -> UnixAddress:
        return UnixAddress(path=f"{spec.directory}/control.sock", uid=spec.uid, peer_uid=spec.runtime != "runsc")

    async def stop(self, sandbox_id: SandboxId) -> None:
        await self._ask(lambda client: _remove(client, sandbox_id))

    async def list_managed(self) -> list[Found]:
        def list_all(client: Client) -> list[Found]:
            listed = client.containers(all=True, filters={"label": f"{INSTANCE}={self._instance}"})
            return [found for entry in listed if (found := sandbox_found(client, entry)) is not None]

        return await self._ask(list_all)

    async def events(self) -> AsyncGenerator[Died | Relist, None]:
        stream = EventThread(self._base_url, instance=self._instance, timeout_s=self._call_timeout_s)
        self._streams.add(stream)
        try:
            async for news in stream.read():
                yield news
        finally:
            stream.close()
            self._streams.discard(stream)

    async def stats(self, sandbox_ids: Sequence[SandboxId]) -> dict[SandboxId, Stats]:
        async def one(sandbox_id: SandboxId) -> Stats | None:
            return await self._ask(lambda client: sandbox_stats(client, sandbox_id), of=self._stats_calls)

        answers = await asyncio.gather(*map(one, sandbox_ids))
        return {asked: stats for asked, stats in zip(sandbox_ids, answers, strict=True) if stats is not None}

    async def logs(self, sandbox_id: SandboxId) -> str:
        return await self._ask(lambda client: sandbox_life(client, sandbox_id))

    async def close(self) -> None:
        for stream in list(self._streams):
            stream.close()
        self._calls.close()
        self._stats_calls.close()

    async def _ask(self, call: Call[T], *, of: DockerCalls | None = None) -> T:
        """A call whose refusals have no meaning of their own."""
        try:
            return await (of or self._calls).run(call)
        except docker.errors.APIError as error:
            raise unavailable(self._base_url, error) from error

    async def _look_at_machine(self, version: Options, info: Options) -> tuple[str, Machine]:
        arch = str(version["Arch"])
        try:
            seccomp = seccomp_profile(arch)
        except FileNotFoundError as error:
            raise EngineUnavailable(f"sandboxes run on amd64 and arm64; this engine's machine is {arch}") from error
        try:
            volume: Options = await self._calls.run(lambda client: client.inspect_volume(self._run_volume))
        except docker.errors.NotFound as error:
            raise EngineUnavailable(
                f"the engine has no volume {self._run_volume!r}: HTAGWEB_RUN_VOLUME must name the one that holds the"
                " sandboxes' directories"
            ) from error
        except docker.errors.APIError as error:
            raise unavailable(self._base_url, error) from error
        return seccomp, Machine(
            api=api_version(version),
            cpus=int(info["NCPU"]),
            limits_swap=bool(info["SwapLimit"]),
            run_volume=self._run_volume,
            run_mountpoint=str(volume["Mountpoint"]),
            data_volume=self._data_volume,
            data_mountpoint=await self._data_mountpoint(),
        )

    async def _data_mountpoint(self) -> str:
        """ "" where there is no such volume: only apps with `data` miss it."""
        if not self._data_volume:
            return ""
        try:
            found: Options = await self._calls.run(lambda client: client.inspect_volume(self._data_volume))
        except docker.errors.NotFound:
            return ""
        except docker.errors.APIError as error:
            raise unavailable(self._base_url, error) from error
        return str(found["Mountpoint"])

    async def _resolve(self, name: str) -> Image:
        try:
            found = await self._calls.run(lambda client: inspect_image(client, name))
        except docker.errors.NotFound as error:
            raise ImageNotFound(
                f"the engine has no image {name!r}: build it with `docker compose build sandbox-image`", image=name
            ) from error
        except docker.errors.APIError as error:
            raise unavailable(self._base_url, error) from error
        return Image(found["Id"], found["Config"].get("Labels") or {})

    async def _create(self, spec: SandboxSpec, command: Options | None = None) -> tuple[Options, str]:
        """Return what was asked for, and the container's id. `command` replaces the image's own."""
        # Asked each time, some milliseconds: an image that was rebuilt while we run has the same name and another id.
        assert self._machine is not None
        if spec.data and not self._machine.data_mountpoint:
            raise EngineUnavailable(f"the engine has no volume {self._data_volume!r} for what apps keep")
        options = self.create_options(spec, await self._resolve(spec.image)) | (command or {})
        try:
            container = await self._calls.run(
                functools.partial(create_container, options=options, name=container_name(spec.sandbox_id)),
                undo=functools.partial(_remove, sandbox_id=spec.sandbox_id),
            )
        except docker.errors.NotFound as error:
            gone = f"the image {spec.image!r} went away while a sandbox of it was made"
            raise ImageNotFound(gone, image=spec.image) from error
        except docker.errors.APIError as error:
            raise unavailable(self._base_url, error) from error
        return options, container

    def create_options(self, spec: SandboxSpec, image: Image) -> Options:
        """What this engine will be asked for; the body of the create call."""
        assert self._machine is not None  # start() has checked
        return create_options(spec, instance=self._instance, image=image, machine=self._machine, seccomp=self._seccomp)

    async def _remove_after_failure(self, sandbox_id: SandboxId) -> None:
        """Bounded by the call's own deadline, and not cut short by a second cancellation."""
        removal = asyncio.ensure_future(self.stop(sandbox_id))
        try:
            await asyncio.shield(removal)
        except (EngineUnavailable, asyncio.CancelledError) as error:
            removal.add_done_callback(lambda done: done.cancelled() or done.exception())
            log.warning(
                "could not remove a sandbox that did not start", extra={"sandbox": sandbox_id, "error": str(error)}
            )


def _refuse_differences(asked: Options, made: Options) -> None:
    if found := differences(asked, made):
        raise IsolationBroken(f"the engine did not take over these options of a sandbox: {', '.join(found)}")


def inspect_image(client: Client, name: str) -> Options:
    found: Options = client.inspect_image(name)  # type: ignore[no-untyped-call]
    return found


def create_container(client: Client, options: Options, name: str) -> str:
    """Return the new container's id."""
    created: Options = client.create_container_from_config(options, name)  # type: ignore[no-untyped-call]
    return str(created["Id"])


def _remove(client: Client, sandbox_id: SandboxId) -> None:
    if not re.fullmatch("[0-9a-f]{32}", sandbox_id):
        return  # no id of ours, so nothing by its name
    try:
        client.remove_container(container_name(sandbox_id), v=True, force=True)
    except docker.errors.NotFound:
        return
    except docker.errors.APIError as error:
        if error.status_code != 409:
            raise
        # Somebody else is removing it: gone soon. `wait` would say "not running" too early, so wait for its removal.
        try:
            client.wait(container_name(sandbox_id), condition="removed")
        except docker.errors.NotFound:
            return

"""One sandbox from nothing to its first page. What a failed start leaves behind, its caller can end."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from .address import DialFailed
from .catalogue import Apps, PublishedApp
from .data import DataFolders, TooMuch
from .engines.base import Engine, SandboxSpec
from .errors import DiskFailed, OrchestratorError, StartFailed, StartTimeout
from .harness import HarnessFailed, HarnessLink, Listener, TooSlow
from .model import ASGI, AppName, Person, Step, UserId
from .output import OutputFiles
from .reaper import duration
from .registry import Lease, Sandbox
from .rundir import RunDirectory
from .session_store import SessionKey, SessionStore
from .start_times import StartTimes

T = TypeVar("T")
SLOW_S = 2.0  # for the harness to say by itself, and where, that the first page takes too long
HELLO_S = 10.0  # for a harness that has its sockets to answer


class Starter:
    def __init__(
        self,
        *,
        engine: Engine,
        run: RunDirectory,
        catalogue: Apps,
        sessions: SessionStore,
        output: OutputFiles,
        listener: Listener,
        orphan_timeout_s: float,
        session_size: int,
        dev: bool,
        data: DataFolders | None = None,
        others: Callable[[Sandbox], bool] = lambda sandbox: False,
        profile: Callable[[UserId], Person | None],
        session_key: Callable[[UserId, AppName], SessionKey],
        times: StartTimes,
        now: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._run = run
        self._catalogue = catalogue
        self._sessions = sessions
        self._output = output
        self._listener = listener
        self._orphan_timeout_s = orphan_timeout_s
        self._session_size = session_size
        self._dev = dev
        self._data = data
        self._others = others
        self._profile = profile
        self._session_key = session_key
        self._now = now
        self._times = times
        self._slots = asyncio.Semaphore(2 * (os.cpu_count() or 1))

    async def start(
        self, sandbox: Sandbox, app: PublishedApp, *, query: str, on_step: Callable[[Sandbox, Step], None]
    ) -> None:
        """Bring a reserved sandbox to its rendered first page, within the app's start_timeout. One of the warm pool has
        part of the way behind it.

        On any error the sandbox may be half there; the caller ends it. Raises StartFailed, StartTimeout, or what the
        engine raised.
        """
        async with self._told(sandbox, app):
            deadline = await self._booted(sandbox, app, on_step)
            async with asyncio.timeout_at(deadline):
                on_step(sandbox, Step.LOADING)
                if not sandbox.loaded:
                    await self._load(sandbox, app)
                await self._claim(sandbox, app, query)

    async def warm(self, sandbox: Sandbox, app: PublishedApp, *, load: bool) -> None:
        """Bring a sandbox without a user as far as it can come: blank, or with `load` with its app imported."""
        async with self._told(sandbox, app):
            deadline = await self._booted(sandbox, app, lambda sandbox, step: None)
            if load:
                async with asyncio.timeout_at(deadline):
                    await self._load(sandbox, app)

    async def try_out(self, sandbox: Sandbox, app: PublishedApp) -> None:
        """Render the app's first page for nobody, within its start_timeout. The caller ends the sandbox in any case.

        Raises HarnessFailed for what the app did wrong, with the details in the sandbox's output; TimeoutError where it
        hangs; or what the engine raised.
        """
        deadline = await self._booted(sandbox, app, lambda sandbox, step: None)
        claim: dict[str, Any] = {"session": {}, "query": "", "prefix": f"/{app.name}", "profile": None}
        link = sandbox.link
        assert link is not None
        try:
            async with asyncio.timeout_at(deadline):
                if not sandbox.loaded:
                    await self._load(sandbox, app)
                await link.claim(claim)
        except HarnessFailed as error:
            await self._explain(sandbox, error)
            raise

    async def _booted(self, sandbox: Sandbox, app: PublishedApp, on_step: Callable[[Sandbox, Step], None]) -> float:
        """Boot it unless it is; return the deadline (loop time) of the whole start."""
        loop = asyncio.get_running_loop()
        if sandbox.link is not None:
            self._waited(sandbox)
            return loop.time() + app.limits.start_timeout_s
        async with self._slots:  # booting only: an app that hangs while it loads must not keep others from starting
            self._waited(sandbox)
            deadline = loop.time() + app.limits.start_timeout_s
            async with asyncio.timeout_at(deadline):
                await self._boot(sandbox, on_step)
        return deadline

    @asynccontextmanager
    async def _told(self, sandbox: Sandbox, app: PublishedApp) -> AsyncIterator[None]:
        """What goes wrong within, as one of our errors, with the details in the sandbox's output."""
        try:
            yield
        except TimeoutError as error:
            said = f"{app.title} was not ready after {app.limits.start_timeout_s:g} seconds."
            raise StartTimeout(said, error_id=sandbox.error_id) from error
        except TooSlow as error:
            said = f"{app.title} took longer than {duration(app.limits.interaction_timeout_s)} over its first page."
            raise StartTimeout(said, error_id=sandbox.error_id) from error
        except (HarnessFailed, DialFailed) as error:
            await self._explain(sandbox, error)
            raise StartFailed(f"{app.title} could not be started.", error_id=sandbox.error_id) from error
        except OSError as error:
            raise DiskFailed(f"what belongs to a sandbox can't be written or read: {error}") from error

    def spec(self, lease: Lease, data: str = "") -> SandboxSpec:
        limits = lease.limits
        return SandboxSpec(
            sandbox_id=lease.sandbox,
            uid=lease.uid,
            directory=str(self._run.sockets(lease.sandbox)),
            image=lease.image,
            generation=lease.generation,
            memory_bytes=limits.memory_bytes,
            cpus=limits.cpus,
            pids=limits.pids,
            tmp_bytes=limits.tmp_bytes,
            app_bytes=limits.app_bytes,
            runtime=limits.runtime,
            network=limits.network,
            data=data,
            data_bytes=limits.data_bytes if data else 0,
        )

    async def _boot(self, sandbox: Sandbox, on_step: Callable[[Sandbox, Step], None]) -> None:
        """A container with an honest harness in a sealed directory, which knows nothing of the app yet."""
        lease = sandbox.lease
        async with self._timed(sandbox, "create"):
            on_step(sandbox, Step.CREATING)
            spec = self.spec(lease, await self._kept(sandbox) if lease.limits.data_bytes else "")
            self._run.create(lease.sandbox, lease.uid)
            self.write_lease(sandbox)
            await self._engine.start(spec, on_step=lambda step: on_step(sandbox, step))
        async with self._timed(sandbox, "start"):
            on_step(sandbox, Step.STARTING)
            most_s = lease.limits.start_timeout_s  # on a busy machine an interpreter takes what it takes
            await self._alive(sandbox, self._run.wait_for_sockets(lease.sandbox, lease.uid, timeout_s=most_s))
            sandbox.control_address = self._engine.control_address(spec)
            boot_log = self._run.seal(lease.sandbox, lease.uid)
            if boot_log:
                self._output.add(lease.sandbox, boot_log)
            sandbox.link = await self._alive(sandbox, self.connect(sandbox))
        sandbox.address = self._engine.address(spec)

    async def _kept(self, sandbox: Sandbox) -> str:
        """What its user keeps, ready to be mounted: no earlier sandbox has it any more, and all of it is this one's."""
        lease = sandbox.lease
        if self._data is None:
            raise StartFailed("What this app keeps can't be kept here.", error_id=sandbox.error_id)
        while self._others(sandbox):  # noqa: ASYNC110  one that is being removed; a start has a deadline
            await asyncio.sleep(0.02)
        scratch = "" if lease.user else lease.sandbox
        try:
            return await asyncio.to_thread(self._data.prepare, lease.user, lease.app, lease.uid, scratch=scratch)
        except (TooMuch, OSError) as error:
            self._output.add(lease.sandbox, f"/data can't be used: {error}\n")
            raise StartFailed("What this app keeps can't be used.", error_id=sandbox.error_id) from error

    async def connect(self, sandbox: Sandbox) -> HarnessLink:
        assert sandbox.control_address is not None
        link, _ = await HarnessLink.connect(
            sandbox.id,
            sandbox.control_address,
            self._listener,
            orphan_timeout_s=self._orphan_timeout_s,
            timeout_s=HELLO_S,
        )
        return link

    async def _load(self, sandbox: Sandbox, app: PublishedApp) -> None:
        """From here on the sandbox is hostile."""
        link = sandbox.link
        assert link is not None
        files = await asyncio.to_thread(self._catalogue.files, app.version)
        secrets = await asyncio.to_thread(self._catalogue.secrets, app)
        load: dict[str, Any] = {
            "app": app.name,
            "version": app.version,
            "entry": app.entry,
            "env": app.env,
            "secrets": {name: base64.b64encode(content).decode() for name, content in secrets.items()},
            "dev": self._dev,
            "interaction_timeout_s": app.limits.interaction_timeout_s,
            "busy_max_s": app.limits.busy_max_s,
            "session_size": self._session_size,
            "http_only": app.http_only,
            "parano": app.parano,
        }
        if app.folder:
            load |= {"folder": app.folder, "working_dir": app.working_dir, "base": f"{app.prefix}/"}
        async with self._timed(sandbox, "load"):
            await link.load(load, files)
        sandbox.loaded = True
        self._times.loaded(app.name, sandbox.steps_ms["load"] / 1000)

    async def _claim(self, sandbox: Sandbox, app: PublishedApp, query: str) -> None:
        """Give it its user, once and for all."""
        link = sandbox.link
        assert link is not None
        is_htag = app.generation != ASGI  # others have no use for the session, and nothing is measured in them
        session = await self._sessions.get(self._session_key(sandbox.lease.user, app.name)) if is_htag else {}
        now = self._now()
        # Before the claim is sent: a crash in between must never leave a sandbox that has a user nobody knows of.
        sandbox.lease = sandbox.lease.replace(state="claimed", claimed_s=now, last_activity_s=now)
        self.write_lease(sandbox)
        person = self._profile(sandbox.lease.user)
        profile = msgspec.to_builtins(person) if person else None
        claim = {"session": session, "query": query, "prefix": app.prefix or f"/{app.name}", "profile": profile}
        async with self._timed(sandbox, "render"):
            # Not by `async with timeout`: the deadline of the whole start, if that comes first, is another error.
            rendering = asyncio.ensure_future(link.claim(claim))
            try:
                patience_s = app.limits.interaction_timeout_s + SLOW_S if is_htag else None
                await asyncio.wait({rendering}, timeout=patience_s)
                if not rendering.done():
                    raise TooSlow("the first page took longer than an interaction may")
                await rendering
            finally:
                rendering.cancel()

    def write_lease(self, sandbox: Sandbox) -> None:
        self._run.write_lease(sandbox.lease)
        sandbox.written_s = self._now()

    async def _alive(self, sandbox: Sandbox, work: Awaitable[T]) -> T:
        """Wait for `work`, but not longer than the sandbox lives."""
        task = asyncio.ensure_future(work)
        died = asyncio.create_task(sandbox.died.wait())
        try:
            await asyncio.wait({task, died}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise HarnessFailed(f"the sandbox ended with exit code {sandbox.exit_code} before it was ready")
        finally:
            died.cancel()
            task.cancel()

    async def _explain(self, sandbox: Sandbox, error: HarnessFailed | DialFailed) -> None:
        """Put into the sandbox's output what `htagweb logs` should show: the reason, and the app's traceback."""
        said = [str(error)]
        if isinstance(error, HarnessFailed) and error.traceback:
            said = [error.traceback.rstrip()]
        boot_log = self._run.boot_log(sandbox.id)
        if boot_log:
            said.insert(0, boot_log.rstrip())
        if sandbox.exit_code is not None:
            try:
                said.append(await self._engine.logs(sandbox.id))
            except OrchestratorError as silent:  # what is known already must be kept in any case
                said.append(str(silent))
        self._output.add(sandbox.id, "\n".join(said) + "\n")

    def _waited(self, sandbox: Sandbox) -> None:
        """Its turn has come. What a warm one has behind it took none of its visitor's time."""
        sandbox.steps_ms = {"queue": round((self._now() - sandbox.lease.created_s) * 1000, 1)}

    @asynccontextmanager
    async def _timed(self, sandbox: Sandbox, step: str) -> AsyncIterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            sandbox.steps_ms[step] = round((time.monotonic() - began) * 1000, 1)

"""Sandboxes that are mere processes of this user: no isolation boundary, and no container engine needed.

Each ends with us, however we end: it holds the reading end of a pipe whose other end is ours alone, and its group is
killed with it. So there is never anything to adopt; what an earlier run left behind can only be on its way out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import EngineUnavailable
from ..model import Address, SandboxId, Step, TcpAddress, UnixAddress
from ..own_rundir import DOORS
from ..rundir import BOOT_LOG
from .base import Died, Found, Relist, SandboxSpec, Stats

STOP_S = 10.0  # from SIGKILL to a process that is gone: longer than that only a broken disk takes
# What dials a Unix socket without following a link takes Linux; elsewhere loopback serves, with a secret.
BOOT_S = 10.0  # from a process's start until it listens
AHEAD = "ahead"  # in place of an id, of a process that is begun before anybody needs it
OUT_OF_MEMORY = 137  # the harness's exit code then; one that was killed has none of its own
FULL = 0.75  # of its memory: what was killed with more than that in use had too little
HAS_UNIX = hasattr(os, "O_PATH")
LONGEST_RUN = 107 - len("/0123456789abcdef0123456789abcdef/s/control.sock-")  # unix(7): sun_path has 108 bytes


@dataclass(eq=False, slots=True)
class _Process:
    popen: subprocess.Popen[bytes]
    spec: SandboxSpec
    secret: str
    began: float
    before_bytes: int  # what its account of memory begins with
    exit_code: int | None = None
    out_of_memory: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class ProcessEngine:
    """`program` is what runs a harness: an interpreter and its first arguments; `sites` is what that finds beside the
    standard library. `run` is the run directory."""

    name = "process"

    def __init__(
        self, *, run: Path, program: Sequence[str], sites: Sequence[str] = (), unix_sockets: bool = HAS_UNIX
    ) -> None:
        self._run = run
        self._program = tuple(program)
        self._sites = tuple(sites)
        self._unix = unix_sockets and len(os.fsencode(run)) <= LONGEST_RUN
        self._processes: dict[SandboxId, _Process] = {}
        self._listeners: set[asyncio.Queue[Died | Relist]] = set()
        self._ahead: _Process | None = None

    async def check(self, images: Sequence[str]) -> str:
        return f"process (Python {platform.python_version()}, {sys.platform})"

    def begin(self, generation: int, memory_bytes: int) -> None:
        """Begin a process that the first fitting `start` takes: it boots while the rest of a platform is imported.
        Blocks for milliseconds; whoever calls it calls `abandon` or `close` at the end."""
        directory = self._run / AHEAD / "s"
        directory.mkdir(mode=0o700, parents=True)
        spec = SandboxSpec(
            sandbox_id=SandboxId(AHEAD),
            uid=0,
            directory=str(directory),
            image="",
            generation=generation,
            memory_bytes=memory_bytes,
        )
        self._ahead = self._spawn(spec)

    def abandon(self) -> None:
        """End what was begun and not taken."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            _undo(ahead)

    async def _taken(self, spec: SandboxSpec) -> _Process | None:
        """What was begun, made this sandbox's; None if nothing was, or it is of no use here."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        own = Path(spec.directory)
        kind = ".sock" if self._unix else ".port"
        before = Path(ahead.spec.directory)
        fits = (ahead.spec.generation, ahead.spec.memory_bytes) == (spec.generation, spec.memory_bytes)
        deadline = time.monotonic() + BOOT_S
        while fits and not all((before / f"{door}{kind}").exists() for door in DOORS):
            fits = ahead.popen.poll() is None and time.monotonic() < deadline
            await asyncio.sleep(0.003)
        if not fits:
            await asyncio.to_thread(_undo, ahead)
            return None
        for door in DOORS:  # a socket keeps listening under another name
            os.replace(before / f"{door}{kind}", own / f"{door}{kind}")
        with contextlib.suppress(OSError):
            os.replace(before.parent / BOOT_LOG, own.parent / BOOT_LOG)
        ahead.spec = spec
        self._note(ahead)
        return ahead

    async def start(self, spec: SandboxSpec, *, on_step: Callable[[Step], None]) -> None:
        if spec.data:
            raise EngineUnavailable("an app with the key data needs containers: no process has a /data of its own")
        on_step(Step.CREATING)
        loop = asyncio.get_running_loop()
        spawning = asyncio.ensure_future(self._begun(spec))
        try:
            process = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            await asyncio.wait({spawning})  # milliseconds; else nobody would know of the process
            if spawning.exception() is None:
                await loop.run_in_executor(None, _undo, spawning.result())
            raise
        except OSError as error:
            raise EngineUnavailable(f"no process could be started: {error.strerror or error}") from error
        self._processes[spec.sandbox_id] = process
        # A thread each: the only way to wait that works on every OS, under every event loop, in every thread.
        threading.Thread(
            target=self._wait, args=(loop, process), name=f"wait {spec.sandbox_id[:12]}", daemon=True
        ).start()
        on_step(Step.STARTING)

    async def _begun(self, spec: SandboxSpec) -> _Process:
        taken = await self._taken(spec)
        return taken if taken is not None else await asyncio.to_thread(self._spawn, spec)

    def _spawn(self, spec: SandboxSpec) -> _Process:
        own = Path(spec.directory).parent
        secret = "" if self._unix else secrets.token_hex(32)
        command = [
            *self._program,
            "--generation",
            str(spec.generation),
            "--run",
            spec.directory,
            "--lifeline",
            "--fast",
        ]
        command += ["--memory-bytes", str(spec.memory_bytes)]
        for site in self._sites:
            command += ["--site", site]
        environ = dict(os.environ)
        if secret:
            command.append("--tcp")
            # Not an argument: those can be read by every user of the machine.
            environ |= {"HTAGWEB_SECRET": secret}
        options: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        began = time.time()
        try:
            with open(own / BOOT_LOG, "wb") as boot_log:
                popen = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=boot_log,
                    env=environ,
                    **options,
                )
        except FileNotFoundError as error:
            raise OSError(error.errno, f"{error.filename}: {error.strerror}") from error
        process = _Process(popen, spec, secret, began, _most_bytes())
        try:
            self._note(process)
        except OSError:
            _undo(process)
            raise
        return process

    @staticmethod
    def _note(process: _Process) -> None:
        """What an engine that comes after us needs to know of it."""
        pid, spec = process.popen.pid, process.spec
        note = {"pid": pid, "started": _start_time(pid), "uid": spec.uid, "image": spec.image}
        (Path(spec.directory).parent / "process.json").write_text(json.dumps(note))

    def _wait(self, loop: asyncio.AbstractEventLoop, process: _Process) -> None:
        popen = process.popen
        if hasattr(os, "waitid") and hasattr(os, "WNOWAIT"):
            # What it started goes before it is reaped: as long as it isn't, nobody else can have its number.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
                _kill(popen.pid)
        code, most_bytes = _reaped(popen)
        # Where nothing at all is left, C code that took an allocation for granted is broken off.
        least_bytes = FULL * process.spec.memory_bytes
        full = code < 0 and least_bytes > 0 and most_bytes > max(least_bytes, process.before_bytes)
        process.out_of_memory = code == OUT_OF_MEMORY or full
        if popen.stdin is not None:
            popen.stdin.close()
        with contextlib.suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(self._ended, process, 128 - code if code < 0 else code)

    def _ended(self, process: _Process, exit_code: int) -> None:
        process.exit_code = exit_code
        process.gone.set()
        for listener in self._listeners:
            listener.put_nowait(
                Died(sandbox_id=process.spec.sandbox_id, exit_code=exit_code, out_of_memory=process.out_of_memory)
            )

    def address(self, spec: SandboxSpec) -> Address:
        return self._door(spec, "app")

    def control_address(self, spec: SandboxSpec) -> Address:
        return self._door(spec, "control")

    def _door(self, spec: SandboxSpec, name: str) -> Address:
        if self._unix:
            return UnixAddress(path=f"{spec.directory}/{name}.sock", uid=os.getuid())
        process = self._processes.get(spec.sandbox_id)
        try:
            port = int(Path(spec.directory, f"{name}.port").read_text())
        except (OSError, ValueError) as error:
            raise EngineUnavailable("the app's process is gone") from error
        return TcpAddress(host="127.0.0.1", port=port, secret=process.secret if process else "")

    async def stop(self, sandbox_id: SandboxId) -> None:
        process = self._processes.get(sandbox_id)
        if process is None:
            left = self._noted(sandbox_id)
            if left is not None:
                _kill(left[0])
            return
        if process.exit_code is None:
            _kill(process.popen.pid)
        try:
            async with asyncio.timeout(STOP_S):
                await process.gone.wait()
        except TimeoutError as error:
            raise EngineUnavailable(f"process {process.popen.pid} does not end") from error
        self._processes.pop(sandbox_id, None)

    async def list_managed(self) -> list[Found]:
        found = [
            Found(
                sandbox_id=each.spec.sandbox_id,
                running=each.exit_code is None,
                uid=each.spec.uid,
                image=each.spec.image,
                exit_code=each.exit_code,
                out_of_memory=each.out_of_memory,
            )
            for each in self._processes.values()
        ]
        for name in await asyncio.to_thread(os.listdir, self._run):
            sandbox_id = SandboxId(name)
            if name != AHEAD and sandbox_id not in self._processes and (left := self._noted(sandbox_id)) is not None:
                found.append(Found(sandbox_id=sandbox_id, running=True, uid=left[1], image=left[2]))
        return found

    def _noted(self, sandbox_id: SandboxId) -> tuple[int, int, str] | None:
        """(pid, uid, image) of what an earlier run left, if it runs still: a pid alone may be anybody's by now."""
        try:
            note = json.loads((self._run / sandbox_id / "process.json").read_text())
            pid, started = int(note["pid"]), note["started"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not started or _start_time(pid) != started:
            return None
        return pid, int(note["uid"]), str(note["image"])

    async def events(self) -> AsyncGenerator[Died | Relist, None]:
        news: asyncio.Queue[Died | Relist] = asyncio.Queue()
        self._listeners.add(news)
        try:
            yield Relist()
            while True:
                yield await news.get()
        finally:
            self._listeners.discard(news)

    async def stats(self, sandbox_ids: Sequence[SandboxId]) -> dict[SandboxId, Stats]:
        running = {each: self._processes[each] for each in sandbox_ids if each in self._processes}
        pids = {each: process.popen.pid for each, process in running.items() if process.exit_code is None}
        return await asyncio.to_thread(lambda: {each: use for each, pid in pids.items() if (use := _use(pid))})

    async def logs(self, sandbox_id: SandboxId) -> str:
        process = self._processes.get(sandbox_id)
        if process is None:
            return ""
        began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(process.began))
        end = "running" if process.exit_code is None else f"exit code {process.exit_code}"
        return f"process {process.popen.pid}, started {began}, {end}\n"

    async def close(self) -> None:
        """End all that run: nobody else could take them over."""
        await asyncio.to_thread(self.abandon)
        for process in self._processes.values():
            if process.exit_code is None:
                _kill(process.popen.pid)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                for process in list(self._processes.values()):
                    await process.gone.wait()
        self._processes.clear()


def _most_bytes() -> int:
    """How much memory we had at most. exec(2) leaves that in the account of the process that we begin."""
    if sys.platform == "linux":
        with contextlib.suppress(ImportError):  # of a Python without it
            import resource

            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return 0


def _reaped(popen: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Its exit code, and how much memory it had at most, as far as that is known."""
    if sys.platform == "linux":  # nowhere else there is a limit
        with contextlib.suppress(ChildProcessError):
            _, status, use = os.wait4(popen.pid, 0)
            popen.returncode = os.waitstatus_to_exitcode(status)
            return popen.returncode, use.ru_maxrss * 1024
    return popen.wait(), 0


def _undo(process: _Process) -> None:
    _kill(process.popen.pid)
    process.popen.communicate()


def _kill(pid: int) -> None:
    """The process and all in its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: the latter where only a zombie is left
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGTERM)  # Windows: TerminateProcess


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from its third field on; the second may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _start_time(pid: int) -> str:
    """In the kernel's ticks since boot; "" if it is over, or can't be known."""
    stat = _stat(pid)
    return stat[19] if stat and stat[0] not in "ZX" else ""


def _use(pid: int) -> Stats | None:
    """Of a process and its children, theirs, and so on."""
    memory, cpu, count = 0, 0.0, 0
    waiting = [pid]
    while waiting:
        each = waiting.pop()
        stat = _stat(each)
        if not stat or stat[0] in "ZX":
            continue
        count += 1
        cpu += (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        memory += int(stat[21]) * os.sysconf("SC_PAGE_SIZE")
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                waiting += map(int, children.read_text().split())
    return Stats(memory_bytes=memory, cpu_s=cpu, pids=count) if count else None

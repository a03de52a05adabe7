"""What is the process engine's own: nothing outlives it, limits, doors on loopback."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from htagweb_orchestrator.address import dial
from htagweb_orchestrator.harness import HarnessLink
from htagweb_orchestrator.model import SandboxId, TcpAddress
from tests.engines.process_bench import DeafListener

from .probes import eventually, new_id
from .process_bench import ProbeProcesses, ProcessBench

SPAWN = "import subprocess; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "


@pytest.fixture
async def bench() -> AsyncIterator[ProcessBench]:
    bench = ProcessBench(Path(tempfile.mkdtemp(prefix="htagweb-test-")))
    try:
        yield bench
    finally:
        await bench.close()


def lives(pid: int) -> bool:
    """Not counting one that is dead and not reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def spawned(program: str, *, group: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=group)


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


async def test_what_a_sandbox_started_goes_with_it(bench: ProcessBench) -> None:
    stopped = await bench.start(SPAWN + "tell(child.pid); time.sleep(600)")
    ended = await bench.start(SPAWN + "tell(child.pid); time.sleep(0.3)")
    children = [await bench.told(spec) for spec in (stopped, ended)]
    assert lives(children[0])
    await bench.engine.stop(stopped.sandbox_id)
    await eventually(lambda: not any(map(lives, children)))


async def test_a_killed_server_leaves_no_process(bench: ProcessBench) -> None:
    script = f"""
import asyncio, sys
sys.path[:] = {sys.path!r}
from pathlib import Path
from htagweb_orchestrator.engines.base import SandboxSpec
from htagweb_orchestrator import composition
from htagweb_orchestrator.own_rundir import OwnRunDirectory
async def main():
    root = Path({str(bench.run.path)!r})
    run, engine = OwnRunDirectory(root), composition.process_engine(root)
    run.create("{"a" * 32}", 0)
    spec = SandboxSpec(sandbox_id="{"a" * 32}", uid=0, directory=str(run.sockets("{"a" * 32}")), image="", generation=1)
    await engine.start(spec, on_step=lambda _: None)
    await run.wait_for_sockets("{"a" * 32}", 0, timeout_s=15)
    print("runs", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    server = spawned(script)
    assert server.stdout is not None
    assert await asyncio.to_thread(server.stdout.readline) == "runs\n"
    pid = bench.pid(SandboxId("a" * 32))
    found = await bench.engine.list_managed()
    assert [(each.sandbox_id, each.running) for each in found] == [("a" * 32, True)]
    server.kill()
    server.communicate()
    await eventually(lambda: not lives(pid))
    assert await bench.engine.list_managed() == []


async def test_a_number_that_another_process_has_by_now_is_not_touched(bench: ProcessBench) -> None:
    other = spawned("import time; time.sleep(600)", group=True)
    try:
        sandbox_id = new_id()
        bench.run.create(sandbox_id, 0)
        note = {"pid": other.pid, "started": "12345", "uid": 0, "image": ""}
        bench.note(sandbox_id, note)
        assert await bench.engine.list_managed() == []
        await bench.engine.stop(sandbox_id)
        assert other.poll() is None
    finally:
        other.kill()
        other.communicate()


def test_memory_is_limited_and_threads_are_not() -> None:
    program = """
import threading, time
from htagweb_harness.parent import keep_to
keep_to(512 << 20)
threads = [threading.Thread(target=time.sleep, args=(0.2,)) for _ in range(30)]
for each in threads: each.start()
for each in threads: each.join()
try:
    hog = [bytearray(1 << 20) for _ in range(600)]
except MemoryError:
    print("refused")
"""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("refused\n", "")


@pytest.mark.parametrize("full", [True, False])
async def test_one_that_was_killed_ran_out_of_memory_by_what_it_used_itself(bench: ProcessBench, full: bool) -> None:
    """And not by what the server has, which is more than so small a limit."""
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert ours > 40 << 20
    eaten = f"b'x' * {ours + (32 << 20)}" if full else "0"
    spec = await bench.start(
        f"eaten = {eaten}; import signal; os.kill(os.getpid(), signal.SIGSEGV)", memory_bytes=40 << 20
    )
    await eventually(lambda: not bench.running(spec.sandbox_id))
    (found,) = await bench.engine.list_managed()
    assert (found.exit_code, found.out_of_memory) == (128 + 11, full)


async def test_without_unix_sockets_both_doors_take_a_secret(bench: ProcessBench) -> None:
    engine = ProbeProcesses(
        run=bench.run.path, program=bench.engine._program, sites=bench.engine._sites, unix_sockets=False
    )
    spec = bench.spec()
    try:
        await engine.start(spec, on_step=lambda _: None)
        await bench.run.wait_for_sockets(spec.sandbox_id, spec.uid, timeout_s=15)
        app, control = engine.address(spec), engine.control_address(spec)
        assert isinstance(app, TcpAddress)
        assert isinstance(control, TcpAddress)
        assert len(app.secret) == 64
        assert app.secret not in command_line(bench.pid(spec.sandbox_id))
        link, hello = await HarnessLink.connect(
            spec.sandbox_id, control, DeafListener(), orphan_timeout_s=60, timeout_s=10
        )
        try:
            assert hello.stage == "blank"
            # Somebody else on this machine finds the port: he gets nothing, and the connection that stands stays.
            stranger = await dial(control, timeout_s=5)
            reader, writer = await asyncio.open_connection(sock=stranger)
            writer.write(b"0" * 64)
            assert await reader.read() == b""
            writer.close()
            await link.ping()
        finally:
            link.close()
    finally:
        await engine.close()


async def test_a_process_that_was_begun_ahead_is_the_first_ones_that_fits(bench: ProcessBench) -> None:
    engine = bench.engine
    engine.begin(1, 1 << 30)
    begun = engine._ahead
    assert begun is not None
    assert await engine.list_managed() == []
    spec = bench.spec(memory_bytes=1 << 30)
    await engine.start(spec, on_step=lambda _: None)
    assert bench.pid(spec.sandbox_id) == begun.popen.pid
    link, hello = await HarnessLink.connect(
        spec.sandbox_id, engine.control_address(spec), DeafListener(), orphan_timeout_s=60, timeout_s=10
    )
    link.close()
    assert hello.stage == "blank"
    await engine.stop(spec.sandbox_id)
    assert not lives(begun.popen.pid)


@pytest.mark.parametrize("of_use", [True, False])
async def test_a_process_that_was_begun_for_nothing_is_ended(bench: ProcessBench, of_use: bool) -> None:
    bench.engine.begin(1, 1 << 30)
    begun = bench.engine._ahead
    assert begun is not None
    if of_use:
        bench.engine.abandon()
    else:
        await bench.start("time.sleep(600)")  # another kind
    await eventually(lambda: not lives(begun.popen.pid))

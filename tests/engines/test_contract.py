"""What base.Engine promises, kept by every engine: starting, listing, ending, and saying so."""

from __future__ import annotations

import asyncio
import os
import signal
import stat

import pytest

from htagweb_orchestrator.engines.base import Died, Relist
from htagweb_orchestrator.model import Step, UnixAddress

from .conftest import AnyBench, heard
from .probes import eventually, new_id


async def test_a_started_sandbox_makes_its_sockets_and_can_be_sealed(any_bench: AnyBench) -> None:
    steps: list[Step] = []
    any_bench.engine.program = None  # the real harness
    spec = any_bench.spec()
    await any_bench.engine.start(spec, on_step=steps.append)
    await any_bench.run.wait_for_sockets(spec.sandbox_id, spec.uid, timeout_s=15)
    assert any_bench.run.seal(spec.sandbox_id, spec.uid) == ""
    assert steps == [Step.CREATING, Step.STARTING]
    for address in (any_bench.engine.address(spec), any_bench.engine.control_address(spec)):
        assert isinstance(address, UnixAddress)
        found = os.lstat(address.path)
        assert stat.S_ISSOCK(found.st_mode)
        assert found.st_uid == address.uid == any_bench.runs_as(spec)


async def test_five_starts_at_once_all_succeed(any_bench: AnyBench) -> None:
    specs = [any_bench.spec() for _ in range(5)]
    any_bench.engine.program = "time.sleep(600)"
    await asyncio.gather(*(any_bench.engine.start(spec, on_step=lambda _: None) for spec in specs))
    found = await any_bench.engine.list_managed()
    assert {(each.sandbox_id, each.uid, each.running) for each in found} == {
        (spec.sandbox_id, spec.uid, True) for spec in specs
    }


async def test_the_list_knows_how_each_ended_and_only_this_instances(any_bench: AnyBench) -> None:
    ended = await any_bench.start("sys.exit(7)")
    async with any_bench.another() as other:
        await other.start()
        await eventually(lambda: not any_bench.running(ended.sandbox_id))
        (found,) = await any_bench.engine.list_managed()
    assert (found.sandbox_id, found.uid, found.image) == (ended.sandbox_id, ended.uid, ended.image)
    assert (found.running, found.exit_code, found.out_of_memory) == (False, 7, False)


async def test_stopping_removes_and_may_be_repeated(any_bench: AnyBench) -> None:
    # The program ignores every polite request.
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    spec = await any_bench.start(f"{deaf}; tell(1); time.sleep(600)")
    await any_bench.told(spec)
    async with asyncio.timeout(10):
        await asyncio.gather(*(any_bench.engine.stop(spec.sandbox_id) for _ in range(3)))
    assert any_bench.left() == []
    await any_bench.engine.stop(spec.sandbox_id)
    await any_bench.engine.stop(new_id())


async def test_a_killed_sandbox_is_reported_with_its_exit_code(any_bench: AnyBench) -> None:
    spec = await any_bench.start()
    async with heard(any_bench.engine) as news:
        assert news == [Relist()]
        os.kill(any_bench.pid(spec.sandbox_id), signal.SIGKILL)
        await eventually(lambda: len(news) == 2)
        assert news[1] == Died(sandbox_id=spec.sandbox_id, exit_code=137)


async def test_a_sandbox_removed_behind_our_back_is_reported_once(any_bench: AnyBench) -> None:
    first, second = await any_bench.start(), await any_bench.start()
    async with heard(any_bench.engine) as news:
        any_bench.remove(first.sandbox_id)
        any_bench.remove(second.sandbox_id)
        await eventually(lambda: len(news) >= 3)
        assert [each.sandbox_id for each in news if isinstance(each, Died)] == [first.sandbox_id, second.sandbox_id]


async def test_stats_tell_memory_cpu_and_processes_of_those_that_run(any_bench: AnyBench) -> None:
    program = "hog = b'x' * (40 << 20)\nwhile time.process_time() < 0.35: pass\ntell(1); time.sleep(600)"
    spec, ended = await any_bench.start(program), await any_bench.start("sys.exit()")
    await any_bench.told(spec)
    await eventually(lambda: not any_bench.running(ended.sandbox_id))
    stats = await any_bench.engine.stats([spec.sandbox_id, ended.sandbox_id, new_id()])
    assert set(stats) == {spec.sandbox_id}
    found = stats[spec.sandbox_id]
    assert 40 << 20 < found.memory_bytes < 80 << 20
    assert 0.3 <= found.cpu_s < 5
    assert found.pids == 1


async def test_logs_tell_start_and_end_but_never_output(any_bench: AnyBench) -> None:
    spec = await any_bench.start("print('a secret', flush=True); sys.exit(3)")
    await eventually(lambda: not any_bench.running(spec.sandbox_id))
    text = await any_bench.engine.logs(spec.sandbox_id)
    assert "exit code 3" in text
    assert "secret" not in text
    assert await any_bench.engine.logs(new_id()) == ""


async def test_a_start_given_up_leaves_nothing(any_bench: AnyBench) -> None:
    reached = asyncio.Event()
    any_bench.engine.program = "time.sleep(600)"
    spec = any_bench.spec()
    start = asyncio.create_task(any_bench.engine.start(spec, on_step=lambda _: reached.set()))
    await reached.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await eventually(lambda: not any_bench.busy())
    await eventually(lambda: not any_bench.left())

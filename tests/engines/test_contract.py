"""What base.Engine promises, kept by Docker: starting, listing, ending, and saying so."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import docker
import pytest

from htagweb_orchestrator.engines.base import Died, Relist
from htagweb_orchestrator.engines.docker import create_container
from htagweb_orchestrator.engines.docker_options import container_name
from htagweb_orchestrator.errors import EngineUnavailable, ImageNotFound, IsolationBroken
from htagweb_orchestrator.model import Step

from .conftest import IMAGE, Bench, Line, ProbeEngine, eventually, new_id

pytestmark = pytest.mark.docker


@asynccontextmanager
async def heard(engine: ProbeEngine) -> AsyncIterator[list[Died | Relist]]:
    """Everything that the engine's events say, growing; entered once they are connected."""
    news: list[Died | Relist] = []

    async def listen() -> None:
        async with aclosing(engine.events()) as events:
            async for each in events:
                news.append(each)

    listening = asyncio.create_task(listen())
    try:
        await eventually(lambda: news)
        yield news
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


@asynccontextmanager
async def image_with(client: docker.APIClient, change: str, name: str) -> AsyncIterator[str]:
    """An image like the sandboxes', with one more Dockerfile instruction."""
    made: dict[str, Any] = client.create_container(IMAGE)
    try:
        client.commit(made["Id"], repository=name, tag="latest", changes=[change])
    finally:
        client.remove_container(made["Id"], v=True)
    try:
        yield name
    finally:
        with suppress(docker.errors.ImageNotFound):  # the test took it away
            client.remove_image(name, force=True)


async def test_check_names_the_engine_and_its_api(bench: Bench) -> None:
    said = await bench.engine.check([IMAGE])
    version = bench.client.version()
    assert said == f"docker {version['Version']} (API {version['ApiVersion']})"


async def test_a_started_sandbox_makes_its_sockets_and_can_be_sealed(bench: Bench) -> None:
    steps: list[Step] = []
    bench.engine.program = None  # the real harness
    spec = bench.spec()
    await bench.engine.start(spec, on_step=steps.append)
    await bench.run.wait_for_sockets(spec.sandbox_id, spec.uid, timeout_s=15)
    assert bench.run.seal(spec.sandbox_id, spec.uid) == ""
    assert steps == [Step.CREATING, Step.STARTING]
    for address in (bench.engine.address(spec), bench.engine.control_address(spec)):
        found = os.lstat(address.path)
        assert stat.S_ISSOCK(found.st_mode)
        assert found.st_uid == address.uid == spec.uid


async def test_five_starts_at_once_all_succeed(bench: Bench) -> None:
    specs = [bench.spec() for _ in range(5)]
    bench.engine.program = "time.sleep(600)"
    await asyncio.gather(*(bench.engine.start(spec, on_step=lambda _: None) for spec in specs))
    found = await bench.engine.list_managed()
    assert {(each.sandbox_id, each.uid, each.running) for each in found} == {
        (spec.sandbox_id, spec.uid, True) for spec in specs
    }


async def test_the_list_knows_how_each_ended_and_only_this_instances(bench: Bench, client: docker.APIClient) -> None:
    ended = await bench.start("sys.exit(7)")
    other = Bench(client, bench.engine._base_url)
    try:
        await other.start()
        await eventually(lambda: not bench.running(ended.sandbox_id))
        (found,) = await bench.engine.list_managed()
    finally:
        await other.close()
    assert (found.sandbox_id, found.uid, found.image) == (ended.sandbox_id, ended.uid, IMAGE)
    assert (found.running, found.exit_code, found.out_of_memory) == (False, 7, False)


async def test_stopping_removes_and_may_be_repeated(bench: Bench) -> None:
    # The program ignores every polite request.
    spec = await bench.start("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); tell(1); time.sleep(600)")
    await bench.told(spec)
    async with asyncio.timeout(3):
        await asyncio.gather(*(bench.engine.stop(spec.sandbox_id) for _ in range(3)))
    assert bench.containers() == []
    await bench.engine.stop(spec.sandbox_id)
    await bench.engine.stop(new_id())


async def test_a_killed_sandbox_is_reported_with_its_exit_code(bench: Bench) -> None:
    spec = await bench.start()
    async with heard(bench.engine) as news:
        assert news == [Relist()]
        os.kill(bench.inspect(spec.sandbox_id)["State"]["Pid"], signal.SIGKILL)
        await eventually(lambda: len(news) == 2)
        assert news[1] == Died(sandbox_id=spec.sandbox_id, exit_code=137)


async def test_a_sandbox_removed_behind_our_back_is_reported_once(bench: Bench) -> None:
    first, second = await bench.start(), await bench.start()
    async with heard(bench.engine) as news:
        bench.client.remove_container(container_name(first.sandbox_id), force=True)
        bench.client.remove_container(container_name(second.sandbox_id), force=True)
        await eventually(lambda: len(news) >= 3)
        assert [each.sandbox_id for each in news if isinstance(each, Died)] == [first.sandbox_id, second.sandbox_id]


async def test_a_sandbox_removed_before_it_ran_is_reported_too(bench: Bench) -> None:
    await bench.engine.check([IMAGE])
    spec = bench.spec()
    options = bench.engine.create_options(spec, await bench.engine._resolve(IMAGE))
    create_container(bench.client, options, container_name(spec.sandbox_id))
    async with heard(bench.engine) as news:
        bench.client.remove_container(container_name(spec.sandbox_id))
        await eventually(lambda: len(news) == 2)
        assert news[1] == Died(sandbox_id=spec.sandbox_id)


async def test_events_ask_for_a_new_list_after_the_connection_broke(bench: Bench, line: Line) -> None:
    engine = bench.connect(line.url)
    spec = await bench.start()
    async with heard(engine) as news:
        line.cut()
        await eventually(lambda: news == [Relist(), Relist()])
        bench.client.kill(container_name(spec.sandbox_id))
        await eventually(lambda: len(news) == 3)
        assert news[2] == Died(sandbox_id=spec.sandbox_id, exit_code=137)


async def test_too_much_memory_ends_a_sandbox_and_says_so(bench: Bench) -> None:
    async with heard(bench.engine) as news:
        hog = "hog = [bytearray(1 << 20) for _ in range(200)]; time.sleep(600)"
        spec = await bench.start(hog, memory_bytes=48 << 20)
        await eventually(lambda: len(news) == 2)
        assert news[1] == Died(sandbox_id=spec.sandbox_id, exit_code=137, out_of_memory=True)
    await eventually(lambda: not bench.running(spec.sandbox_id))  # the engine says it before it writes it down
    (found,) = await bench.engine.list_managed()
    assert (found.exit_code, found.out_of_memory) == (137, True)


async def test_stats_tell_memory_cpu_and_processes_of_those_that_run(bench: Bench) -> None:
    program = "hog = b'x' * (40 << 20)\nwhile time.process_time() < 0.3: pass\ntell(1); time.sleep(600)"
    spec, ended = await bench.start(program), await bench.start("sys.exit()")
    await bench.told(spec)
    await eventually(lambda: not bench.running(ended.sandbox_id))
    stats = await bench.engine.stats([spec.sandbox_id, ended.sandbox_id, new_id()])
    assert set(stats) == {spec.sandbox_id}
    found = stats[spec.sandbox_id]
    assert 40 << 20 < found.memory_bytes < 80 << 20
    assert 0.3 <= found.cpu_s < 5
    assert found.pids == 1


async def test_logs_tell_start_and_end_but_never_output(bench: Bench) -> None:
    spec = await bench.start("print('a secret', flush=True); sys.exit(3)")
    await eventually(lambda: not bench.running(spec.sandbox_id))
    text = await bench.engine.logs(spec.sandbox_id)
    assert "exit code 3" in text
    assert "secret" not in text
    assert await bench.engine.logs(new_id()) == ""


async def test_an_unknown_image_is_named_and_nothing_is_made(bench: Bench) -> None:
    with pytest.raises(ImageNotFound, match="no image 'htagweb-no-such-image'"):
        await bench.engine.check(["htagweb-no-such-image"])
    with pytest.raises(ImageNotFound):
        await bench.start(image="htagweb-no-such-image")
    assert bench.containers() == []


async def test_a_rebuilt_image_is_found_again(bench: Bench, client: docker.APIClient) -> None:
    async with image_with(client, "LABEL build=1", bench.instance) as image:
        await bench.engine.check([image])
        first: str = client.inspect_image(image)["Id"]  # type: ignore[no-untyped-call]
        for build in ("2", "3"):  # while the first is there still, without a name; and after it went away
            async with image_with(client, f"LABEL build={build}", bench.instance):
                spec = await bench.start(image=image)
                assert bench.inspect(spec.sandbox_id)["Config"]["Labels"]["build"] == build
                await bench.engine.stop(spec.sandbox_id)
            with suppress(docker.errors.ImageNotFound):
                client.remove_image(first, force=True)


async def test_labels_and_name_are_ours_and_none_is_composes(bench: Bench, client: docker.APIClient) -> None:
    change = "LABEL com.docker.compose.project=other com.docker.compose.service=web"
    async with image_with(client, change, bench.instance) as image:
        spec = await bench.start(image=image)
        found = bench.inspect(spec.sandbox_id)
        await bench.engine.stop(spec.sandbox_id)
    assert found["Name"] == f"/htagweb-{spec.sandbox_id}"
    labels = found["Config"]["Labels"]
    assert {value for name, value in labels.items() if name.startswith("com.docker.compose.")} == {""}
    assert labels["htagweb.sandbox"] == spec.sandbox_id
    assert labels["htagweb.instance"] == bench.instance
    assert labels["htagweb.image"] == image
    assert labels["htagweb.uid"] == str(spec.uid)
    assert labels["htagweb.created"].endswith("+00:00")


async def test_an_option_that_the_engine_ignores_refuses_the_start(bench: Bench) -> None:
    # What Subpath is to an engine below API 1.45.
    bench.engine.extra = {"WallOfTomorrow": True}
    with pytest.raises(IsolationBroken, match="WallOfTomorrow"):
        await bench.start()
    assert bench.containers() == []


async def test_a_volume_that_an_image_declares_refuses_the_start(bench: Bench, client: docker.APIClient) -> None:
    async with image_with(client, "VOLUME /data", bench.instance) as image:
        with pytest.raises(IsolationBroken, match="Mounts"):
            await bench.start(image=image)
    assert bench.containers() == []


async def test_a_directory_that_is_missing_refuses_the_start(bench: Bench) -> None:
    spec = bench.spec()
    bench.run.remove(spec.sandbox_id)
    with pytest.raises(EngineUnavailable):
        await bench.engine.start(spec, on_step=lambda _: None)
    assert bench.containers() == []
    assert bench.run.ids() == []


async def test_the_hosts_network_is_never_given(bench: Bench) -> None:
    with pytest.raises(IsolationBroken):
        await bench.start(network="host")
    assert bench.containers() == []


async def test_a_start_given_up_leaves_nothing(bench: Bench) -> None:
    reached = asyncio.Event()
    bench.engine.program = "time.sleep(600)"
    spec = bench.spec()
    start = asyncio.create_task(bench.engine.start(spec, on_step=lambda _: reached.set()))
    await reached.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await eventually(lambda: bench.engine.hung_calls == 0)
    await eventually(lambda: not bench.containers())


async def test_a_container_made_after_its_deadline_is_removed(bench: Bench, line: Line) -> None:
    engine = bench.connect(line.url, call_timeout_s=1)
    await engine.check([IMAGE])
    spec = bench.spec()
    line.holds_from = b"/containers/create"
    with pytest.raises(EngineUnavailable, match="did not answer within 1 s"):
        await engine.start(spec, on_step=lambda _: None)
    assert engine.hung_calls == 1
    assert bench.containers() == [container_name(spec.sandbox_id)]
    line.holds_from = b""
    line.passes.set()
    await eventually(lambda: not bench.containers())


async def test_an_engine_that_recovers_is_used_again(bench: Bench, line: Line) -> None:
    engine = bench.connect(line.url)
    await engine.check([IMAGE])
    line.cut()
    with suppress(EngineUnavailable):  # whether the cut is noticed depends on the moment
        await engine.list_managed()
    assert await engine.list_managed() == []

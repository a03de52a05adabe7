"""What is Docker's alone: images, labels, limits, a connection that breaks. test_contract.py has the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import docker
import pytest

from htagweb_orchestrator.engines.base import Died, Relist
from htagweb_orchestrator.engines.docker import create_container
from htagweb_orchestrator.engines.docker_options import container_name
from htagweb_orchestrator.errors import EngineUnavailable, ImageNotFound, IsolationBroken

from .conftest import IMAGE, Bench, Line, heard
from .probes import eventually

pytestmark = pytest.mark.docker


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

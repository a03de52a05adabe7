"""A sandbox's harness that breaks the control protocol hurts its own user only."""

from __future__ import annotations

import asyncio
import json

import pytest

from htagweb_orchestrator.harness import BURST, FRAME_BYTES, FRAMES_PER_S, MAX_FRAME, OUTSTANDING
from htagweb_orchestrator.model import Ending, State
from htagweb_orchestrator.output import FILE_SIZE
from tests.orchestrator.harness import Frame, Harness, framed
from tests.orchestrator.stage import ALICE, BOB, CLOCK, HELLO, Plane, Stage, eventually

TOO_LARGE = (MAX_FRAME + 1).to_bytes(4, "big")
NONSENSE = {
    "a frame too large": TOO_LARGE,
    "not JSON": framed(b"\x00\x01\x02"),
    "not an object": framed(b"[]"),
    "not UTF-8": framed(b'{"type":"output","text":"\xff\xfe"}'),
    "no type": framed(b"{}"),
    "a known type with other fields": framed(b'{"type":"output","text":5}'),
    "deeper than a stack": framed(b'{"type":"session","seq":1,"set":{"a":' + b"[" * 200_000 + b"}}"),
    "a number without end": framed(b'{"type":"session","seq":1,"set":{"a":' + b"9" * 10_000 + b"}}"),
}
nonsense = pytest.mark.parametrize("data", NONSENSE.values(), ids=NONSENSE.keys())


@nonsense
async def test_what_breaks_the_protocol_ends_the_sandbox_and_no_other(stage: Stage, plane: Plane, data: bytes) -> None:
    other = await plane.until_ready(BOB, HELLO)
    route = await plane.until_ready(ALICE, HELLO)
    stage.harness(route).write(data)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.CRASHED
    await eventually(lambda: stage.nothing_left_of(route.sandbox))
    assert "control frame" in plane.operators.logs(route.sandbox)[route.sandbox]
    assert await stage.harness(other).change({"a": 1}) is None


@nonsense
async def test_what_breaks_the_protocol_at_the_start_fails_the_start(stage: Stage, plane: Plane, data: bytes) -> None:
    class Breaks(Harness):
        async def on_claim(self, claim: Frame) -> None:
            self.write(data)

    stage.machine.next(Breaks)
    route = await plane.lease(ALICE, HELLO, wait_s=5)
    assert route.ending is Ending.FAILED
    await eventually(lambda: stage.nothing_left_of(route.sandbox))


async def test_a_frame_as_large_as_allowed_is_taken(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    text = "x" * (MAX_FRAME - len(json.dumps({"type": "output", "text": ""})))
    stage.harness(route).say(type="output", text=text)
    assert await stage.harness(route).change({"a": 1}) is None
    assert plane.operators.logs(route.sandbox)[route.sandbox].startswith("xxx")


async def test_what_only_a_newer_harness_says_is_passed_over(stage: Stage, plane: Plane) -> None:
    harness = stage.harness(await plane.until_ready(ALICE, HELLO))
    harness.say(type="weather", clouds=[1, {"high": True}])
    assert await harness.change({"a": 1}) is None


async def test_answers_that_nobody_asked_for_do_nothing(stage: Stage, plane: Plane) -> None:
    class TalksAhead(Harness):
        async def on_hello(self) -> None:
            self.say(type="ready", stage="claim")
            self.say(type="failed", stage="ping 1", error="")
            self.say(type="ping", n=7)
            await super().on_hello()

    stage.machine.next(TalksAhead)
    await plane.until_ready(ALICE, HELLO)


async def test_a_flood_of_frames_waits_and_holds_up_nobody(stage: Stage, plane: Plane) -> None:
    harness = stage.harness(await plane.until_ready(ALICE, HELLO))
    loop = asyncio.get_running_loop()
    flood, began = int(BURST + FRAMES_PER_S), loop.time()
    for _ in range(flood):
        harness.say(type="output", text="x" * 1000)
    flooded = harness.changing({"last": True})
    await plane.until_ready(BOB, HELLO)
    assert not flooded.done()  # its own frames wait; a start of somebody else's has overtaken them
    assert await asyncio.wait_for(flooded, 10) is None
    assert loop.time() - began > 0.9
    assert len(plane.operators.logs(harness.spec.sandbox_id)[harness.spec.sandbox_id]) <= FILE_SIZE


async def test_a_flood_of_long_frames_waits_by_its_bytes(stage: Stage, plane: Plane) -> None:
    harness = stage.harness(await plane.until_ready(ALICE, HELLO))
    loop = asyncio.get_running_loop()
    text, began = "x" * (MAX_FRAME - 100), loop.time()
    for _ in range(int((BURST + FRAMES_PER_S) * FRAME_BYTES / MAX_FRAME) + 1):
        harness.say(type="output", text=text)
    assert await asyncio.wait_for(harness.changing({"last": True}), 10) is None
    assert loop.time() - began > 0.9


async def test_a_lost_connection_is_made_again_and_what_was_held_back_arrives(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    harness = stage.harness(route)
    harness.hang_up()
    harness.say(type="output", text="said meanwhile\n")
    change = harness.changing({"a": 1})
    assert await asyncio.wait_for(change, 5) is None
    assert "said meanwhile" in plane.operators.logs(route.sandbox)[route.sandbox]
    assert (await plane.lease(ALICE, HELLO)).sandbox == route.sandbox


async def test_a_connection_that_breaks_before_the_ack_is_made_again(stage: Stage, plane: Plane) -> None:
    harness = stage.harness(await plane.until_ready(ALICE, HELLO))
    for number in range(5):
        harness.changing({"a": "x" * 50_000, "n": number})
    harness.hang_up()
    await eventually(lambda: harness.connected)
    assert await harness.change({"b": 1}) is None


async def test_a_connection_that_ends_in_one_breath_with_ready_is_made_again(stage: Stage, plane: Plane) -> None:
    class SpoilsItsLastWord(Harness):
        async def on_claim(self, claim: Frame) -> None:
            self.write(framed(b'{"type":"ready","stage":"claim"}') + TOO_LARGE)

    stage.machine.next(SpoilsItsLastWord)
    harness = stage.harness(await plane.until_ready(ALICE, HELLO))
    await eventually(lambda: harness.connections == 2)
    assert await harness.change({"a": 1}) is None


async def test_hanging_up_before_the_hello_makes_no_second_attempt_beside_the_first(stage: Stage, plane: Plane) -> None:
    class HangsUpAtHello(Harness):
        async def on_hello(self) -> None:
            if self.stage == "claimed":
                self.hang_up()
            else:
                await super().on_hello()

    stage.machine.next(HangsUpAtHello)
    route = await plane.until_ready(ALICE, HELLO)
    harness = stage.harness(route)
    harness.hang_up()
    await eventually(lambda: harness.connections >= 4)
    assert sum(task.get_name() == f"relink {route.sandbox[:12]}" for task in asyncio.all_tasks()) == 1


async def test_a_harness_that_hangs_up_again_and_again_is_dialled_a_few_times_a_second(
    stage: Stage, plane: Plane
) -> None:
    class NeverStays(Harness):
        async def on_hello(self) -> None:
            await super().on_hello()
            if self.connections > 1:
                self.hang_up()

    stage.machine.next(NeverStays)
    harness = stage.harness(await plane.until_ready(ALICE, HELLO))
    loop = asyncio.get_running_loop()
    began = loop.time()
    harness.hang_up()
    await eventually(lambda: harness.connections >= 4)
    assert loop.time() - began > 0.5


async def test_a_harness_that_refuses_connections_runs_on_until_it_is_ended(stage: Stage, plane: Plane) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    stage.harness(route).refuse_connections()
    stage.harness(route).hang_up()
    await plane.gateway()
    assert (await plane.lease(ALICE, HELLO)).state is State.READY
    stage.clock.forward(1000)
    assert (await plane.until_ended(ALICE, HELLO)).ending is Ending.IDLE
    await eventually(lambda: stage.nothing_left_of(route.sandbox))


async def test_a_harness_that_reads_nothing_makes_nothing_pile_up(stage: Stage, plane: Plane) -> None:
    writer = stage.harness(await plane.until_ready(ALICE, HELLO))
    deaf = stage.harness(await plane.until_ready(ALICE, CLOCK))
    deaf.reading.clear()
    rounds = 4 * OUTSTANDING // 50_000
    for number in range(rounds):
        assert await writer.change({"a": "x" * 50_000, "n": number}) is None
    deaf.reading.set()
    await eventually(lambda: deaf.connections > 1)
    assert 0 < len(deaf.told()) < rounds // 2


async def test_a_traceback_of_any_length_is_kept_bounded(stage: Stage, plane: Plane) -> None:
    class FailsAtLength(Harness):
        async def on_load(self, load: Frame) -> None:
            self.say(type="failed", stage="load", error="e", traceback="x" * (MAX_FRAME - 100))

    stage.machine.next(FailsAtLength)
    route = await plane.lease(ALICE, HELLO, wait_s=5)
    assert 0 < len(plane.operators.logs(route.sandbox)[route.sandbox]) <= FILE_SIZE

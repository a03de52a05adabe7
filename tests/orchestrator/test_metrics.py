"""What the orchestrator counts for Prometheus."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from htagweb_orchestrator.errors import AppNotFound, UserLimitReached
from htagweb_orchestrator.model import AppName, Ending, State, UserId
from tests.orchestrator.harness import FailsAtLoad
from tests.orchestrator.stage import ALICE, BOB, CLOCK, HELLO, Plane, Stage, eventually


def numbers(plane: Plane, name: str) -> dict[tuple[str, ...], float]:
    """By the labels' values, in the order of their names."""
    families = text_string_to_metric_families(plane.metrics.text().decode())
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(text for _, text in sorted(each.labels.items())): each.value for each in samples}


async def test_a_start_counts_by_what_there_was_before_it(stage: Stage) -> None:
    plane = await stage.open(warm_min=1, warm_max=1)
    await eventually(lambda: numbers(plane, "htagweb_warm_ready").get(("", "1")) == 1)
    assert numbers(plane, "htagweb_warm_wanted") == {("", "1"): 1}
    await plane.until_ready(ALICE, HELLO)
    await eventually(lambda: numbers(plane, "htagweb_warm_ready").get(("hello", "1")) == 1)
    await plane.until_ready(BOB, HELLO)
    assert numbers(plane, "htagweb_starts_total") == {
        ("hello", "blank", "ready"): 1,
        ("hello", "loaded", "ready"): 1,
    }
    assert numbers(plane, "htagweb_start_seconds_count") == {("hello", "blank"): 1, ("hello", "loaded"): 1}
    assert numbers(plane, "htagweb_sandboxes")["hello", "ready"] == 2


async def test_a_start_that_comes_to_nothing_counts_with_the_reason(stage: Stage, plane: Plane) -> None:
    stage.machine.next(FailsAtLoad)
    assert (await plane.lease(ALICE, HELLO, wait_s=5)).state is State.ENDED
    plane.engine.hold("start")
    await plane.lease(ALICE, CLOCK)
    await eventually(lambda: plane.engine.calls["start"] == 2)
    assert await plane.release(ALICE, CLOCK, Ending.VISITOR)
    assert numbers(plane, "htagweb_starts_total") == {("hello", "cold", "failed"): 1, ("clock", "cold", "ended"): 1}
    assert numbers(plane, "htagweb_start_seconds_count") == {}
    assert numbers(plane, "htagweb_endings_total") == {("hello", "failed"): 1, ("clock", "visitor"): 1}


@pytest.mark.parametrize("ending", [Ending.OPERATOR, Ending.UPDATED])
async def test_an_ending_counts_under_the_word_that_the_audit_log_has(plane: Plane, ending: Ending) -> None:
    route = await plane.until_ready(ALICE, HELLO)
    await plane.operators.reap([route.sandbox], ending)
    (entry,) = await plane.audit.entries(event="ended")
    assert numbers(plane, "htagweb_endings_total") == {(entry["app"], entry["ending"]): 1}
    assert entry["ending"] == ending.value


async def test_refusals_count_also_where_the_audit_log_leaves_them_out(stage: Stage) -> None:
    plane = await stage.open(max_per_user=1)
    await plane.until_ready(ALICE, HELLO)
    for _ in range(3):
        with pytest.raises(UserLimitReached):
            await plane.lease(ALICE, CLOCK)
    for number in range(20):
        with pytest.raises(AppNotFound):
            await plane.lease(UserId(f"stranger-{number}"), AppName(f"guess-{number}"))
    assert numbers(plane, "htagweb_refusals_total") == {("user-limit",): 3, ("unknown-app",): 20}
    assert len(await plane.audit.entries(event="refused", who=ALICE)) == 1
    assert "guess" not in plane.metrics.text().decode()


async def test_who_waits_in_the_line_is_shown_and_does_not_count_as_a_slow_start(stage: Stage) -> None:
    plane = await stage.open(max_sandboxes=1)
    await plane.until_ready(ALICE, HELLO)
    waits = asyncio.create_task(plane.lease(BOB, HELLO, wait_s=5))
    await eventually(lambda: numbers(plane, "htagweb_waiting") == {(): 1})
    stage.clock.forward(10.0)  # on the line; the waiting page asks at least every 15 s
    await plane.release(ALICE, HELLO, Ending.VISITOR)
    assert (await waits).state is State.READY
    assert numbers(plane, "htagweb_waiting") == {(): 0}
    assert numbers(plane, "htagweb_start_seconds_sum")["hello", "cold"] < 10


async def test_a_store_that_can_not_be_used_counts(stage: Stage, plane: Plane) -> None:
    assert numbers(plane, "htagweb_session_store_errors_total") == {(): 0}
    with stage.broken_store():
        await plane.lease(ALICE, HELLO, wait_s=5)
    assert numbers(plane, "htagweb_session_store_errors_total") == {(): 1}
    assert numbers(plane, "htagweb_starts_total") == {("hello", "cold", "session-store"): 1}


async def test_memory_and_readiness_are_those_that_starts_are_decided_by(stage: Stage, plane: Plane) -> None:
    assert numbers(plane, "htagweb_memory_available_bytes") == {(): stage.free_bytes}
    assert numbers(plane, "htagweb_ready") == {(): 1}
    assert numbers(plane, "htagweb_apps") == {("ready",): len(plane.operators.apps())}

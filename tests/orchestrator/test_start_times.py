"""What is known of starts outlives the orchestrator."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from htagweb_orchestrator.model import AppName, State
from htagweb_orchestrator.start_times import LATEST, MOST_APPS, StartTimes
from tests.orchestrator.stage import ALICE, BOB, CLOCK, HELLO, Stage, eventually


async def test_the_next_orchestrator_knows_how_long_a_start_takes(stage: Stage) -> None:
    plane = await stage.open()
    await plane.until_ready(ALICE, HELLO)
    await stage.close_plane(plane)
    following = await stage.open()
    following.engine.hold("start")
    assert (await following.lease(BOB, HELLO)).expected_s is not None
    assert (await following.lease(BOB, CLOCK)).expected_s is None


async def test_an_app_that_loads_slowly_is_kept_loaded_by_the_next_orchestrator_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("htagweb_orchestrator.pool.SLOW_LOAD_S", 0.0)
    plane = await stage.open()
    await plane.until_ready(ALICE, HELLO)
    await stage.close_plane(plane)
    following = await stage.open(warm_max=4)

    def loaded() -> set[AppName]:
        return {s.lease.app for s in following.sandboxes() if s.state is State.WARM and s.lease.app}

    await eventually(lambda: loaded() == {HELLO}, within_s=15)


@pytest.mark.parametrize(
    "content",
    [
        b"", b'{"hello": {"load_s": 1.0', b"\xff", b"[]", b'{"hello": 3}', b'{"hello": {"load_s": -1.0}}',
        b'{"hello": {"load_s": NaN}}', b'{"hello": {"took_s": ["1"]}}', b'{"hello": {"took_s": [1e300]}}',
        b'{"hello": {"took_s": [' + b"1.0," * LATEST + b"1.0]}}",
    ],
)  # fmt: skip
def test_a_file_that_is_torn_or_makes_no_sense_is_forgotten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "starts.json"
    path.write_bytes(content)
    times = StartTimes(path)
    assert (times.load_s(HELLO), list(times.took_s(HELLO))) == (0.0, [])
    times.loaded(HELLO, 2.0)
    times.save()
    assert StartTimes(path).load_s(HELLO) == 2.0


def test_the_last_starts_of_the_last_apps_are_kept(tmp_path: Path) -> None:
    times = StartTimes(tmp_path / "starts.json")
    for number in range(MOST_APPS + 1):
        times.started(AppName(f"app{number}"), 1.0)
    for number in range(LATEST + 1):
        times.started(AppName("app1"), float(number))
    times.save()
    found = StartTimes(tmp_path / "starts.json")
    assert list(found.took_s(AppName("app0"))) == []
    assert list(found.took_s(AppName("app1"))) == [float(number) for number in range(1, LATEST + 1)]


def test_what_comes_while_it_is_written_is_kept_by_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = StartTimes(tmp_path / "starts.json")
    times.loaded(HELLO, 1.0)
    replace = os.replace

    def meanwhile(*paths: Path) -> None:
        replace(*paths)
        times.loaded(HELLO, 2.0)

    monkeypatch.setattr(os, "replace", meanwhile)
    times.save()
    monkeypatch.undo()
    times.save()
    assert StartTimes(tmp_path / "starts.json").load_s(HELLO) == 2.0


def test_a_disk_that_is_full_costs_these_alone(tmp_path: Path) -> None:
    times = StartTimes(tmp_path / "none" / "starts.json")
    times.started(HELLO, 1.0)
    times.save()
    assert list(times.took_s(HELLO)) == [1.0]

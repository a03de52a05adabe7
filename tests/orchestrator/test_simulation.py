"""A day of five hundred users: what holds in every test of one behaviour must hold of all of them together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from htagweb_orchestrator.arrivals import Arrivals
from htagweb_orchestrator.census import Census
from htagweb_orchestrator.line import WaitingLine
from htagweb_orchestrator.model import Step
from htagweb_orchestrator.registry import Key, Registry, Sandbox
from htagweb_orchestrator.rundir import RunDirectory
from tests.orchestrator.simulation import play

SEED = 4
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root: each sandbox's files get a uid of their own")


def test_in_a_day_of_bursts_crashes_and_kills_no_invariant_is_broken() -> None:
    """In a process of its own, where the seed decides everything. Its output says what to type to see it again."""
    command = [sys.executable, "-m", "tests.orchestrator.simulation", "--users", "500", "--seed", str(SEED)]
    day = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    print(day.stdout, day.stderr)
    assert day.returncode == 0
    assert "VIOLATED" not in day.stdout
    # It was a day like that: who is never refused, killed or late proves nothing.
    for happened in (
        "kills of the orchestrator",
        "engine restarts",
        "machine restarts",
        "slow engine",
        "idle",
        "timeout",
    ):
        assert happened in day.stdout


def forgetful(self: Registry, key: Key) -> Sandbox | None:
    """`Registry.live` of somebody who forgets those that load their app: a tab that comes then joins no start."""
    found = self._live.get(key)
    return None if found is not None and found.step is Step.LOADING else found


@pytest.mark.parametrize(
    ("part", "verb", "broken", "noticed"),
    [
        (Arrivals, "_is_full", lambda self: False, "sandboxes, 10 allowed"),
        (WaitingLine, "comes_before", lambda self, sandbox: False, "was let in before"),
        (Registry, "live", forgetful, "live sandboxes of"),
        (Census, "_explain", lambda self, directories, found: None, "nobody says why"),
        (RunDirectory, "remove", lambda self, sandbox: None, "leaked directories"),
    ],
)
@pytest.mark.unforeseen
def test_the_simulation_notices_a_part_that_is_broken(
    monkeypatch: pytest.MonkeyPatch, part: type, verb: str, broken: object, noticed: str
) -> None:
    monkeypatch.setattr(part, verb, broken)
    days = (play(users=100, seed=seed, hours=6).violations for seed in range(8))
    assert any(noticed in violation for violations in days for violation in violations)

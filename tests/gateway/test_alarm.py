"""A deadline that moves, on one timer."""

from __future__ import annotations

import asyncio

from htagweb_gateway.alarm import Alarm

from .scripted import eventually

BOTH_LOOPS = True


async def test_an_alarm_rings_once_after_its_time() -> None:
    loop = asyncio.get_running_loop()
    rung: list[float] = []
    began = loop.time()
    alarm = Alarm(loop, lambda: rung.append(loop.time()))
    alarm.set(0.05)
    await eventually(lambda: bool(rung))
    assert rung[0] - began >= 0.045  # uvloop counts in milliseconds
    assert not alarm.is_set


async def test_an_alarm_rings_by_the_last_time_that_it_was_set_to() -> None:
    loop = asyncio.get_running_loop()
    rung: list[str] = []
    later, sooner, never = (Alarm(loop, lambda name=name: rung.append(name)) for name in ("later", "sooner", "never"))  # type: ignore[misc]
    for alarm, seconds in ((later, 0.02), (later, 0.1), (sooner, 60.0), (sooner, 0.05), (never, 0.01)):
        alarm.set(seconds)
    never.clear()
    await eventually(lambda: len(rung) == 2)
    assert rung == ["sooner", "later"]


async def test_an_alarm_can_be_set_again_after_it_was_cleared() -> None:
    rung: list[bool] = []
    alarm = Alarm(asyncio.get_running_loop(), lambda: rung.append(True))
    alarm.set(0.01)
    alarm.clear()
    alarm.set(0.02)
    await eventually(lambda: bool(rung))

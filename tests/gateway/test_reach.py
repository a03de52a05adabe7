"""A waiting page opens the app when the gateway itself has had a good answer from it, by a visitor's own way."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

from htagweb_gateway.reach import Reach
from tests.orchestrator.stage import eventually
from tests.sign_in.conftest import closed_stage, stage
from tests.sign_in.stage import APP, Person, Serving, Stage

__all__ = ["closed_stage", "stage"]


class Late(Serving):
    """Its orchestrator takes it for ready before it answers."""

    status = 503
    silent = False
    asked: ClassVar[list[str]] = []


async def late(scope: Any, receive: Any, send: Any) -> None:
    if scope["method"] != "HEAD":
        await APP(scope, receive, send)
        return
    Late.asked.append(scope["path"])
    while Late.silent:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": Late.status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


Late.app = staticmethod(late)


async def started(stage: Stage, *, status: int = 200, silent: bool = False) -> Person:
    """A visitor whose sandbox is ready, as far as the orchestrator knows; he has not been there."""
    Late.status, Late.silent, Late.asked = status, silent, []
    stage.machine.machine.upcoming.clear()
    stage.machine.machine.next(*[Late] * 5)
    visitor = stage.visitor()
    await visitor.enter("hello")
    assert (await visitor.page("/-/start?app=hello&next=/hello/")).status == 303
    await eventually(lambda: bool(stage.gateway.routes.all_ready()))
    return visitor


async def state(visitor: Person) -> tuple[str, str]:
    status = json.loads((await visitor.get("/-/status?app=hello")).body)
    return status["state"], status["step"]


async def test_a_sandbox_that_answers_503_is_still_starting(stage: Stage) -> None:
    visitor = await started(stage, status=503)
    for count in (1, 2):
        assert await state(visitor) == ("starting", "ready")
        assert Late.asked == ["/"] * count
    Late.status = 200
    assert await state(visitor) == ("ready", "ready")
    Late.status = 503  # whoever has answered is asked no more
    assert await state(visitor) == ("ready", "ready")
    assert Late.asked == ["/"] * 3


async def test_one_question_serves_every_page_and_holds_none_up(stage: Stage) -> None:
    visitor = await started(stage, silent=True)
    said = await asyncio.wait_for(asyncio.gather(*(state(visitor) for _ in range(5))), 8)
    assert set(said) == {("starting", "ready")}
    assert Late.asked == ["/"]
    Late.silent = False
    assert await state(visitor) == ("ready", "ready")
    assert Late.asked == ["/"]


async def test_an_app_that_never_answers_keeps_nobody_waiting_for_ever(stage: Stage) -> None:
    visitor = await started(stage, silent=True)
    stage.gateway._reach = Reach(deadline_s=1.0)
    async with asyncio.timeout(20):
        while await state(visitor) != ("ready", "ready"):
            pass  # each question takes its time


async def test_a_request_asks_nothing_first(stage: Stage) -> None:
    visitor = await started(stage, status=503)
    assert (await visitor.page("/hello/")).status == 200
    assert Late.asked == []


async def test_a_question_is_no_visit(stage: Stage) -> None:
    visitor = await started(stage)
    assert await state(visitor) == ("ready", "ready")
    assert stage.gateway.activity.meter(stage.plane.sandboxes()[0].id).last == 0


async def test_what_ended_while_it_was_asked_is_said_to_have_ended(stage: Stage) -> None:
    visitor = await started(stage, silent=True)
    asking = asyncio.create_task(state(visitor))
    await eventually(lambda: bool(Late.asked))
    stage.machine.machine.die(stage.plane.sandboxes()[0].id, 1)
    await asking
    await eventually(lambda: not stage.gateway.routes.all_ready())
    assert (await state(visitor))[0] == "ended"
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "reach"]

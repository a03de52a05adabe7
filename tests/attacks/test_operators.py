"""The operators' verbs through the gateway: the orchestrator decides about each call, by the token that comes with it.

The gateway's container is tried in test_drill.py, every verb and token in tests/sign_in/test_operators.py.
"""

from __future__ import annotations

from tests.sign_in.conftest import closed_stage, stage  # noqa: F401  (fixtures)
from tests.sign_in.stage import Stage


async def test_62_without_an_operators_token_nothing_is_shown_or_ended(stage: Stage) -> None:  # noqa: F811
    ann = await stage.person()
    await ann.follow("/clock/")
    mine = {"Authorization": f"Bearer {ann.cookies['htagweb']}"}
    for headers in ({}, {"Authorization": "Bearer wrong"}, mine):
        assert (await ann.request("GET", "/-/api/v1/sandboxes", headers)).status == 401
        assert (await ann.request("POST", "/-/api/v1/reap", headers, b'{"all": true}')).status == 401
    assert stage.running("ann", "clock")

"""An orchestrator without an engine: its real API on its real socket, with a route to the upstream for each visitor."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import cast

import uvloop

from htagweb_gateway.identity import Identity, signing_key
from htagweb_orchestrator.control import ControlPlane
from htagweb_orchestrator.errors import AppNotFound
from htagweb_orchestrator.model import (
    AppCard,
    AppName,
    Change,
    Ending,
    Platform,
    Refusal,
    Route,
    SandboxId,
    Seen,
    Snapshot,
    State,
    UnixAddress,
    UserId,
)
from htagweb_orchestrator.service import gateway_api, listen, server

APP = AppName("bench")
VISITORS = 100


def visitor(number: int) -> UserId:
    return UserId(f"bench-{number}")


def cookies(state: Path) -> list[str]:
    """What the browsers of all visitors send, signed with the gateway's own key."""
    identity = Identity(signing_key(state / "cookie.key"))
    return [identity.issue("http", visitor(number)).partition(";")[0] for number in range(VISITORS)]


class FixedRoutes:
    """Keeps the promise of `api.Orchestrator` for visitors whose sandboxes run for ever, all at one address."""

    def __init__(self, upstream: str) -> None:
        address = UnixAddress(path=upstream, uid=os.getuid())
        self._routes = {
            visitor(number): Route(
                user=visitor(number), app=APP, sandbox=SandboxId(f"{number:032x}"), state=State.READY, address=address
            )
            for number in range(VISITORS)
        }

    async def lease(self, user: UserId, app: AppName, *, query: str = "", wait_s: float = 0.0) -> Route:
        if user not in self._routes:
            raise AppNotFound("there are no sandboxes here but the benchmark's own")
        return self._routes[user]

    async def find(self, user: UserId, app: AppName) -> Route | None:
        return self._routes.get(user)

    async def activity(self, gateway: str, seen: Mapping[SandboxId, Seen], refused: Sequence[Refusal] = ()) -> None:
        pass

    async def release(self, user: UserId, app: AppName, ending: Ending) -> bool:
        return False

    async def watch(self, gateway: str) -> AsyncGenerator[Change, None]:
        yield Snapshot(
            platform=Platform(message_rate=1_000_000),
            apps=(AppCard(name=APP, title="Bench"),),
            routes=tuple(self._routes.values()),
        )
        await asyncio.get_running_loop().create_future()


async def serve(control: Path, upstream: str) -> None:
    api = gateway_api(cast(ControlPlane, FixedRoutes(upstream)))
    await server(api, allowed_uids={os.getuid()}).serve([listen(control, mode=0o600)])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("control", type=Path, help="path of the socket to listen on")
    arguments.add_argument("upstream", help="path of the upstream's Unix socket")
    given = arguments.parse_args()
    uvloop.run(serve(given.control, given.upstream))


if __name__ == "__main__":
    main()

"""The users of the simulation: they come, wait, click, leave or forget their tabs, and compare what they are told."""

from __future__ import annotations

import asyncio
from random import Random

from htagweb_orchestrator.errors import OrchestratorError, UserLimitReached
from htagweb_orchestrator.line import GONE_S
from htagweb_orchestrator.model import AppName, Ending, Route, SandboxId, State, UserId
from tests.orchestrator.simulated import Box
from tests.orchestrator.simulated_platform import APPS, REPORT_S, Plane, Platform

LONGEST_START_S = 400.0  # out of the line: as long as the slowest engine takes for all that must be done before


class User:
    def __init__(self, world: Platform, name: UserId) -> None:
        self._world = world
        self._name = name
        self._rng = Random(f"{name} {world.rng.random()}")

    async def live(self, arrivals: list[float]) -> None:
        """Come at each of these times, with one tab or several."""
        tabs = []
        for at in arrivals:
            await asyncio.sleep(max(0.0, at - self._world.now()))
            for _ in range(self._rng.choice((1, 1, 1, 2, 4))):
                app = AppName(self._rng.choice(APPS))
                for _ in range(self._rng.choice((1, 1, 2))):
                    tabs.append(self._world.spawn(self._visit(app)))
        await asyncio.gather(*tabs)

    async def _visit(self, app: AppName) -> None:
        """One tab: open the app, wait for it, use it, and close the tab or forget it."""
        self._world.told["visits"] += 1
        patience_s = self._rng.expovariate(1 / 900) + 30
        for _ in range(3):
            route = await self._open(app, self._world.now() + patience_s)
            if route is None:
                return
            self._world.told["opened"] += 1
            ending = await self._use(route)
            if ending is None or self._rng.random() < 0.5:
                return

    async def _open(self, app: AppName, until_s: float) -> Route | None:
        """As the waiting page does; None if it came to nothing."""
        tries, out_of_line_s = 0, self._world.now()
        while self._world.now() < until_s:
            plane = self._world.plane
            if plane is None:
                await asyncio.sleep(1.0)
                continue
            try:
                route: Route | None = await plane.lease(self._name, app, wait_s=self._rng.choice((0.0, 0.8)))
                while plane is self._world.plane and route is not None and route.state is State.STARTING:
                    if route.place is not None:
                        out_of_line_s = self._world.now()
                    starting_s = self._world.now() - out_of_line_s
                    if starting_s > LONGEST_START_S:
                        self._world.violated(f"{self._name} starves: {app} has been starting for {starting_s:.0f} s")
                        return None
                    if self._world.now() > until_s:
                        self._world.told["left while waiting"] += 1
                        return None  # GONE_S later the place is free
                    await asyncio.sleep(self._rng.uniform(1, GONE_S / 2))
                    route = await plane.find(self._name, app)
            except OrchestratorError as error:
                self._world.told[f"refused: {error.reason}"] += 1
                if isinstance(error, UserLimitReached):
                    if self._rng.random() < 0.5:
                        return None
                    await self._stop(plane, AppName(error.facts["longest_idle"]))
                tries += 1
                if tries > 5:
                    return None
                await asyncio.sleep(self._rng.uniform(2, 20))
                continue
            if plane is not self._world.plane:
                out_of_line_s = self._world.now()  # he begins again, with the next orchestrator
                continue
            if route is not None and route.user != self._name:
                self._world.violated(f"{self._name} was told of the sandbox of {route.user}")
            if route is not None and route.state is State.READY:
                self._is_his(route)
                return route
            if route is not None and route.state is State.ENDED:
                self._has_a_reason(route)
                if route.ending in (Ending.FAILED, Ending.SERVER):
                    self._world.told["failed starts"] += 1
                    return None
            await asyncio.sleep(1.0)
        return None

    def _is_his(self, route: Route) -> None:
        box = self._world.machine.boxes.get(route.sandbox)
        if box is None or not box.running:
            return  # the request fails; its end will be told
        if box.owner != (route.user, route.app):
            self._world.violated(f"{(route.user, route.app)} was sent to the sandbox of {box.owner}")

    def _has_a_reason(self, route: Route) -> None:
        """And the one that is true, as far as the machine knows."""
        if route.ending is None:
            self._world.violated(f"{route.sandbox} ended without a reason")
        elif route.ending is Ending.IDLE:
            ended_s = self._world.announced.get(route.sandbox, self._world.now())
            began_s = ended_s - self._world.settings.limits(route.app).idle_timeout_s
            used_s = [
                at for at in self._world.used_s[route.sandbox] if began_s + 2 * REPORT_S < at < ended_s - 2 * REPORT_S
            ]
            if used_s:
                self._world.violated(
                    f"{route.sandbox} was ended as idle {ended_s - used_s[-1]:.0f} s after it was used"
                )

    async def _use(self, opened: Route) -> Ending | None:
        """Click around; the ending if it ended under him, None when he had enough."""
        app, sandbox = opened.app, opened.sandbox
        clicks = self._rng.randint(1, 12)
        for _ in range(clicks):
            box = self._world.machine.boxes.get(sandbox)
            known = self._world.gateway.routes.get((self._name, app))
            if box is not None and box.running and known is not None and known.address == opened.address is not None:
                self._is_his(opened)
                self._touched(sandbox)
                await self._happens(box)
            pause_s = self._rng.expovariate(1 / 60) if self._rng.random() < 0.97 else self._rng.uniform(600, 1500)
            await asyncio.sleep(pause_s)
            ending = await self._ending(app, sandbox)
            if ending is not None:
                self._world.told[f"ended under a user: {ending}"] += 1
                return ending
        if self._rng.random() < 0.2 and self._world.plane is not None:
            await self._stop(self._world.plane, app)
        return None

    async def _stop(self, plane: Plane, app: AppName) -> None:
        """The Stop button; the orchestrator may be killed while it is at it."""
        stop = self._world.spawn(plane.release(self._name, app, Ending.VISITOR))
        await asyncio.wait({stop})
        if not stop.cancelled() and isinstance(error := stop.exception(), OrchestratorError):
            self._world.told[f"refused: {error.reason}"] += 1

    def _touched(self, sandbox: SandboxId) -> None:
        self._world.gateway.used_s[sandbox] = self._world.now()
        self._world.used_s[sandbox].append(self._world.now())
        self._world.gateway.fresh.add(sandbox)

    async def _happens(self, box: Box) -> None:
        dice = self._rng.random()
        if dice < 0.01:
            self._world.machine.die(box, 1, unseen=self._rng.random() < 0.2)
        elif dice < 0.015:
            self._world.machine.die(box, 137, out_of_memory=True)
        elif dice < 0.02:
            self._world.machine.die(box, 0)
        elif dice < 0.022:
            box.hangs = True
        elif dice < 0.03 and box.link is not None:
            box.link.lost()
        elif dice < 0.2 and box.link is not None:
            key, value = f"key-{self._rng.randint(1, 3)}", int(self._world.now() * 1000)
            if await box.link.change(key, value):
                self._world.acknowledged.setdefault(self._name, {})[key] = value

    async def _ending(self, app: AppName, sandbox: SandboxId) -> Ending | None:
        """What the page is told: None while it runs, or while nobody can say."""
        for _ in range(600):
            box = self._world.machine.boxes.get(sandbox)
            plane, route = self._world.plane, self._world.gateway.routes.get((self._name, app))
            if route is not None and route.sandbox == sandbox and route.state is State.READY:
                if box is not None and box.running:
                    return None
            if plane is not None and plane.ready and plane is self._world.plane:
                route = await plane.find(self._name, app)
                if route is not None and route.sandbox != sandbox:
                    return Ending.VISITOR  # another tab has begun anew
                if route is not None and route.state is State.ENDED:
                    self._has_a_reason(route)
                    return route.ending
                if route is None:
                    if sandbox not in self._world.announced:
                        self._world.violated(f"the sandbox of {(self._name, app)} is gone, and nobody says why")
                    self._world.told["ended, and the reason was forgotten"] += 1
                    return Ending.LOST
            await asyncio.sleep(1.0)
        self._world.violated(f"the sandbox of {(self._name, app)} has not run for ten minutes, and nobody noticed")
        return Ending.LOST

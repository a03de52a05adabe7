"""What the `htagweb` command asks: what runs and why, what it wrote, and to end it."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from . import reasons
from .audit import Audit
from .catalogue import Catalogue
from .clock import boottime_s
from .control import ControlPlane
from .engines.base import Engine, Stats
from .errors import EngineUnavailable
from .model import AppCard, AppName, Ending, SandboxId, State, UserId
from .output import OutputFiles
from .registry import Sandbox

Row = dict[str, Any]


class Operators:
    """Reads the control plane and ends sandboxes through it. A row is a JSON object, described in docs/operators.md."""

    def __init__(
        self,
        *,
        control: ControlPlane,
        engine: Engine,
        catalogue: Catalogue,
        output: OutputFiles,
        audit: Audit | None = None,
        now: Callable[[], float] = boottime_s,
    ) -> None:
        self._control = control
        self._engine = engine
        self._catalogue = catalogue
        self._output = output
        self._audit = audit
        self._now = now

    @property
    def ready(self) -> bool:
        return self._control.ready

    @property
    def warnings(self) -> Sequence[str]:
        """Promises that the engine breaks, and that the operator accepts; a configuration that isn't used; draining."""
        draining = ("draining: nobody new is let in (htagweb drain --off ends that)",) if self._control.draining else ()
        return (*draining, *self._control.warnings, *self._catalogue.problems)

    @property
    def configuration(self) -> Sequence[str]:
        """What keeps a change of htagweb.toml from being used, or a part of it."""
        return self._catalogue.problems

    def drained(self) -> Row:
        """Is nobody new let in, and how many visitors' sandboxes are there still?"""
        live = [sandbox for sandbox in self._control.sandboxes() if sandbox.lease.user and sandbox.ending is None]
        return {"draining": self._control.draining, "running": len(live), "waiting": self._control.waiting}

    def drain(self, on: bool) -> Row:
        self._control.drain(on)
        return self.drained()

    async def doctor(self) -> list[Row]:
        """Whether the engine keeps sandboxes in, tried anew, and what else is worth knowing of it."""
        checks, advice = await self._control.examine()
        rows: list[Row] = [
            {
                "check": check.promise,
                "runtime": check.runtime,
                "result": "holds" if check.holds else "accepted" if check.accepted else "broken",
                "found": check.found,
                "advice": "" if check.holds else check.sentence,
            }
            for check in checks
        ]
        for each in advice:
            result = "wrong" if each.wrong else "warning"
            rows.append({"check": each.subject, "runtime": "", "result": result, "found": each.found, "advice": ""})
        return rows

    async def rows(self, prefix: str = "") -> list[Row]:
        """The sandboxes whose id begins with `prefix`."""
        shown = self._control.sandboxes(prefix)
        running = [sandbox.id for sandbox in shown if sandbox.state is State.READY]
        try:
            stats = await self._engine.stats(running) if running else {}
        except EngineUnavailable:
            stats = {}  # the list must come in any case
        return [self._row(sandbox, stats.get(sandbox.id)) for sandbox in shown]

    async def inspect(self, prefix: str) -> list[Row]:
        """All that is known of those, or of ones that ended in the last quarter of an hour."""
        rows = await self.rows(prefix)
        there = {sandbox.id: sandbox for sandbox in self._control.sandboxes(prefix)}
        for row in rows:
            sandbox = there.get(row["id"])
            if sandbox is None:
                continue  # it went while the engine was asked
            row["because"] = reasons.because(sandbox, self._now(), watched=self._control.watched)
            row["steps"] = sandbox.steps_ms
            if sandbox.ending is not None:  # it is being removed
                row |= {"ending": sandbox.ending, "detail": sandbox.detail}
            row["address"] = getattr(sandbox.address, "path", None)
            row["limits"] = sandbox.lease.limits
        ended: list[Row] = [
            {
                "id": route.sandbox,
                "user": route.user,
                "app": route.app,
                "state": route.state,
                "ending": route.ending,
                "detail": route.detail,
                "because": reasons.because_ended(route.ending or Ending.LOST, route.detail),
                "steps": route.steps_ms,
            }
            for route in self._control.ended(prefix)
        ]
        found = rows or ended
        if len(found) == 1:  # one of several is shown to nobody
            found[0]["history"] = await self._history(found[0]["id"])
        return found

    async def _history(self, sandbox: SandboxId) -> list[str]:
        """What the audit log says of it."""
        if self._audit is None:
            return []
        try:
            entries = await self._audit.entries(sandbox=sandbox)
        except sqlite3.Error as error:
            return [f"the audit log can't be read: {error}"]
        return [f"{entry['at']} {entry['event']}" for entry in entries]

    def _row(self, sandbox: Sandbox, use: Stats | None) -> Row:
        now = self._now()
        lease = sandbox.lease
        ready = sandbox.state is State.READY
        left_s, _ = sandbox.left(now)
        return {
            "id": sandbox.id,
            "user": lease.user,
            "app": lease.app,
            "version": lease.version[:12],
            "state": sandbox.state,
            "step": sandbox.step,
            "age_s": round(now - lease.created_s, 1),
            "idle_s": round(lease.idle_s(now), 1) if ready else None,
            "left_s": round(max(0.0, left_s), 1) if ready else None,
            "why": reasons.why(sandbox, now, watched=self._control.watched),
            "ws": sum(sandbox.sockets.values()),
            "memory_bytes": use.memory_bytes if use else None,
            "cpu_s": use.cpu_s if use else None,
            "pids": use.pids if use else None,
            "uid": lease.uid,
            "outdated": self._control.outdated(sandbox),
        }

    def logs(self, prefix: str) -> dict[SandboxId, str]:
        """What the apps of matching sandboxes wrote, ended ones included."""
        ids = {*self._output.matching(prefix), *(sandbox.id for sandbox in self._control.sandboxes(prefix))}
        return {sandbox_id: self._output.read(sandbox_id) or "" for sandbox_id in sorted(ids)}

    async def reap(self, ids: Sequence[SandboxId], ending: Ending = Ending.OPERATOR) -> list[Row]:
        """End these, all at once; unknown ids are left out of the answer."""
        wanted = set(ids)
        chosen = [sandbox for sandbox in self._control.sandboxes() if sandbox.id in wanted]
        await self._control.end(chosen, ending)
        return [{"id": each.id, "app": each.lease.app, "user": each.lease.user, "ended": True} for each in chosen]

    def pool(self) -> list[Row]:
        """Each kind of warm sandbox: wanted, ready, starting."""
        return self._control.pool.rows()

    async def data(self) -> list[Row]:
        """What apps keep for their visitors."""
        return await self._control.kept.rows() if self._control.kept else []

    async def remove_data(self, user: UserId | None, app: AppName | None) -> list[Row]:
        """Remove what fits, save what a sandbox has now."""
        return await self._control.kept.remove(user, app) if self._control.kept else []

    def apps(self) -> list[Row]:
        counts = Counter(s.lease.app for s in self._control.sandboxes() if s.state is not State.ENDED)
        return [
            {
                "name": card.name,
                "title": card.title,
                "generation": card.generation,
                "version": card.version[:12],
                "image": self._catalogue.image(card.name),
                "state": self._state(card),
                "problem": card.problem,
                "warnings": self._catalogue.remarks(card.name),
                "sandboxes": counts[card.name],
            }
            for card in self._catalogue.cards()
        ]

    def _state(self, card: AppCard) -> str:
        """One word: ready, queued, building, failed, broken; of the newest version, whatever is served meanwhile."""
        if not card.problem and not card.preparing:
            return "ready"
        builds = self._control.builds
        progress = builds.progress(self._catalogue.image(card.name)) if builds else None
        if progress is None:
            return "broken" if card.problem else "queued"
        return progress.value

    def build_log(self, app: str) -> str:
        """What was said when an app's image was made. Raises AppNotFound."""
        image = self._catalogue.image(app)
        return self._control.builds.log_of(image) if self._control.builds else ""

    def build(self, app: str) -> bool:
        """Have an app's image made, and the app tried out, again; False where neither was done. Raises AppNotFound."""
        image = self._catalogue.image(app)
        builds, trials = self._control.builds, self._control.trials
        tried = trials is not None and trials.again(app)
        return (builds is not None and builds.again(image)) or tried

    async def prune(self, *, really: bool) -> list[Row]:
        """Images that no app and no sandbox uses any more, and whether they are gone."""
        builds = self._control.builds
        if builds is None:
            return []
        used = self._control.images_in_use()
        unused = builds.unwanted(used)
        gone = {each.name for each in await builds.prune(used)} if really else set()
        return [
            {"image": each.name, "size_bytes": each.bytes, "created": each.created, "removed": each.name in gone}
            for each in unused
        ]

"""The orchestrator of an embedded server, in whichever process it lives: processes as sandboxes, one folder for all."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from htagweb_orchestrator import composition
from htagweb_orchestrator.admission import Admission
from htagweb_orchestrator.belongings import Belongings
from htagweb_orchestrator.control import ControlPlane
from htagweb_orchestrator.model import AppCard, Platform, SandboxId, State
from htagweb_orchestrator.output import OutputFiles
from htagweb_orchestrator.own_rundir import OwnRunDirectory
from htagweb_orchestrator.sessions import Sessions
from htagweb_orchestrator.settings import Settings

from .own_apps import OwnApps
from .source import Source
from .workplace import HeadStart, Options

FOREVER_S = 10 * 365 * 86_400.0
WARM_S = 3.0
PER_USER, STARTS_PER_MINUTE = 100, 600  # what one visitor may have and start: no stranger is kept out here


class OwnSettings(Settings, frozen=True):
    def platform(self, warnings: tuple[str, ...] = ()) -> Platform:
        return msgspec.structs.replace(super().platform(warnings), embedded=True)


def settings_of(options: Options, folder: Path) -> Settings:
    return OwnSettings(
        idle_timeout_s=options.idle_timeout_s or FOREVER_S,
        max_lifetime_s=FOREVER_S,
        interaction_timeout_s=options.interaction_timeout_s or FOREVER_S,
        memory_bytes=options.memory_bytes,
        body_size_bytes=options.body_size,
        session_size_bytes=options.session_size,
        max_per_user=PER_USER,
        warm_min=1,
        warm_max=4,
        dev=options.debug,
        sandbox_image="",
        run_dir=folder / "run",
        state_dir=folder / "state",
    )


class OwnPlatform:
    """Keeps the promise of workplace.Door, for a server whose orchestrator is in its own process."""

    first = True

    def __init__(self, control: ControlPlane, apps: OwnApps, key_file: Path) -> None:
        self.control = control
        self.key_file = key_file
        self._apps = apps

    @property
    def orchestrator(self) -> ControlPlane:
        return self.control

    @property
    def sessions(self) -> Belongings:
        return self.control.belongings

    async def publish(self, source: Source) -> AppCard:
        """Let users open it from now on, and every worker know of it."""
        card = self._apps.publish(source)
        await self.control.published_anew()
        return card

    async def warmed(self) -> None:
        """Returns once a process waits for the first user, who would start a second one while it boots."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WARM_S if self._apps.cards() else 0.0):
                while not any(each.state is State.WARM for each in self.control.sandboxes()):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)


class _Spoken(OutputFiles):
    """What apps print is shown where the server runs, too, as it always was."""

    def add(self, sandbox: SandboxId, text: str, dropped: int = 0) -> None:
        super().add(sandbox, text, dropped)
        if sys.stderr is not None:  # pythonw
            sys.stderr.write(text)
            sys.stderr.flush()


@asynccontextmanager
async def opened(
    folder: Path, options: Options, sources: Iterable[Source] = (), head_start: HeadStart | None = None
) -> AsyncIterator[OwnPlatform]:
    """A platform below `folder`, which is nobody else's; all that runs ends with it. For `sources` a process waits from
    the start."""
    settings = settings_of(options, folder)
    settings.state_dir.mkdir(mode=0o700, exist_ok=True)
    apps = OwnApps(settings)
    for source in sources:
        apps.publish(source)
    sessions = Sessions(settings.state_dir / "sessions.sqlite", size=options.session_size)
    control = ControlPlane(
        engine=head_start.engine if head_start else composition.process_engine(settings.run_dir),
        catalogue=apps,
        settings=settings,
        run=OwnRunDirectory(settings.run_dir),
        sessions=sessions,
        renews=True,
        output=_Spoken(settings.state_dir / "output"),
        admission=Admission(
            max_per_user=PER_USER, starts_per_minute=STARTS_PER_MINUTE, starts_per_address=STARTS_PER_MINUTE
        ),
    )
    try:
        await control.open()
        yield OwnPlatform(control, apps, settings.state_dir / "cookie.key")
    finally:
        await control.close()
        sessions.close()

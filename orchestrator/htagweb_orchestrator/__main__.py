"""The orchestrator's process: the one place that picks an engine and joins the parts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sqlite3
import sys

from . import accounts as account_store
from . import composition
from . import sign_ins as sign_in_store
from . import tokens as token_store
from .accounts import Accounts
from .app_images import AppImages
from .audit import Audit
from .catalogue import Catalogue
from .clock import boottime_s
from .config_file import ConfigFile
from .configuration import ConfigError
from .control import ControlPlane
from .data import DataFolders
from .database import Database
from .logs import configure
from .metrics import Metrics
from .operators import Operators
from .output import OutputFiles
from .passwords import Failures, Passwords
from .people import People
from .people_routes import Audited, people_routes
from .rundir import RunDirectory
from .service import gateway_api, listen, operator_api, server
from .session_routes import session_routes
from .sessions import Sessions
from .settings import Settings
from .sign_ins import SignIns
from .start_times import StartTimes
from .tokens import Tokens
from .verdicts import Verdicts
from .visitors import Visitors

log = logging.getLogger("htagweb_orchestrator")

SCHEMA = ";".join((account_store.SCHEMA, sign_in_store.SCHEMA, token_store.SCHEMA))


async def serve(settings: Settings, config: ConfigFile) -> None:
    """Run until SIGTERM or SIGINT. Sandboxes go on running after it."""
    state, control_dir, admin_dir = settings.state_dir, settings.ctl_dir, settings.admin_dir
    os.chmod(control_dir, 0o710)
    os.chown(control_dir, 0, settings.gateway_uid)
    admin_dir.mkdir(mode=0o700, exist_ok=True)
    engine = composition.engine(settings)
    metrics = Metrics(hung=lambda: engine.hung_calls)
    images = AppImages(instance=settings.instance, sandbox_image=settings.sandbox_image)
    verdicts = Verdicts(state / "verdicts.json")
    catalogue = Catalogue(settings, images=images, verdicts=verdicts, config=config)
    sessions = Sessions(
        state / "sessions.sqlite",
        size=settings.session_size_bytes,
        anonymous_life_s=settings.anonymous_life_s,
        tally=metrics,
    )
    output = OutputFiles(state / "output")
    database = Database(state / "accounts.sqlite", SCHEMA, durable=True)
    accounts, passwords, tokens = Accounts(database), Passwords(), Tokens(database)
    audit = Audit(state, heard=metrics.noted)
    sign_ins = SignIns(database, life_s=settings.sign_in_life_s)
    await sign_ins.load(settings.auth)
    await tokens.load()
    control = ControlPlane(
        engine=engine,
        catalogue=catalogue,
        settings=settings,
        run=RunDirectory(settings.run_dir, settings.gateway_uid),
        sessions=sessions,
        output=output,
        prover=engine,
        data=DataFolders(settings.data_dir),
        sign_ins=sign_ins,
        audit=audit,
        images=images,
        maker=composition.images(settings),
        verdicts=verdicts,
        tally=metrics,
        times=StartTimes(state / "starts.json"),
    )
    visitors = Visitors(
        auth=settings.auth,
        take=settings.on_sign_in == "take",
        control=control,
        accounts=accounts,
        sign_ins=sign_ins,
        passwords=passwords,
        failures=Failures(now=boottime_s),
        tokens=tokens,
        audit=audit,
    )
    people = People(
        auth=settings.auth,
        control=control,
        accounts=accounts,
        sign_ins=sign_ins,
        passwords=passwords,
        tokens=tokens,
        audit=audit,
    )
    operators = Operators(control=control, engine=engine, catalogue=catalogue, output=output, audit=audit)
    metrics.show(control, operators)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    own_uid = os.getuid()
    operators_app = Audited(operator_api(operators, people_routes(people), metrics=metrics.text), people)
    gateway_app = gateway_api(control, session_routes(visitors, operators_app), metrics=metrics.text)
    services = [
        (server(operators_app, allowed_uids={own_uid}), listen(admin_dir / "admin.sock", mode=0o600)),
        (
            server(gateway_app, allowed_uids={own_uid, settings.gateway_uid}),
            listen(control_dir / "orch.sock", mode=0o660, gid=settings.gateway_uid),
        ),
    ]
    await control.open()
    if (path := await people.first_link()) is not None:
        link = f"{settings.own_url}{path}"
        log.warning("no operator yet: this link signs one in, once, within an hour", extra={"link": link})
    running = []
    for each, socket in services:
        each.config.load()
        each.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        each.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        running.append(asyncio.create_task(each.serve(sockets=[socket])))
    try:
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([*running, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
    finally:
        await control.close()
        for each, _ in services:
            each.should_exit = True
        await asyncio.gather(*running, return_exceptions=True)
        passwords.close()
        await audit.close()
        database.close()
        sessions.close()


def main() -> int:
    config = ConfigFile()
    try:
        settings = Settings.load()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    configure()
    try:
        asyncio.run(serve(settings, config))
    except (OSError, sqlite3.Error) as error:
        log.error(
            "the orchestrator can't work with its folders: %s", error, extra={"state_dir": str(settings.state_dir)}
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

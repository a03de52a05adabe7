"""Attacks on the directory that a sandbox shares with the platform, and on whoever dials what lies in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from htagweb_orchestrator import service
from htagweb_orchestrator.model import SandboxId
from htagweb_orchestrator.rundir import RunDirectory
from tests.attacks.stage import Stage, eventually
from tests.attacks.visitor import Visitor
from tests.engines.conftest import ProbeEngine

pytestmark = pytest.mark.docker

# In place of the harness: a control socket that answers nobody, and a link where its own socket should be.
LINKING = """
control = socket.socket(socket.AF_UNIX)
control.bind("/run/app/control.sock")
control.listen()
own = socket.socket(socket.AF_UNIX)
own.bind("/run/app/real.sock")
own.listen()
os.link("/run/app/real.sock", "/run/app/app.sock")
while True:  # now a socket, now a link: whoever looks and then connects may meet either
    os.symlink(TARGET, "/run/app/link")
    os.rename("/run/app/link", "/run/app/app.sock")
    os.link("/run/app/real.sock", "/run/app/again")
    os.rename("/run/app/again", "/run/app/app.sock")
"""


async def _victim(stage: Stage) -> Visitor:
    victim = await stage.console()
    await victim.run("answers['/secret'] = lambda request: request.reply(b'a secret of the victim')")
    return victim


def _targets(stage: Stage, victim: Visitor) -> list[str]:
    """The victim's socket as a link in the attacker's directory can name it."""
    sandbox = stage.sandbox(victim).id
    return [f"../../{sandbox}/s/app.sock", f"{stage.run.path}/{sandbox}/s/app.sock"]


@pytest.mark.parametrize("form", [0, 1], ids=["relative", "absolute"])
async def test_13_a_link_to_another_socket_before_the_seal_fails_the_start(closed_stage: Stage, form: int) -> None:
    stage = closed_stage
    engine = ProbeEngine(instance=stage.instance, run_volume=stage.instance, base_url=stage.base_url)
    await stage.open(engine=engine, start_timeout_s=3.0)
    victim = await _victim(stage)
    heard = await victim.run("answer = len(heard)")
    engine.program = f"TARGET = {_targets(stage, victim)[form]!r}\n" + LINKING
    attacker = stage.visitor()
    page = await attacker.open("console")
    assert b"This app could not be started" in page.body, page.body.decode()
    assert await victim.run("answer = len(heard)") == heard
    await eventually(lambda: len(stage.containers()) == 1)


@pytest.fixture
def unsealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the first fence had failed."""

    def leave_open(self: RunDirectory, sandbox_id: SandboxId, uid: int) -> str:
        return self.boot_log(sandbox_id)

    monkeypatch.setattr(RunDirectory, "seal", leave_open)


async def _swap(attacker: Visitor, target: str) -> None:
    """Put a link in the place of the own socket, and hang up, so that the gateway has to dial anew."""
    await attacker.run(f"""
        os.unlink("/run/app/app.sock")
        os.symlink({target!r}, "/run/app/app.sock")
        threading.Timer(0.1, request.connection.shutdown, (socket.SHUT_RDWR,)).start()
        answer = True
        """)


@pytest.mark.usefixtures("unsealed")
@pytest.mark.parametrize("form", [0, 1], ids=["relative", "absolute"])
async def test_13_without_the_seal_a_link_still_leads_nobody_to_another_sandbox(stage: Stage, form: int) -> None:
    victim, attacker = await _victim(stage), await stage.console()
    heard = await victim.run("answer = len(heard)")
    await _swap(attacker, _targets(stage, victim)[form])
    upstream = stage.gateway._upstreams[stage.sandbox(attacker).id]
    await eventually(lambda: not upstream.open)
    response = await attacker.get("/console/secret")
    assert response.status in (502, 503)
    assert b"a secret" not in response.body
    assert await victim.run("answer = len(heard)") == heard


@pytest.fixture
async def orchestrator_socket(tmp_path: Path) -> AsyncIterator[tuple[Path, list[bytes]]]:
    """Listens where the orchestrator's socket might be; and what it was told."""
    told: list[bytes] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append(b"")
        writer.close()

    path = tmp_path / "orch.sock"
    server = await asyncio.start_unix_server(connected, path)
    yield path, told
    server.close()


@pytest.mark.usefixtures("unsealed")
@pytest.mark.parametrize("form", ["relative", "absolute"])
async def test_14_a_link_to_the_orchestrators_socket_reaches_nobody(
    stage: Stage, orchestrator_socket: tuple[Path, list[bytes]], form: str
) -> None:
    path, told = orchestrator_socket
    attacker = await stage.console()
    up = "../" * len(stage.run.sockets(stage.sandbox(attacker).id).parts[1:])
    await _swap(attacker, str(path) if form == "absolute" else f"{up}{path.relative_to('/')}")
    upstream = stage.gateway._upstreams[stage.sandbox(attacker).id]
    await eventually(lambda: not upstream.open)
    for target in ("/console/", "/console/v1/watch"):
        assert (await attacker.get(target)).status in (502, 503)
    assert told == []


async def test_15_the_sealed_directory_can_not_be_changed(stage: Stage) -> None:
    attacker = await stage.console()
    errors = await attacker.run("""
        answer = {
            "rm": refused(os.unlink, "/run/app/app.sock"),
            "ln": refused(os.symlink, "/etc/passwd", "/run/app/x"),
            "link": refused(os.link, "/run/app/app.sock", "/run/app/y"),
            "touch": refused(open, "/run/app/z", "w"),
            "mkdir": refused(os.mkdir, "/run/app/d"),
            "mv": refused(os.rename, "/run/app/app.sock", "/run/app/old.sock"),
            "chmod": refused(os.chmod, "/run/app", 0o777),
            "chown": refused(os.chown, "/run/app", os.getuid(), os.getuid()),
            "ls": refused(os.listdir, "/run/app"),
            "xattr": refused(os.setxattr, "/run/app", "user.x", b"x"),
        }
        """)
    assert {what: error for what, error in errors.items() if error not in ("EACCES", "EPERM")} == {}
    assert (await attacker.get("/console/")).body == b"console"


PTH = "import os; open('/run/app/from-pth', 'w')\n"
TRY = """
import os
def fill():
    found = []
    for name in ("file", "folder"):
        try:
            os.mkdir("/run/app/" + name) if name == "folder" else open("/run/app/" + name, "w").write("x" * 1000)
            found.append("")
        except OSError as error:
            found.append(error.strerror)
    for number in range(200):  # each would take an inode
        try:
            open(f"/run/app/f{number}", "w").close() if number % 2 else os.mkdir(f"/run/app/d{number}")
            found.append("")
        except OSError as error:
            if error.errno != 13:
                found.append(error.strerror)
    return found
found = fill()
"""


async def test_16_no_code_of_an_app_meets_a_writable_directory(closed_stage: Stage) -> None:
    """Neither its own, nor a module's that it brings, nor a .pth file."""
    stage = closed_stage
    stage.publish("pth/app.py", f"import helper\n{TRY}\nimport htag\nclass App(htag.Tag.div):\n"
                  "    def init(self):\n        self += f'FOUND {found} {helper.found}'\n")  # fmt: skip
    stage.publish("pth/helper.py", TRY)
    stage.publish("pth/evil.pth", PTH)
    await stage.open()
    visitor = stage.visitor()
    page = await visitor.open("pth")
    denied = "['Permission denied', 'Permission denied']"
    assert f"FOUND {denied} {denied}".encode() in page.body.replace(b"&#x27;", b"'")
    assert set(os.listdir(stage.run.sockets(stage.sandbox(visitor, "pth").id))) == {"app.sock", "control.sock"}
    await stage.console()  # another user's start still works


async def test_18_whoever_is_another_uid_is_not_heard(tmp_path: Path) -> None:
    """The kernel says who it is; see test_drill.py for the same from the gateway's container."""
    heard = 0

    async def orchestrator(scope: Any, receive: Any, send: Any) -> None:
        nonlocal heard
        heard += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    server = service.server(orchestrator, allowed_uids={os.geteuid() + 1})
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    path = tmp_path / "orch.sock"
    serving = asyncio.create_task(server.serve(sockets=[service.listen(path, mode=0o666)]))
    await eventually(lambda: server.started)
    said = b""
    with contextlib.suppress(ConnectionError):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /v1/watch HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        said = await asyncio.wait_for(reader.read(), 10)
    server.should_exit = True
    await serving
    assert (said, heard) == (b"", 0)


async def test_19_of_a_stopped_sandbox_nothing_is_left_and_its_place_is_nobodys(stage: Stage) -> None:
    visitor, other = await stage.console(), await stage.console()
    await other.run("answers['/'] = lambda request: request.reply(b'another user')")
    sandbox = stage.sandbox(visitor)
    directory = stage.run.sockets(sandbox.id).parent
    assert directory.exists()
    response = await visitor.post("/-/stop", b"app=console")
    assert response.status == 303
    assert not directory.exists()
    assert len(stage.containers()) == 1
    assert sandbox.id not in stage.run.ids()
    again = await visitor.get("/console/")
    assert again.status in (404, 410, 503)
    assert b"another user" not in again.body
    for target in (f"/{sandbox.id}/", f"/{sandbox.id[:12]}/", f"/-/{sandbox.id}"):
        assert (await other.get(target)).status == 404


async def test_nonsense_on_the_control_socket_ends_its_own_sandbox_and_no_other(stage: Stage) -> None:
    attacker, other = await stage.console(), await stage.console()
    await attacker.run("""
        def shout():
            time.sleep(1)  # the answer to this has come by then
            for fd in map(int, os.listdir("/proc/self/fd")):
                try:
                    with socket.socket(fileno=os.dup(fd)) as found:
                        if str(found.getsockname()).startswith("/run/app/control.sock"):
                            found.sendall(b"\\xff" * 4096)
                except OSError:
                    pass
        threading.Thread(target=shout).start()
        """)
    await eventually(lambda: len(stage.containers()) == 1)
    status = await attacker.status("console")
    assert (status["state"], status["ending"]) == ("ended", "crashed")
    assert (await other.get("/console/")).body == b"console"

"""The htagweb command, against a server on a Unix socket that answers as the orchestrator does."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from typer.testing import CliRunner, Result

from htagweb.cli import app

ROOT = Path(__file__).parent.parent
HELLO = "from htag import Tag\n\nclass App(Tag.div):\n    pass\n"


def row(digit: str, app_name: str, user: str, idle_s: float | None, **more: Any) -> dict[str, Any]:
    return {
        "id": digit * 32,
        "user": user,
        "app": app_name,
        "version": "0123456789ab",
        "state": "ready",
        "step": "ready",
        "age_s": 3725.0,
        "idle_s": idle_s,
        "left_s": 60.0,
        "why": "until idle",
        "ws": 1,
        "memory_bytes": 45 * 1024**2,
        "cpu_s": 1.26,
        "pids": 7,
        "uid": 20001,
        "outdated": False,
    } | more


class Orchestrator:
    """What the command sees of one: canned sandboxes, and a memory of what was to be ended."""

    def __init__(self, admin_dir: Path) -> None:
        self.admin_dir = admin_dir
        self.rows = [
            row("a", "counter", "alice", 5.0),
            row("b", "counter", "bob", 700.0),
            row("c", "todo", "alice", 900.0, outdated=True),
            row("d", "todo", "eve", None, state="starting", left_s=None, memory_bytes=None, cpu_s=None),
        ]
        self.refusal: Response | None = None
        self.stubborn: set[str] = set()
        self.apps: list[dict[str, Any]] = []
        self.built: list[str] = []
        self.images: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.draining = False
        self.data: list[dict[str, Any]] = []
        self.checks: list[dict[str, Any]] = []
        self.logs = "Traceback\n\x1b[2Jboom"
        self.reaped: list[list[str]] = []
        self.endings: list[str] = []

    def asgi(self) -> Starlette:
        routes = [
            Route("/v1/sandboxes", lambda request: self.refusal or JSONResponse(self.rows)),
            Route("/v1/sandboxes/{prefix}", self._one),
            Route("/v1/logs/{prefix}", self._one),
            Route("/v1/reap", self._reap, methods=["POST"]),
            Route("/v1/apps", lambda request: JSONResponse(self.apps)),
            Route("/v1/apps/{name}/log", lambda request: PlainTextResponse(self.logs)),
            Route("/v1/apps/{name}/build", self._build, methods=["POST"]),
            Route("/v1/prune", self._prune, methods=["POST"]),
            Route("/v1/warnings", lambda request: JSONResponse(self.warnings)),
            Route("/v1/drain", self._drain, methods=["POST"]),
            Route("/v1/data", lambda request: JSONResponse(self.data)),
            Route("/v1/data/remove", self._remove_data, methods=["POST"]),
            Route("/v1/doctor", lambda request: JSONResponse(self.checks), methods=["POST"]),
        ]
        return Starlette(routes=routes)

    def _build(self, request: Request) -> Response:
        if self.refusal:
            return self.refusal
        self.built.append(request.path_params["name"])
        return Response(status_code=204)

    async def _drain(self, request: Request) -> Response:
        self.draining = (await request.json())["on"]
        return JSONResponse({"draining": self.draining, "running": 4, "waiting": 0})

    async def _prune(self, request: Request) -> Response:
        really = (await request.json())["yes"]
        rows = [row | {"removed": really and row["image"] not in self.stubborn} for row in self.images]
        return JSONResponse(rows)

    async def _remove_data(self, request: Request) -> Response:
        asked = await request.json()
        fitting = [
            row for row in self.data if asked["user"] in (None, row["user"]) and asked["app"] in (None, row["app"])
        ]
        return JSONResponse(
            [{key: row[key] for key in ("user", "app")} | {"removed": not row["in_use"]} for row in fitting]
        )

    def _one(self, request: Request) -> Response:
        prefix = request.path_params["prefix"]
        found = [row for row in self.rows if row["id"].startswith(prefix)]
        if len(found) != 1:
            status, title = (409, f"{prefix} fits several") if found else (404, f"no sandbox begins with {prefix}")
            problem = {"status": status, "title": title}
            return JSONResponse(problem, status, media_type="application/problem+json")
        if request.url.path.startswith("/v1/logs"):
            return PlainTextResponse(self.logs)
        return JSONResponse({**found[0], "steps": {"write": 3, "import": 120}, "limits": {"memory_bytes": 1024**2}})

    async def _reap(self, request: Request) -> Response:
        asked = await request.json()
        ids = asked["ids"]
        self.reaped.append(ids)
        self.endings.append(asked["ending"])
        chosen = [row for row in self.rows if row["id"] in ids]
        self.rows = [row for row in self.rows if row["id"] not in ids]
        return JSONResponse(
            [
                {key: row[key] for key in ("id", "app", "user")} | {"ended": row["app"] not in self.stubborn}
                for row in chosen
            ]
        )


@pytest.fixture
def orchestrator(tmp_path: Path) -> Iterator[Orchestrator]:
    orchestrator = Orchestrator(tmp_path)
    config = uvicorn.Config(
        orchestrator.asgi(), uds=str(tmp_path / "admin.sock"), log_config=None, lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.005)
    yield orchestrator
    server.should_exit = True
    thread.join(10)


def run(*words: str, admin_dir: Path | None = None, **environ: str) -> Result:
    environ |= {"HTAGWEB_ADMIN_DIR": str(admin_dir)} if admin_dir else {}
    return CliRunner(env=environ).invoke(app, list(words))


def ids(result: Result) -> str:
    return "".join(row["id"][0] for row in json.loads(result.stdout))


# -- list, inspect, logs -------------------------------------------------------------------------------------------


def test_list_prints_a_line_for_each_sandbox(orchestrator: Orchestrator) -> None:
    result = run("list", admin_dir=orchestrator.admin_dir)
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[0].split() == ["ID", "APP", "STATE", "AGE", "IDLE", "LEFT", "WHY", "WS", "MEMORY", "CPU", "USER"]
    assert lines[1].split() == ["a" * 12, *"counter ready 1h 2m 5s 1m until idle 1 45m 1.3s alice".split()]
    assert len(lines) == 5


def test_list_prints_json_for_programs(orchestrator: Orchestrator) -> None:
    result = run("list", "--json", admin_dir=orchestrator.admin_dir)
    assert json.loads(result.stdout) == orchestrator.rows


def test_an_empty_list_is_no_failure(orchestrator: Orchestrator) -> None:
    orchestrator.rows = []
    result = run("list", admin_dir=orchestrator.admin_dir)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No sandbox runs.\n")
    assert run("list", "--json", admin_dir=orchestrator.admin_dir).stdout == "[]\n"


def test_inspect_takes_the_first_digits_of_an_id(orchestrator: Orchestrator) -> None:
    result = run("inspect", "AAAA", admin_dir=orchestrator.admin_dir)
    facts = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in result.stdout.splitlines()}
    assert (facts["id"], facts["age"], facts["outdated"]) == ("a" * 32, "1h 2m", "no")
    assert (facts["steps"], facts["limits"]) == ("write 3 ms, import 120 ms", "memory 1m")
    assert json.loads(run("inspect", "a", "--json", admin_dir=orchestrator.admin_dir).stdout)["uid"] == 20001


@pytest.mark.parametrize("command", ["inspect", "logs"])
def test_exit_codes_tell_none_several_and_misuse_apart(orchestrator: Orchestrator, command: str) -> None:
    orchestrator.rows.append(row("a", "todo", "carol", 1.0, id="a" * 31 + "0"))
    for word, code in (("f", 3), ("a", 2), ("../reap", 2), ("b", 0)):
        result = run(command, word, admin_dir=orchestrator.admin_dir)
        assert (result.exit_code, bool(result.stderr)) == (code, code > 0)


def test_logs_prints_what_the_app_wrote(orchestrator: Orchestrator) -> None:
    assert run("logs", "b" * 12, admin_dir=orchestrator.admin_dir).stdout == "Traceback\n\x1b[2Jboom\n"
    orchestrator.logs = ""
    assert run("logs", "b" * 12, admin_dir=orchestrator.admin_dir).stdout == ""


def on_a_terminal(orchestrator: Orchestrator, *words: str) -> str:
    ours, theirs = pty.openpty()
    environ = os.environ | {"HTAGWEB_ADMIN_DIR": str(orchestrator.admin_dir), "TERM": "xterm", "COLUMNS": "70"}
    subprocess.run(
        [sys.executable, "-c", "from htagweb.cli import main; main()", *words],
        stdout=theirs,
        env=environ,
        timeout=60,
        check=True,
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    return shown.decode()


def test_an_app_cannot_send_control_sequences_to_the_operators_terminal(orchestrator: Orchestrator) -> None:
    assert on_a_terminal(orchestrator, "logs", "b") == "Traceback\r\n\N{REPLACEMENT CHARACTER}[2Jboom\r\n"


def test_a_narrow_terminal_cuts_nothing(orchestrator: Orchestrator) -> None:
    orchestrator.rows[0]["user"] = "u" * 64
    shown = on_a_terminal(orchestrator, "list")
    assert all(text in shown for text in ("a" * 12, "d" * 12, "u" * 64, "until idle"))


# -- reap ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["aaaa", "c"], "ac"),
        (["--app", "counter"], "ab"),
        (["--user", "alice"], "ac"),
        (["--idle", "10m"], "bc"),
        (["--idle", "10m", "--user", "alice"], "c"),
        (["a", "b", "--app", "counter", "--idle", "1m"], "b"),
        (["--outdated"], "c"),
        (["--outdated", "--app", "todo", "--user", "alice"], "c"),
        (["--all"], "abcd"),
        (["a", "ffff"], "a"),
    ],
)
def test_reap_ends_what_fits_all_that_is_given(orchestrator: Orchestrator, words: list[str], chosen: str) -> None:
    dry = run("reap", *words, "--json", admin_dir=orchestrator.admin_dir)
    assert (dry.exit_code, ids(dry), orchestrator.reaped) == (0, chosen, [])
    assert {row["ended"] for row in json.loads(dry.stdout)} == {False}
    real = run("reap", *words, "--json", "--yes", admin_dir=orchestrator.admin_dir)
    assert (real.exit_code, ids(real)) == (0, chosen)
    assert orchestrator.reaped == [[letter * 32 for letter in chosen]]
    assert {row["ended"] for row in json.loads(real.stdout)} == {True}
    assert orchestrator.endings == ["updated" if "--outdated" in words else "operator"]


def test_reap_without_yes_shows_what_would_end(orchestrator: Orchestrator) -> None:
    result = run("reap", "--app", "todo", admin_dir=orchestrator.admin_dir)
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["ID", "c" * 12, "d" * 12]
    assert result.stderr == "2 sandboxes would end. Add --yes to end them.\n"
    result = run("reap", "--app", "todo", "--yes", admin_dir=orchestrator.admin_dir)
    assert result.stdout.splitlines()[1].split() == ["c" * 32, "todo", "alice", "yes"]


@pytest.mark.parametrize("words", [[], ["--yes"], ["--all", "--app", "todo"], ["--idle", "soon"], ["xyz"]])
def test_reap_refuses_what_it_cannot_be_sure_of(orchestrator: Orchestrator, words: list[str]) -> None:
    result = run("reap", *words, admin_dir=orchestrator.admin_dir)
    assert (result.exit_code, orchestrator.reaped) == (2, [])
    assert result.stderr


def test_reap_refuses_digits_that_fit_several(orchestrator: Orchestrator) -> None:
    orchestrator.rows.append(row("a", "todo", "carol", 1.0, id="a" * 31 + "0"))
    result = run("reap", "a", "--yes", admin_dir=orchestrator.admin_dir)
    assert (result.exit_code, orchestrator.reaped) == (2, [])


def test_reap_of_nothing_is_told_by_its_exit_code(orchestrator: Orchestrator) -> None:
    for words in (["ffff"], ["--app", "nobody"], ["--idle", "2d", "--json"]):
        assert run("reap", *words, "--yes", admin_dir=orchestrator.admin_dir).exit_code == 3
    assert orchestrator.reaped == []


def test_a_sandbox_that_could_not_be_ended_is_a_failure(orchestrator: Orchestrator) -> None:
    orchestrator.stubborn = {"todo"}
    result = run("reap", "--all", "--yes", admin_dir=orchestrator.admin_dir)
    assert (result.exit_code, result.stderr) == (1, "2 sandboxes could not be ended.\n")


# -- the socket ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["list"], ["inspect", "a"], ["logs", "a"], ["reap", "--all", "--yes"], ["apps"]])
def test_without_an_orchestrator_one_sentence_says_so(tmp_path: Path, words: list[str]) -> None:
    result = run(*words, admin_dir=tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"No orchestrator answers on {tmp_path}/admin.sock (No such file or directory);")
    assert len(result.stderr.splitlines()) == 1


def test_a_refusal_is_told_in_the_orchestrators_words(orchestrator: Orchestrator) -> None:
    orchestrator.refusal = JSONResponse({"title": "The engine does not answer."}, 503)
    result = run("list", admin_dir=orchestrator.admin_dir)
    assert (result.exit_code, result.stderr) == (1, "The engine does not answer.\n")
    orchestrator.refusal = PlainTextResponse("Internal Server Error", 500)
    result = run("list", admin_dir=orchestrator.admin_dir)
    assert (result.exit_code, result.stderr) == (1, "The orchestrator answered 500.\n")


def test_a_socket_that_nobody_listens_on_is_no_orchestrator(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "admin.sock"))
    result = run("list", admin_dir=tmp_path)
    assert result.exit_code == 1
    assert "(Connection refused)" in result.stderr


# -- apps ----------------------------------------------------------------------------------------------------------


def test_an_accepted_weakness_is_told_with_every_list(orchestrator: Orchestrator) -> None:
    orchestrator.warnings = ["Memory is limited. This engine doesn't keep that."]
    result = run("list", "--json", admin_dir=orchestrator.admin_dir)
    assert "Memory is limited" in result.stderr
    assert ids(result) == "abcd"
    assert "Memory is limited" in run("apps", admin_dir=orchestrator.admin_dir).stderr


def check(name: str, result: str, **more: str) -> dict[str, str]:
    return {"check": name, "runtime": "runc", "result": result, "found": "seen", "advice": ""} | more


def test_drain_lets_nobody_in_and_shows_what_runs_still(orchestrator: Orchestrator) -> None:
    orchestrator.rows.append(row("e", "", "", None, state="warm"))
    result = run("drain", admin_dir=orchestrator.admin_dir)
    assert (result.exit_code, orchestrator.draining) == (0, True)
    assert [line.split()[0][:1] for line in result.stdout.splitlines()[1:]] == ["a", "b", "c", "d"]
    assert "4 sandboxes still to end" in result.stderr
    assert json.loads(run("drain", "--json", admin_dir=orchestrator.admin_dir).stdout) == {
        "draining": True,
        "running": 4,
        "waiting": 0,
    }


def test_drain_off_lets_visitors_in_again(orchestrator: Orchestrator) -> None:
    run("drain", admin_dir=orchestrator.admin_dir)
    result = run("drain", "--off", admin_dir=orchestrator.admin_dir)
    assert (result.exit_code, orchestrator.draining) == (0, False)
    assert "let in again" in result.stderr


def test_doctor_shows_each_check_and_counts_what_holds(orchestrator: Orchestrator) -> None:
    orchestrator.checks = [check("memory", "holds"), check("live-restore", "warning", runtime="")]
    result = run("doctor", admin_dir=orchestrator.admin_dir)
    assert result.exit_code == 0
    assert re.search(r"memory +runc +holds +seen", result.stdout)
    assert re.search(r"live-restore +warning +seen", result.stdout)
    assert "1 of 1 checks hold" in result.stderr


@pytest.mark.parametrize("bad", ["broken", "wrong"])
def test_doctor_fails_where_something_is_broken_and_says_what_to_change(orchestrator: Orchestrator, bad: str) -> None:
    orchestrator.checks = [check("memory", bad, advice="Delegate the memory controller.")]
    result = run("doctor", admin_dir=orchestrator.admin_dir)
    assert result.exit_code == 1
    assert "Delegate the memory controller." in result.stderr
    assert json.loads(run("doctor", "--json", admin_dir=orchestrator.admin_dir).stdout) == orchestrator.checks


def test_what_apps_keep_is_shown_and_removed_for_who_says_whose(orchestrator: Orchestrator) -> None:
    kept = {"bytes": 3 * 1024**2, "files": 7, "used_ago_s": 90.0, "in_use": False}
    orchestrator.data = [
        kept | {"user": "ann", "app": "shop"},
        kept | {"user": "bob", "app": "shop", "in_use": True},
        kept | {"user": "ann", "app": "notes"},
    ]
    listed = run("users", "data", "--user", "ann", admin_dir=orchestrator.admin_dir)
    assert (listed.exit_code, len(listed.stdout.splitlines())) == (0, 3)
    assert re.search(r"ann +shop +3m +7 +1m 30s +no", listed.stdout)
    assert run("users", "remove-data", admin_dir=orchestrator.admin_dir).exit_code == 2
    assert run("users", "remove-data", "--user", "eve", admin_dir=orchestrator.admin_dir).exit_code == 3
    shown = run("users", "remove-data", "--app", "shop", admin_dir=orchestrator.admin_dir)
    assert (shown.exit_code, "Add --yes" in shown.stderr) == (0, True)
    removed = run("users", "remove-data", "--app", "shop", "--yes", admin_dir=orchestrator.admin_dir)
    assert removed.exit_code == 1  # one of them is in use
    assert re.search(r"ann +shop +yes\nbob +shop +no", removed.stdout)


def test_apps_shows_problems_and_warnings(orchestrator: Orchestrator) -> None:
    good = {"name": "hello", "title": "Hello", "generation": 1, "version": "0123", "problem": "", "sandboxes": 2}
    bad = good | {"name": "todo", "title": "Todo", "problem": "todo.py, line 3: invalid syntax", "warnings": ["old"]}
    orchestrator.apps = [good, bad]
    result = run("apps", admin_dir=orchestrator.admin_dir)
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["APP", "hello", "todo"]
    assert "todo.py, line 3: invalid syntax" in result.stdout
    assert (result.exit_code, result.stderr) == (0, "todo: old\n")
    assert json.loads(run("apps", "--json", admin_dir=orchestrator.admin_dir).stdout) == [good, bad]


def test_apps_log_shows_what_was_said_when_packages_were_installed(orchestrator: Orchestrator) -> None:
    orchestrator.logs = "ERROR: No matching distribution\n"
    assert run("apps", "log", "todo", admin_dir=orchestrator.admin_dir).stdout == orchestrator.logs
    orchestrator.logs = ""
    result = run("apps", "log", "todo", admin_dir=orchestrator.admin_dir)
    assert (result.exit_code, result.stderr) == (3, "Nothing was installed for this app.\n")
    assert run("apps", "log", "../x", admin_dir=orchestrator.admin_dir).exit_code == 2


def test_apps_build_asks_for_another_try(orchestrator: Orchestrator) -> None:
    assert run("apps", "build", "todo", admin_dir=orchestrator.admin_dir).exit_code == 0
    assert orchestrator.built == ["todo"]
    orchestrator.refusal = JSONResponse({"title": "Nothing is installed for this app."}, 409)
    result = run("apps", "build", "todo", admin_dir=orchestrator.admin_dir)
    assert (result.exit_code, result.stderr) == (2, "Nothing is installed for this app.\n")


def test_apps_prune_says_how_much_and_removes_only_with_yes(orchestrator: Orchestrator) -> None:
    made = {"created": "2026-01-01T00:00:00Z", "size_bytes": 3 * 1024**2}
    orchestrator.images = [made | {"image": "htagweb-app:1"}, made | {"image": "htagweb-app:2"}]
    shown = run("apps", "prune", admin_dir=orchestrator.admin_dir)
    assert (shown.exit_code, shown.stderr) == (0, "2 images with 6m would be removed. Add --yes to remove them.\n")
    assert [line.split()[-2:] for line in shown.stdout.splitlines()[1:]] == [["3m", "no"], ["3m", "no"]]
    assert run("apps", "prune", "--yes", admin_dir=orchestrator.admin_dir).exit_code == 0
    orchestrator.stubborn = {"htagweb-app:2"}
    failed = run("apps", "prune", "--yes", "--json", admin_dir=orchestrator.admin_dir)
    assert [row["removed"] for row in json.loads(failed.stdout)] == [True, False]
    assert failed.exit_code == 1
    orchestrator.images = []
    assert run("apps", "prune", admin_dir=orchestrator.admin_dir).exit_code == 3


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "hello.py").write_text(HELLO)
    return tmp_path


def test_apps_check_needs_no_orchestrator(project: Path) -> None:
    result = run("apps", "check", str(project / "apps"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1].split() == ["hello", "Hello", "1", "hello:App"]


def test_apps_check_finds_the_configured_folder(project: Path) -> None:
    assert "hello:App" in run("apps", "check", HTAGWEB_APPS_DIR=str(project / "apps")).stdout


def test_apps_check_looks_at_the_configuration_beside_the_folder(project: Path) -> None:
    (project / "htagweb.toml").write_text('[apps.hello]\ntitle = "Good day"\n[apps.gone]\n')
    result = run("apps", "check", str(project / "apps"))
    assert result.exit_code == 0
    assert "Good day" in result.stdout
    assert result.stderr == "[apps.gone] is configured, but there is no such app\n"


def test_apps_check_tells_all_problems_of_configuration_and_apps(project: Path) -> None:
    (project / "htagweb.toml").write_text('memory = "lots"\n')
    (project / "apps" / "broken.py").write_text("def")
    result = run("apps", "check", str(project / "apps"), HTAGWEB_PIDS="1")
    assert result.exit_code == 1
    assert "broken.py, line 1: invalid syntax" in result.stdout
    assert "hello:App" in result.stdout
    assert result.stderr.splitlines() == [
        'HTAGWEB_PIDS: expected at least 16, got "1"',
        'htagweb.toml:1: memory: expected a size such as 256m, 64k, 1g, got "lots"',
    ]


def test_apps_check_looks_at_one_app(project: Path) -> None:
    (project / "apps" / "broken.py").write_text("def")
    (project / "apps" / "shop").mkdir()
    (project / "apps" / "shop" / "app.py").write_text(HELLO)
    assert run("apps", "check", str(project / "apps" / "hello.py")).exit_code == 0
    assert "app:App" in run("apps", "check", str(project / "apps" / "shop")).stdout
    assert run("apps", "check", str(project / "apps" / "broken.py")).exit_code == 1
    assert run("apps", "check", str(project / "apps" / "gone.py")).exit_code == 1


def test_apps_check_of_no_folder_fails(tmp_path: Path) -> None:
    result = run("apps", "check", str(tmp_path / "nowhere"))
    assert (result.exit_code, result.stderr) == (1, f"There is no folder {tmp_path}/nowhere.\n")


def test_the_shipped_apps_and_configuration_pass_the_check() -> None:
    result = run("apps", "check", str(ROOT / "apps"))
    assert (result.exit_code, result.stderr) == (0, "")


def test_without_a_command_the_help_is_shown() -> None:
    result = run()
    assert result.exit_code == 2
    assert all(word in result.output for word in ("list", "inspect", "logs", "reap", "apps"))


@pytest.mark.parametrize("generation", [1, 2])
def test_a_new_app_is_one_without_a_problem(tmp_path: Path, generation: int) -> None:
    made = CliRunner().invoke(app, ["new", "my-shop", "--gen", str(generation), "--into", str(tmp_path)])
    assert (made.exit_code, made.stdout.strip()) == (0, str(tmp_path / "my-shop.py"))
    checked = CliRunner().invoke(app, ["apps", "check", str(tmp_path)])
    assert checked.exit_code == 0
    assert re.search(rf"my-shop +My shop +{generation} +", checked.stdout)
    again = CliRunner().invoke(app, ["new", "my-shop", "--into", str(tmp_path)])
    assert (again.exit_code, "is there already" in again.stderr) == (1, True)


def test_a_new_app_can_be_printed_where_the_folder_is_out_of_reach(tmp_path: Path) -> None:
    """As it is in the orchestrator's container, which sees apps/ and can't write there."""
    printed = CliRunner().invoke(app, ["new", "my-shop", "--into", "-"])
    CliRunner().invoke(app, ["new", "my-shop", "--into", str(tmp_path)])
    assert (printed.exit_code, printed.stdout) == (0, (tmp_path / "my-shop.py").read_text())
    assert CliRunner().invoke(app, ["new", "My_Shop", "--into", "-"]).exit_code == 1


@pytest.mark.parametrize(
    ("name", "into", "said"), [("My_Shop", ".", "my-shop can"), ("../x", ".", "x can"), ("shop", "nowhere", "--into")]
)
def test_a_new_app_needs_a_good_name_and_a_folder(tmp_path: Path, name: str, into: str, said: str) -> None:
    made = CliRunner().invoke(app, ["new", name, "--into", str(tmp_path / into)])
    assert (made.exit_code, said in made.stderr, list(tmp_path.iterdir())) == (1, True, [])

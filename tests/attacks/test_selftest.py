"""An engine that doesn't keep sandboxes in: it is found out before anything is started on it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import docker
import pytest

from htagweb.checking import check
from htagweb_orchestrator.engines.docker_options import Options
from htagweb_orchestrator.errors import EngineUnavailable, IsolationBroken
from htagweb_orchestrator.model import AppName, UserId
from htagweb_orchestrator.promises import PROMISES
from htagweb_orchestrator.settings import AppSettings
from tests.attacks.defences import DEFENCES, host, options
from tests.attacks.stage import Stage

pytestmark = pytest.mark.docker

CONSOLE = AppName("console")


def _as_root(made: Options) -> None:
    made["User"] = "0:0"


# What an engine would have to ignore, for each promise.
BREAKS = {
    "uid": options(_as_root),
    "capabilities": DEFENCES["no capabilities"][0],
    "privileges": DEFENCES["no-new-privileges"][0],
    "seccomp": DEFENCES["seccomp"][0],
    "sockets": DEFENCES["seccomp"][0],
    "root": DEFENCES["read-only root"][0],
    "directory": DEFENCES["a directory of its own"][0],
    "network": DEFENCES["network none"][0],
    "files": DEFENCES["small tmpfs"][0],
    "pids": DEFENCES["pids"][0],
    "memory": DEFENCES["memory"][0],
}


@pytest.fixture
def broken(promise: str, internal_network: str, monkeypatch: pytest.MonkeyPatch) -> str:
    off = host(NetworkMode=internal_network) if promise == "network" else BREAKS[promise]
    off(monkeypatch)
    return promise


@pytest.mark.parametrize("promise", PROMISES)
async def test_08_an_engine_that_breaks_a_promise_starts_nothing(closed_stage: Stage, broken: str) -> None:
    stage = closed_stage
    await stage.open(selftest=True)
    assert not stage.control.ready
    with pytest.raises(IsolationBroken) as refusal:
        await stage.control.lease(UserId("anybody"), CONSOLE)
    what, advice = PROMISES[broken]
    assert what in str(refusal.value)
    assert advice in str(refusal.value)
    assert f'"{broken}"' in str(refusal.value)  # as accept_weak would have it
    page = await stage.visitor().open("console")
    assert page.status == 503
    assert stage.containers() == []
    assert stage.run.ids() == []


@pytest.mark.parametrize("promise", ["memory", "sockets"])
async def test_08_what_the_operator_accepts_is_said_on_every_page(closed_stage: Stage, broken: str) -> None:
    stage = closed_stage
    await stage.open(selftest=True, accept_weak=(broken, "seccomp"))
    assert stage.control.ready
    await stage.console()
    page = await stage.visitor().request("GET", "/", {"Accept": "text/html"})
    assert PROMISES[broken][0].replace("'", "&#39;").encode() in page.body
    assert any(PROMISES[broken][0] in warning for warning in stage.control.warnings)


async def test_on_an_engine_that_keeps_all_of_it_every_check_holds(
    closed_stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage = closed_stage
    with caplog.at_level("INFO"):
        await stage.open(selftest=True)
    assert [record.__dict__["checks"] for record in caplog.records if record.msg == "orchestrator ready"] == [
        f"{len(PROMISES)} of {len(PROMISES)} hold"
    ]
    assert stage.control.warnings == ()
    assert stage.containers() == []
    await stage.console()


async def test_a_census_leaves_the_canary_alone(closed_stage: Stage) -> None:
    stage = closed_stage
    await stage.open(selftest=True)
    examining = asyncio.create_task(stage.control.examine())
    while not examining.done():
        await stage.control._census.reconcile()
        await asyncio.sleep(0.01)
    checks, _ = examining.result()
    assert [check.promise for check in checks if not check.holds] == []
    assert stage.containers() == []
    assert stage.run.ids() == []


async def test_doctor_knows_which_networks_are_missing_or_open(
    closed_stage: Stage, client: docker.APIClient, internal_network: str
) -> None:
    stage = closed_stage
    missing = f"{internal_network}-missing"
    found = await _advice(stage, {"missing": missing, "open": internal_network})
    assert ("isn't there" in found[f"network {missing}"], missing in found[f"network {missing}"]) == (True, True)
    assert "reach each other" in found[f"network {internal_network}"]


async def _advice(stage: Stage, networks: dict[str, str]) -> dict[str, str]:
    apps = {name: AppSettings(overrides={"network": network}) for name, network in networks.items()}
    await stage.open(selftest=True, apps=apps)
    _, advice = await stage.control.examine()
    return {each.subject: each.found for each in advice}


async def test_a_runtime_that_the_engine_does_not_have_is_named(closed_stage: Stage) -> None:
    stage = closed_stage
    await stage.open(selftest=True, runtime="no-such-runtime")
    assert not stage.control.ready
    with pytest.raises(EngineUnavailable, match="no-such-runtime"):
        await stage.control.lease(UserId("anybody"), CONSOLE)
    assert stage.containers() == []


def test_apps_check_names_a_network_that_is_missing(tmp_path: Path, internal_network: str) -> None:
    (tmp_path / "apps").mkdir()
    (tmp_path / "htagweb.toml").write_text(
        f'[apps.a]\nnetwork = "{internal_network}"\n[apps.b]\nnetwork = "{internal_network}-missing"\n'
    )
    (problem,) = check(tmp_path / "apps", {}).problems
    assert problem.startswith(f"network {internal_network}-missing: isn't there")

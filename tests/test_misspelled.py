"""`make up` stops at a variable that compose would ignore."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def checked(folder: Path, dotenv: str, **shell: str) -> subprocess.CompletedProcess[str]:
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "misspelled", folder / "scripts")
    shutil.copy(ROOT / "compose.yaml", folder)
    (folder / ".env").write_text(dotenv)
    command = [folder / "scripts" / "misspelled"]
    return subprocess.run(
        command, env={"PATH": os.environ["PATH"], **shell}, capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize(
    "line",
    [
        "HTAGWEB_IDEL_TIMEOUT=5m",
        "  export HTAGWEB_IDEL_TIMEOUT = 5m",
        "HTAGWEB_IDEL_TIMEOUT=",
        "HTAGWEB_IDEL_TIMEOUT: 5m",
    ],
)
def test_a_misspelled_name_in_the_file_is_told(tmp_path: Path, line: str) -> None:
    found = checked(tmp_path, f"A=1\nHTAGWEB_IDLE_TIMEOUT=5m\n{line}\n")
    assert found.returncode == 1
    assert found.stderr.startswith("HTAGWEB_IDEL_TIMEOUT: ")
    assert len(found.stderr.splitlines()) == 1


def test_a_misspelled_name_in_the_shell_is_told(tmp_path: Path) -> None:
    assert checked(tmp_path, "", HTAGWEB_PROT="8001").stderr.startswith("HTAGWEB_PROT: ")


def test_what_compose_knows_is_let_through(tmp_path: Path) -> None:
    names = ("BIND", "PORT", "DOMAIN", "MEMORY", "OIDC_CLIENT_SECRET", "METRICS_PORT", "CA_FILE")
    dotenv = "".join(f"HTAGWEB_{name}=x\n" for name in names)
    found = checked(tmp_path, f"# HTAGWEB_NOTHING=1\nNO_HTAGWEB_THING=1\n{dotenv}", HTAGWEB_YES="1")
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("name", ["compose.override.yaml", "compose.override.yml", "docker-compose.override.yml"])
def test_a_name_that_compose_is_given_by_a_file_of_the_operators_is_let_through(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("services: {gateway: {environment: {HTAGWEB_WORKERS: }}}\n")
    assert checked(tmp_path, "HTAGWEB_WORKERS=4\n").returncode == 0


@pytest.mark.parametrize("shell", [{}, {"COMPOSE_FILE": "compose.yaml:more/ours.yaml"}])
def test_files_of_any_name_may_be_given_to_compose(tmp_path: Path, shell: dict[str, str]) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "ours.yaml").write_text("services: {gateway: {environment: {HTAGWEB_WORKERS: }}}\n")
    dotenv = "HTAGWEB_WORKERS=4\n" + ("" if shell else 'COMPOSE_FILE="compose.yaml:more/ours.yaml"\n')
    assert checked(tmp_path, dotenv, **shell).returncode == 0

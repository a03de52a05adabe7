"""The whole platform as `docker compose up` makes it, and what an operator can do to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from testcontainers.compose import DockerCompose

T = TypeVar("T")
REPOSITORY = Path(__file__).parents[2]
# Two runs on one machine need two names, and so do two workers of one run.
PROJECT = os.environ.get("E2E_PROJECT", "htagweb-e2e") + os.environ.get("PYTEST_XDIST_WORKER", "")
COMPOSE_FILES = ["compose.yaml", "tests/e2e/compose.override.yaml"]
DEADLINE_S = 20.0

CONFIG = """
auth = "password"

[apps.members]
title = "Members"
access = "signed-in"

[apps.brief]
title = "Brief"
idle_timeout = "6s"

[apps.drowsy]
idle_timeout = "12s"

[apps.shortlived]
max_lifetime = "8s"

[apps.endless]
interaction_timeout = "2s"

[apps.endless2]
interaction_timeout = "2s"

[apps.neverstart]
interaction_timeout = "1s"

[apps.working]
interaction_timeout = "2s"
idle_timeout = "6s"

[apps.hungry]
memory = "64m"

[apps.sealed]
parano = true

[apps.sealed2]
parano = true
"""


def until(condition: Callable[[], T], *, within_s: float = DEADLINE_S, what: str = "") -> T:
    """Wait for a truthy answer and return it; the last one is in the failure."""
    deadline = time.monotonic() + within_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what or condition}: {answer!r}")
        time.sleep(0.05)


class Stack:
    """A compose project of its own beside whatever else runs: other names, another port, its own volumes.

    `folder` gets the apps and the configuration that this run publishes.
    """

    def __init__(self, folder: Path, *, project: str = PROJECT, port: int, environment: dict[str, str] | None = None):
        self.folder = folder
        self.project = project
        self.port = port
        self.url = f"http://localhost:{port}"
        self._environment = {
            "COMPOSE_PROJECT_NAME": project,
            "HTAGWEB_PORT": str(port),
            "E2E_FOLDER": str(folder),
            "HTAGWEB_ORPHAN_TIMEOUT": "30s",
            "HTAGWEB_WARM_MAX": "0",  # what runs was asked for; the pool has tests of its own
            **(environment or {}),
        }
        os.environ.update(self._environment)  # testcontainers hands the environment of this process on
        self.compose = DockerCompose(
            context=str(REPOSITORY),
            compose_file_name=COMPOSE_FILES,
            build=True,
            wait=True,
        )

    def publish(self) -> None:
        """The examples, the broken apps, and some of them again with less time."""
        apps = self.folder / "apps"
        apps.mkdir(parents=True)
        (self.folder / "secrets").mkdir(mode=0o700)
        for source in (*(REPOSITORY / "apps").glob("*.py"), *(REPOSITORY / "tests/apps").glob("*.py")):
            shutil.copy(source, apps / source.name)
        for name in ("brief", "drowsy", "shortlived"):
            shutil.copy(REPOSITORY / "apps/counter.py", apps / f"{name}.py")
        shutil.copy(REPOSITORY / "apps/counter2.py", apps / "members.py")
        shutil.copy(REPOSITORY / "tests/apps/slowstart.py", apps / "neverstart.py")
        shutil.copy(REPOSITORY / "tests/apps/endless.py", apps / "spins.py")
        shutil.copy(REPOSITORY / "apps/counter.py", apps / "sealed.py")
        shutil.copy(REPOSITORY / "apps/counter2.py", apps / "sealed2.py")
        (self.folder / "htagweb.toml").write_text(CONFIG)

    def up(self) -> None:
        self.compose.start()
        until(lambda: self.get("/-/readyz")[0] == 200, within_s=60, what="the gateway is ready")

    def down(self) -> None:
        """Everything away, sandboxes first."""
        self.htagweb("reap", "--all", "--yes", check=False)
        self.compose.stop(down=True)
        for container in self.containers():
            docker("rm", "-f", container["ID"])

    # -- as a visitor's program ----------------------------------------------------------------------------------

    def get(
        self, path: str, *, method: str = "GET", headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, dict[str, str], str]:
        """(status, headers, body) of one request without redirects; status 0 if nobody answers."""
        request = urllib.request.Request(self.url + path, data=body, method=method, headers=headers or {})
        try:
            with urllib.request.build_opener(NoRedirect).open(request, timeout=30) as answer:
                return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read().decode()
        except OSError:
            return 0, {}, ""

    # -- as an operator ------------------------------------------------------------------------------------------

    def htagweb(self, *words: str, check: bool = True, typed: str = "") -> subprocess.CompletedProcess[str]:
        """The command, as `docker compose exec orchestrator htagweb …`, with this on its standard input."""
        return self.docker_compose("exec", "-T", "orchestrator", "htagweb", *words, check=check, typed=typed)

    def rows(self) -> list[dict[str, Any]]:
        """`htagweb list`."""
        found: list[dict[str, Any]] = json.loads(self.htagweb("list", "--json").stdout)
        return found

    def docker_compose(self, *words: str, check: bool = True, typed: str = "") -> subprocess.CompletedProcess[str]:
        files = [word for name in COMPOSE_FILES for word in ("-f", name)]
        done = subprocess.run(
            ["docker", "compose", *files, *words],
            cwd=REPOSITORY,
            env={**os.environ, **self._environment},
            input=typed,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def script(self, name: str) -> None:
        """One of scripts/, as the Makefile calls it, for this project."""
        environment = {**os.environ, **self._environment, "COMPOSE_FILE": ":".join(COMPOSE_FILES)}
        done = subprocess.run(
            [f"scripts/{name}"], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr

    def metrics(self) -> str:
        """What Prometheus would get on the installation's network."""
        ips = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        address = docker("inspect", "--format", ips, f"{self.project}-gateway-1")
        with urllib.request.build_opener(NoRedirect).open(f"http://{address}:9464/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def containers(self) -> list[dict[str, str]]:
        """The sandboxes as `docker ps --all` has them."""
        lines = docker("ps", "--all", "--filter", f"label=htagweb.instance={self.project}", "--format", "{{json .}}")
        return [json.loads(line) for line in lines.splitlines()]

    def kill(self, service: str) -> None:
        """kill -9 of the service's first process; `docker kill` would switch its restart policy off."""
        os.kill(self.pid(service), signal.SIGKILL)

    def pid(self, service: str) -> int:
        """Of the service's first process, on this machine."""
        container = self.docker_compose("ps", "-q", service).stdout.strip()
        return int(docker("inspect", "--format", "{{.State.Pid}}", container))

    def logs(self, service: str) -> str:
        return self.docker_compose("logs", "--no-log-prefix", service).stdout


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object, **kwargs: object) -> None:
        return None


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

"""How long a visitor waits for an app's own page: cold, warm, and thirty at once. `make bench-start` runs this.

The platform is what compose makes, and each time runs from the HTTP request at the gateway to the first byte of the
app's page. In the same run the floor is taken: the engine's create and start calls with a sandbox's own options, of a
Python that imports htag and does nothing else.
"""

from __future__ import annotations

import http.client
import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from urllib.parse import quote

from tests.e2e.stack import REPOSITORY, Stack, until

from .floor import Floor
from .measures import machine
from .report import table
from .stage import free_port

PROJECT = "htagweb-bench"
CROWD, BURST_POOL = 30, 5
PATIENCE_S = 60.0
POLL_S = 0.3  # as waiting.js: faster than a real page asks, thirty visitors would take the cores that the starts need


class Visitor:
    """Comes with a cookie, which is not what is measured."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.timing: dict[str, float] = {}  # of the start, by step, in ms
        _, headers, _, _ = self._ask("GET", "/hello/", {"Accept": "text/html"})
        self._cookie = headers["set-cookie"].partition(";")[0]

    def open(self, app: str) -> float:
        """Seconds until the first byte of the app's page. Goes the waiting page's way where that comes first."""
        began = time.perf_counter()
        browser = {"Accept": "text/html", "Cookie": self._cookie}
        while True:
            status, headers, body, first_byte = self._ask("GET", f"/{app}/", browser)
            if status == 200 and "data-app" in body:
                steps = re.findall(r"(\w+);dur=([\d.]+)", headers.get("server-timing", ""))
                self.timing = {step: float(took_ms) for step, took_ms in steps}
                return first_byte - began
            if status == 429:  # too many starts a minute from one address: we are all of them
                time.sleep(1.0)
                continue
            if status != 503 or time.perf_counter() - began > PATIENCE_S:
                raise RuntimeError(f"{app} did not start: {status} {body[:200]}")
            while self._state(app) == "starting":
                time.sleep(POLL_S)

    def stop(self, app: str) -> None:
        self._ask(
            "POST",
            "/-/stop",
            {
                "Cookie": self._cookie,
                "Origin": f"http://localhost:{self._port}",
                "Content-Type": "application/x-www-form-urlencoded",
            },
            f"app={quote(app)}",
        )

    def _state(self, app: str) -> str:
        _, _, body, _ = self._ask("GET", f"/-/status?app={app}", {"Cookie": self._cookie})
        return str(json.loads(body)["state"])

    def _ask(
        self, method: str, path: str, headers: dict[str, str], body: str | None = None
    ) -> tuple[int, dict[str, str], str, float]:
        """(status, headers, body, when the first byte came)"""
        connection = http.client.HTTPConnection("localhost", self._port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            came = time.perf_counter()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode(), came
        finally:
            connection.close()


@contextmanager
def platform(folder: Path, **environment: str) -> Iterator[Stack]:
    """The stack on its own port, with as many copies of the smallest app as anybody asks for."""
    stack = Stack(folder, project=PROJECT, port=free_port(), environment=environment)
    apps = folder / "apps"
    apps.mkdir(exist_ok=True)
    shutil.copy(REPOSITORY / "apps" / "hello.py", apps / "hello.py")
    (folder / "htagweb.toml").write_text("")
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def copies(stack: Stack, count: int) -> list[str]:
    """Apps that nobody has opened yet."""
    names = [f"copy{number}" for number in range(count)]
    for name in names:
        shutil.copy(stack.folder / "apps" / "hello.py", stack.folder / "apps" / f"{name}.py")
    until(lambda: stack.get(f"/{names[-1]}/")[0] != 404, what="the copies are published")
    return names


def calm(stack: Stack, app: str = "") -> None:
    """Wait until the pool is as full as it wants to be; with `app`, until one of that is loaded."""

    def filled() -> bool:
        rows = json.loads(stack.htagweb("pool", "--json").stdout)
        full = all(row["ready"] >= row["wanted"] and not row["starting"] for row in rows)
        return full and (not app or any(row["app"] == app and row["ready"] for row in rows))

    until(filled, within_s=60, what="the pool is full")


def measure(*, starts: int) -> str:
    """Everything, and the section as Markdown."""
    with tempfile.TemporaryDirectory(prefix="bench-start-") as folder:
        root = Path(folder)
        with platform(root, HTAGWEB_WARM_MAX="0", HTAGWEB_MAX_PER_USER="5") as stack:
            floor = Floor(f"{PROJECT}-sandbox-image")
            try:
                create, plain, cold = [], [], []
                for _ in range(starts):  # in turn: a machine that is busy for a while is so for all
                    create.append(floor.once(["true"]))
                    plain.append(floor.once(None))
                    cold.append(_one(stack, "hello"))
                _say("cold", cold)
                crowd_plain = floor.at_once(CROWD)
            finally:
                floor.close()
        with platform(root, HTAGWEB_WARM_MIN="2", HTAGWEB_WARM_MAX="10") as stack:
            blank, beside = [], []
            for app in copies(stack, starts):
                calm(stack)
                visitor = Visitor(stack.port)
                took = visitor.open(app)
                blank.append(took)
                beside.append(took - visitor.timing.get("load", 0.0) / 1000)
                visitor.stop(app)
            _say("blank", blank)
            loaded = []
            Visitor(stack.port).open("hello")
            for _ in range(starts):
                calm(stack, "hello")
                loaded.append(_one(stack, "hello"))
            _say("loaded", loaded)
        with platform(root, HTAGWEB_WARM_MIN=str(BURST_POOL), HTAGWEB_WARM_MAX=str(BURST_POOL)) as stack:
            Visitor(stack.port).open("hello")
            calm(stack, "hello")
            visitors = [Visitor(stack.port) for _ in range(CROWD)]
            with ThreadPoolExecutor(CROWD) as threads:
                crowd = list(threads.map(lambda visitor: visitor.open("hello"), visitors))
            _say("crowd", crowd)
    return _section(starts, create, plain, cold, blank, beside, loaded, crowd, crowd_plain)


def _one(stack: Stack, app: str) -> float:
    visitor = Visitor(stack.port)
    took = visitor.open(app)
    visitor.stop(app)
    return took


def _section(
    starts: int,
    create: Sequence[float],
    plain: Sequence[float],
    cold: Sequence[float],
    blank: Sequence[float],
    beside: Sequence[float],
    loaded: Sequence[float],
    crowd: Sequence[float],
    crowd_plain: Sequence[float],
) -> str:
    def met(figure_ms: float, target_ms: float) -> str:
        return f"{target_ms:.0f} ms{'' if figure_ms <= target_ms else ' (missed)'}"

    floor_ms, last_ms, plain_ms = 1000 * statistics.median(plain), 1000 * max(crowd), 1000 * max(crowd_plain)
    rows = [
        ["`docker create` and `start` of `true`", *_percentiles(create), ""],
        ["the floor: of a Python that imports htag, until it has", *_percentiles(plain), ""],
        ["cold", *_percentiles(cold), f"p50 {met(1000 * statistics.median(cold), floor_ms + 60)}"],
        ["blank", *_percentiles(blank), ""],
        ["blank, less the app's own import", *_percentiles(beside), f"p50 {met(1000 * statistics.median(beside), 15)}"],
        [
            "loaded",
            *_percentiles(loaded),
            f"p50 {met(1000 * statistics.median(loaded), 15)}, p99 {met(1000 * _at(loaded, 99), 80)}",
        ],
    ]
    burst = [
        [f"{CROWD} visitors, a pool of {BURST_POOL}", f"{1000 * min(crowd):.0f}", f"{last_ms:.0f}", ""],
        [f"{CROWD} times the floor", f"{1000 * min(crowd_plain):.0f}", f"{plain_ms:.0f}", ""],
        ["the last one, beside the floor's last", "", f"{last_ms / plain_ms:.2f}", "1.30" + _missed(last_ms, plain_ms)],
    ]
    return "\n\n".join(
        [
            f"Measured on {date.today()} by `make bench-start` on a machine with {machine()}: {starts} starts of each"
            " kind, from the HTTP request at the gateway to the first byte of the app's own page. Blank: the sandbox"
            " knew no app; loaded: it had imported this one.",
            table(["a start, in ms", "p50", "p95", "p99", "target"], rows),
            f"{CROWD} new visitors at once; all were served:",
            table(["in ms", "first", "last", "target"], burst),
        ]
    )


def _missed(last_ms: float, plain_ms: float) -> str:
    return "" if last_ms <= 1.3 * plain_ms else " (missed)"


def _percentiles(seconds: Sequence[float]) -> list[str]:
    return [f"{1000 * _at(seconds, percent):.1f}" for percent in (50, 95, 99)]


def _at(seconds: Sequence[float], percent: int) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1]


def _say(what: str, seconds: Sequence[float]) -> None:
    print(f"{what}: {' / '.join(_percentiles(seconds))} ms", file=sys.stderr, flush=True)

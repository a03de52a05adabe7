"""The package beside the original, htagweb 1.0.0: the same file, the same htag, an environment each.

Both are made below .run/bench-package: ours from this checkout with its core dependencies, the original from the index.
"""

from __future__ import annotations

import html
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from .measures import machine
from .report import table

ROOT = Path(__file__).parent.parent
PLACE = ROOT / ".run" / "bench-package"
APP = """
import os
from htag import Tag

class App(Tag.div):
    def init(self):
        self.n = 0
        self.said = Tag.span("0")
        self += self.said
        self += Tag.i(f"pid {os.getpid()}")
        self += Tag.button("inc", _onclick=self.bind.inc())

    def inc(self):
        self.n += 1
        self.said.set(f"now {self.n}")

from htagweb import Runner

if __name__ == "__main__":
    Runner(App, host="127.0.0.1", port=int(os.environ["BENCH_PORT"])).run()
"""
USERS = 10
INTERACTIONS = 1000
PAUSE_S = 0.006  # between two of one socket: htagweb lets a browser send 200 messages a second, not more
ARRIVALS = 5


@dataclass
class Figures:
    """One list a figure, an entry a round or a try; milliseconds, and MB."""

    start_ms: list[float] = field(default_factory=list)
    user_ms: list[float] = field(default_factory=list)
    post_ms: list[float] = field(default_factory=list)
    socket_ms: list[float] = field(default_factory=list)
    stall_ms: list[float] = field(default_factory=list)
    private_mb: list[float] = field(default_factory=list)
    share_mb: list[float] = field(default_factory=list)
    refused: int = 0  # of those who came at once, who got no page


class User:
    """A visitor with a connection of his own; `ours` decides how a page talks."""

    def __init__(self, port: int, *, ours: bool) -> None:
        self.port = port
        self.ours = ours
        self.cookie = ""
        self.page = ""
        self.n = self.got = 0
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Cookie": self.cookie} if self.cookie else {}
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:200]!r}")
        if cookie := answer.getheader("set-cookie"):
            self.cookie = cookie.partition(";")[0]
        return text

    def open(self) -> None:
        self.page = self.ask("GET", "/").decode()
        if "pid " not in self.page:
            raise RuntimeError(f"no page of the app: {self.page[-300:]}")

    def close(self) -> None:
        self._connection.close()

    @property
    def pid(self) -> int:
        return int(_found(r"pid (\d+)", self.page))

    @property
    def way(self) -> str:
        return _found(r'data-base="([^"]+)"', self.page) if self.ours else "/_/bench.App"

    @property
    def instance(self) -> str:
        return _found(r'INSTANCE = "([^"]+)"', self.page)

    def message(self) -> bytes:
        script = html.unescape(self.page)
        call = {"id": int(_found(r'"id": (\d+), "method": "inc"', script)), "method": "inc", "args": [], "kargs": {}}
        o = {**call, "event": {}}
        if not self.ours:
            return json.dumps(o).encode()
        self.n += 1
        return json.dumps({"instance": self.instance, "page": "p", "n": self.n, "got": self.got, "o": o}).encode()

    def took(self, answer: str | bytes) -> None:
        text = answer if isinstance(answer, str) else answer.decode()
        if "now " not in text:
            raise RuntimeError(f"no answer of the app: {text[:200]}")
        if self.ours and (numbers := re.findall(r'"s": ?(\d+)', text)):
            self.got = int(numbers[-1])

    def post(self) -> float:
        began = time.perf_counter()
        self.took(self.ask("POST", f"{self.way}_post" if self.ours else self.way, self.message()))
        return (time.perf_counter() - began) * 1000

    @contextmanager
    def socket(self) -> Iterator[ClientConnection]:
        path = self.way
        if self.ours:
            path += f"_ws?instance={self.instance}&page=p&got={self.got}"
        origin: Any = f"http://127.0.0.1:{self.port}"
        address = f"ws://127.0.0.1:{self.port}{path}"
        with connect(address, additional_headers={"Cookie": self.cookie}, origin=origin, compression=None) as socket:
            yield socket


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"no {pattern} in {text[-300:]}")
    return found[1]


@contextmanager
def served(python: Path, folder: Path) -> Iterator[tuple[int, float]]:
    """(port, how many ms from the start to the first page)."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    began = time.perf_counter()
    server = subprocess.Popen(
        [python, "bench.py"],
        cwd=folder,
        env={**os.environ, "BENCH_PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if server.poll() is not None:
                    raise RuntimeError("the server has ended") from None
                time.sleep(0.002)
        first = User(port, ours="ours" in str(python))
        first.open()
        first.close()
        yield port, (time.perf_counter() - began) * 1000
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _round(python: Path, folder: Path, figures: Figures) -> None:
    ours = "ours" in str(python)
    with served(python, folder) as (port, start_ms):
        figures.start_ms.append(start_ms)
        users = []
        for _ in range(USERS):
            time.sleep(1.0)  # users don't come in a row; the burst has a figure of its own
            user = User(port, ours=ours)
            began = time.perf_counter()
            user.open()
            figures.user_ms.append((time.perf_counter() - began) * 1000)
            users.append(user)
        figures.private_mb.append(
            statistics.median(_memory(user.pid, ("Private_Clean", "Private_Dirty")) for user in users)
        )
        figures.share_mb.append(statistics.median(_memory(user.pid, ("Pss",)) for user in users))
        known = users[0]
        known.close()  # the server has, after 5 s of silence; a new connection is made by itself
        figures.post_ms += [known.post() for _ in range(INTERACTIONS)]
        with users[1].socket() as ws:
            for _ in range(INTERACTIONS):
                message = users[1].message().decode()
                began = time.perf_counter()
                ws.send(message)
                users[1].took(ws.recv(timeout=30))
                figures.socket_ms.append((time.perf_counter() - began) * 1000)
                time.sleep(PAUSE_S)
        known.close()
        time.sleep(2.0)
        stall_ms, refused = _stall(known, port, ours=ours)
        figures.stall_ms.append(stall_ms)
        figures.refused += refused
        for user in users:
            user.close()


def _memory(pid: int, fields: tuple[str, ...]) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(_found(rf"(?m)^{name}:\s+(\d+) kB", rollup)) for name in fields) / 1000


def _stall(known: User, port: int, *, ours: bool) -> tuple[float, int]:
    """The longest that one user waits for an answer while five new ones come at the same time; and how many of those
    got no page."""
    refused = []

    def come() -> None:
        try:
            User(port, ours=ours).open()
        except RuntimeError as error:
            refused.append(error)

    arrivals = [threading.Thread(target=come) for _ in range(ARRIVALS)]
    for each in arrivals:
        each.start()
    waits = []
    while any(each.is_alive() for each in arrivals):
        waits.append(known.post())
    return max(waits), len(refused)


def measure(*, rounds: int) -> str:
    folder = PLACE / "app"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.py").write_text(APP)
    theirs = _environment("theirs", ["htagweb==1.0.0", "htag==1.0.0"])
    ours = _environment("ours", [str(ROOT), "htag==1.0.0"])
    figures = {ours: Figures(), theirs: Figures()}
    for python in figures:  # compiled once, cached once
        with served(python, folder):
            pass
    load = os.getloadavg()[0]
    for _ in range(rounds):
        for python, each in figures.items():
            _round(python, folder, each)
    return _text(figures[ours], figures[theirs], rounds, load, _versions(ours), _versions(theirs))


def _environment(name: str, packages: list[str]) -> Path:
    place = PLACE / name
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
    subprocess.run(command, check=True, timeout=600)
    return python


def _versions(python: Path) -> str:
    program = (
        "import importlib.metadata as m\n"
        "for name in ('htag', 'starlette', 'uvicorn', 'uvloop', 'websockets'):\n"
        "    try: print(name, m.version(name), end=', ')\n"
        "    except m.PackageNotFoundError: print('no', name, end=', ')\n"
    )
    return subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.removesuffix(", ")


ROWS: list[tuple[str, Callable[[Figures], list[float]], str]] = [
    ("start to first page", lambda figures: figures.start_ms, "ms"),
    ("a new user's first page", lambda figures: figures.user_ms, "ms"),
    ("an interaction by POST", lambda figures: figures.post_ms, "ms"),
    ("an interaction by WebSocket", lambda figures: figures.socket_ms, "ms"),
    (f"longest wait of a user while {ARRIVALS} new ones come at once", lambda figures: figures.stall_ms, "ms"),
    ("memory of a user's process, its own pages", lambda figures: figures.private_mb, "MB"),
    ("memory of a user's process, with its share of common pages", lambda figures: figures.share_mb, "MB"),
]


def _shown(figure: float) -> str:
    """Three digits that count, and no exponent."""
    return f"{float(f'{figure:.3g}'):,g}"


def _text(ours: Figures, theirs: Figures, rounds: int, load: float, our_versions: str, their_versions: str) -> str:
    rows = []
    for title, of, unit in ROWS:
        mine, other = statistics.median(of(ours)), statistics.median(of(theirs))
        rows.append(
            [title, f"{_shown(mine)} {unit}", f"{_shown(other)} {unit}", "ahead" if mine <= other else "**behind**"]
        )
    came = rounds * ARRIVALS
    errors = f"{theirs.refused} got an error from the original and {ours.refused} from this one"
    refused = f"Of {came} who came five at a time, {errors}."
    return f"""
Measured on {date.today()} by `make bench-package` ({rounds} rounds, the two in turn; medians). Machine: {machine()}.
What else ran on it just before: a load of {load:.1f}. Server, users' processes and what measures share the cores. The
same file on both, one worker, htag 1.0.0.

- htagweb: this checkout with its core dependencies; {our_versions}.
- htagweb 1.0.0: the original, from the index; {their_versions}.

{table(["", "htagweb", "htagweb 1.0.0", ""], rows)}

{refused}

A user's process of the original is a fork of its server: the pages that neither has written to since are common to all
of them. Ours is a fresh interpreter: it has nothing of other users' in its memory, runs the same harness as a container
does, and can be started on a system without `fork`. What it costs is the difference in the last two rows.
"""

"""The data path beside other proxies: `make bench` runs this and writes its section of docs/benchmarks.md."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

from .load import WORKLOADS, Figures, Load, Workload
from .measures import machine
from .report import table
from .stage import NPM, Proxy, Running, running, stage

OURS = "htagweb"
IDLE_WEBSOCKETS = 1000
MESSAGES = "70 B WebSocket message"

Cell = tuple[str, int]  # a workload's name and its number of connections
Results = dict[Cell, dict[str, Figures]]  # by proxy


def measure(
    contenders: Sequence[Proxy],
    *,
    rounds: int,
    seconds: int,
    workloads: Sequence[Workload] = WORKLOADS,
    idle: int = IDLE_WEBSOCKETS,
) -> str:
    """Measure every one of these that is installed, and return the section as Markdown.

    Within a cell the proxies take turns, so that a machine that is busy for a while is so for all of them.
    """
    present = [proxy for proxy in contenders if not proxy.missing]
    for proxy in contenders:
        if proxy.missing:
            _say(f"{proxy.name} is left out: {proxy.missing} isn't installed")
    busy = os.getloadavg()[0]
    with stage() as at:
        load = Load(at)
        with contextlib.ExitStack() as stack:
            proxies = [stack.enter_context(running(proxy, at)) for proxy in present]
            direct = Running("direct", at.upstream_port, proxies[0].pid)
            for contender in proxies:  # what is only done once: dialling, compiling, specialising
                load.http(contender, workloads[0], 16, 1, Figures())
                load.websocket(contender, 16, 1, Figures())
            results: Results = {}
            for workload in workloads:
                for connections in workload.connections:
                    _round_robin(
                        results.setdefault((workload.name, connections), {}),
                        proxies if connections > 1 else [direct, *proxies],
                        rounds,
                        lambda proxy, into, w=workload, c=connections: load.http(proxy, w, c, seconds, into),  # type: ignore[misc]
                    )
                    _say(_line(results, (workload.name, connections)))
            for connections in (1, 16):
                _round_robin(
                    results.setdefault((MESSAGES, connections), {}),
                    proxies if connections > 1 else [direct, *proxies],
                    rounds,
                    lambda proxy, into, c=connections: load.websocket(proxy, c, seconds, into),  # type: ignore[misc]
                )
                _say(_line(results, (MESSAGES, connections)))
        idle_kb = {}
        for proxy in present:  # each once more, from the start: memory that it got before would hide what is new
            with running(proxy, at) as fresh:
                idle_kb[proxy.name] = load.idle_kb_each(fresh, idle)
        _say(f"kB an idle WebSocket: {idle_kb}")
    return _section(present, results, idle_kb, rounds=rounds, seconds=seconds, idle=idle, busy=busy)


def _round_robin(
    cell: dict[str, Figures], contenders: Sequence[Running], rounds: int, run: Callable[[Running, Figures], None]
) -> None:
    for _ in range(rounds):
        for contender in contenders:
            run(contender, cell.setdefault(contender.name, Figures()))


def _section(
    present: Sequence[Proxy],
    results: Results,
    idle_kb: dict[str, float],
    *,
    rounds: int,
    seconds: int,
    idle: int,
    busy: float,
) -> str:
    names = [proxy.name for proxy in present]
    head = ["", *names]
    errors = sum(each.errors for cell in results.values() for each in cell.values())
    broken = "" if not errors else f"**{errors} requests failed, so these figures are worth little.**\n"
    return "\n".join(
        [
            f"Measured on {datetime.datetime.now(datetime.UTC):%Y-%m-%d} by `make bench` (data path; {rounds} rounds of"
            f" {seconds} s each, the proxies in turn). Machine: {machine()}. One process of each proxy on one core; the"
            " load (wrk; for WebSockets a small Python program) and the upstream together on the other. What else ran"
            f" on the machine just before: a load of {busy:.1f}.",
            "",
            _versions(names),
            "",
            broken + "### Targets",
            "",
            _targets(results, idle_kb, idle),
            "",
            "### CPU time of the proxy's process, in µs for each request or message",
            "",
            table(head, [_row(cell, results, names, lambda each: f"{each.cpu_us_each:,.1f}") for cell in results]),
            "",
            "### Requests or messages a second",
            "",
            table(head, [_row(cell, results, names, lambda each: f"{each.per_second:,.0f}") for cell in results]),
            "",
            "### Added latency, in µs: p50 / p99 with one connection, less those without a proxy",
            "",
            table(head, [_latency_row(cell, results, names) for cell in results if cell[1] == 1]),
            "",
            f"### Memory of an idle WebSocket, in kB, with {idle:,} open",
            "",
            table(head, [["resident", *(f"{idle_kb[name]:.1f}" for name in names)]]),
        ]
    )


def _targets(results: Results, idle_kb: dict[str, float], idle: int) -> str:
    def ratio(cell: Cell, to: str) -> float | None:
        found = results.get(cell, {})
        if OURS not in found or to not in found:
            return None
        return found[OURS].cpu_us_each / found[to].cpu_us_each

    chp = "configurable-http-proxy"
    asked = [
        ("CPU of a 70 B POST, against nginx's", ratio(("70 B POST", 16), "nginx"), 2.5, ".2f"),
        (f"CPU of a 70 B POST, against {chp}'s", ratio(("70 B POST", 16), chp), 1 / 3, ".2f"),
        ("CPU of a WebSocket message, against nginx's", ratio((MESSAGES, 16), "nginx"), 1.2, ".2f"),
        ("CPU of 1 MB down, against nginx's", ratio(("1 MB down", 16), "nginx"), 1.5, ".2f"),
        ("CPU of 1 MB up, against nginx's", ratio(("1 MB up", 16), "nginx"), 1.5, ".2f"),
        (f"kB of an idle WebSocket, {idle:,} open", idle_kb.get(OURS), 25.0, ".1f"),
    ]
    rows = []
    for what, found, limit, form in asked:
        if found is None:
            rows.append([what, f"≤ {limit:.3g}", "not measured", ""])
        else:
            rows.append([what, f"≤ {limit:.3g}", f"{found:{form}}", "met" if found <= limit else "**missed**"])
    return table(["16 connections", "target", "htagweb", ""], rows)


def _row(cell: Cell, results: Results, names: Sequence[str], form: Callable[[Figures], str]) -> list[str]:
    return [_title(cell), *(form(results[cell][name]) for name in names)]


def _latency_row(cell: Cell, results: Results, names: Sequence[str]) -> list[str]:
    direct = results[cell]["direct"].latency_us
    added = [
        (results[cell][name].latency_us[0] - direct[0], results[cell][name].latency_us[1] - direct[1]) for name in names
    ]
    return [
        f"{cell[0]} (without: {direct[0]:,.0f} / {direct[1]:,.0f})",
        *(f"{p50:,.0f} / {p99:,.0f}" for p50, p99 in added),
    ]


def _title(cell: Cell) -> str:
    return f"{cell[0]}, {cell[1]} connection{'s' if cell[1] > 1 else ''}"


def _line(results: Results, cell: Cell) -> str:
    each = ", ".join(
        f"{name} {found.cpu_us_each:.1f} ({found.per_second:,.0f}/s)" for name, found in results[cell].items()
    )
    return f"{_title(cell)}: µs of CPU (a second): {each}"


def _versions(names: Sequence[str]) -> str:
    """What was compared, and how each of them was set up."""
    htagweb = (
        "every feature on (cookie, Origin, header rules, activity; its own orchestrator API behind a Unix socket). The "
        "load says the same heads again and again, as a browser does, and these it judges once in some seconds; in the "
        "row with queries of their own none comes twice"
    )
    said = {
        "htagweb": f"this checkout, {htagweb}. Python {platform.python_version()}, uvicorn {version('uvicorn')}, "
        f"uvloop {version('uvloop')}, httptools {version('httptools')}",
        "nginx": f"{_nginx_version()}, one worker, no access log, request bodies streamed, no temporary files",
        "aiohttp": "" if "aiohttp" not in names else f"{version('aiohttp')}, server and client, on uvloop",
        "configurable-http-proxy": f"{_chp_version()}, node {_output(['node', '--version']).strip()}; to the "
        "upstream over TCP, since it knows no Unix sockets",
        "Starlette + httpx": f"Starlette {version('starlette')}, httpx {version('httpx')}, websockets "
        f"{version('websockets')}, on uvicorn",
    }
    lines = [f"- {name}: {said[name]}." for name in names]
    return "\n".join([*lines, "", "All but configurable-http-proxy reach the upstream over the same Unix socket."])


def _nginx_version() -> str:
    found = re.search(r"nginx/(\S+)", _output(["nginx", "-v"]))
    return found[1] if found else "of unknown version"


def _chp_version() -> str:
    return _output([str(NPM / "configurable-http-proxy"), "--version"]).strip() or "of unknown version"


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout + done.stderr


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

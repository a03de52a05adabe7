"""The orchestrator's numbers as Prometheus reads them: counts since this process began, and how things stand now.

Labels are our own words and the names of published apps. Nothing that visitors send or are called becomes one, so that
their number doesn't depend on them. docs/operators.md has the table of them all.
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from .audit import Event
from .control import ControlPlane
from .model import AppName
from .operators import Operators
from .tally import Tally

START_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

disable_created_metrics()  # type: ignore[no-untyped-call]  # else each count comes with a series of its own that says since when


class Metrics(Tally):
    """`hung` is how many calls the engine leaves unanswered; `show` adds how things stand."""

    def __init__(self, *, hung: Callable[[], int] = lambda: 0) -> None:
        self._hung = hung
        self._registry = registry = CollectorRegistry()
        self._starts = Counter(
            "htagweb_starts", "Starts for visitors that are over.", ["app", "kind", "outcome"], registry=registry
        )
        self._start_s = Histogram(
            "htagweb_start_seconds",
            "From a visitor's turn to the first page.",
            ["app", "kind"],
            buckets=START_S,
            registry=registry,
        )
        self._endings = Counter(
            "htagweb_endings", "Visitors' sandboxes that ended.", ["app", "ending"], registry=registry
        )
        self._refusals = Counter("htagweb_refusals", "Starts that were refused.", ["reason"], registry=registry)
        self._sign_ins = Counter("htagweb_sign_ins", "People who signed in.", ["method"], registry=registry)
        self._sign_ins_refused = Counter(
            "htagweb_sign_ins_refused", "Sign-ins that were refused.", ["why"], registry=registry
        )
        self._builds = Counter("htagweb_builds", "Images made for apps, or not.", ["outcome"], registry=registry)
        self._store_errors = Counter(
            "htagweb_session_store_errors", "Times that the store of sessions could not be used.", registry=registry
        )
        ProcessCollector(namespace="htagweb_orchestrator", registry=registry)

    def show(self, control: ControlPlane, operators: Operators) -> None:
        self._registry.register(Standing(control, operators, self._hung))

    def text(self) -> bytes:
        return generate_latest(self._registry)

    # -- Tally ---------------------------------------------------------------------------------------------------

    def noted(self, event: Event, facts: Mapping[str, object]) -> None:
        match event:
            case Event.ENDED:
                self._endings.labels(facts["app"], facts["ending"]).inc()
            case Event.REFUSED:
                self._refusals.labels(facts["why"]).inc()
            case Event.SIGNED_IN:
                self._sign_ins.labels(facts["method"]).inc()
            case Event.SIGN_IN_REFUSED:
                self._sign_ins_refused.labels(facts["why"]).inc()

    def started(self, app: AppName, kind: str, outcome: str, took_s: float) -> None:
        self._starts.labels(app, kind, outcome).inc()
        if outcome == "ready":
            self._start_s.labels(app, kind).observe(took_s)

    def built(self, outcome: str) -> None:
        self._builds.labels(outcome).inc()

    def store_failed(self) -> None:
        self._store_errors.inc()


class Standing(Collector):
    """How things stand at the moment of asking. Nothing of it asks the engine."""

    def __init__(self, control: ControlPlane, operators: Operators, hung: Callable[[], int]) -> None:
        self._control = control
        self._operators = operators
        self._hung = hung

    def collect(self) -> Iterator[GaugeMetricFamily]:
        control = self._control
        sandboxes = control.sandboxes()
        yield _gauge("htagweb_ready", "1 while new sandboxes can be started.", control.ready)
        yield _gauges(
            "htagweb_sandboxes",
            "Sandboxes by app, none for blank ones, and state.",
            ["app", "state"],
            Count((sandbox.lease.app, sandbox.state.value) for sandbox in sandboxes),
        )
        sockets: Count[tuple[str, ...]] = Count()
        for sandbox in sandboxes:
            if sandbox.lease.user:
                sockets[(sandbox.lease.app,)] += sum(sandbox.sockets.values())
        yield _gauges("htagweb_websockets", "Open WebSockets of visitors, as gateways report them.", ["app"], sockets)
        yield _gauge("htagweb_waiting", "Visitors who wait in the line.", control.waiting)
        wanted: Count[tuple[str, ...]] = Count()
        ready: Count[tuple[str, ...]] = Count()
        for row in control.pool.rows():
            kind = str(row["generation"]), row["app"]
            wanted[kind] += row["wanted"]
            ready[kind] += row["ready"]
        for name, doc, counts in (
            ("htagweb_warm_wanted", "Warm sandboxes that should wait for visitors.", wanted),
            ("htagweb_warm_ready", "Warm sandboxes that do.", ready),
        ):
            yield _gauges(name, doc, ["generation", "app"], counts)
        states = Count((row["state"],) for row in self._operators.apps())
        yield _gauges("htagweb_apps", "Apps by the state of their newest version.", ["state"], states)
        total, available = control.memory
        yield _gauge("htagweb_memory_bytes", "Memory of the machine.", total)
        yield _gauge("htagweb_memory_available_bytes", "What of it can be had.", available)
        yield _gauge("htagweb_engine_calls_hung", "Calls that the engine leaves unanswered.", self._hung())


def _gauge(name: str, doc: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, doc, value=float(value))


def _gauges(name: str, doc: str, labels: Sequence[str], counts: Mapping[Any, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, doc, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family

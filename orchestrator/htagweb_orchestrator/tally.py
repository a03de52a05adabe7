"""What the parts tell whoever counts. Nobody does in an embedded server, which lacks the library; metrics.py does."""

from __future__ import annotations

from collections.abc import Mapping

from .audit import Event
from .model import AppName


class Tally:
    """Takes note of nothing. No call waits or fails, and none is told who a visitor is."""

    def noted(self, event: Event, facts: Mapping[str, object]) -> None:
        """What the audit log hears of, also what it leaves out as a repetition."""

    def started(self, app: AppName, kind: str, outcome: str, took_s: float) -> None:
        """A start for a visitor is over. `kind` is what there was of it: cold, blank or loaded; `outcome` is ready,
        ended (by somebody, before it was), or an error's reason. It took so long once it was its turn."""

    def built(self, outcome: str) -> None:
        """An app's image was made, or failed."""

    def store_failed(self) -> None:
        """The store of sessions could not be used."""

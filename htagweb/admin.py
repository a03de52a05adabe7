"""The command's way to the orchestrator: HTTP over the operators' socket. It works with every gateway down."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

import httpx

from htagweb_orchestrator.settings import Settings

Row = dict[str, Any]
TIMEOUT_S = 60.0  # an engine may take its time over ending many sandboxes


class Refused(Exception):
    """`str()` is a sentence for the operator; `status` is HTTP's, 0 if nobody answered."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Admin:
    """Each call raises Refused. A context manager, that closes the connection."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(path)), base_url="http://orchestrator", timeout=TIMEOUT_S
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Admin:
        """By the folder's variable alone: a broken configuration must not keep anybody from looking."""
        return cls(Path(environ.get("HTAGWEB_ADMIN_DIR") or Settings().admin_dir) / "admin.sock")

    def sandboxes(self) -> list[Row]:
        return self._rows(self._call("GET", "/v1/sandboxes"))

    def sandbox(self, prefix: str) -> Row:
        """One sandbox, running or ended lately. Status 404: none; 409: the prefix fits several."""
        row = self._json(self._call("GET", f"/v1/sandboxes/{prefix}"))
        return row if isinstance(row, dict) else {}

    def data(self) -> list[Row]:
        return self._rows(self._call("GET", "/v1/data"))

    def remove_data(self, user: str | None, app: str | None) -> list[Row]:
        return self._rows(self._call("POST", "/v1/data/remove", {"user": user, "app": app}))

    def logs(self, prefix: str) -> str:
        return self._call("GET", f"/v1/logs/{prefix}").text

    def reap(self, ids: Sequence[str], *, ending: str = "operator") -> list[Row]:
        return self._rows(self._call("POST", "/v1/reap", {"ids": list(ids), "ending": ending}))

    def apps(self) -> list[Row]:
        return self._rows(self._call("GET", "/v1/apps"))

    def build_log(self, app: str) -> str:
        return self._call("GET", f"/v1/apps/{app}/log").text

    def build(self, app: str) -> None:
        """Returns at once. Status 404: no such app; 409: nothing is built for it."""
        self._call("POST", f"/v1/apps/{app}/build")

    def prune(self, *, yes: bool) -> list[Row]:
        return self._rows(self._call("POST", "/v1/prune", {"yes": yes}))

    def drain(self, *, on: bool) -> Row:
        """Whether nobody new is let in, and how many visitors' sandboxes there are still."""
        return dict(self._json(self._call("POST", "/v1/drain", {"on": on})))

    def pool(self) -> list[Row]:
        return self._rows(self._call("GET", "/v1/pool"))

    def metrics(self) -> str:
        """As Prometheus reads them."""
        return self._call("GET", "/v1/metrics").text

    def warnings(self) -> list[str]:
        """Promises that the engine breaks, and that the operator accepts."""
        return [str(each) for each in self._json(self._call("GET", "/v1/warnings"))]

    def doctor(self) -> list[Row]:
        """Takes seconds: sandboxes are started for it."""
        return self._rows(self._call("POST", "/v1/doctor"))

    # -- people --------------------------------------------------------------------------------------------------

    def users(self) -> list[Row]:
        """Accounts, and whoever else is signed in."""
        return self._rows(self._call("GET", "/v1/users"))

    def add_user(self, account: Row) -> str:
        """Returns what the operator should know of it, if anything."""
        return str(self._json(self._call("POST", "/v1/users", account)).get("note", ""))

    def change_user(self, name: str, change: Row) -> None:
        self._call("PATCH", f"/v1/users/{quote(name, safe='')}", change)

    def remove_user(self, name: str) -> None:
        self._call("DELETE", f"/v1/users/{quote(name, safe='')}")

    def sign_out(self, name: str) -> None:
        self._call("POST", f"/v1/users/{quote(name, safe='')}/sign-out")

    def tokens(self) -> list[Row]:
        return self._rows(self._call("GET", "/v1/tokens"))

    def create_token(self, label: str, life_s: float | None) -> Row:
        """With the secret as `token`, this once."""
        return dict(self._json(self._call("POST", "/v1/tokens", {"label": label, "life_s": life_s})))

    def revoke_token(self, prefix: str) -> None:
        self._call("DELETE", f"/v1/tokens/{quote(prefix, safe='')}")

    def link(self) -> str:
        """The path of a one-time sign-in link."""
        return str(self._json(self._call("POST", "/v1/link"))["path"])

    def audit(self, *, who: str, event: str, within_s: float | None, most: int) -> list[Row]:
        asked = {"who": who, "event": event, "most": str(most)}
        if within_s is not None:
            asked["within_s"] = str(within_s)
        return self._rows(self._call("GET", f"/v1/audit?{urlencode(asked)}"))

    def _call(self, method: str, path: str, body: object = None) -> httpx.Response:
        self._probe()
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.TimeoutException as error:
            raise Refused(f"The orchestrator did not answer within {TIMEOUT_S:g} seconds.") from error
        except httpx.HTTPError as error:
            raise Refused(f"The orchestrator broke off: {error}") from error
        if answer.is_error:
            raise Refused(self._title(answer), answer.status_code)
        return answer

    def _probe(self) -> None:
        """See whether anybody listens. httpx would say so too, but leaves a socket open that couldn't connect."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self._path))
            except OSError as error:
                raise Refused(
                    f"No orchestrator answers on {self._path} ({error.strerror or error}); "
                    "in compose this is typed as: docker compose exec orchestrator htagweb …"
                ) from error

    def _title(self, answer: httpx.Response) -> str:
        try:
            return str(answer.json()["title"])
        except (ValueError, KeyError, TypeError):
            return f"The orchestrator answered {answer.status_code}."

    def _json(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError as error:
            raise Refused("The orchestrator's answer is no JSON.") from error

    def _rows(self, answer: httpx.Response) -> list[Row]:
        rows = self._json(answer)
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

"""`apps_domain`: each app at a host of its own, counter.apps.example.org, so that browsers keep apps apart.

The platform's own host, the portal, knows who is asking. A visitor who comes to an app's host without that host's
cookie goes to the portal and back, with a code that makes one: it is good once, for half a minute, for that host, that
browser and that visitor. The cookies of two hosts are signed apart, and the portal's never leaves the portal.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from htagweb_orchestrator.api import SessionVerbs
from htagweb_orchestrator.model import AppName, Platform

from .front import is_app_name, split_host
from .identity import Identity, Visitor

CODE_S = 30


class AppHosts:
    def __init__(self, platform: Platform) -> None:
        self.portal = platform.public_url
        self._scheme = urlsplit(self.portal).scheme
        self._port = urlsplit(self.portal).port
        self._portal_host = (urlsplit(self.portal).hostname or "").encode("ascii")
        self._domain = platform.apps_domain
        self._suffix = f".{platform.apps_domain}".encode("ascii")

    def app_at(self, host: bytes) -> AppName:
        """The app whose host this may be, "" for any other host."""
        parts = split_host(host)
        if parts is None or not parts[0].endswith(self._suffix) or parts[0] == self._portal_host:
            return AppName("")
        label = parts[0].removesuffix(self._suffix)
        default = 443 if self._scheme == "https" else 80
        same_port = (parts[1] or default) == (self._port or default)
        return AppName(label.decode("ascii")) if same_port and is_app_name(label) else AppName("")

    @property
    def any_origin(self) -> str:
        """All of them, as a policy names them."""
        return self.url(AppName("*"), "")

    def url(self, app: AppName, path: str) -> str:
        port = f":{self._port}" if self._port else ""
        return f"{self._scheme}://{app}.{self._domain}{port}{path}"

    def enter_url(self, app: AppName, target: str) -> str:
        """Where whoever comes from the portal begins: the code is for the browser that asked for it there."""
        return self.url(app, f"/-/enter?renew=1&next={quote(target, safe='')}")

    def portal_url(self, app: AppName, state: str, target: str) -> str:
        """Where an app's host sends its visitor to learn who he is."""
        asked = urlencode({"app": app, "state": state, "next": target}, quote_via=quote)
        return f"{self.portal}/-/enter?{asked}"


class Codes:
    """One-time codes by which the portal tells an app's host who its visitor is."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    @staticmethod
    def secret() -> str:
        """For a cookie of the app's host, before its visitor is sent away."""
        return secrets.token_urlsafe(32)

    @staticmethod
    def state(secret: str) -> str:
        """What is told of it: it proves nothing."""
        return sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()

    def issue(self, app: AppName, state: str, visitor: Visitor) -> str:
        sign_in = visitor.sign_in.id if visitor.sign_in is not None else ""
        user = "" if sign_in else visitor.user
        nonce = secrets.token_urlsafe(16)
        return self._identity.seal("entry", {"app": app, "state": state, "in": sign_in, "user": user, "n": nonce})

    async def redeem(self, code: str, app: AppName, secret: str, scheme: str, visitors: SessionVerbs) -> str | None:
        """A Set-Cookie value for this app's host; None for a code that isn't good here, now, in this browser. Raises
        OrchestratorError."""
        found: Any = self._identity.unseal("entry", code, max_age_s=CODE_S)
        if found is None or found["app"] != app:
            return None
        if not secret or not hmac.compare_digest(str(found["state"]).encode(), self.state(secret).encode()):
            return None
        if not await visitors.spend(f"code {found['n']}", CODE_S):
            return None
        return self._identity.issue_at(scheme, app, user=found["user"], sign_in=found["in"])

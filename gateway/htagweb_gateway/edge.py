"""How a request came in: scheme, host and address of the visitor, with or without a proxy in front."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from htagweb_orchestrator.model import AppName, Platform

from .app_hosts import AppHosts

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_TOLD_BY_PROXIES = frozenset({b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"})


class Edge(NamedTuple):
    scheme: str  # "http" or "https", as the visitor sees it
    host: bytes
    client: str  # the visitor's address, as far as it can be believed
    proxied: bool  # some proxy says that it is in front, trusted or not
    client_told: bool  # by a trusted proxy, as an address
    scheme_known: bool  # by configuration or a trusted proxy; else it is only how the last hop came in
    app: AppName = AppName("")  # the one whose own host was asked, with `apps_domain`

    def base(self, app: AppName) -> str:
        """The path below which this app lies here."""
        return "/" if self.app else f"/{app}/"

    @property
    def own_client(self) -> str:
        """The visitor's own address; "" behind a proxy that isn't trusted to tell it, where many seem to be one."""
        return "" if self.proxied and not self.client_told else self.client


class Edges:
    """Decides whom to believe. X-Forwarded-* count only from `platform.trusted_proxies`."""

    def __init__(self, platform: Platform) -> None:
        self._trusted: Sequence[Network] = [
            ipaddress.ip_network(each, strict=False) for each in platform.trusted_proxies
        ]
        self._public_scheme = urlsplit(platform.public_url).scheme
        self.app_hosts = AppHosts(platform) if platform.apps_domain else None

    def of(self, scope: dict[str, Any]) -> Edge:
        told: dict[bytes, bytes] = {}
        host = b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name in _TOLD_BY_PROXIES:
                told[name] = told[name] + b"," + value if name in told else value
        peer = scope["client"][0] if scope.get("client") else ""
        scheme = "https" if scope["scheme"] in ("https", "wss") else "http"
        known = False
        client, client_told = peer, False
        if told and self._trusts(peer):
            said = told.get(b"x-forwarded-proto", b"").split(b",")[-1].strip().lower()
            if said in (b"http", b"https"):
                scheme, known = said.decode(), True
            client, client_told = self._client(peer, told.get(b"x-forwarded-for", b"").decode("latin-1").split(","))
        if self._public_scheme:
            scheme, known = self._public_scheme, True
        if self.app_hosts is None:
            return Edge(scheme, host, client, bool(told), client_told, known)
        return Edge(scheme, host, client, bool(told), client_told, known, self.app_hosts.app_at(host))

    def from_proxy(self, scope: dict[str, Any]) -> bool:
        """Whether a trusted proxy sends this request."""
        return bool(scope.get("client")) and self._trusts(scope["client"][0])

    def _trusts(self, address: str) -> bool:
        if not self._trusted:
            return False
        try:
            ip = _ip(address)
        except ValueError:
            return False
        return any(ip in network for network in self._trusted)

    def _client(self, peer: str, hops: Iterable[str]) -> tuple[str, bool]:
        """The rightmost hop that no trusted proxy is: what lies left of it, the visitor may have invented. With False
        where a proxy told nothing, or something else than an address: then it is the proxy itself, and who it is for
        isn't known.
        """
        client, told = peer, False
        for hop in reversed([hop.strip() for hop in hops if hop.strip()]):
            if not self._trusts(client):
                break
            if not (address := _address(hop)):
                return client, False
            client, told = address, True
        return client, told


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Raises ValueError. One that listens for both kinds at once writes ::ffff:192.0.2.1 for 192.0.2.1."""
    ip = ipaddress.ip_address(text)
    return (ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None) or ip


def _address(hop: str) -> str:
    """As proxies write it, some of them with the port: 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1]:80. "" for
    anything else."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        return "" if "%" in hop else str(_ip(hop))  # behind a % may stand anything
    except ValueError:
        return ""

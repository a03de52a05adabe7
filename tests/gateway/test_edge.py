"""How a request came in: whose word counts for the visitor's address and scheme, and whose doesn't."""

from __future__ import annotations

import pytest

from htagweb_gateway.edge import Edge, Edges
from htagweb_orchestrator.model import Platform

VISITOR, PROXY, BALANCER, STRANGER = "198.51.100.7", "10.0.0.2", "10.0.0.3", "203.0.113.9"
INVENTED = b"6.6.6.6"


def edge(*fields: tuple[bytes, bytes], peer: str = PROXY, scheme: str = "http", public_url: str = "") -> Edge:
    edges = Edges(Platform(trusted_proxies=("10.0.0.0/24", "fd00::/8"), public_url=public_url))
    return edges.of({"scheme": scheme, "client": (peer, 4711), "headers": [(b"host", b"apps.example"), *fields]})


def by(*forwarded: bytes, peer: str = PROXY) -> Edge:
    return edge(*((b"x-forwarded-for", value) for value in forwarded), peer=peer)


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([b"198.51.100.7"], VISITOR),
        ([INVENTED + b", 198.51.100.7"], VISITOR),
        ([INVENTED + b" ,198.51.100.7 ,"], VISITOR),
        ([INVENTED + b", 198.51.100.7, 10.0.0.3"], VISITOR),
        ([INVENTED, b"198.51.100.7"], VISITOR),
        ([INVENTED + b", 198.51.100.7", b"10.0.0.3"], VISITOR),
        ([b"10.0.0.9, 198.51.100.7"], VISITOR),  # he says that he is a proxy of ours
        ([INVENTED + b", 2001:db8::7, fd00::1"], "2001:db8::7"),
        ([b"10.0.0.3"], BALANCER),  # a visitor at home in the proxies' network
        ([INVENTED + b", 198.51.100.7:80, 10.0.0.3"], VISITOR),  # as some write it
        ([INVENTED + b", [2001:DB8:0::7]:80"], "2001:db8::7"),
        ([INVENTED + b", [2001:db8::7], [fd00::1]:443"], "2001:db8::7"),
        ([INVENTED + b", ::ffff:198.51.100.7, ::FFFF:10.0.0.3"], VISITOR),  # as some write it who listen for both kinds
    ],
)
def test_the_visitor_is_the_rightmost_hop_that_no_proxy_of_ours_is(forwarded: list[bytes], client: str) -> None:
    found = by(*forwarded)
    assert (found.client, found.own_client, found.client_told) == (client, client, True)


def test_a_proxy_that_comes_by_a_socket_for_both_kinds_is_trusted_as_well() -> None:
    assert by(b"198.51.100.7", peer=f"::ffff:{PROXY}").client == VISITOR
    assert by(INVENTED, peer=f"::ffff:{STRANGER}").own_client == ""


@pytest.mark.parametrize(
    "hop",
    [b"unknown", b"_hidden", b"\xff\xfe", b"1.2.3", b"1.2.3.4.5", b"[", b"::1%" + b"x" * 5000, b"9" * 9000, b"host:80"],
)
@pytest.mark.parametrize("behind", [b"", b", 10.0.0.3"])
def test_a_hop_that_is_no_address_is_nobodys(hop: bytes, behind: bytes) -> None:
    found = by(INVENTED + b", " + hop + behind)
    assert found.client == (BALANCER if behind else PROXY)
    assert (found.own_client, found.client_told) == ("", False)  # many may come by that proxy


@pytest.mark.parametrize("told", [(b"x-forwarded-for", b" , "), (b"x-forwarded-proto", b"https"), (b"via", b"1.1 a")])
def test_a_proxy_that_tells_no_address_leaves_it_open_whose_request_it_is(told: tuple[bytes, bytes]) -> None:
    found = edge(told)
    assert (found.client, found.own_client, found.client_told) == (PROXY, "", False)


@pytest.mark.parametrize("peer", [STRANGER, "not an address", ""])
def test_a_stranger_is_who_he_is_whatever_he_says(peer: str) -> None:
    found = edge((b"x-forwarded-for", INVENTED), (b"x-forwarded-proto", b"https"), peer=peer)
    assert (found.client, found.client_told, found.scheme, found.scheme_known) == (peer, False, "http", False)
    assert found.proxied
    assert found.own_client == ""  # many may come by that proxy


def test_without_a_proxy_the_visitor_is_the_peer() -> None:
    found = edge(peer=VISITOR)
    assert (found.client, found.own_client, found.proxied) == (VISITOR, VISITOR, False)


def test_nobody_is_trusted_unless_it_is_said() -> None:
    scope = {"scheme": "http", "client": ("127.0.0.1", 1), "headers": [(b"x-forwarded-for", INVENTED)]}
    assert Edges(Platform()).of(scope).client == "127.0.0.1"


@pytest.mark.parametrize(
    ("said", "scheme", "known"),
    [
        ([b"https"], "https", True),
        ([b"http, HTTPS "], "https", True),
        ([b"https, http"], "http", True),
        ([b"https", b"http"], "http", True),
        ([b"https, ftp"], "http", False),
        ([b""], "http", False),
    ],
)
def test_the_last_scheme_counts(said: list[bytes], scheme: str, known: bool) -> None:
    found = edge(*((b"x-forwarded-proto", value) for value in said))
    assert (found.scheme, found.scheme_known) == (scheme, known)


def test_the_public_url_knows_the_scheme_better() -> None:
    found = edge((b"x-forwarded-proto", b"http"), public_url="https://apps.example")
    assert (found.scheme, found.scheme_known) == ("https", True)

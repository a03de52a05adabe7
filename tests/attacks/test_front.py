"""What a visitor sends and a hostile app answers, through the whole gateway to a real sandbox.

The shapes that no gateway may let pass at all are tried in tests/gateway, over scripted sandboxes.
"""

from __future__ import annotations

import asyncio
import re
import socket
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.attacks.stage import CONSOLE_SOURCE, Stage, eventually
from tests.attacks.visitor import Visitor

pytestmark = pytest.mark.docker

HEAD = "answers['/head'] = lambda request: request.reply(request.head.encode())"
PAGE = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate"}


async def _websocket(visitor: Visitor, path: str = "/console/ws", **headers: str) -> ClientConnection:
    """Open as a page of the visitor's would; raises InvalidStatus."""
    fields = {"Origin": f"http://{visitor.host}", **headers}
    if visitor.cookies:
        fields["Cookie"] = f"htagweb={visitor.cookies['htagweb']}"
    return await connect(
        f"ws://{visitor.host}{path}",
        host="127.0.0.1",
        port=visitor.server.port,
        additional_headers={name: text for name, text in fields.items() if text},
        compression=None,
        ping_interval=None,
        max_size=1 << 26,
        proxy=None,
    )


async def test_34_the_gateway_follows_no_redirect(stage: Stage) -> None:
    visitor = await stage.console()
    with socket.create_server(("127.0.0.1", 0)) as inside:
        inside.setblocking(False)
        place = f"http://127.0.0.1:{inside.getsockname()[1]}/"
        await visitor.run(f"fixed('/go', 'Location: {place}', status='302 Found')")
        response = await visitor.get("/console/go")
        with pytest.raises(BlockingIOError):
            inside.accept()
    assert (response.status, response.header(b"location")) == (302, place.encode())


async def test_36_what_would_outlive_the_app_in_the_browser_is_not_set(stage: Stage) -> None:
    visitor = await stage.console()
    fields = (
        'Clear-Site-Data: "*"', "Strict-Transport-Security: max-age=99999", "Alt-Svc: h2=evil", "X-Sendfile: /x",
        "Service-Worker-Allowed: /", "X-Accel-Redirect: /secret", "Report-To: {}", "NEL: {}", "X-Fine: yes",
    )  # fmt: skip
    await visitor.run(f"fixed('/x', *{fields!r})")
    wire = await visitor.server.connect()
    for _ in range(2):  # the second takes the short way, as an errand
        await wire.send(visitor.head("GET", "/console/x", {}))
        response = await wire.response()
        names = {name for name, _ in response.headers} - {b"content-length", b"connection", b"date", b"server"}
        assert names == {b"x-fine"}
    wire.abort()


async def test_37_a_cookie_set_for_one_user_is_never_sent_for_another(stage: Stage) -> None:
    alice, bob = await stage.console(), await stage.console()
    for visitor in (alice, bob):
        await visitor.run(HEAD)
    await alice.run("fixed('/set', 'Set-Cookie: mark=alice; Domain=localhost')")
    response = await alice.get("/console/set")
    assert response.all(b"set-cookie") == [b"mark=alice; Path=/console/"]
    assert b"mark" not in (await bob.get("/console/head")).body
    assert b"mark=alice" in (await alice.get("/console/head")).body


async def test_37_an_app_can_not_set_the_platforms_cookie(stage: Stage) -> None:
    visitor = await stage.console()
    known = dict(visitor.cookies)
    for cookie in ("htagweb=stolen", "HTAGWEB=stolen", "__Host-htagweb=stolen", "__Secure-x=1", "=htagweb=stolen"):
        await visitor.run(f"fixed('/set', 'Set-Cookie: {cookie}; Path=/')")
        assert (await visitor.get("/console/set")).all(b"set-cookie") == []
    assert visitor.cookies == known


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b""])
async def test_38_a_broken_answer_tells_nothing_of_the_platform(stage: Stage, answer: bytes) -> None:
    visitor = await stage.console()
    await visitor.run(f"""
        def broken(request):
            request.connection.sendall({answer!r})
            request.connection.shutdown(socket.SHUT_RDWR)
        answers["/broken"] = broken
        """)
    sandbox = stage.sandbox(visitor)
    for response in (await visitor.get("/console/broken"), await visitor.request("GET", "/console/broken", PAGE)):
        assert response.status in (200, 502)
        shown = response.body.decode() + repr(response.headers)
        for inside in (
            sandbox.id,
            sandbox.id[:12],
            "/run/",
            ".sock",
            "Traceback",
            stage.instance,
            str(sandbox.lease.uid),
        ):
            assert inside not in shown


HOSTS = {
    "evil.example": 421, "evil.example:8000": 421, "localhost.evil.example": 421, "192.0.2.1": 421, "[::1]": 421,
    "apps.example:8443": 421, "a/b": 400, "user@apps.example": 400, "apps.example.": 400, "apps.example:99999": 400,
    " ": 400, "apps.example,evil.example": 400,
}  # fmt: skip


async def test_42_another_host_is_refused_and_no_link_is_made_of_it(closed_stage: Stage) -> None:
    stage = closed_stage
    await stage.open(public_url="http://apps.example")
    for host, status in HOSTS.items():
        for target in ("/", "/console", "/console/", "/-/enter?next=/console/", "/-/status?app=console"):
            response = await stage.visitor(host).request("GET", target, PAGE)
            assert response.status == status, (host, target)
            assert response.header(b"location") is None
            assert response.all(b"set-cookie") == []
            assert b"evil" not in response.body
    assert (await stage.visitor("apps.example").request("GET", "/", PAGE)).status == 200


async def test_42_in_development_no_other_name_leads_here(closed_stage: Stage) -> None:
    """A name of somebody else's that resolves to this machine (DNS rebinding)."""
    stage = closed_stage
    await stage.open(dev=True)
    for host in ("evil.example", "192.0.2.1", "localhost.evil.example"):
        assert (await stage.visitor(host).request("GET", "/", PAGE)).status == 421
    assert (await stage.visitor().request("GET", "/", PAGE)).status == 200


CROOKED = [
    "/console/../second/head", "/console/%2e%2e/second/head", "/console/..%2fsecond/head", "/console/%2E./second/head",
    "/console/%252e%252e/second/head", "/console/..;/second/head", "//second/head", "/console\\..\\second/head",
    "/console%2f..%2fsecond/head", "/console%5c/second", "/console%00/second/head", "/console%0d%0aX:1/head",
    "/%c0%ae%c0%ae/second/head", "/./second/head", "/console/./../second/head", "/console;x/second/head",
]  # fmt: skip


async def test_44_no_crooked_path_reaches_another_app_or_user(closed_stage: Stage) -> None:
    stage = closed_stage
    stage.publish("second.py", CONSOLE_SOURCE)
    await stage.open()
    visitor, other = await stage.console(), await stage.console()
    await stage.console(visitor, app="second")
    for each, app in ((visitor, "second"), (other, "console")):
        await each.run("heard.clear(); fixed('/head', body=b'elsewhere')", app=app)
    for target in CROOKED:
        response = await visitor.get(target)
        assert b"elsewhere" not in response.body
        if response.status == 200:  # then it was the app that its first segment names, by the very bytes
            assert await visitor.run("answer = heard[-1].split()[1]") == target.removeprefix("/console")
    assert await visitor.run("answer = heard", app="second") == []
    assert await other.run("answer = heard") == []


LIES = {
    "X-Htag-User": "root", "X_Htag_User": "root", "X-Forwarded-For": "192.0.2.66", "X_Forwarded_For": "192.0.2.66",
    "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example", "X-Forwarded-Prefix": "/evil",
    "Forwarded": "for=192.0.2.66", "X-Real-IP": "192.0.2.66", "Via": "1.1 evil", "Authorization": "Bearer secret",
    "Proxy-Authorization": "Basic secret", "Connection": "close, X-Keep", "X-Keep": "named by Connection",
}  # fmt: skip


async def test_48_what_a_visitor_claims_to_be_does_not_reach_the_app(stage: Stage) -> None:
    visitor = await stage.console()
    await visitor.run(HEAD)
    head = (await visitor.request("GET", "/console/head", LIES)).body.decode().lower()
    for lie in ("root", "192.0.2.66", "evil", "secret", "named by connection", "x_htag", "x_forwarded"):
        assert lie not in head
    fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
    assert fields["x-forwarded-for"] == "127.0.0.1"
    assert (fields["x-forwarded-proto"], fields["x-forwarded-prefix"]) == ("http", "/console")
    assert fields["x-forwarded-host"] == fields["host"] == visitor.host


async def test_49_the_platforms_cookie_is_not_shown_to_the_app(stage: Stage) -> None:
    visitor = await stage.console()
    await visitor.run(HEAD)
    secret = visitor.cookies["htagweb"]
    for cookie in (
        f"htagweb={secret}",
        f"a=1; htagweb={secret}; b=2",
        f'x="; htagweb={secret}',
        f"htagweb={secret}; mine=1",
    ):
        head = (await visitor.request("GET", "/console/head", {"Cookie": cookie})).body.decode()
        assert secret not in head
        assert "htagweb=" not in head
    async with await _websocket(visitor):
        head = (await visitor.run("answer = handshakes"))[0]
    assert secret not in head
    assert "htagweb=" not in head


@pytest.mark.parametrize(("scheme", "name"), [("http", "htagweb"), ("https", "__Host-htagweb")])
async def test_51_the_cookie_is_for_this_host_and_for_no_script(closed_stage: Stage, scheme: str, name: str) -> None:
    stage = closed_stage
    await stage.open(trusted_proxies=("127.0.0.1",))
    response = await stage.visitor().request("GET", "/console/", {**PAGE, "X-Forwarded-Proto": scheme})
    cookie = (response.header(b"set-cookie") or b"").decode()
    attributes = set(cookie.lower().split("; ")[1:])
    assert cookie.startswith(f"{name}=")
    assert {"path=/", "httponly", "samesite=lax"} <= attributes
    assert ("secure" in attributes) == (scheme == "https")
    assert "domain" not in cookie.lower()


async def test_51_a_cookie_of_one_scheme_is_nobody_under_the_other(closed_stage: Stage) -> None:
    stage = closed_stage
    await stage.open(trusted_proxies=("127.0.0.1",))
    visitor = await stage.console()
    for name in ("htagweb", "__Host-htagweb"):
        cookie = {"Cookie": f"{name}={visitor.cookies['htagweb']}", "X-Forwarded-Proto": "https"}
        response = await visitor.request("GET", "/console/", cookie)
        assert response.status == (403 if name == "htagweb" else 200)
    # The second was the same visitor's own cookie under its right name; a script can't set that over plain http.


ELSEWHERE = [
    "//evil", "/\\evil", "https:evil", "https://evil", "%09//evil", "/%09/evil", "@evil", "/%0d%0aX: evil",
    "javascript:alert(1)", "/%5cevil", "///evil", "%5c%5cevil", "/%2fevil",
]  # fmt: skip


async def test_52_nobody_is_sent_elsewhere_by_next(stage: Stage) -> None:
    visitor = await stage.console()
    for target in ELSEWHERE:
        for page in (
            f"/-/enter?next={target.replace(' ', '%20')}",
            f"/-/start?app=console&next={target.replace(' ', '%20')}",
        ):
            response = await visitor.request("GET", page, PAGE)
            location = (response.header(b"location") or b"/").decode()
            assert response.status in (303, 400), page
            assert re.fullmatch(r"/([^/\\\s].*)?", location), location
            assert response.header(b"x") is None


async def test_55_a_cookie_that_we_did_not_sign_is_a_stranger(stage: Stage) -> None:
    alice = await stage.console()
    user, stamp, signature = alice.cookies["htagweb"].rsplit(".", 2)
    forged = [f"{user}.{stamp}.x{signature[1:]}", f"{user}x.{stamp}.{signature}", user, f"{user}..", ""]
    for cookie in forged:
        response = await alice.request("GET", "/console/", {"Cookie": f"htagweb={cookie}"})
        assert response.status == 403
    assert len(stage.containers()) == 1


async def test_55_ids_that_leaked_open_nothing(stage: Stage) -> None:
    alice, bob = await stage.console(), await stage.console()
    sandbox = stage.sandbox(alice).id
    heard = await alice.run("answer = len(heard)")
    assert (await bob.get(f"/{sandbox}/")).status == 404
    for target in (f"/console/?sandbox={sandbox}", f"/-/status?app=console&sandbox={sandbox}", f"/-/{sandbox}"):
        assert sandbox[:12] not in (await bob.get(target)).body.decode()
    assert await alice.run("answer = len(heard)") == heard


FOREIGN: list[dict[str, str]] = [
    {}, {"Origin": "null"}, {"Origin": "http://evil.example"}, {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"},
]  # fmt: skip


async def test_56_another_sites_page_can_not_press_our_buttons(stage: Stage) -> None:
    visitor = await stage.console()
    for headers in FOREIGN:
        for target, body in (("/-/stop", b"app=console"), ("/-/stay", b"app=console"), ("/console/run", b"answer = 1")):
            response = await visitor.request("POST", target, headers, body)
            assert response.status == 403, (target, headers)
    assert (await visitor.status("console"))["state"] == "ready"


async def test_57_the_platforms_pages_are_framed_by_nobody(stage: Stage) -> None:
    visitor = await stage.console()
    for target in ("/", "/nothing/"):
        policy = (await visitor.request("GET", target, PAGE)).header(b"content-security-policy") or b""
        assert b"frame-ancestors 'none'" in policy or b"frame-ancestors 'self'" in policy


async def _refused(visitor: Visitor, path: str = "/console/ws", **headers: str) -> int:
    with pytest.raises(InvalidStatus) as refusal:
        async with await _websocket(visitor, path, **headers):
            pass
    return refusal.value.response.status_code


async def test_58_a_socket_without_its_visitor_reaches_nothing(stage: Stage) -> None:
    alice = await stage.console()
    assert await _refused(stage.visitor()) == 403
    bob = stage.visitor()
    await bob.enter()
    assert await _refused(bob) in (404, 409, 410, 503)  # nothing runs for him, and nothing is started
    assert await _refused(alice, "/second/ws") == 404
    assert await alice.run("answer = handshakes") == []
    assert len(stage.containers()) == 1


async def test_59_a_socket_of_another_sites_page_is_refused(stage: Stage) -> None:
    visitor = await stage.console()
    for origin in (
        "null", "", "file://", "http://evil.example", "https://localhost.evil.example", f"http://{visitor.host}.evil.example",
        f"http://evil.example/{visitor.host}", f"http://{visitor.host}@evil.example", f"http://x{visitor.host}",
    ):  # fmt: skip
        assert await _refused(visitor, Origin=origin) == 403, origin
    assert await visitor.run("answer = handshakes") == []


async def test_60_a_message_over_the_limit_ends_its_socket(closed_stage: Stage) -> None:
    stage = closed_stage
    await stage.open(message_size_bytes=1 << 16)
    visitor = await stage.console()
    for message in ("x" * (1 << 17), ["x" * 1000] * 200):
        async with await _websocket(visitor) as websocket:
            sending = asyncio.create_task(websocket.send(message))
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(websocket.recv(), 20)
            await asyncio.wait({sending})
            sending.exception()
            assert websocket.close_code == 1009
    await visitor.run("""
        def with_socket(connection):
            connection.sendall(frame(b"x" * (1 << 17)))
            connection.recv(65536)
        """)
    async with await _websocket(visitor) as websocket:
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(websocket.recv(), 20)
        assert websocket.close_code == 1009


async def test_60_one_user_has_so_many_sockets_and_no_more(stage: Stage) -> None:
    visitor, other = await stage.console(), await stage.console()
    opened: list[Any] = []
    try:
        for _ in range(16):
            opened.append(await _websocket(visitor))
        assert await _refused(visitor) == 429
        opened.append(await _websocket(other))
        await opened.pop(0).close()
        await eventually(lambda: stage.gateway._sockets[visitor.user] == 15)
        opened.append(await _websocket(visitor))
    finally:
        await asyncio.gather(*(websocket.close() for websocket in opened))


async def test_61_a_flooding_app_waits_for_a_slow_reader(stage: Stage) -> None:
    visitor, other = await stage.console(), await stage.console()
    await visitor.run("""
        sent = 0
        def with_socket(connection):
            global sent
            while True:
                connection.sendall(frame(b"x" * 60000))
                sent += 60000
        """)
    async with await _websocket(visitor) as websocket:
        websocket.transport.pause_reading()
        sent, still = -1, 0
        while still < 10:  # it stops when every buffer on the way is full
            now = await visitor.run("answer = sent")
            if not stage.gateway._sockets.get(visitor.user):
                break  # he was given up on, and what came after that was thrown away
            still, sent = (still + 1, sent) if now == sent else (0, now)
            await asyncio.sleep(0.05)
        assert sent < 32 << 20
        assert (await other.get("/console/")).body == b"console"
        websocket.transport.abort()

"""What users of the original rely on, each by the public API, within a TestClient."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from htagweb import AppServer, Runner, WebServer, WebServerWS

from .conftest import Served, Write
from .tab import User

Start = Callable[[WebServer], User]
pytestmark = pytest.mark.timeout(60)

HELLO = """
import os
from htag import Tag

class App(Tag.div):
    def init(self, p="nobody"):
        self.n = 0
        self.said = Tag.span("hello " + p)
        self += self.said
        self += Tag.i(f"pid {os.getpid()}")
        self += Tag.button("inc", _onclick=self.bind.inc())
        self += Tag.button("visit", _onclick=self.bind.visit())
        self += Tag.button("leave", _onclick=self.bind.leave())
        self += Tag.button("big", _onclick=self.bind.big())

    def inc(self):
        self.n += 1
        self.said.set(f"n is {self.n}")

    def visit(self):
        self.session["visits"] = self.session.get("visits", 0) + 1
        self.said.set(f"visits {self.session['visits']}, route says {self.session.get('route')}")

    def leave(self):
        self.exit()

    def big(self):
        self.said.set("x" * 3_000_000)
"""

SLOW = """
import asyncio, os, time
from htag import Tag

class App(Tag.div):
    def init(self):
        self += f"pid {os.getpid()}"
        for name in ("quick", "late", "endless", "stuck"):
            self += Tag.button(name, _onclick=getattr(self.bind, name)())
    def quick(self):
        self += "done"
    async def late(self):
        await asyncio.sleep(3)
    async def endless(self):
        while True:
            await asyncio.sleep(0.01)
    def stuck(self):
        while True:
            time.sleep(0.01)
"""

PUSH = """
import asyncio
from htag import Tag

class App(Tag.div):
    def init(self):
        self.said = Tag.span("waiting")
        self += self.said
        self += Tag.button("go", _onclick=self.bind.go())

    def go(self):
        asyncio.ensure_future(self.tick())

    async def tick(self):
        for n in range(3):
            await asyncio.sleep(0.05)
            self.said.set(f"tick {n}")
            await self.said.update()
"""

HUNGRY = """
from htag import Tag

class App(Tag.div):
    def init(self):
        self += Tag.button("eat", _onclick=self.bind.eat())

    def eat(self):
        self.much = bytearray(400 * 2**20)  # of which the system gives nothing before it is written to
        self += "eaten"
"""


def test_the_query_reaches_init_and_another_one_makes_another_instance(write: Write, user: Start) -> None:
    write("hello.py", HELLO)
    alice = user(WebServer("hello:App"))
    tab = alice.open("/?p=world")
    assert "hello world" in tab.text
    assert "n is 1" in str(tab.click("inc"))
    assert "n is 2" in str(tab.click("inc"))
    assert "n is 3" in str(alice.open("/?p=world").click("inc"))
    assert "hello nobody" in alice.open("/").text


def test_users_are_apart_and_each_has_one_process(write: Write, user: Start) -> None:
    write("hello.py", HELLO)
    alice = user(WebServer("hello.App"))
    bob = User(alice.client)
    first, second = alice.open(), bob.open()
    assert first.text != second.text  # their pids
    first.click("inc")
    assert "visits 1" in str(first.click("visit"))
    assert "visits 2" in str(first.click("visit"))
    assert "visits 1" in str(second.click("visit"))
    assert "n is 1" in str(second.click("inc"))


def test_a_session_is_the_routes_and_the_apps_and_outlives_the_process(write: Write, user: Start) -> None:
    write("hello.py", HELLO)
    server = WebServer("hello:App")

    async def note(request: Request) -> Response:
        request.session["route"] = "here"
        return JSONResponse(dict(request.session))

    server.add_route("/note", note)
    alice = user(server)
    tab = alice.open()
    tab.click("inc")
    tab.click("visit")
    assert alice.get("/note").json() == {"visits": 1, "route": "here"}
    assert "visits 2, route says here" in str(tab.click("visit"))
    tab.click("leave")
    _until(lambda: tab.send("inc").status_code == 503)  # the process has ended
    again = alice.open()
    assert again.text != tab.text
    assert "n is 1" in str(again.click("inc"))
    assert "visits 3, route says here" in str(again.click("visit"))


@pytest.mark.parametrize(("size", "kept"), [(900, False), (2000, True)])
def test_a_session_takes_as_much_as_session_size_says(write: Write, user: Start, size: int, kept: bool) -> None:
    write("hello.py", HELLO.replace('self.session["visits"] = ', 'self.session["big"] = "x" * 1000; visits = '))
    server = WebServer("hello:App", session_size=size)

    async def show(request: Request) -> Response:
        return JSONResponse(dict(request.session))

    server.add_route("/show", show)
    alice = user(server)
    alice.open().send("visit")
    assert ("big" in alice.get("/show").json()) is kept


@pytest.mark.parametrize("memory", [600 * 2**20, "600m", 0])
def test_a_process_may_allocate_what_memory_says(write: Write, user: Start, memory: int | str) -> None:
    write("hungry.py", HUNGRY)
    assert "eaten" in str(user(WebServer("hungry:App", memory=memory)).open().click("eat"))


@pytest.mark.parametrize(
    "meal", ["bytearray(400 * 2**20)", "[[n] for n in range(10_000_000)]"], ids=["at once", "bit by bit"]
)
def test_a_process_that_needs_more_than_its_memory_ends_and_that_is_said(write: Write, user: Start, meal: str) -> None:
    write("hungry.py", HUNGRY.replace("bytearray(400 * 2**20)", meal))
    alice = user(WebServer("hungry:App", memory="300m"))
    tab = alice.open()
    _until(lambda: tab.send("eat").status_code == 503)
    assert tab.send("eat").json()["reason"] == "memory"
    assert "eat" in alice.open().text  # and opens again


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("path", ["/upload", "app"])
def test_a_body_may_have_as_many_bytes_as_body_size_says(write: Write, user: Start, path: str, chunked: bool) -> None:
    write("hello.py", HELLO)
    server = WebServer("hello:App", body_size="1k")

    async def upload(request: Request) -> Response:
        return JSONResponse(len(await request.body()))

    server.add_route("/upload", upload, methods=["POST"])
    alice = user(server)
    tab = alice.open()
    path = f"{tab.base}_post" if path == "app" else path

    def sent(size: int) -> int:
        body = b" " * size
        status: int = alice.post(path, content=iter([body[:10], body[10:]]) if chunked else body).status_code
        return status

    assert sent(1024) != 413
    assert sent(1025) == 413


@pytest.mark.parametrize("name", ["memory", "body_size", "session_size"])
def test_a_size_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}='much': give a number of bytes, or a text such as '512m'"):
        WebServer("hello:App", **{name: "much"})  # type: ignore[arg-type]


def test_less_memory_than_works_is_refused() -> None:
    with pytest.raises(ValueError, match="memory='16m': 64m is the least that works"):
        WebServer("hello:App", memory="16m")


def test_a_route_that_stores_what_is_not_json_hears_of_it(user: Start) -> None:
    server = WebServer()

    async def bad(request: Request) -> Response:
        request.session["x"] = object()
        return JSONResponse({})

    server.add_route("/bad", bad)
    alice = user(server)
    with pytest.raises(TypeError, match="not JSON serializable"):
        alice.get("/bad")


@pytest.mark.parametrize("debug", [True, False])
def test_an_init_that_fails_shows_a_page_with_its_name_or_an_id(write: Write, user: Start, debug: bool) -> None:
    write(
        "bad.py", "from htag import Tag\nclass App(Tag.div):\n    def init(self):\n        raise ValueError('ouch')\n"
    )
    answer = user(WebServer("bad:App", debug=debug)).get("/")
    assert answer.status_code >= 500
    assert ("ValueError: ouch" in answer.text) is debug
    assert "Docker" not in answer.text
    if not debug:
        assert re.search(r"quote <code>[0-9a-f]{12}</code>", answer.text)


@pytest.mark.parametrize(
    ("obj", "missing"), [("nowhere:App", "No module named &#39;nowhere&#39;"), ("hello:Other", "hello has no Other")]
)
def test_an_unknown_name_is_said(write: Write, user: Start, obj: str, missing: str) -> None:
    write("hello.py", HELLO)
    answer = user(WebServer(obj, debug=True)).get("/")
    assert answer.status_code >= 500
    assert missing in answer.text


def test_one_server_hosts_several_apps(write: Write, user: Start) -> None:
    write("hello.py", HELLO)
    write("other.py", HELLO.replace("hello ", "other "))
    server = WebServer("hello:App")

    async def second(request: Request) -> Response:
        return await server.serve(request, "other.App")

    async def renewed(request: Request) -> Response:
        return await server.serve(request, "other.App", renew=True)

    async def by_socket(request: Request) -> Response:
        answer = await server.handle(request, "hello:App", http_only=False)
        answer.set_cookie("mine", "1")
        return answer

    server.add_route("/second/", second)
    server.add_route("/renewed", renewed)
    server.add_route("/socket", by_socket)
    alice = user(server)
    tab = alice.open("/second/?p=you")
    assert "other you" in tab.text
    assert "n is 1" in str(tab.click("inc"))
    assert alice.open("/second/?p=you").text == tab.text.replace("other you", "n is 1")
    before = alice.open("/second/").text
    assert alice.open("/renewed").text != before
    first = alice.open("/")
    assert "hello nobody" in first.text
    answer = alice.client.get("/socket", headers=alice.headers)
    assert "let sockets = true" in answer.text
    assert "let sockets = false" in first.page
    assert any(each.startswith("mine=1") for each in answer.headers.get_list("set-cookie"))


def test_pushes_arrive_by_websocket_and_big_answers_stream(write: Write, user: Start) -> None:
    write("push.py", PUSH)
    write("hello.py", HELLO)
    server = WebServerWS("push:App")

    async def hello(request: Request) -> Response:
        return await server.serve(request, "hello:App")

    server.add_route("/hello", hello)
    alice = user(server)
    tab = alice.open()
    with tab.socket() as socket:
        socket.send_json(tab.message("go"))
        heard = ""
        while "tick 2" not in heard:
            heard += socket.receive_text()
    assert "tick 0" in heard
    with alice.open("/hello").socket() as socket:
        socket.send_json(alice.open("/hello").message("big"))
        assert len(socket.receive_text()) > 3_000_000


def test_a_changed_file_makes_a_new_instance(write: Write, user: Start) -> None:
    write("hello.py", "from part import WORD\n" + HELLO.replace('"hello "', "WORD"))
    write("part.py", "WORD = 'one '\n")
    alice = user(WebServer("hello:App"))
    tab = alice.open()
    assert "one nobody" in tab.text
    assert tab.text == alice.open().text
    write("part.py", "WORD = 'two '\n")
    assert "two nobody" in alice.open().text


def test_twelve_first_requests_at_once_start_one_process(write: Write, user: Start) -> None:
    write("hello.py", HELLO)
    server = WebServer("hello:App")

    async def nothing(request: Request) -> Response:
        return JSONResponse({})

    server.add_route("/nothing", nothing)
    before = _below(os.getpid())
    alice = user(server)
    alice.get("/nothing")
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda _: alice.client.get("/", headers=alice.headers), range(12)))
    assert [answer.status_code for answer in answers] == [200] * 12
    (pid,) = {_pid(answer.text) for answer in answers}
    assert _below(os.getpid()) - before == {pid}


def test_an_interaction_that_takes_too_long_ends_and_so_does_a_stuck_process(write: Write, user: Start) -> None:
    write("slow.py", SLOW)
    alice = user(WebServer("slow:App", timeout_interaction=1))
    for handler in ("late", "endless", "stuck"):
        tab = alice.open()
        assert "done" in str(tab.click("quick"))
        began = time.monotonic()
        answer = tab.send(handler)
        assert time.monotonic() - began < 15
        assert answer.status_code != 200 or "too long" in answer.text or "longer" in answer.text, answer.text
        _until(lambda tab=tab: tab.send("quick").status_code == 503)  # type: ignore[misc]
        assert alice.open().text != tab.text


def test_an_init_that_takes_too_long_is_ended_too(write: Write, user: Start) -> None:
    write("stuck.py", HELLO.replace("self.n = 0", "import time; time.sleep(60)"))
    began = time.monotonic()
    answer = user(WebServer("stuck:App", timeout_interaction=1)).get("/")
    assert time.monotonic() - began < 20
    assert answer.status_code == 503
    assert "1 second" in answer.text


def test_a_process_that_nobody_uses_ends_and_opens_again(write: Write, user: Start) -> None:
    write("hello.py", HELLO)
    alice = user(WebServerWS("hello:App", timeout_inactivity=1))
    tab = alice.open()
    pid = _pid(tab.page)
    _until(lambda: not _lives(pid), within_s=30)
    name = tab.base.split("/")[2]
    status = alice.get(f"/-/status?app={name}").json()
    assert (status["state"], status["ending"]) == ("ended", "idle")
    # What the page's own button does:
    answer = alice.get(f"/-/start?app={name}&next=/?p=me", follow_redirects=False)
    assert answer.headers["location"] == "/?p=me"
    assert "hello me" in alice.open("/?p=me").text


def test_nothing_is_started_for_what_no_person_opens(write: Write, user: Start) -> None:
    write("hello.py", HELLO)
    alice = user(WebServer("hello:App"))
    assert alice.client.head("/").status_code == 200
    assert alice.get("/", headers={"sec-fetch-mode": "no-cors"}).status_code == 503
    assert alice.get("/", headers={"sec-purpose": "prefetch"}).status_code == 503
    assert alice.get("/nowhere").status_code == 404


def test_a_foreign_page_neither_posts_nor_opens_sockets(write: Write, user: Start) -> None:
    write("hello.py", HELLO)
    alice = user(WebServerWS("hello:App"))
    tab = alice.open()
    said = {"instance": tab.instance, "page": tab.name, **tab.message("inc")}
    headers = {**alice.headers, "origin": "https://evil.example"}
    assert alice.client.post(f"{tab.base}_post", json=said, headers=headers).status_code == 403


def test_in_parano_mode_page_and_wire_hold_nothing_of_the_app(write: Write, user: Start) -> None:
    write("hello.py", HELLO)
    alice = user(WebServer("hello:App", parano=True))
    page = alice.get("/?p=world").text
    assert "hello" not in page.partition("<script")[0]
    assert "INSTANCE" not in page
    base = page.partition('data-base="')[2].partition('"')[0]
    assert base.startswith("/_/app-")
    assert alice.post(f"{base}_post", json={"instance": "x", "page": "p", "n": 1, "got": 0}).status_code == 403


@pytest.mark.parametrize("obj", [42, "hello", "a:b:c", "../x:App", int, os, lambda: 0])
def test_what_can_not_be_served_is_refused_with_the_accepted_forms(obj: object) -> None:
    with pytest.raises(TypeError, match=r'expected a Tag class, a module .* "module:App"'):
        WebServer(obj)


def test_classes_and_modules_are_served_too(write: Write, served: Served) -> None:
    write("hello.py", HELLO)
    import hello  # type: ignore[import-not-found]

    for server in (WebServer(hello.App), Runner(hello, "127.0.0.1", 8000), AppServer("hello.App", dict, debug=True)):
        assert "hello nobody" in User(served(server)).open().text


def test_without_its_lifespan_a_server_says_what_is_missing() -> None:
    server = WebServer()
    with pytest.raises(RuntimeError, match="lifespan must run"):
        asyncio.run(server({"type": "http", "path": "/"}, None, None))  # type: ignore[arg-type]


def _until(condition: Callable[[], bool], *, within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _pid(page: str) -> int:
    """The one that the page shows."""
    found = re.search(r"pid (\d+)", page)
    assert found, page
    return int(found[1])


def _below(parent: int) -> set[int]:
    """The processes that this one started, and theirs."""
    lists = [each.read_text().split() for each in Path(f"/proc/{parent}/task").glob("*/children")]
    return {pid for child in itertools.chain(*lists) for pid in (int(child), *_below(int(child)))}


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

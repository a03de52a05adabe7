"""The examples, each played under the htag that it is written for."""

from __future__ import annotations

import ast
import base64
import hashlib
import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.sites import REPOSITORY, Sites

APPS = sorted((REPOSITORY / "apps").glob("*.py"))
PLAYER = Path(__file__).parent / "player.py"
ANSWER_TIMEOUT_S = 30.0
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


def description(app: Path) -> str:
    return (ast.get_docstring(ast.parse(app.read_text())) or "").partition("\n")[0]


def generation(app: Path) -> int:
    source = app.read_text()
    return 2 if "Tag.App" in source else 1


@dataclass
class Answer:
    page: str
    replies: list[dict[str, Any]]

    def text(self, tag: str) -> list[str]:
        """What the page's elements of that kind say, without the markup in it."""
        found = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", self.page, re.DOTALL)
        return [html.unescape(re.sub(r"<[^>]*>", "", content)) for content in found]


class Player:
    """An app in a process with its own htag; see player.py for the commands."""

    def __init__(self, app: Path, sites: Sites) -> None:
        # Nothing of our environment: what the app finds is what a sandbox has.
        search = os.pathsep.join(map(str, sites.path(generation(app))))
        command = [sys.executable, "-S", str(PLAYER), str(app)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": search}
        )

    def do(self, what: str, **arguments: Any) -> Answer:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the app's process ended"
        return Answer(**json.loads(line))

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


Open = Callable[[str], Player]


@pytest.fixture
def play(sites: Sites) -> Iterator[Open]:
    players: list[Player] = []

    def play(name: str) -> Player:
        players.append(Player(REPOSITORY / "apps" / f"{name}.py", sites))
        return players[-1]

    yield play
    for player in players:
        player.close()


pytestmark = pytest.mark.timeout(ANSWER_TIMEOUT_S)
every_app = pytest.mark.parametrize("app", APPS, ids=lambda app: app.stem)


@every_app
def test_an_example_draws_its_page_under_its_own_htag(app: Path, play: Open) -> None:
    page = play(app.stem).do("open").page
    assert "<body" in page
    assert "hello world" in page or "<h1" in page
    assert "init error" not in page
    assert "Internal Server Error" not in page
    assert "htag-error show" not in page


@every_app
def test_an_example_describes_itself_in_one_line_for_the_catalogue(app: Path) -> None:
    line = description(app)
    assert 10 < len(line) <= 100
    assert line.endswith(".")
    assert f"htag {generation(app)}" in line


@every_app
def test_an_example_has_a_name_that_can_be_a_host_name(app: Path) -> None:
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", app.stem)


@every_app
def test_an_example_takes_nothing_from_other_hosts(app: Path, play: Open) -> None:
    page = play(app.stem).do("open").page
    assert not re.search(r"""(?:src|href|action)=["'](?:https?:)?//""", page)
    assert "@import" not in page


def test_the_examples_share_one_look() -> None:
    styles = [app.read_text().partition('STYLE = """')[2] for app in APPS if app.stem != "hello"]
    shared = {style.partition(":focus-visible")[0] for style in styles}
    assert len(shared) == 1
    assert "color-scheme: light dark" in shared.pop()


def test_both_generations_are_shown() -> None:
    shown = [generation(app) for app in APPS]
    assert shown.count(1) >= 5
    assert shown.count(2) >= 5


def test_hello_is_the_three_lines_that_it_has_always_been() -> None:
    code = (REPOSITORY / "apps" / "hello.py").read_text().split('"""')[2]
    lines = [line for line in code.splitlines() if line]
    assert lines == [
        "from htag import Tag",
        "class App(Tag.div):",
        "    def init(self):",
        '        self+= "hello world"',
    ]


def test_the_counter_counts_both_ways(play: Open) -> None:
    counter = play("counter")
    assert counter.do("open").text("output") == ["0"]
    counter.do("click", button="one more")
    counter.do("click", button="one more")
    assert counter.do("click", button="one less").text("output") == ["1"]


@pytest.mark.parametrize(("query", "begins"), [("41", "41"), ("start=-7", "-7"), ("start=", "0"), ("x%00<b>", "0")])
def test_the_counter_begins_where_the_query_says(play: Open, query: str, begins: str) -> None:
    assert play("counter").do("open", query=query).text("output") == [begins]


def test_both_views_of_the_second_counter_follow_one_state(play: Open) -> None:
    counter = play("counter2")
    counter.do("open")
    for _ in range(3):
        answer = counter.do("click", button="one more")
    assert answer.text("output") == ["3"]
    assert "3 is odd, and its square is 9" in answer.text("p")
    assert len(answer.replies[-1]["updates"]) == 2


def test_the_list_takes_ticks_and_forgets_things(play: Open) -> None:
    todo = play("todo")
    assert "1 thing left" in todo.do("open").text("span")
    answer = todo.do("event", tag="form", event="submit", data={"value": {"thing": "<b>bold</b>"}})
    assert "<b>bold</b>" in answer.text("span")  # as text: the page has it escaped
    assert "<b>" not in answer.page
    assert "2 things left" in answer.text("span")
    answer = todo.do("event", tag="input", kind="checkbox", event="change", data={"checked": True})
    assert "1 thing left" in answer.text("span")
    answer = todo.do("click", button="Clear the done")
    assert answer.text("li span") == []
    assert "<b>bold</b>" in answer.text("span")
    answer = todo.do("click", button="remove <b>bold</b>")
    assert "Nothing left to do" in answer.text("span")


@pytest.mark.parametrize("value", [{}, {"thing": "   "}])
def test_the_list_takes_no_empty_thing(play: Open, value: dict[str, str]) -> None:
    todo = play("todo")
    todo.do("open")
    assert "1 thing left" in todo.do("event", tag="form", event="submit", data={"value": value}).text("span")


def test_the_form_shows_what_the_server_got_as_text(play: Open) -> None:
    form = play("form")
    form.do("open")
    fields = {"text": ["<script>"], "password": ["secret"], "checkbox": ["first", "third"], "textarea": ["a\nb"]}
    answer = form.do("call", method="receive", args=[fields])
    got = dict(zip(answer.text("th"), answer.text("td"), strict=True))
    assert got["text"] == "'<script>'"
    assert "<script>'" not in answer.page
    assert got["password"] == "6 characters, not shown"
    assert "secret" not in answer.page
    assert got["checkbox"] == "'first', 'third'"
    assert got["radio"] == "nothing"


def test_the_form_has_every_kind_of_input(play: Open) -> None:
    page = play("form").do("open").page
    kinds = "text password email url tel search number range date time datetime-local month week color file hidden"
    for kind in [*kinds.split(), "checkbox", "radio"]:
        assert f'type="{kind}"' in page
    assert all(f"<{tag}" in page for tag in ("select", "textarea", "datalist"))


def test_the_clock_pushes_the_time_though_nobody_asks(play: Open) -> None:
    clock = play("clock")
    clock.do("open")
    first, second = (clock.do("push").replies[0]["update"] for _ in range(2))
    assert first.keys() == second.keys()
    assert first != second


def test_the_clock_answers_a_click_with_the_time(play: Open) -> None:
    clock = play("clock")
    clock.do("open")
    answer = clock.do("click", button="Note the time")
    [noted] = answer.text("li")
    datetime.strptime(noted, "%H:%M:%S.%f")
    # The answer itself carries the face, for a page that gets no pushes.
    assert any(f">{noted[:8]}</time>" in update for update in answer.replies[0]["update"].values())


def test_the_digits_arrive_while_they_are_computed(play: Open) -> None:
    stream = play("stream")
    stream.do("open")
    answer = stream.do("click", button="Compute", rounds=7)
    assert [len(reply.get("stream", {})) for reply in answer.replies] == [0, 1, 1, 1, 1, 1, 1]
    assert "".join(answer.text("b")) == "314159265358979323846264338327950288419716939937510582097494"
    again = stream.do("click", button="Compute", rounds=2)
    assert again.text("b") == ["3141592653"]


def test_the_session_outlives_the_instance(play: Open) -> None:
    app = play("session")
    app.do("open")
    app.do("click", button="Count")
    assert app.do("click", button="Count").text("output") == ["2", "2"]
    assert app.do("open").text("output") == ["0", "2"]
    assert app.do("click", button="Count").text("output") == ["1", "3"]
    assert app.do("click", button="Forget").text("output") == ["1", "0"]


def test_an_uploaded_picture_is_measured_and_shown(play: Open) -> None:
    upload = play("upload")
    upload.do("open")
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    answer = upload.do("call", method="receive", args=["<dot>.png", url])
    assert answer.text("dd") == ["<dot>.png", f"{len(PNG)} bytes", hashlib.sha256(PNG).hexdigest()]
    assert "<dot>" not in answer.page
    assert f'src="{url}"' in answer.page
    assert "0000  89 50 4e 47 0d 0a 1a 0a  ·PNG····" in answer.text("pre")[0]


def test_an_uploaded_text_is_no_picture(play: Open) -> None:
    upload = play("upload")
    upload.do("open")
    content = base64.b64encode(b"<svg onload=x>").decode()
    answer = upload.do("call", method="receive", args=["a.png", f"data:image/png;base64,{content}"])
    assert "<img" not in answer.page
    assert "<svg" not in answer.page
    assert "<svg onl" in answer.text("pre")[0]
    assert "no bytes at all" in upload.do("call", method="receive", args=["empty", "data:"]).text("pre")


def test_the_router_shows_the_page_that_the_hash_names(play: Open) -> None:
    router = play("router")
    router.do("open")
    assert router.do("event", tag="div", event="init_route", data={"hash": ""}).text("h2") == [
        "What happens to a click"
    ]
    for path, heading in [("/part/gateway", "Gateway"), ("/part/<b>", "No such part"), ("/nowhere", "No such page")]:
        answer = router.do("event", tag="body", event="hashchange", data={"newURL": f"http://localhost/router/#{path}"})
        assert answer.text("h2") == [heading]
        assert "<b>" not in answer.page


def test_the_plot_draws_what_was_thrown(play: Open) -> None:
    plot = play("plot")
    assert plot.do("open").text("figcaption") == ["Nothing thrown yet"]
    answer = plot.do("click", button="Throw 100 times")
    assert re.fullmatch(r"100 throws, \d+ sevens", answer.text("figcaption")[0])
    assert "<svg" in answer.page
    assert sum(map(int, re.findall(r'<desc class="value">(\d+)</desc>', answer.page))) == 100
    assert plot.do("click", button="Begin again").text("figcaption") == ["Nothing thrown yet"]

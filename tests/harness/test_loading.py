"""From `load` to `ready` or `failed`: what an app may be, and what is said of one that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from htagweb.new_app import new_app
from tests.harness.apps import COUNTER1, COUNTER2
from tests.harness.conftest import Boot
from tests.harness.driver import Harness
from tests.harness.page1 import Page
from tests.sites import REPOSITORY

APP = "from htag import Tag\nclass App(Tag.div):\n    def init(self):\n        self += 'here I am'\n"
NAMED = "from htag import Tag\nclass {name}(Tag.div):\n    def init(self):\n        self += 'served {name}'\n"
EXAMPLES = {app.stem: app.read_text() for app in sorted((REPOSITORY / "apps").glob("*.py"))}


@pytest.mark.parametrize("name", EXAMPLES)
async def test_every_example_gets_to_its_first_page(boot: Boot, name: str) -> None:
    harness = await boot(2 if "Tag.App" in EXAMPLES[name] else 1)
    ready = await harness.load(EXAMPLES[name])
    assert set(ready["took_ms"]) == {"write", "import"}
    ready = await harness.claim()
    assert set(ready["took_ms"]) == {"render"}
    answer = await harness.http.get("/")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert '<head><script src="/-/live.js" data-app="toy"></script>' in answer.text
    assert "init error" not in answer.text


@pytest.mark.parametrize("generation", [1, 2])
async def test_an_app_that_htagweb_new_writes_gets_to_its_first_page(
    boot: Boot, generation: int, tmp_path: Path
) -> None:
    harness = await boot(generation)
    await harness.load(new_app("my-shop", generation, tmp_path).read_text())
    await harness.claim()
    assert "My shop</h1>" in (await harness.http.get("/")).text


async def test_an_app_of_several_files_finds_its_modules_and_data(first: Harness) -> None:
    files = {
        "app.py": "from htag import Tag\nfrom parts.card import Card\nclass App(Tag.div):\n"
        "    def init(self):\n        self += Card(open('data/text.txt').read())\n",
        "parts/__init__.py": "",
        "parts/card.py": "from htag import Tag\nclass Card(Tag.section):\n    pass\n",
        "data/text.txt": "from a file",
    }
    await first.load(files)
    await first.claim()
    assert "from a file" in (await first.http.get("/")).text


@pytest.mark.parametrize("path", ["../out.py", "/tmp/out.py", "a//b.py", "./a.py", "a/../../b.py", "a\0b.py", ""])
async def test_a_path_that_leads_out_is_refused(first: Harness, path: str) -> None:
    failed = await first.load({"app.py": APP, path: "out"}, expect="failed")
    assert "path" in failed["error"]
    assert not (first.app_dir.parent / "out.py").exists()


async def test_too_many_bytes_are_refused(first: Harness) -> None:
    big = {f"part{n}.bin": "x" * 6_000_000 for n in range(3)}
    failed = await first.load({"app.py": APP, **big}, expect="failed")
    assert "18000" in failed["error"]


async def test_another_size_than_announced_is_refused(first: Harness) -> None:
    files = [{"path": "app.py", "size": 3}]
    first.link.send({"type": "load", "app": "toy", "version": "v", "entry": "app:App", "files": files}, b"four")
    assert "announced" in (await first.link.frame("failed"))["error"]


async def test_a_second_load_is_refused_and_its_files_are_swallowed(first: Harness) -> None:
    await first.load(APP)
    heard = len(first.link.heard)
    files = [{"path": "app.py", "size": 4}]
    first.link.send({"type": "load", "app": "toy", "version": "v", "entry": "app:App", "files": files}, b"four")
    assert (await first.link.frame("failed", after=heard))["stage"] == "load"
    await first.claim()


@pytest.mark.parametrize("name", ["calendar", "json", "asyncio", "uvicorn", "htag", "my-app"])
async def test_an_app_named_like_a_module_in_use_breaks_nothing(first: Harness, name: str) -> None:
    source = (
        APP + "import http.cookiejar, calendar, json, asyncio\ncalendar.month(2026, 1), json.dumps(1), asyncio.run\n"
    )
    await first.load({f"{name}.py": source}, f"{name}:App")
    await first.claim()
    assert "here I am" in (await first.http.get("/")).text


async def test_a_helper_named_like_the_standard_library_does_not_replace_it(first: Harness) -> None:
    files = {"app.py": APP + "import http.cookiejar\n", "calendar.py": "raise RuntimeError('not me')\n"}
    await first.load(files)
    await first.claim()


async def test_an_apps_secrets_and_environment_are_there_before_it_is_imported(first: Harness) -> None:
    source = APP + f"import os\nprint(open('{first.secrets_dir}/api-key').read(), os.environ['LANGUAGE'], flush=True)\n"
    await first.load(source, secrets={"api-key": "aHVzaA=="}, env={"LANGUAGE": "en"})
    await first.link.said("hush en")
    assert (first.secrets_dir / "api-key").stat().st_mode & 0o777 == 0o400


@pytest.mark.parametrize("name", ["../out", "a/b", "..", ""])
async def test_a_secret_with_a_path_for_a_name_is_refused(first: Harness, name: str) -> None:
    failed = await first.load(APP, secrets={name: "aHVzaA=="}, expect="failed")
    assert "could not be put into" in failed["error"]


@pytest.mark.parametrize(
    ("source", "error", "trace"),
    [
        ("raise RuntimeError('on purpose')", "RuntimeError: on purpose", "app.py"),
        ("def broken(:\n", "SyntaxError", "app.py"),
        ("import nowhere_to_be_found\n", "No module named 'nowhere_to_be_found'", "app.py"),
        ("import sys\nsys.exit('enough')\n", "sys.exit('enough')", "app.py"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt", "app.py"),
        ("from htag import Tag\n", "app has no App", ""),
        ("App = 3\n", "inherit from Tag", ""),
        ("class App: pass\n", "inherit from Tag", ""),
    ],
)
async def test_an_app_that_cannot_be_loaded_is_explained(first: Harness, source: str, error: str, trace: str) -> None:
    failed = await first.load(source, expect="failed")
    assert error in failed["error"]
    assert "\n" not in failed["error"]
    assert trace in failed["traceback"]
    assert "htagweb_harness" not in failed["traceback"]
    await first.link.ping()


async def test_a_missing_entry_module_is_explained(first: Harness) -> None:
    assert "other" in (await first.load(APP, "other:App", expect="failed"))["error"]


async def test_an_app_that_kills_its_process_while_importing_is_reported(first: Harness) -> None:
    failed = await first.load("import os\nprint('last words')\nos._exit(3)\n", expect="failed")
    assert "os._exit(3)" in failed["error"]
    assert await first.ended() == 3
    await first.link.said("last words")


async def test_an_import_that_hangs_leaves_ping_and_output_alive(first: Harness) -> None:
    files = [{"path": "app.py", "size": 58}]
    source = b"import threading\nprint('stuck')\nthreading.Event().wait()\n\n\n"
    files[0]["size"] = len(source)
    first.link.send({"type": "load", "app": "toy", "version": "v", "entry": "app:App", "files": files}, source)
    await first.link.said("stuck")
    await first.link.ping()
    first.link.send({"type": "end", "reason": "failed", "grace_s": 0})
    assert await first.ended() == 0


@pytest.mark.parametrize(
    "ending",
    [
        "from htagweb import WebServer\nWebServer(Other).run()\n",
        "from htagweb import WebServerWS\napp = WebServerWS(Other, timeout=60)\napp.run(port=9000)\n",
        "from htagweb import Runner\nRunner(Other, host='0.0.0.0').run()\n",
        "from htagweb import AppServer, SimpleServer, HtagServer\nAppServer(Other, debug=False).run()\n",
        "from htagweb import WebServer\nWebServer('app:Other').run()\n",
        "from htagweb.sessions import FileDict\nfrom htagweb import AppServer\n"
        "AppServer(Other, session_factory=FileDict).run()\n",
        "from htag import Runner\nRunner(Other).run()\n",
        "from htag.runners import ChromeApp\nChromeApp(Other).run(size=(800, 600))\n",
        "from htag.runners import DevApp, BrowserHTTP\nDevApp(Other).run()\n",
    ],
)
async def test_running_a_server_only_says_which_class_to_serve(first: Harness, ending: str) -> None:
    source = NAMED.format(name="App") + NAMED.format(name="Other") + ending
    await first.load(source, "app")
    await first.claim()
    assert "served Other" in (await first.http.get("/")).text


@pytest.mark.parametrize(
    "ending",
    ["WebApp(App).run(port=1)\n", "ChromeApp(App, kiosk=False).run(reload=True)\n", "from htagweb import WebServer\n"],
)
async def test_servers_of_htag_2_only_say_which_class_to_serve(second: Harness, ending: str) -> None:
    await second.load("from htag import ChromeApp, WebApp\n" + COUNTER2 + ending, "app")
    await second.claim()


async def test_a_guarded_start_is_not_needed_where_the_entry_names_a_class(first: Harness) -> None:
    source = COUNTER1 + "if __name__ == '__main__':\n    from htagweb import WebServer\n    WebServer(App).run()\n"
    await first.load(source)
    await first.claim()


async def test_routes_of_a_server_are_ignored_aloud(first: Harness) -> None:
    source = APP + "from htagweb import WebServer\napp = WebServer(App)\napp.add_route('/x', None)\napp.run()\n"
    await first.load(source)
    await first.link.said("'/x' is ignored")


async def test_the_environment_travels_with_the_app(first: Harness) -> None:
    await first.load(APP + "import os\nprint('colour', os.environ['COLOUR'])\n", env={"COLOUR": "green"})
    await first.link.said("colour green")


async def test_commons_of_the_runners_can_still_be_imported(first: Harness) -> None:
    await first.load(APP + "from htag.runners.commons import url2ak\nprint(url2ak('/?a&b=c'))\n")
    await first.link.said("(('a',), {'b': 'c'})")


async def test_an_app_knows_its_user(first: Harness) -> None:
    source = APP.replace("'here I am'", "f'user {htagweb.user()}'").replace("from htag", "import htagweb\nfrom htag", 1)
    await first.load(source)
    await first.claim()
    assert "user None" in (await first.http.get("/")).text


async def test_busy_work_is_announced_and_ends(first: Harness) -> None:
    source = """
import htagweb
from htag import Tag
class App(Tag.div):
    def init(self):
        self += Tag.button("work", _onclick=self.bind.work())
    def work(self):
        with htagweb.busy("baking", up_to="90s"):
            pass
"""
    await first.load(source)
    await first.claim()
    await (await Page.open(first)).click("work")
    await first.link.frame("busy", label="", up_to_s=0.0)
    said = [(frame["label"], frame["up_to_s"]) for frame in first.link.heard if frame["type"] == "busy"]
    assert said == [("baking", 90.0), ("", 0.0)]


@pytest.mark.parametrize(
    ("generation", "source"),
    [
        (1, APP.replace("self += 'here I am'", "raise ValueError('bad init')")),
        (1, APP + "    def render(self):\n        raise ValueError('bad init')\n"),
        (2, APP.replace("Tag.div", "Tag.App").replace("self += 'here I am'", "raise ValueError('bad init')")),
        (2, APP.replace("self += 'here I am'", "raise ValueError('bad init')")),
        (2, "from htag import Tag\ndef bad():\n    raise ValueError('bad init')\nclass App(Tag.App):\n"
            "    def init(self):\n        self += Tag.p(bad)\n"),
    ],
)  # fmt: skip
async def test_an_app_that_fails_in_its_first_page_is_explained(boot: Boot, generation: int, source: str) -> None:
    harness = await boot(generation)
    await harness.load(source)
    failed = await harness.claim(expect="failed")
    assert failed["error"] == "ValueError: bad init"
    assert "app.py" in failed["traceback"]
    assert (await harness.http.get("/")).status_code == 503


async def test_a_write_outside_tmp_gets_a_hint(first: Harness) -> None:
    # What a read-only root answers, from the app itself: the host's root is not read-only.
    source = APP.replace("self += 'here I am'", "raise OSError(30, 'Read-only file system', '/data.txt')")
    await first.load(source)
    failed = await first.claim(expect="failed")
    assert "below /tmp" in failed["error"]
    await first.link.said("below /tmp")

"""`python -m htagweb`: a folder of apps while they are written."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from htagweb import WebServer
from htagweb.folder import FolderServer
from tests.sites import Sites

from .conftest import Write
from .tab import User
from .test_seeds import alone

Start = Callable[[WebServer], User]
pytestmark = pytest.mark.timeout(60)

APP = """
\"\"\"Says a word.\"\"\"
from htag import Tag

class App(Tag.div):
    def init(self):
        self += "a word"
"""
APP2 = """
from htag import Tag

class App(Tag.App):
    def init(self):
        self += Tag.b("two")
"""


@pytest.fixture
def folder(write: Write, tmp_path: Path) -> Path:
    write("folder/one.py", APP)
    write("folder/two.py", APP2)
    write("folder/sub/three.py", APP.replace("a word", "three"))
    write("folder/sub/four-four.py", APP.replace("a word", "four"))
    write("folder/plain.py", "print('no app')\n")
    write("folder/broken.py", "from htag import Tag\nclass App(Tag.div:\n")
    write("folder/fails.py", APP.replace('self += "a word"', "raise ValueError('ouch')"))
    write("folder/.hidden/app.py", APP)
    write("folder/_private.py", APP)
    write("outside.py", APP)
    (tmp_path / "folder" / "link.py").symlink_to(tmp_path / "outside.py")
    (tmp_path / "folder" / "up").symlink_to(tmp_path)
    return tmp_path / "folder"


def test_the_page_lists_apps_and_folders_and_opens_them(folder: Path, user: Start) -> None:
    alice = user(FolderServer(folder))
    page = alice.get("/").text
    for shown in (
        'href="one"',
        'href="two"',
        'href="sub/"',
        "Says a word.",
        "htag&nbsp;2",
        "this environment has htag 1",
    ):
        assert shown in page, shown
    for hidden in ("plain", "hidden", "private", ">link", "up/", "outside"):
        assert hidden not in page, hidden
    assert "line 2" in page  # of broken.py
    assert "a word" in alice.open("/one").text
    assert 'href="three"' in alice.get("/sub/").text
    assert "three" in alice.open("/sub/three").text
    assert "four" in alice.open("/sub/four-four").text
    assert "line 2" in alice.get("/broken").text
    assert "ValueError: ouch" in alice.get("/fails").text


NOWHERE = """
    /json /logging /os.path /plain /.hidden/app /_private /link /up/outside /sub/../../outside /%2e%2e/outside
    /..%2foutside //outside /one/ /one.py /sub//three /one:App /sub%5cthree
""".split()


def test_only_what_the_folder_has_can_be_opened(folder: Path, user: Start) -> None:
    alice = user(FolderServer(folder))
    imported = set(sys.modules)
    for path in NOWHERE:
        answer = alice.client.request("GET", "http://testserver" + path, headers=alice.headers)
        assert answer.status_code in (400, 404), path
        assert "a word" not in answer.text
    assert not {"plain", "outside"} & (set(sys.modules) - imported)


def test_an_absolute_path_leads_nowhere(folder: Path, user: Start) -> None:
    assert user(FolderServer(folder)).get(f"/{folder.parent}/outside").status_code == 404


def test_a_changed_file_ends_what_is_open_and_tells_the_page_to_reload(folder: Path, user: Start) -> None:
    alice = user(FolderServer(folder))
    tab = alice.open("/one")
    (folder / "one.py").write_text(APP.replace("a word", "another word"))
    name = tab.base.split("/")[2]
    deadline = time.monotonic() + 20
    while not (status := alice.get(f"/-/status?app={name}").json())["reload"]:
        assert time.monotonic() < deadline, status
        time.sleep(0.05)
    assert "another word" in alice.open("/one").text


def test_the_command_serves_a_folder(write: Write, sites: Sites) -> None:
    folder = write("apps/hello.py", APP).parent
    said = alone([sys.executable, "-m", "htagweb"], folder, sites)
    assert 'href="hello"' in said["page"]
    assert said["left"] == []


@pytest.mark.parametrize("what", ["hello:App", "apps/hello.py", "apps/hello.py:App", "hello"])
def test_the_command_serves_an_app_however_it_is_named(write: Write, sites: Sites, what: str) -> None:
    folder = write("apps/hello.py", APP).parent
    where = folder.parent if "/" in what else folder
    said = alone([sys.executable, "-m", "htagweb", what, "--port", "8000"], where, sites)
    assert "a word" in said["page"]
    assert said["left"] == []


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("nothing-here", "neither a folder nor an app"),
        ("nothing.py", "neither a folder nor an app"),
        ("json.py", "neither a folder nor an app"),  # though there is a module of that name
        ("nothing:App", "neither a folder nor an app"),
        ("plain.py", "plain.py: no htag class in it, such as class App(Tag.div)"),
        ("broken.py", "broken.py, line 2:"),
        ("two-words.py", "rename it to two_words.py"),
        ("apps/re.py", "apps/re.py has the name of a module that is in use here: rename it, to re_app.py say"),
    ],
)
def test_the_command_says_what_is_wrong_with_what_it_is_given(write: Write, sites: Sites, what: str, why: str) -> None:
    write("plain.py", "print('no app')\n")
    write("broken.py", "from htag import Tag\nclass App(Tag.div:\n")
    write("apps/re.py", APP)
    folder = write("two-words.py", APP).parent
    environ = {**os.environ, "PYTHONPATH": str(sites.root / "site-gen1")}
    command = [sys.executable, "-m", "htagweb", what]
    ran = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 2
    assert why in ran.stderr
    assert len(ran.stderr.splitlines()) == 1

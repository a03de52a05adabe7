"""A configuration that is changed while the orchestrator runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from htagweb_orchestrator.catalogue import Catalogue
from htagweb_orchestrator.config_file import ConfigFile
from htagweb_orchestrator.errors import AppBroken
from htagweb_orchestrator.settings import Settings

HELLO = "from htag import Tag\n\nclass App(Tag.div):\n    pass\n"


class Running:
    """What an orchestrator has of its configuration and its apps."""

    def __init__(self, folder: Path, toml: str = "") -> None:
        self.file = folder / "htagweb.toml"
        self.file.write_text(toml)
        apps = folder / "apps"
        apps.mkdir()
        for name in ("hello", "other"):
            (apps / f"{name}.py").write_text(HELLO)
        environ = {
            "HTAGWEB_CONFIG": str(self.file),
            "HTAGWEB_APPS_DIR": str(apps),
            "HTAGWEB_STATE_DIR": str(folder / "state"),
        }
        config = ConfigFile(environ)
        self.catalogue = Catalogue(Settings.load(environ), config=config)
        self.catalogue.scan()

    def say(self, toml: str) -> bool:
        """Change the file; did the next rounds change an app?"""
        self.file.write_text(toml)
        return self.catalogue.scan() | self.catalogue.scan()


@pytest.fixture
def running(tmp_path: Path) -> Running:
    return Running(tmp_path)


def test_a_file_that_is_being_written_opens_no_app(tmp_path: Path) -> None:
    closed = 'auth = "password"\naccess = "signed-in"\n'
    running = Running(tmp_path, closed)
    for half in ("", "# soon", "", closed + "#"):  # as an editor may leave it for a moment
        running.file.write_text(half)
        assert not running.catalogue.scan()
        assert running.catalogue.access_of("hello") == ("signed-in",)
    assert running.say('auth = "password"\naccess = "public"\n')
    assert running.catalogue.access_of("hello") == ("public",)


def test_what_is_said_about_an_app_counts_in_the_next_round(running: Running) -> None:
    before = running.catalogue.get("hello")
    toml = '[apps.hello]\ntitle = "Good day"\nmemory = "128m"\naccess = "public"\nmax_sandboxes = 3\nenv = {A = "b"}'
    assert running.say(toml)
    after = running.catalogue.get("hello")
    assert (after.title, after.limits.memory_bytes, after.env) == ("Good day", 128 << 20, {"A": "b"})
    assert running.catalogue.said("hello").max_sandboxes == 3
    assert before.version != after.version  # what it is given is a part of it
    assert running.say("")
    assert running.catalogue.get("hello") == before
    assert running.catalogue.problems == ()


def test_another_home_counts_without_a_restart(running: Running) -> None:
    assert running.say('home = "hello"')
    assert (running.catalogue.home(), running.catalogue.problems) == ("hello", ())
    assert running.say("")
    assert running.catalogue.home() == ""


@pytest.mark.parametrize("key", ["parano", "http_only"])
def test_an_app_that_is_to_talk_otherwise_is_another_version(running: Running, key: str) -> None:
    """Else one that was loaded before would be given to a visitor."""
    before = running.catalogue.get("hello")
    assert running.say(f"[apps.hello]\n{key} = true")
    after = running.catalogue.get("hello")
    assert (getattr(before, key), getattr(after, key)) == (False, True)
    assert before.version != after.version
    assert running.say("")
    assert running.catalogue.get("hello") == before


def test_no_earlier_version_talks_in_the_clear_where_parano_is_asked_for(running: Running) -> None:
    app = running.file.parent / "apps" / "hello.py"
    app.write_text("class App(")
    assert running.say("")
    assert running.catalogue.get("hello")  # the last good one
    assert running.say("[apps.hello]\nparano = true")
    with pytest.raises(AppBroken):
        running.catalogue.get("hello")
    app.write_text(HELLO)
    assert running.catalogue.scan()
    assert running.catalogue.get("hello").parano


def test_an_app_of_no_htag_can_not_have_parano(running: Running) -> None:
    (running.file.parent / "apps" / "other.py").write_text(
        "from starlette.applications import Starlette\napp = Starlette()\n"
    )
    assert running.say("[apps.other]\nparano = true")
    with pytest.raises(AppBroken) as caught:
        running.catalogue.get("other")
    assert caught.value.facts["detail"] == "other can't have parano, which is for apps of htag"


def test_a_limit_for_all_counts_for_those_that_have_none_of_their_own(running: Running) -> None:
    versions = {name: running.catalogue.get(name).version for name in ("hello", "other")}
    assert running.say('idle_timeout = "1h"\n[apps.other]\nidle_timeout = "2h"')
    limits = {name: running.catalogue.get(name).limits.idle_timeout_s for name in ("hello", "other")}
    assert limits == {"hello": 3600.0, "other": 7200.0}
    assert versions == {name: running.catalogue.get(name).version for name in ("hello", "other")}


def test_a_mistake_is_told_and_what_was_said_before_counts_on(running: Running) -> None:
    running.say('[apps.hello]\ntitle = "One"')
    assert not running.say('[apps.hello]\ntitle = "Two"\nmemory = "lots"')
    assert running.catalogue.problems == (
        'htagweb.toml:3: apps.hello.memory: expected a size such as 256m, 64k, 1g, got "lots"',
    )
    assert running.catalogue.warnings()[:1] == running.catalogue.problems
    assert running.catalogue.get("hello").title == "One"
    assert running.say('[apps.hello]\ntitle = "Two"')
    assert not running.catalogue.problems


def test_a_name_that_no_app_has_is_told_like_a_mistake(running: Running) -> None:
    running.say('home = "start"\n[apps.helo]\nmemory = "1g"\n[apps.hello]\ntitle = "One"')
    assert running.catalogue.problems == (
        "[apps.helo] is configured, but there is no such app",
        "start is configured as home, but there is no such app",
    )
    assert running.catalogue.get("hello").title == "One"  # all else counts
    running.say("")
    assert not running.catalogue.problems


def test_what_the_parts_were_made_with_waits_for_a_restart(running: Running) -> None:
    assert running.say('message_size = "1m"\nmax_per_user = 2\n[apps.hello]\ntitle = "One"')
    assert running.catalogue.get("hello").title == "One"
    assert running.catalogue.problems == (
        "htagweb.toml: message_size is used after a restart",
        "htagweb.toml: max_per_user is used after a restart",
    )


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ('[apps.hello]\nruntime = "runsc"', "apps.hello"),
        ('[apps.hello]\nnetwork = "apps-out"', "apps.hello"),
        ('runtime = "runsc"\n[apps.hello]\ntitle = "One"', "runtime"),
    ],
)
def test_a_wall_that_was_never_tried_is_not_relied_on(running: Running, toml: str, key: str) -> None:
    assert not running.say(toml)
    assert running.catalogue.problems == (
        f"htagweb.toml: {key}: the runtime or the network, which no app had before: nothing of the change is used"
        " before a restart",
    )
    assert running.catalogue.get("hello").title == "Hello"
    limits = running.catalogue.get("hello").limits
    assert (limits.runtime, limits.network) == ("runc", "")


def test_a_file_that_an_editor_replaced_is_told_where_the_old_one_is_still_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Running(tmp_path)
    held = os.open(running.file, os.O_RDONLY)
    running.file.with_suffix(".new").write_text('[apps.hello]\ntitle = "One"')
    running.file.with_suffix(".new").rename(running.file)
    # As in a container, where the name leads to the file that was mounted.
    monkeypatch.setattr(Path, "open", lambda path, mode: os.fdopen(os.dup(held), mode))
    running.catalogue.scan()
    os.close(held)
    assert running.catalogue.problems == ("htagweb.toml was replaced by a new file, which is seen after a restart",)


def test_limits_that_hold_now_hold_for_an_earlier_version_that_is_served_on(running: Running) -> None:
    (running.file.parent / "apps" / "hello.py").write_text("def (")
    running.catalogue.scan()
    assert running.say('[apps.hello]\nmemory = "128m"')
    assert running.catalogue.get("hello").limits.memory_bytes == 128 << 20
    assert [card.name for card in running.catalogue.cards() if card.problem] == ["hello"]


def test_an_image_and_the_list_that_allows_it_count_together(running: Running) -> None:
    assert running.say('images = ["ours:1"]\n[apps.hello]\nimage = "ours:1"')
    assert running.catalogue.get("hello").image == "ours:1"
    assert running.catalogue.problems == ()
    assert not running.say('[apps.hello]\nimage = "ours:1"')
    assert "\n".join(running.catalogue.problems).endswith(
        'apps.hello.image: expected one of the list images, got "ours:1"'
    )
    assert running.catalogue.get("hello").image == "ours:1"

"""Writes a small app that works, to begin with."""

from __future__ import annotations

from pathlib import Path

from htagweb_orchestrator.discovery import suggestion
from htagweb_orchestrator.kinds import DNS_LABEL

_GENERATION_1 = '''\
# /// script
# dependencies = ["htag<2"]
# ///
"""{title}: a line of text, and how often it was said."""

from htag import Tag


class App(Tag.body):
    statics = [Tag.title("{title}")]

    def init(self):
        self.count = 0
        self.said = Tag.p("Nothing was said yet.")
        self += Tag.h1("{title}")
        self += Tag.input(_onchange=self.bind.say(b"this.value"), _placeholder="Say something", _aria_label="Text")
        self += self.said

    def say(self, text):
        self.count += 1
        self.said.clear(Tag.span(f"Said {{self.count}} times, last: "))
        self.said += Tag.b(text.replace("&", "&amp;").replace("<", "&lt;"))  # htag 1 takes text for HTML
'''

_GENERATION_2 = '''\
# /// script
# dependencies = ["htag>=2"]
# ///
"""{title}: a number that its button counts up."""

from htag import State, Tag


class App(Tag.App):
    statics = [Tag.title("{title}")]

    def init(self):
        self.count = State(0)
        self += Tag.h1("{title}")
        self += Tag.button("Count", _onclick=self.up)
        self += Tag.p(lambda: f"Counted {{self.count.value}} times.")

    def up(self, event):
        self.count += 1
'''
TEMPLATES = {1: _GENERATION_1, 2: _GENERATION_2}


class Refused(Exception):
    """`str()` says why, and what to do instead."""


def source(name: str, generation: int) -> str:
    """The app's text. Raises Refused."""
    if not DNS_LABEL.fullmatch(name):
        raise Refused(f"{name} can't be part of an address: {suggestion(name)} can.")
    return TEMPLATES[generation].format(title=name.replace("-", " ").capitalize())


def new_app(name: str, generation: int, folder: Path) -> Path:
    """Write FOLDER/NAME.py; return its path. Raises Refused."""
    text = source(name, generation)
    if not folder.is_dir():
        raise Refused(f"There is no folder {folder}: name the one with your apps by --into.")
    if (folder / name).exists():
        raise Refused(f"{folder / name} is there already.")
    path = folder / f"{name}.py"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Refused(f"{path} is there already.") from None
    except OSError as error:
        raise Refused(f"{path} can't be written: {error.strerror}. With --into - it is printed.") from None
    return path

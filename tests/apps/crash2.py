"""Raises in init (htag 2)."""

from htag import Tag


class App(Tag.App):
    def init(self):
        self += Tag.p("never seen")
        raise RuntimeError("crashed in init, on purpose")

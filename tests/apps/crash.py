"""Raises in init (htag 1): the framework answers 200 and a page that says "init error"."""

from htag import Tag


class App(Tag.main):
    def init(self):
        self += Tag.p("never seen")
        raise RuntimeError("crashed in init, on purpose")

"""A handler that raises (htag 1): the app lives on."""

from htag import Tag


class App(Tag.main):
    def init(self):
        self.said = Tag.output("ready")
        self += [Tag.button("raise", _onclick=self.bind.fail()), Tag.button("quick", _onclick=self.bind.quick())]
        self += self.said

    def fail(self):
        raise RuntimeError("raised in a handler, on purpose")

    def quick(self):
        self.said.clear("quick done")

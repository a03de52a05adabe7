"""Counts clicks, in the instance and in the session, under the name that its visitor gave (htag 1)."""

from htag import Tag


class App(Tag.main):
    def init(self, name=""):
        self.name = name
        self.clicks = 0
        self.shown = Tag.output(self.tally())
        self += self.shown
        self += Tag.button("count", _onclick=self.bind.count())

    def tally(self):
        return f"tally {self.name} {self.clicks} {self.session.get('clicks', 0)}"

    def count(self):
        self.clicks += 1
        self.session["clicks"] = self.session.get("clicks", 0) + 1
        self.shown.clear(self.tally())

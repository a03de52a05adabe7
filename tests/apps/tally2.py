"""Counts clicks, in the instance and in the session, under the name that its visitor gave (htag 2)."""

from htag import State, Tag


class App(Tag.App):
    def init(self):
        self.visitor = self.request.query_params.get("name", "")
        self.clicks = State(0)
        self.kept = State(self.request.session.get("clicks", 0))
        self += Tag.output(self.tally)
        self += Tag.button("count", _onclick=self.count)

    def tally(self):
        return f"tally {self.visitor} {self.clicks.value} {self.kept.value}"

    def count(self, event):
        self.clicks.value += 1
        kept = self.request.session.get("clicks", 0) + 1
        self.request.session["clicks"] = kept
        self.kept.value = kept

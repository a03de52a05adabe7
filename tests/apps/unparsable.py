"""Not Python: publishing says where."""

from htag import Tag


class App(Tag.main)
    def init(self):
        self += "the colon is missing"

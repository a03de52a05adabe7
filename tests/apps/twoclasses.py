"""Two classes that could be the app, and none is called App."""

from htag import Tag


class First(Tag.main):
    def init(self):
        self += "first"


class Second(Tag.main):
    def init(self):
        self += "second"

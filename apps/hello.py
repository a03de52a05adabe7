"""Says hello: the smallest htag app (htag 1)."""

from htag import Tag

class App(Tag.div):
    def init(self):
        self+= "hello world"

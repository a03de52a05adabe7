"""Small apps that the harness's tests load. Each is a whole file, as a publisher would write it."""

COUNTER1 = """
from htag import Tag

class App(Tag.div):
    def init(self, start="0", **named):
        self.value = int(start)
        self.named = named
        self.shown = Tag.output(self.value)
        self += [self.shown, Tag.button("more", _onclick=self.bind.more())]

    def more(self):
        self.value += 1
        self.shown.clear(self.value)
        print("counted to", self.value)
"""

COUNTER2 = """
from htag import State, Tag

class App(Tag.App):
    def init(self):
        self.value = State(0)
        self += [Tag.output(self.value), Tag.button("more", _onclick=self.more)]

    def more(self, event):
        self.value.value += 1
        print("counted to", self.value.value)
"""

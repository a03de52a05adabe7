"""Takes two seconds in init, as one that loads a model would (htag 1)."""

import time

from htag import Tag


class App(Tag.main):
    def init(self):
        time.sleep(2)
        self += "started"

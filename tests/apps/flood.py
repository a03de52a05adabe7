"""Floods stdout and stderr: 64 MiB a click, or without end (htag 1)."""

import os
import sys

from htag import Tag

LINE = b"flood " * 170 + b"\n"  # about 1 KiB


class App(Tag.main):
    def init(self):
        self.said = Tag.output("ready")
        self += [Tag.button("flood", _onclick=self.bind.flood()), Tag.button("say", _onclick=self.bind.say())]
        self += [Tag.button("endless", _onclick=self.bind.endless()), self.said]

    def flood(self):
        for _ in range(32 * 1024):
            os.write(1, LINE)
            os.write(2, LINE)
        self.said.clear("flooded")

    def say(self):
        print("said on stdout")
        print("said on stderr", file=sys.stderr)
        self.said.clear("said")

    def endless(self):
        while True:
            os.write(1, LINE)

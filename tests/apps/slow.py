"""Handlers of three seconds: one blocks the loop, one awaits (htag 1)."""

import asyncio
import time

from htag import Tag


class App(Tag.main):
    def init(self):
        self.said = Tag.output("ready")
        self += [Tag.button("sync", _onclick=self.bind.block()), Tag.button("async", _onclick=self.bind.wait())]
        self += [Tag.button("quick", _onclick=self.bind.quick()), self.said]

    def block(self):
        time.sleep(3)
        self.said.clear("sync done")

    async def wait(self):
        await asyncio.sleep(3)
        self.said.clear("async done")

    def quick(self):
        self.said.clear("quick done")

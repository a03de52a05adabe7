"""Handlers that never return: one spins, one awaits (htag 1)."""

import asyncio

from htag import Tag


class App(Tag.main):
    def init(self):
        self.said = Tag.output("ready")
        self += [Tag.button("sync", _onclick=self.bind.spin()), Tag.button("async", _onclick=self.bind.wait())]
        self += [Tag.button("quick", _onclick=self.bind.quick()), self.said]

    def spin(self):
        while True:
            pass

    async def wait(self):
        await asyncio.Event().wait()

    def quick(self):
        self.said.clear("quick done")

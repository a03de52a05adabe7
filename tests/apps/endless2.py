"""Handlers that never return, in htag 2: one spins, one awaits."""

import asyncio

from htag import State, Tag


class App(Tag.App):
    def init(self):
        self.said = State("ready")
        self += [Tag.button("sync", _onclick=self.spin), Tag.button("async", _onclick=self.wait)]
        self += [Tag.button("quick", _onclick=self.quick), Tag.output(self.said)]

    def spin(self, event):
        while True:
            pass

    async def wait(self, event):
        await asyncio.Event().wait()

    def quick(self, event):
        self.said.value = "quick done"

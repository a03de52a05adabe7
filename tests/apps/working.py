"""Work of several seconds: some says that it takes long, some doesn't (htag 1)."""

import asyncio
import time

from htag import Tag

import htagweb


class App(Tag.main):
    def init(self):
        self.said = Tag.output("ready")
        self += [Tag.button("blocking", _onclick=self.bind.block()), Tag.button("awaiting", _onclick=self.bind.wait())]
        self += [Tag.button("for long", _onclick=self.bind.go_on()), Tag.button("quick", _onclick=self.bind.quick())]
        self += self.said

    def block(self):
        with htagweb.busy("a blocking report", up_to="30s"):
            time.sleep(5)
        self.said.clear("blocking done")

    async def wait(self):
        async with htagweb.busy("an awaiting report", up_to="30s"):
            await asyncio.sleep(5)
        self.said.clear("awaiting done")

    async def go_on(self):
        """Work that outlives its click."""
        self.work = asyncio.create_task(self.long())
        self.said.clear("going on")

    async def long(self):
        with htagweb.busy("the yearly report", up_to="10m"):
            await asyncio.sleep(600)

    def quick(self):
        self.said.clear("quick done")

"""Ends its process with a click: at once, by a signal, or through htag's own exit (htag 1)."""

import os
import signal

from htag import Tag


class App(Tag.main):
    def init(self):
        self += Tag.button("os._exit", _onclick=self.bind.die())
        self += Tag.button("abort", _onclick=self.bind.abort())
        self += Tag.button("exit", _onclick=self.bind.leave())

    def die(self):
        os._exit(3)

    def abort(self):
        os.kill(os.getpid(), signal.SIGABRT)

    def leave(self):
        self.exit()

"""Ignores the signals that ask it to end (htag 1)."""

import signal

from htag import Tag


class App(Tag.main):
    def init(self):
        for asked in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(asked, signal.SIG_IGN)
        self += "deaf"

"""Ends the process at import, politely (htag 1)."""

import sys

from htag import Tag

sys.exit("exits at import, on purpose")


class App(Tag.main):
    pass

"""Never ends its import (htag 1)."""

import threading

from htag import Tag

threading.Event().wait()


class App(Tag.main):
    pass

"""A module without an htag class."""

from htag import Tag  # noqa: F401


class Appliance:
    """Looks like one, is none."""

    def init(self):
        self.name = "toaster"

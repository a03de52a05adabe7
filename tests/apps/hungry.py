"""Allocates memory until it is killed, in steps that one can watch (htag 1)."""

from htag import Tag


class App(Tag.main):
    def init(self):
        self.eaten = []
        self.said = Tag.output("0 MiB")
        self += [Tag.button("eat all", _onclick=self.bind.eat_all()), Tag.button("eat 16", _onclick=self.bind.eat())]
        self += self.said

    def eat(self):
        self.eaten.append(bytearray(b"x") * (16 * 1024**2))  # written, so really there
        self.said.clear(f"{16 * len(self.eaten)} MiB")

    def eat_all(self):
        while True:
            self.eat()

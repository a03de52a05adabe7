"""The digits of π, shown while they are computed: a generator as handler (htag 1).

Each `yield` sends what changed so far, and what is yielded is appended to the tag: the page grows while the handler
runs.
"""

import asyncio

from htag import Tag

STYLE = """
:root { color-scheme: light dark; --ground: light-dark(#f3f6f5, #151a18); --card: light-dark(#fff, #1f2624);
  --ink: light-dark(#1b2421, #e6ecea); --dim: light-dark(#56645f, #9aa9a4); --line: light-dark(#cbd6d2, #3b4844);
  --accent: light-dark(#0a705b, #4ccfae) }
* { box-sizing: border-box }
body { max-width: 36rem; margin: 0 auto; padding: 7vh 1.25rem 3rem; background: var(--ground); color: var(--ink);
  font: 1.0625rem/1.5 system-ui, sans-serif }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2 }
h1 + p { margin: .25rem 0 2rem; color: var(--dim); text-wrap: pretty }
button, input, select, textarea { min-height: 2.75rem; padding: .4rem .9rem; border: 1px solid var(--line);
  border-radius: .6rem; background: var(--card); color: inherit; font: inherit; accent-color: var(--accent) }
button { cursor: pointer }
button:hover { border-color: var(--accent) }
button.main { border-color: transparent; background: var(--accent); color: var(--card) }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
progress { display: block; width: 100%; height: .6rem; margin: 1.5rem 0; accent-color: var(--accent) }
.digits { min-height: 12rem; font: 1.0625rem/1.7 ui-monospace, monospace; overflow-wrap: anywhere }
.digits b { margin-right: .7em; font-weight: normal; display: inline-block }
"""

WANTED = 400  # digits


def digits_of_pi():
    """Yield 3, 1, 4, 1, 5, … without end. Source: J. Gibbons, Unbounded Spigot Algorithms for the Digits of Pi."""
    q, r, t, k, n, m = 1, 0, 1, 1, 3, 3
    while True:
        if 4 * q + r - t < n * t:
            yield n
            q, r, n = 10 * q, 10 * (r - n * t), 10 * (3 * q + r) // t - 10 * n
        else:
            q, r, t, k, n, m = q * k, (2 * q + r) * m, t * m, k + 1, (q * (7 * k + 2) + r * m) // (t * m), m + 2


class Digits(Tag.div):
    def init(self, progress):
        self.progress = progress
        self.run = 0
        self["class"] = "digits"

    async def compute(self):
        self.run += 1
        run = self.run  # a second click starts over; the first run sees it and ends
        self.clear()
        self.progress["value"] = "0"
        yield
        digits = digits_of_pi()
        for done in range(10, WANTED + 1, 10):
            await asyncio.sleep(0.08)  # the digits come faster than one can watch
            if self.run != run:
                return
            self.progress["value"] = str(done)
            yield Tag.b("".join(str(next(digits)) for _ in range(10)))


class App(Tag.main):
    statics = [Tag.title("Stream"), Tag.style(STYLE)]

    def init(self):
        progress = Tag.progress(_value="0", _max=str(WANTED))
        digits = Digits(progress)
        self += Tag.h1("Stream")
        self += Tag.p(f"The first {WANTED} digits of π. Each ten arrive as soon as they are known.")
        self += Tag.button("Compute", _onclick=digits.bind.compute(), _class="main")
        self += progress
        self += digits


from htagweb import WebServer  # noqa: E402  (as the original's examples end)

WebServer(App).run()

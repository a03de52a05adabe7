"""A clock that the server drives: one push a second (htag 1).

Nobody clicks, so it does not keep its sandbox alive: an open page that only watches is idle.
"""

import asyncio
from datetime import UTC, datetime

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
.clock { padding: 1.5rem 1rem 1rem; border: 1px solid var(--line); border-radius: 1rem; background: var(--card);
  text-align: center }
time { display: block; font-size: clamp(3rem, 17vw, 5.5rem); line-height: 1.2; font-variant-numeric: tabular-nums }
.clock small { color: var(--dim) }
button { margin: 1.25rem 0 0 }
ol { padding-left: 1.5rem; font-variant-numeric: tabular-nums }
"""


def now():
    return datetime.now(UTC)


class App(Tag.main):
    statics = [Tag.title("Clock"), Tag.style(STYLE)]

    def init(self):
        self.face = Tag.time(f"{now():%H:%M:%S}")
        self.notes = Tag.ol()
        self.card = Tag.div([self.face, Tag.small("Universal time (UTC), from the sandbox")], _class="clock")
        self += Tag.h1("Clock")
        self += Tag.p("It ticks by itself: the server pushes, the page does not ask.")
        self += self.card
        self += Tag.button("Note the time", _onclick=self.bind.note())
        self += self.notes
        self.ticking = asyncio.create_task(self.tick())  # the reference keeps the task alive

    async def tick(self):
        while True:
            self.face.clear(f"{now():%H:%M:%S}")
            await self.face.update()  # False while no page listens; the next one may
            await asyncio.sleep(1 - now().microsecond / 1e6)

    def note(self):
        noted = now()
        self.notes.add(Tag.li(f"{noted:%H:%M:%S}.{noted.microsecond // 1000:03}"))
        # A page without a WebSocket gets no pushes: the changed attribute redraws the card, so there a click sets it.
        self.face.clear(f"{noted:%H:%M:%S}")
        self.card["data-notes"] = len(self.notes.childs)

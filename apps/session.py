"""What a session keeps: a counter in it beside one in the sandbox, and who is signed in (htag 2)."""

from htag import State, Tag

import htagweb

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
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: 1rem }
.pair section { padding: 1.25rem; border: 1px solid var(--line); border-radius: 1rem; background: var(--card) }
.pair h2 { margin: 0; font-size: 1rem }
.pair output { display: block; font-size: 3.5rem; line-height: 1.3; font-variant-numeric: tabular-nums }
.pair p { margin: 0; color: var(--dim) }
.both { display: flex; gap: .6rem; margin: 1.25rem 0 }
"""


class App(Tag.App):
    statics = [Tag.title("Session"), Tag.style(STYLE)]

    def init(self):
        self.clicks = State(0)
        self.kept = State(self.request.session.get("clicks", 0))
        self += Tag.h1("Session")
        self += Tag.p("One click counts in two places. Stop the app, open it again, and see which remembers.")
        person = htagweb.user()
        if person is not None:
            self += Tag.p(f"You are signed in as {person['name'] or person['id']}.", _aria_label="who")
        with Tag.div(_class="pair"):
            with Tag.section():
                Tag.h2("In this sandbox")
                Tag.output(self.clicks, _aria_label="in this sandbox")
                Tag.p("Ends with it: when idle, stopped or updated.")
            with Tag.section():
                Tag.h2("In your session")
                Tag.output(self.kept, _aria_label="in your session")
                Tag.p("Stored outside, and the same in all your apps.")
        with Tag.div(_class="both"):
            Tag.button("Count", _onclick=self.count, _class="main")
            Tag.button("Forget", _onclick=self.forget)

    def count(self, event):
        self.clicks += 1
        session = self.request.session
        session["clicks"] = session.get("clicks", 0) + 1
        self.kept.value = session["clicks"]

    def forget(self, event):
        self.request.session.pop("clicks", None)
        self.kept.value = 0

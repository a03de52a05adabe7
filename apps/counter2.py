"""The counter again, with the reactive state of htag 2.

No line here redraws anything: what shows the state follows it.
"""

from htag import State, Tag

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
.steps { display: grid; grid-template-columns: 1fr 1.5fr 1fr; align-items: center; padding: 1.25rem; text-align: center;
  border: 1px solid var(--line); border-radius: 1rem; background: var(--card) }
.steps output { min-width: 0; font-size: clamp(2.5rem, 12vw, 4.5rem); font-variant-numeric: tabular-nums }
.steps button { min-height: 4rem; font-size: 1.75rem }
.hint { color: var(--dim); text-align: center }
"""


class App(Tag.App):
    statics = [Tag.title("Counter 2"), Tag.style(STYLE)]

    def init(self):
        self.count = State(0)
        self += Tag.h1("Counter 2")
        self += Tag.p("The same number in two places. Both follow one state.")
        with Tag.div(_class="steps"):
            Tag.button("−", _onclick=self.down, _aria_label="one less")
            Tag.output(self.count)
            Tag.button("+", _onclick=self.up, _aria_label="one more", _class="main")
        self += Tag.p(self.describe, _class="hint")

    def up(self, event):
        self.count += 1

    def down(self, event):
        self.count -= 1

    def describe(self):
        value = self.count.value
        return f"{value} is {'odd' if value % 2 else 'even'}, and its square is {value * value}"

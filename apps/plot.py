"""Two dice thrown a hundred times a click, and the picture of their sums, drawn by pygal (htag 2)."""

import random

import pygal
from htag import HTML, State, Tag
from pygal.style import Style

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
figure { margin: 0 0 1rem; padding: 1rem .5rem .5rem; border: 1px solid var(--line); border-radius: 1rem;
  background: var(--card) }
figure svg { display: block; width: 100%; height: auto }
figcaption { padding: .5rem; color: var(--dim); text-align: center }
.throws { display: flex; flex-wrap: wrap; gap: .6rem }
"""

SUMS = range(2, 13)
LOOK = Style(
    background="transparent",
    plot_background="transparent",
    foreground="var(--dim)",
    foreground_strong="var(--ink)",
    guide_stroke_color="var(--line)",
    major_guide_stroke_color="var(--line)",
    colors=("var(--accent)",),
    opacity="1",
    font_family="inherit",
    label_font_size=18,
    major_label_font_size=18,
)


class App(Tag.App):
    statics = [Tag.title("Plot"), Tag.style(STYLE)]

    def init(self):
        self.counts = State(dict.fromkeys(SUMS, 0))
        self += Tag.h1("Plot")
        self += Tag.p("Throw two dice often enough, and the seven wins.")
        with Tag.figure():
            Tag.div(lambda: HTML(self.picture()))
            Tag.figcaption(self.caption)
        with Tag.div(_class="throws"):
            Tag.button("Throw 100 times", _onclick=self.throw, _class="main")
            Tag.button("Begin again", _onclick=self.forget)

    def throw(self, event):
        counts = dict(self.counts.value)
        for _ in range(100):
            counts[random.randint(1, 6) + random.randint(1, 6)] += 1
        self.counts.value = counts

    def forget(self, event):
        self.counts.value = dict.fromkeys(SUMS, 0)

    def caption(self):
        counts = self.counts.value
        thrown = sum(counts.values())
        return f"{thrown} throws, {counts[7]} sevens" if thrown else "Nothing thrown yet"

    def picture(self):
        chart = pygal.Bar(
            style=LOOK,
            width=560,
            height=360,
            margin=10,
            show_legend=False,
            js=(),  # its scripts would come from another host
            disable_xml_declaration=True,
            include_x_axis=True,
            print_values=False,
            range=(0, max(10, *self.counts.value.values())),
        )
        chart.x_labels = [str(total) for total in SUMS]
        chart.add("throws", [self.counts.value[total] for total in SUMS])
        return chart.render(is_unicode=True)

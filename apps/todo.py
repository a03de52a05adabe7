"""A list of things to do: add, tick off, remove (htag 2)."""

from htag import Tag, prevent

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
form { display: flex; gap: .6rem }
form input { flex: 1; min-width: 0 }
ul { margin: 1.5rem 0; padding: 0; list-style: none }
li { display: flex; align-items: center; gap: .75rem; border-bottom: 1px solid var(--line) }
li label { display: flex; flex: 1; gap: .75rem; align-items: center; min-width: 0; padding: .6rem 0; cursor: pointer }
li span { overflow-wrap: anywhere }
li input { flex: none; width: 1.3rem; min-height: 1.3rem; margin: 0 }
li.done span { color: var(--dim); text-decoration: line-through }
li button { border-color: transparent; background: none; color: var(--dim) }
.foot { display: flex; justify-content: space-between; align-items: center; min-height: 2.75rem; color: var(--dim) }
"""

MOST = 100  # a list longer than this is no help to anybody


class Thing(Tag.li):
    def init(self, text, changed):
        self.done = False
        self.changed = changed
        self += Tag.label([Tag.input(_type="checkbox", _onchange=self.tick), Tag.span(text)])
        self += Tag.button("×", _onclick=self.forget, _aria_label=f"remove {text}")

    def tick(self, event):
        self.done = bool(event.checked)
        self["class"] = "done" if self.done else ""
        self.changed()

    def forget(self, event):
        self.remove()
        self.changed()


class App(Tag.App):
    statics = [Tag.title("To do"), Tag.style(STYLE)]

    def init(self):
        self.entry = Tag.input(
            _name="thing", _placeholder="What else?", _aria_label="What else?", _maxlength=120, _autocomplete="off"
        )
        self.things = Tag.ul(Thing("Open this app in a second browser", self.count))
        self.left = Tag.span()
        self.clear_button = Tag.button("Clear the done", _onclick=self.clear_done)
        self += Tag.h1("To do")
        self += Tag.p("A list of your own, kept as long as your sandbox runs.")
        self += Tag.form([self.entry, Tag.button("Add", _class="main")], _onsubmit=self.add_thing)
        self += self.things
        self += Tag.div([self.left, self.clear_button], _class="foot")
        self.count()

    @prevent
    def add_thing(self, event):
        text = str(event.value.get("thing", "")).strip()[:120]
        if text and len(self.things.childs) < MOST:
            self.things += Thing(text, self.count)
            self.count()
        self.entry["value"] = ""
        self.call_js(f"document.getElementById('{self.entry.id}').focus()")

    def clear_done(self, event):
        for thing in list(self.things.childs):
            if thing.done:
                thing.remove()
        self.count()

    def count(self):
        left = sum(not thing.done for thing in self.things.childs)
        self.left.text = f"{left} thing{'' if left == 1 else 's'} left" if left else "Nothing left to do"
        self.clear_button["hidden"] = left == len(self.things.childs)

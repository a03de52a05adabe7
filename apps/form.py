"""Every kind of input, and what the server got of it (htag 1)."""

from html import escape

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
form { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: 1rem 1.25rem }
label, fieldset { display: grid; gap: .3rem; min-width: 0; margin: 0; padding: 0; border: 0; align-content: start }
form span, legend { padding: 0; color: var(--dim); font-size: .9rem }
fieldset label { display: flex; gap: .6rem; align-items: center; min-height: 2rem }
fieldset label span { color: inherit; font-size: inherit }
fieldset input { min-height: 1.2rem; width: 1.2rem; margin: 0 }
input:not(fieldset input), select, textarea { width: 100%; min-width: 0 }
input[type=range], input[type=file] { padding: .4rem 0; border: 0; background: none }
input[type=color] { padding: .25rem }
::file-selector-button { margin-right: .75rem; padding: .4rem .9rem; border: 1px solid var(--line);
  border-radius: .6rem; background: var(--card); color: inherit; font: inherit }
form > button, label:has(textarea) { grid-column: 1 / -1 }
table { width: 100%; margin-top: 2rem; border-collapse: collapse; table-layout: fixed }
caption { padding-bottom: .5rem; font-weight: 600; text-align: left }
td, th { padding: .45rem 0; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; text-align: left }
th { width: 40%; color: var(--dim); font-weight: normal }
"""

# What the browser would send, as {name: [value, …]}; of a file only its name: the upload example sends contents.
FIELDS = b"""Object.fromEntries([...new FormData(this)].map(([name]) =>
    [name, new FormData(this).getAll(name).map(value => value.name ?? value)]))""".replace(b"\n", b" ")


class App(Tag.main):
    statics = [Tag.title("Form"), Tag.style(STYLE)]

    def init(self):
        self.names = []
        self.got = Tag.div()
        send = "event.preventDefault()" + self.bind.receive(FIELDS)
        self += Tag.h1("Form")
        self += Tag.p("Every kind of input. Send it, and the server shows what arrived.")
        self += Tag.form([*self.inputs(), Tag.button("Send", _class="main")], _onsubmit=send)
        self += self.got

    def inputs(self):
        yield self.input("text", "Ada")
        yield self.input("password", "difference")
        yield self.input("email", "ada@example.org")
        yield self.input("url", "https://example.org/engine")
        yield self.input("tel", "+44 20 7946 0000")
        yield self.input("search", "Bernoulli numbers")
        yield self.input("number", "42", _min=0, _max=100)
        yield self.input("range", "70", _min=0, _max=100)
        yield self.input("date", "1843-09-05")
        yield self.input("time", "12:30")
        yield self.input("datetime-local", "1843-09-05T12:30")
        yield self.input("month", "1843-09")
        yield self.input("week", "2024-W36")
        yield self.input("color", "#0a705b")
        yield self.field("select", Tag.select(options("tea", "coffee", "water")))
        yield self.field("select several", Tag.select(options("sums", "loops", "tables"), _multiple=True, _size=3))
        yield self.choices("checkbox", "first", "second", "third")
        yield self.choices("radio", "left", "middle", "right")
        engines = Tag.datalist([Tag.option(_value=name) for name in ("Difference", "Analytical")])
        yield engines
        yield self.field(
            "datalist", Tag.input(_list=id(engines), _placeholder="type, or choose")
        )  # htag 1 makes its ids so
        yield self.input("file")
        yield self.field("textarea", Tag.textarea("The engine <might> act upon\nother things besides number.", _rows=3))
        yield self.field("hidden", Tag.input(_type="hidden", _value="not shown"))

    def input(self, kind, value=None, **attributes):
        return self.field(kind, Tag.input(_type=kind, _value=value, **attributes))

    def field(self, name, tag):
        self.names.append(name)
        tag["name"] = name
        return tag if tag["type"] == "hidden" else Tag.label([Tag.span(name), tag])

    def choices(self, kind, *values):
        self.names.append(kind)
        return Tag.fieldset(
            [Tag.legend(kind)]
            + [
                Tag.label([Tag.input(_type=kind, _name=kind, _value=value, _checked=not n), Tag.span(value)])
                for n, value in enumerate(values)
            ]
        )

    def receive(self, fields):
        rows = [Tag.tr([Tag.th(name), Tag.td(self.describe(name, fields.get(name, [])))]) for name in self.names]
        self.got.clear(Tag.table([Tag.caption("The server got"), *rows]))
        self.got.js = "self.scrollIntoView({behavior: 'smooth'})"

    def describe(self, name, values):
        if name == "password":
            return f"{len(values[0])} characters, not shown"
        return escape(", ".join(repr(value) for value in values)) or "nothing"  # text is HTML in htag 1: escape it


def options(*names):
    return [Tag.option(name) for name in names]

"""Pages inside one app, by hash routes: a tour of the house (htag 2).

The browser's Back button works, and a link to `/router/#/part/gateway` opens that page.
"""

from htag import Router, Tag

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
nav { display: flex; flex-wrap: wrap; gap: .4rem; margin-bottom: 1.5rem; font-size: .95rem }
nav a { padding: .45rem .8rem; border: 1px solid var(--line); border-radius: 2rem; color: inherit;
  text-decoration: none }
nav a:hover { border-color: var(--accent) }
nav a[aria-current] { border-color: transparent; background: var(--accent); color: var(--card) }
article { min-height: 12rem; padding: 1.25rem 1.5rem; border: 1px solid var(--line); border-radius: 1rem;
  background: var(--card) }
article h2 { margin: 0 0 .5rem; font-size: 1.25rem }
article a { color: var(--accent) }
"""

PARTS = {
    "gateway": (
        "Knows who is asking and where their app runs.",
        "It passes HTTP and WebSocket on, in both directions, and keeps nothing of it. It can start nothing itself.",
    ),
    "orchestrator": (
        "Knows what runs, for whom, and until when.",
        "It alone talks to the container engine, and neither visitors nor sandboxes can reach it.",
    ),
    "sandbox": (
        "A container for one visitor and one app.",
        "It has no network and a read-only root, is used once, and is gone when idle. This page comes from one.",
    ),
    "harness": (
        "The program in the sandbox that runs the app.",
        "It loads the app's class, draws its page, and answers each click over a Unix socket.",
    ),
}


class Start(Tag.article):
    def init(self):
        self += Tag.h2("What happens to a click")
        self += Tag.p("The browser sends it to the gateway, the gateway to your sandbox, and the answer returns.")
        self += Tag.p(["Begin with ", Tag.a("the gateway", _href="#/part/gateway"), "."])


class Part(Tag.article):
    def init(self, name):
        if name not in PARTS:
            self += [Tag.h2("No such part"), Tag.p(f"There is no “{name}” in this house.")]
            return
        self += Tag.h2(name.capitalize())
        self += [Tag.p(line) for line in PARTS[name]]
        following = list(PARTS)[list(PARTS).index(name) + 1 :]
        if following:
            self += Tag.p(["Next: ", Tag.a(f"the {following[0]}", _href=f"#/part/{following[0]}")])
        else:
            self += Tag.p(Tag.a("Back to the start", _href="#/"))


class Missing(Tag.article):
    def init(self, path):
        self += [Tag.h2("No such page"), Tag.p(f"Nothing is at {path}.")]


class App(Tag.App):
    statics = [Tag.title("Router"), Tag.style(STYLE)]

    def init(self):
        self.router = Router()
        self.router.add_route("/", Start)
        self.router.add_route("/part/:name", Part)
        self.router.set_not_found(Missing)
        self += Tag.h1("Router")
        self += Tag.p("Several pages, one app: the part of the address behind # says which.")
        with Tag.nav():
            self.link("Start", "/")
            for name in PARTS:
                self.link(name.capitalize(), f"/part/{name}")
        self += self.router

    def link(self, text, path):
        Tag.a(text, _href=f"#{path}", _aria_current=lambda: "page" if self.router.path == path else None)

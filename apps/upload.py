"""A file from your disk: its size, its first bytes, and the picture if it is one (htag 1).

htag has no upload of its own: the page reads the file and sends it as an argument, in base64, in one message.
"""

import base64
import hashlib
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
.drop { display: grid; gap: .6rem; padding: 1.5rem; border: 2px dashed var(--line); border-radius: 1rem;
  cursor: pointer }
.drop:hover { border-color: var(--accent) }
.drop input { width: 100%; padding: .4rem 0; border: 0; background: none }
.drop small { color: var(--dim) }
::file-selector-button { margin-right: .75rem; padding: .4rem .9rem; border: 1px solid var(--line);
  border-radius: .6rem; background: var(--card); color: inherit; font: inherit; cursor: pointer }
dl { display: grid; grid-template-columns: auto 1fr; gap: .35rem 1.25rem; margin: 2rem 0 1rem }
dt { color: var(--dim) }
dd { margin: 0; overflow-wrap: anywhere }
pre { margin: 0; padding: .9rem 1rem; border: 1px solid var(--line); border-radius: .6rem; background: var(--card);
  overflow-x: auto; font: .85rem/1.6 ui-monospace, monospace }
img { display: block; max-width: 100%; max-height: 60vh; margin: 0 0 1rem; border-radius: .6rem }
"""

LARGEST = 8 * 1024 * 1024  # bytes; base64 adds a third, and a message of more than 16 MiB is refused
SHOWN = 2 * 1024 * 1024  # bytes of a picture that is sent back
PICTURES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


class App(Tag.main):
    statics = [Tag.title("Upload"), Tag.style(STYLE)]

    def init(self):
        self.result = Tag.section()
        receive = self.bind.receive(b"file.name", b"reader.result")
        refuse = self.bind.refuse(b"file.name", b"file.size")
        send = f"""const file = this.files[0], reader = new FileReader();
            reader.onload = () => {{ {receive} }};
            if (file && file.size > {LARGEST}) {{ {refuse} }} else if (file) reader.readAsDataURL(file)"""
        self += Tag.h1("Upload")
        self += Tag.p("The file goes to your sandbox and no further. Nobody else sees it.")
        self += Tag.label(
            [
                Tag.span("Choose a file, or drop one here"),
                Tag.input(_type="file", _onchange=send),
                Tag.small(f"At most {LARGEST // 1024**2} MiB."),
            ],
            _class="drop",
        )
        self += self.result

    def receive(self, name, data_url):
        content = base64.b64decode(data_url.partition(",")[2])
        facts = {
            "Name": escape(name),  # text is HTML in htag 1
            "Size": f"{len(content):,} bytes",
            "SHA-256": hashlib.sha256(content).hexdigest(),
        }
        self.result.clear(Tag.dl([[Tag.dt(fact), Tag.dd(value)] for fact, value in facts.items()]))
        picture = next((kind for magic, kind in PICTURES.items() if content.startswith(magic)), None)
        if picture and len(content) <= SHOWN:
            encoded = base64.b64encode(content).decode()
            self.result += Tag.img(_src=f"data:image/{picture};base64,{encoded}", _alt=name)
        self.result += Tag.pre(hexdump(content[:128]) or "no bytes at all")

    def refuse(self, name, size):
        self.result.clear(Tag.p(f"{escape(name)} has {size:,} bytes: too large for one message."))


def hexdump(content):
    """Lines of eight bytes, narrow enough for a phone: offset, hexadecimal, printable ASCII."""
    lines = []
    for start in range(0, len(content), 8):
        part = content[start : start + 8]
        printable = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in part)
        lines.append(f"{start:04x}  {part.hex(' '):<23}  {escape(printable)}")
    return "\n".join(lines)

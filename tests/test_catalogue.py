"""Publishing: which apps a folder holds, what their sources say, and that a version never changes under anybody."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from htagweb_orchestrator.app_images import AppImages
from htagweb_orchestrator.catalogue import Catalogue
from htagweb_orchestrator.config_file import ConfigFile
from htagweb_orchestrator.discovery import MAX_FILES
from htagweb_orchestrator.errors import AppBroken, AppNotFound
from htagweb_orchestrator.image_maker import ImageFacts
from htagweb_orchestrator.model import ASGI, AppCard
from htagweb_orchestrator.settings import AppSettings, Settings
from htagweb_orchestrator.snapshots import RETIRED_S, SnapshotLost, Snapshots
from htagweb_orchestrator.source import MAX_SOURCE_BYTES, Examined, NotAnApp, examine

ROOT = Path(__file__).parent.parent

HELLO = 'from htag import Tag\n\nclass App(Tag.div):\n    def init(self):\n        self+= "hello"\n'
HELLO_2 = "from htag import Tag\n\nclass App(Tag.App):\n    pass\n"


class Folder:
    """An apps folder and a catalogue of it."""

    def __init__(self, root: Path) -> None:
        self.apps = root / "apps"
        self.apps.mkdir()
        self.state = root / "state"
        self.secrets = root / "secrets"
        self.settings = Settings(apps_dir=self.apps, state_dir=self.state, sandbox_image="image:1")
        self.catalogue = Catalogue(self.settings)

    def configured(self, home: str = "", **apps: AppSettings) -> None:
        self.settings = Settings(
            apps_dir=self.apps, state_dir=self.state, secrets_dir=self.secrets, home=home, apps=apps
        )
        self.catalogue = Catalogue(self.settings)

    def write(self, path: str, source: str | bytes = HELLO) -> Path:
        file = self.apps / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(source.encode() if isinstance(source, str) else source)
        return file

    def scan(self) -> dict[str, AppCard]:
        self.catalogue.scan()
        return {card.name: card for card in self.catalogue.cards()}

    def problem(self, name: str) -> str:
        return self.scan()[name].problem


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def entry(source: str, wanted: str = "") -> str:
    return examine({"demo.py": source.encode()}, "demo.py", wanted).entry


def generation(source: str, **files: str) -> int:
    others = {name.replace("_", "."): text.encode() for name, text in files.items()}
    return examine({"demo.py": source.encode(), **others}, "demo.py").generation


# -- which apps there are ------------------------------------------------------------------------------------------


def test_a_file_is_an_app(folder: Folder) -> None:
    folder.write("hello.py", f'"""Says hello.\n\nMore."""\n{HELLO}')
    assert folder.catalogue.scan()
    app = folder.catalogue.get("hello")
    assert (app.name, app.title, app.description) == ("hello", "Hello", "Says hello.")
    assert (app.entry, app.generation, app.image) == ("hello:App", 1, "image:1")
    assert [path for path, _ in folder.catalogue.files(app.version)] == ["hello.py"]


def test_a_folder_with_app_py_is_an_app_with_all_its_files(folder: Folder) -> None:
    folder.write("shop/app.py", "from ui import App\n")
    folder.write("shop/ui.py", HELLO_2)
    folder.write("shop/_private/__init__.py", "")
    folder.write("shop/pictures/a.png", b"\x89PNG")
    for left_out in ("__pycache__/app.pyc", ".git/config", ".env", "app.py~", "pictures/.DS_Store"):
        folder.write(f"shop/{left_out}", "x")
    folder.scan()
    app = folder.catalogue.get("shop")
    assert (app.entry, app.generation) == ("app:App", 2)
    assert folder.catalogue.files(app.version) == [
        ("_private/__init__.py", b""),
        ("app.py", b"from ui import App\n"),
        ("pictures/a.png", b"\x89PNG"),
        ("ui.py", HELLO_2.encode()),
    ]


def test_the_rest_of_the_folder_is_left_alone(folder: Folder) -> None:
    for path in ("_draft.py", ".hidden.py", "notes.txt", "pictures/a.png", "lib/code.py", "__init__.py"):
        folder.write(path)
    assert folder.scan() == {}


@pytest.mark.parametrize(
    ("path", "better"),
    [("My_App.py", "my-app.py"), ("-x.py", "x.py"), ("Über/app.py", "ber"), ("a" * 64 + ".py", "a" * 63 + ".py")],
)
def test_a_name_that_fits_no_address_is_told_with_a_better_one(folder: Folder, path: str, better: str) -> None:
    folder.write(path)
    [card] = folder.scan().values()
    assert card.problem.endswith(f"can't be part of an address: rename it to {better}")
    with pytest.raises(AppBroken):
        folder.catalogue.get(card.name)


def test_a_name_whose_host_is_the_platforms_own_is_reserved(folder: Folder) -> None:
    folder.settings = msgspec.structs.replace(
        folder.settings, public_url="https://www.apps.example.org", apps_domain="apps.example.org"
    )
    folder.catalogue = Catalogue(folder.settings)
    folder.write("www.py")
    folder.write("web.py")
    assert folder.problem("www") == "www is the platform's own host, by public_url and apps_domain: rename it"
    assert folder.problem("web") == ""


def test_two_apps_of_one_name_are_a_problem(folder: Folder) -> None:
    folder.write("shop.py")
    folder.write("shop/app.py")
    assert folder.problem("shop") == "both shop.py and shop/app.py are there: remove one"


@pytest.mark.parametrize("name", ["calendar", "my-app", "htag", "1st"])
def test_a_file_whose_name_is_no_free_module_name_is_loaded_as_app(folder: Folder, name: str) -> None:
    folder.write(f"{name}.py")
    folder.scan()
    app = folder.catalogue.get(name)
    assert app.entry == "app:App"
    assert [path for path, _ in folder.catalogue.files(app.version)] == ["app.py"]


def test_a_version_is_logged_as_published_once(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    """Although it turns out later what the sandbox image is, and limits change meanwhile."""
    caplog.set_level("INFO", "htagweb_orchestrator")
    images = AppImages(instance="test", sandbox_image="image:1")
    config = folder.state.parent / "htagweb.toml"
    config.write_text("")
    folder.catalogue = Catalogue(folder.settings, images=images, config=ConfigFile({"HTAGWEB_CONFIG": str(config)}))

    def published() -> int:
        folder.scan()
        folder.scan()  # by then a changed configuration is believed
        return [record.message for record in caplog.records].count("app published")

    file = folder.write("hello.py")
    assert published() == 1
    images.tell(ImageFacts(id="sha256:1", brings=None), [], {})
    assert published() == 1
    config.write_text('[apps.hello]\nmemory = "64m"\n')
    assert published() == 1
    assert folder.catalogue.get("hello").limits.memory_bytes == 64 << 20
    file.write_text(HELLO + "# changed\n")
    assert published() == 2
    file.write_text("def")
    assert published() == 2
    file.write_text(HELLO + "# changed\n")
    assert published() == 3


def test_one_broken_app_stops_no_other(folder: Folder) -> None:
    folder.write("broken.py", "from htag import Tag\n\nclass App(Tag.div)\n")
    folder.write("hello.py")
    cards = folder.scan()
    assert cards["broken"].problem == "broken.py, line 3: expected ':'"
    assert (cards["hello"].problem, cards["broken"].version) == ("", "")


def test_an_app_that_nobody_thought_of_stops_no_other(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(files: dict[str, bytes], main: str, wanted: str) -> Examined:
        if main == "odd.py":
            raise TypeError("never seen before")
        return examine(files, main, wanted)

    monkeypatch.setattr("htagweb_orchestrator.catalogue.examine", odd)
    folder.write("odd.py")
    folder.write("hello.py")
    cards = folder.scan()
    assert cards["odd"].problem.endswith("TypeError: never seen before")
    assert (cards["hello"].problem, cards["odd"].version) == ("", "")


@pytest.mark.parametrize(
    "lines",
    [
        ["class A0(B): pass", *(f"class A{n}(A{n - 1}, A{n - 1}): pass" for n in range(1, 60))],
        [f"class A{n}(A{n - 1}): pass" for n in range(5000)],
        ["# /// script"] * 30_000,
        ["if 0: pass", *(["elif 0: pass"] * 1000)],
        ["a" + ".a" * 1000] * 100,
    ],
    ids=["classes of two bases", "a chain of classes", "metadata without end", "elif", "dots"],
)
def test_a_source_takes_no_longer_than_its_length(folder: Folder, lines: list[str]) -> None:
    folder.write("long.py", "\n".join(lines))
    before_s = time.process_time()
    assert folder.problem("long").startswith("long.py: no htag class in it")
    assert time.process_time() - before_s < 5  # each of them took minutes, or was refused


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (b"# caf\xe9\n", "x.py, line 1: not UTF-8"),
        (b"a = 1\n\0", "x.py"),
        (b"(" * 300, "x.py, line 1: too many nested parentheses"),
        (b"-" * 100_000 + b"1", "x.py"),
        (
            b"# /// script\n# dependencies = " + b"[" * 3000 + b"\n# ///\n" + HELLO.encode(),
            "x.py, line 1: TOML that is nested too deep",
        ),
        (b"# " + b"x" * MAX_SOURCE_BYTES, "x.py: a source file of more than 512k can't be published"),
        (b"", "x.py: no htag class in it"),
    ],
)
def test_what_is_no_python_of_an_app_is_told_in_a_sentence(folder: Folder, source: bytes, problem: str) -> None:
    folder.write("x.py", source)
    assert folder.problem("x").startswith(problem)


def test_the_file_in_a_folder_is_named(folder: Folder) -> None:
    folder.write("shop/app.py", "def")
    assert folder.problem("shop") == "shop/app.py, line 1: invalid syntax"


def test_an_app_above_its_size_says_so(folder: Folder) -> None:
    folder.configured(shop=AppSettings(overrides={"app_bytes": 100_000}))
    folder.write("shop/app.py")
    picture = folder.write("shop/picture.raw", b"x" * 100_000)
    assert folder.problem("shop") == "shop has 97.7k of files, more than 97.7k (the key app_size)"
    picture.write_bytes(b"x")
    assert folder.problem("shop") == ""


def test_an_app_of_too_many_files_says_so(folder: Folder) -> None:
    folder.write("shop/app.py")
    for number in range(MAX_FILES):
        (folder.apps / "shop" / str(number)).touch()
    assert folder.problem("shop").startswith(f"shop holds more than {MAX_FILES} files")


def test_two_gigabytes_in_one_folder_are_told_without_being_read(folder: Folder) -> None:
    folder.write("shop/app.py")
    with (folder.apps / "shop" / "film.mp4").open("wb") as film:
        film.truncate(2 << 30)  # without taking any room
    assert folder.problem("shop") == "shop/film.mp4 has 2g, more than 16m in one file"
    (folder.apps / "shop" / "film.mp4").unlink()
    for number in range(140):
        with (folder.apps / "shop" / f"part{number}").open("wb") as part:
            part.truncate(15 << 20)
    assert folder.problem("shop") == "shop has 2.1g of files, more than 16m (the key app_size)"


def test_links_may_lead_to_files_of_the_folder_only(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text(HELLO)
    (folder.apps / "out.py").symlink_to("../secret.py")
    (folder.apps / "alias.py").symlink_to(folder.write("hello.py"))
    folder.write("shop/app.py")
    (folder.apps / "shop" / "key").symlink_to(tmp_path / "secret.py")
    folder.write("tree/app.py")
    folder.write("tree/lib/x.py")
    (folder.apps / "tree" / "again").symlink_to("lib")
    folder.write("dead/app.py")
    (folder.apps / "dead" / "end").symlink_to("nowhere")
    cards = folder.scan()
    assert cards["out"].problem == "out.py is a link to a place outside its folder: put a copy there"
    assert cards["shop"].problem == "shop/key is a link to a place outside its folder: put a copy there"
    assert cards["tree"].problem == "tree/again leads to a folder, not to a file: put a copy there"
    assert cards["dead"].problem == "dead/end is a link to nothing"
    assert (cards["alias"].problem, cards["hello"].problem) == ("", "")


def test_a_pipe_in_the_folder_blocks_nobody(folder: Folder) -> None:
    os.mkfifo(folder.apps / "pipe.py")
    assert folder.problem("pipe") == "pipe.py is no ordinary file"


def test_what_is_said_about_an_app_goes_before_what_is_found(folder: Folder) -> None:
    said = AppSettings(title="Counting house", description="Counts.", entry="Second", overrides={"pids": 99})
    folder.configured(counter=said)
    folder.write("counter.py", HELLO + "class Second(Tag.p): pass\n")
    card = folder.scan()["counter"]
    app = folder.catalogue.get("counter")
    assert (card.title, card.description, app.entry, app.limits.pids) == (
        "Counting house",
        "Counts.",
        "counter:Second",
        99,
    )


def test_what_an_app_is_given_is_part_of_its_version(folder: Folder) -> None:
    secret = folder.secrets / "api-key"
    secret.parent.mkdir()
    folder.write("hello.py")

    def version(**said: Any) -> str:
        folder.configured(hello=AppSettings(**said))
        folder.scan()
        return folder.catalogue.get("hello").version

    bare = version()
    secret.write_text("one")
    one = version(secrets=("api-key",))
    assert folder.catalogue.secrets(folder.catalogue.get("hello")) == {"api-key": b"one"}
    secret.write_text("two!")
    folder.scan()
    two = folder.catalogue.get("hello").version
    assert len({bare, one, two, version(env={"A": "b"}), version(env={"A": "c"})}) == 5
    secret.write_text("one")
    assert version(secrets=("api-key",)) == one


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "the secret api-key isn't there: put a file of that name into the folder secrets"),
        (b"x" * 70_000, "the secret api-key has more than 64k"),
    ],
)
def test_a_secret_that_cannot_be_given_is_a_problem_and_the_last_version_serves_on(
    folder: Folder, content: bytes | None, problem: str
) -> None:
    secret = folder.secrets / "api-key"
    secret.parent.mkdir()
    secret.write_text("good")
    folder.configured(hello=AppSettings(secrets=("api-key",)))
    folder.write("hello.py")
    assert folder.problem("hello") == ""
    secret.unlink()
    if content is not None:
        secret.write_bytes(content)
    card = folder.scan()["hello"]
    assert card.problem == problem
    assert card.version
    secret.write_text("good again")
    assert folder.problem("hello") == ""


def test_what_is_said_about_no_app_is_a_warning(folder: Folder) -> None:
    folder.configured(home="start", gone=AppSettings())
    folder.write("hello.py")
    folder.scan()
    assert folder.catalogue.warnings() == (
        "[apps.gone] is configured, but there is no such app",
        "start is configured as home, but there is no such app",
    )


SVG = b'<?xml version="1.0"?>\n<!-- ours -->\n<svg xmlns="http://www.w3.org/2000/svg"/>'
PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 20


def test_a_picture_beside_an_app_is_its_icon(folder: Folder) -> None:
    folder.configured(chosen=AppSettings(icon="art/logo.png"))
    for name in ("plain", "drawn", "both", "chosen"):
        folder.write(f"{name}.py")
    folder.write("shop/app.py")
    folder.write("shop/icon.png", PNG)
    folder.write("drawn.svg", SVG)
    folder.write("both.svg", SVG)
    folder.write("both.png", PNG)
    folder.write("chosen.svg", SVG)
    folder.write("art/logo.png", PNG)
    cards = folder.scan()
    icons = {name: folder.catalogue.icon(name) for name in cards}
    assert {name: icon and icon.media_type for name, icon in icons.items()} == {
        "plain": None, "drawn": "image/svg+xml", "both": "image/svg+xml", "shop": "image/png", "chosen": "image/png",
    }  # fmt: skip
    assert (cards["plain"].icon, cards["drawn"].icon == cards["both"].icon) == ("", True)
    folder.write("drawn.svg", SVG + b"<!-- another -->")
    assert folder.scan()["drawn"].icon != cards["both"].icon


@pytest.mark.parametrize(
    ("name", "content", "remark"),
    [
        ("x.svg", b"<html><script>", "the icon x.svg is no picture of that kind"),
        ("x.svg", b"<!---->" * 60, "the icon x.svg is no picture of that kind"),
        ("x.png", b"GIF89a", "the icon x.png is no picture of that kind"),
        ("x.png", PNG + b"x" * 70_000, "the icon x.png has more than 64k"),
        ("x.svg", None, "x.svg is a link to a place outside its folder: put a copy there"),
    ],
)
def test_an_icon_that_is_none_is_left_out_and_the_app_is_none_the_worse(
    folder: Folder, tmp_path: Path, name: str, content: bytes | None, remark: str
) -> None:
    folder.write("x.py")
    if content is None:
        (tmp_path / "out.svg").write_bytes(SVG)
        (folder.apps / name).symlink_to(tmp_path / "out.svg")
    else:
        folder.write(name, content)
    card = folder.scan()["x"]
    assert (card.problem, card.icon) == ("", "")
    assert folder.catalogue.remarks("x") == (f"its icon is left out: {remark}",)
    assert folder.catalogue.warnings() == (f"x: its icon is left out: {remark}",)


def test_an_unknown_app_is_not_found(folder: Folder) -> None:
    folder.scan()
    with pytest.raises(AppNotFound):
        folder.catalogue.get("nobody")


def test_the_examples_have_no_problem_and_the_generation_that_they_name(tmp_path: Path) -> None:
    catalogue = Catalogue(Settings(apps_dir=ROOT / "apps", state_dir=tmp_path))
    assert catalogue.scan()
    assert {card.name: card.problem for card in catalogue.cards() if card.problem} == {}
    found = {str(card.name): card.generation for card in catalogue.cards()}
    assert (found["hello"], found["counter"], found["counter2"]) == (1, 1, 2)


# -- which class ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from htag import Tag\nclass App(Tag.div): pass\nclass Other(Tag.div): pass", "App"),
        ("from htag import Tag\nclass Only(Tag.body): pass\nclass Helper: pass", "Only"),
        ("import htag\nclass Only(htag.Tag.div): pass", "Only"),
        ("from htag import *\nclass Only(Tag.div): pass", "Only"),
        ("from htag import Tag as T\nclass Only(T.div): pass", "Only"),
        ("from htag import Tag\nclass Base(Tag.div): pass\nclass Main(Base): pass\nRunner(Main)", "Main"),
        ("from htag import Tag\nclass A(Tag.div): pass\nclass Root(Tag.App): pass", "Root"),
        ("from htag import Tag\nclass A(Tag.div): pass\nclass B(Tag.div): pass\nWebServer(B).run()", "B"),
        ("from htag import Tag\nclass A(Tag.a): pass\nclass B(Tag.b): pass\nRunner('demo:B')", "B"),
        ("from htag import Tag\nclass App(Tag.a): pass\nclass B(Tag.b): pass\nRunner(obj=B)", "B"),
        (
            "from htag import Tag\nclass A(Tag.div): pass\nclass B(Tag.div): pass\n"
            "if __name__ == '__main__':\n  from htag.runners import DevApp as Run\n  app = Run(A)\n  app.run()",
            "A",
        ),
        ("from htag import Tag\nclass Page(Tag.div): pass\nclass B(Tag.div): pass\nApp = Page", "App"),
        ("from ui import App", "App"),
        ("try:\n  from htag import Tag\nexcept ImportError: pass\nif 1:\n  class X(Tag.div): pass", "X"),
        (r"from htag import Tag" + '\nclass App(Tag.div): x = "\\d"', "App"),
    ],
)
def test_the_class_is_found(source: str, name: str) -> None:
    assert entry(source) == f"demo:{name}"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("from htag import Tag\nclass A(Tag.a): pass\nclass B(Tag.b): pass", "A, B could each be the app"),
        ("from htag import Tag\nclass A(Tag.a): pass\nclass B(Tag.b): pass\nRunner(A), Runner(B)", "A, B could each"),
        ("class App: pass", "class App is no htag class"),
        ("from htag import Tag\nclass Thing: pass", "no htag class in it"),
        ("from htag import Tag, App", "no htag class in it"),
        ("class A(B): pass\nclass B(A): pass", "no htag class in it"),
    ],
)
def test_a_class_that_is_not_to_be_found_is_told(source: str, problem: str) -> None:
    with pytest.raises(NotAnApp, match=problem):
        entry(source)


def test_the_operator_chooses_class_and_module() -> None:
    files = {"app.py": b"", "ui/pages.py": HELLO.encode()}
    assert examine(files, "app.py", "ui.pages:App").entry == "ui.pages:App"
    with pytest.raises(NotAnApp, match="no class Nobody in it"):
        examine(files, "app.py", "ui.pages:Nobody")
    with pytest.raises(NotAnApp, match="no module cli beside it"):
        examine(files, "app.py", "cli:App")


def test_the_description_is_the_first_line_of_a_docstring() -> None:
    source = 'from htag import Tag\nclass App(Tag.div):\n    """\n    Of the class.\n\n    More.\n    """\n'
    assert examine({"a.py": source.encode()}, "a.py").description == "Of the class."
    assert examine({"a.py": f"'Of the module.'\n{source}".encode()}, "a.py").description == "Of the module."
    assert examine({"a.py": f"'Half \\ud800 a pair.'\n{source}".encode()}, "a.py").description == "Half ? a pair."


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from fastapi import FastAPI\napp = FastAPI()", "app"),
        (
            "import fastapi\napp: fastapi.FastAPI = fastapi.FastAPI(title='Shop')\n@app.get('/')\ndef page(): pass",
            "app",
        ),
        ("async def app(scope, receive, send): pass", "app"),
        ("from shop.main import app", "app"),
        ("class Model: pass\nif 1:\n  app = create()", "app"),
        ("from htag import Tag\nclass Only(Tag.div): pass\napp = Starlette()", "Only"),
        ("from htag import Tag\nclass Only(Tag.div): pass\napp = WebApp(Only)", "Only"),
    ],
)
def test_an_asgi_application_is_found_where_there_is_no_htag_class(source: str, name: str) -> None:
    found = examine({"demo.py": source.encode()}, "demo.py")
    assert found.entry == f"demo:{name}"
    assert (found.generation == ASGI) == (name == "app")


def test_the_operator_chooses_an_asgi_application_beside_an_htag_class() -> None:
    source = f"{HELLO}api = Starlette()\n".encode()
    assert examine({"demo.py": source}, "demo.py", "demo:api").generation == ASGI
    assert examine({"demo.py": source}, "demo.py", "demo:App").generation == 1
    with pytest.raises(NotAnApp, match="no other in it"):
        examine({"demo.py": source}, "demo.py", "demo:other")


# -- which htag ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (HELLO, 1),
        (HELLO_2, 2),
        ("from htag import Tag, State\nclass App(Tag.div): pass", 2),
        ("import htag\nclass App(htag.Tag.App): pass", 2),
        ("from htag import Tag, expose\nclass App(Tag.div): pass", 1),
        ("from htag import Tag\nclass App(Tag.div):\n  def on_mount(self): pass", 2),
        ("from htag import Tag\nclass App(Tag.div):\n  def x(self): self.bind.y(); self.call_js('z')", 1),
        ("# /// script\n# dependencies = ['htag>=2']\n# ///\n" + HELLO, 2),
        ("# /// script\n# dependencies = [\n#   'htag<2',\n# ]\n# ///\n" + HELLO_2, 1),
    ],
)
def test_the_generation_is_read_from_the_source(source: str, expected: int) -> None:
    assert generation(source) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("htag<2", 1),
        ("htag == 1.0.0  # the last one", 1),
        ("htag>=0.100,<2.0", 1),
        ("htag~=1.0", 1),
        ("htag<=1.0.0 ; python_version > '3'", 1),
        ("htag>=2", 2),
        ("htag[all]==2.0.28", 2),
        ("HTAG >= 2.0", 2),
        ("htag", 1),
        ("htag>=1", 1),
        ("htag<3", 1),
        ("htagweb>=2", 1),
        ("htag-extra==2.0", 1),
    ],
)
def test_a_requirement_decides_the_generation(line: str, expected: int) -> None:
    assert generation(HELLO, requirements_txt=f"numpy\n{line}\n") == expected
    if line in ("htag<2", "htag~=1.0"):
        assert generation(HELLO_2, requirements_txt=line) == 1


# -- versions ------------------------------------------------------------------------------------------------------


def test_nothing_changes_while_no_file_does(folder: Folder) -> None:
    folder.write("hello.py")
    assert folder.catalogue.scan()
    assert not folder.catalogue.scan()
    os.utime(folder.apps / "hello.py")
    assert not folder.catalogue.scan()


def test_a_changed_file_is_a_new_version_and_the_old_one_stays_as_it_was(folder: Folder) -> None:
    file = folder.write("hello.py")
    folder.scan()
    old = folder.catalogue.get("hello").version
    file.write_text(HELLO.replace("hello", "other"))
    assert folder.catalogue.scan()
    new = folder.catalogue.get("hello").version
    assert new != old
    assert folder.catalogue.files(old) == [("hello.py", HELLO.encode())]
    assert folder.catalogue.files(new) == [("hello.py", HELLO.replace("hello", "other").encode())]
    file.write_text(HELLO)
    folder.scan()
    assert folder.catalogue.get("hello").version == old


def test_a_second_write_within_one_tick_of_the_clock_is_seen(folder: Folder) -> None:
    file = folder.write("hello.py")
    folder.scan()
    before = file.stat()
    with open(file, "r+b") as opened:  # same inode, same size, and then the same time
        opened.write(HELLO.replace("hello", "HELLO").encode())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert folder.catalogue.scan()


def test_an_old_file_is_read_once(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder.write("hello.py")
    os.utime(file, (0, 0))
    folder.scan()
    file.chmod(0o600)  # changes its ctime: it is read once more
    folder.scan()
    reads: list[object] = []
    monkeypatch.setattr("htagweb_orchestrator.discovery._read", lambda *args: reads.append(args))
    folder.scan()
    assert reads == []


def test_a_version_depends_on_names_contents_entry_and_generation(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    versions = {
        snapshots.put("a:App", 1, {"a.py": b"12", "b.py": b"3"}),
        snapshots.put("a:App", 1, {"a.py": b"1", "b.py": b"23"}),
        snapshots.put("a:App", 1, {"a.py": b"12", "c.py": b"3"}),
        snapshots.put("a:Top", 1, {"a.py": b"12", "b.py": b"3"}),
        snapshots.put("a:App", 2, {"a.py": b"12", "b.py": b"3"}),
    }
    assert len(versions) == 5
    assert snapshots.put("a:App", 1, {"b.py": b"3", "a.py": b"12"}) in versions


def test_a_broken_version_leaves_the_last_good_one_served(folder: Folder) -> None:
    file = folder.write("hello.py")
    folder.scan()
    good = folder.catalogue.get("hello")
    file.write_text("def")
    assert folder.catalogue.scan()
    [card] = folder.catalogue.cards()
    assert (card.problem, card.version) == ("hello.py, line 1: invalid syntax", good.version)
    assert folder.catalogue.get("hello") == good
    file.write_text(HELLO)
    assert folder.problem("hello") == ""


def test_an_app_that_was_never_good_is_broken(folder: Folder) -> None:
    folder.write("hello.py", "def")
    folder.scan()
    with pytest.raises(AppBroken, match="Hello is out of order") as caught:
        folder.catalogue.get("hello")
    assert caught.value.facts["detail"] == "hello.py, line 1: invalid syntax"


def test_a_removed_app_is_gone_and_its_running_version_readable(folder: Folder) -> None:
    file = folder.write("hello.py")
    folder.scan()
    version = folder.catalogue.get("hello").version
    file.unlink()
    assert folder.catalogue.scan()
    assert folder.catalogue.cards() == ()
    assert folder.catalogue.files(version) == [("hello.py", HELLO.encode())]


def test_a_folder_that_cannot_be_read_takes_no_app_away(folder: Folder) -> None:
    folder.write("hello.py")
    folder.scan()
    folder.apps.rename(folder.apps.with_name("elsewhere"))
    assert not folder.catalogue.scan()
    assert [card.name for card in folder.catalogue.cards()] == ["hello"]
    assert "can't be read" in folder.catalogue.warnings()[0]


def test_a_file_that_changes_while_it_is_read_is_read_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder.write("hello.py")
    real, writes = os.fstat, iter([HELLO + "# torn", HELLO + "# whole"])

    def write_behind_the_reader(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        text = next(writes, None)
        if text:
            file.write_text(text)
        return found

    monkeypatch.setattr(os, "fstat", write_behind_the_reader)
    assert folder.scan() == {}
    monkeypatch.undo()
    folder.scan()
    assert folder.catalogue.files(folder.catalogue.get("hello").version) == [("hello.py", f"{HELLO}# whole".encode())]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"something else")])
def test_a_damaged_snapshot_is_told_and_written_anew(folder: Folder, damage: Callable[[Path], object]) -> None:
    os.utime(folder.write("hello.py"), (0, 0))
    folder.scan()
    version = folder.catalogue.get("hello").version
    damage(folder.state / "snapshots" / version)
    with pytest.raises(AppBroken, match="try again"):
        folder.catalogue.files(version)
    folder.scan()
    assert folder.catalogue.files(version) == [("hello.py", HELLO.encode())]


def test_a_state_folder_without_room_is_a_problem_of_the_app(folder: Folder) -> None:
    folder.state.write_text("a file in place of the folder")
    folder.write("hello.py")
    assert folder.problem("hello").startswith("hello can't be stored: ")
    folder.state.unlink()
    assert folder.problem("hello") == ""


def test_versions_are_found_again_after_a_restart(folder: Folder) -> None:
    folder.write("hello.py")
    folder.scan()
    version = folder.catalogue.get("hello").version
    again = Catalogue(folder.settings)
    again.scan()
    assert again.get("hello").version == version


def test_old_versions_are_removed_when_nobody_wanted_them_for_a_while(tmp_path: Path) -> None:
    clock = [0.0]
    snapshots = Snapshots(tmp_path, now=lambda: clock[0])
    kept, dropped = (snapshots.put("a:App", 1, {"a.py": text}) for text in (b"1", b"2"))
    snapshots.prune({kept})
    clock[0] = RETIRED_S - 1
    snapshots.prune({kept, dropped})  # wanted once more: the time begins anew
    snapshots.prune({kept})
    clock[0] = 2 * RETIRED_S - 2
    snapshots.prune({kept})
    assert snapshots.files(dropped)
    clock[0] = 2 * RETIRED_S
    snapshots.prune({kept})
    assert snapshots.files(kept)
    with pytest.raises(SnapshotLost):
        snapshots.files(dropped)


def test_a_round_without_changes_is_cheap(folder: Folder) -> None:
    for number in range(20):
        for file in ("app.py", *(f"part{part}.py" for part in range(20))):
            os.utime(folder.write(f"app{number}/{file}"), (0, 0))
    folder.scan()
    began = time.thread_time()
    folder.scan()
    assert time.thread_time() - began < 0.2

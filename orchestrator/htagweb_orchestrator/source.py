"""What an app's source says, found by `ast` without running it: what to serve, and for which htag."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .model import ASGI
from .requirements import Needs, needs_of, pinned_generation

MAX_SOURCE_BYTES = 512 * 1024
"""Parsing holds the interpreter's lock, some 0.3 s for this much: nobody else in the orchestrator moves meanwhile."""

MAX_DOTS = 8

# What the original and htag call the thing that serves or shows a class.
RUNNERS = frozenset(
    "WebServer WebServerWS HtagServer AppServer SimpleServer Runner WebApp WebHTTP WebWS ChromeApp ChromeAppMode "
    "DevApp BrowserHTTP BrowserStarletteHTTP BrowserStarletteWS BrowserTornadoHTTP PyWebView PyWebWiew PyScript "
    "AndroidApp GuyApp WinApp".split()
)
# `from htag import …`, by generation.
ONLY_IN_HTAG_1 = frozenset({"expose", "HTagException", "Runner"})
ONLY_IN_HTAG_2 = frozenset({"WebApp", "State", "States", "Router", "HTML", "prevent", "stop", "current_request"})
# Names of methods: both may stand in an author's own code, so they count for less.
SIGNS_OF_HTAG_1 = frozenset({"bind", "render", "innerHTML"})
SIGNS_OF_HTAG_2 = frozenset({"call_js", "on_mount", "on_unmount", "on_destroy"})


class NotAnApp(Exception):
    """`str()` is what is wrong, without the file's name: only the caller knows what the operator calls it."""

    def __init__(self, path: str, problem: str, line: int = 0) -> None:
        super().__init__(problem)
        self.path, self.line = path, line


@dataclass(frozen=True, slots=True)
class Examined:
    entry: str  # "module:Class", or "module:app" of an ASGI application
    generation: int  # of htag, or ASGI
    description: str
    needs: Needs = Needs()  # noqa: RUF009  frozen


def examine(files: Mapping[str, bytes], main: str, wanted: str = "") -> Examined:
    """Look at an app of these files, which starts with the module at path `main`.

    `wanted` is the operator's choice: `Class`, `module:Class`, `module:app`. Raises NotAnApp or BadRequirement.
    """
    try:
        return _examine(files, main, wanted)
    except RecursionError as error:  # a thousand times `[` in its metadata, say
        raise NotAnApp(main, "nested too deep") from error


def _examine(files: Mapping[str, bytes], main: str, wanted: str) -> Examined:
    chosen_module, _, chosen = wanted.rpartition(":")
    path = _module_path(files, main, chosen_module) if chosen_module else main
    module = Module(path, parse(path, files[path]))
    name = module.check(chosen) if chosen else module.served()
    dotted = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    needs = needs_of(files, main)
    generation = _generation(files, path, module, needs) if module.is_class(name) else ASGI
    return Examined(f"{dotted}:{name}", generation, module.description(name), needs)


def parse(path: str, source: bytes) -> ast.Module:
    if len(source) > MAX_SOURCE_BYTES:
        raise NotAnApp(path, f"a source file of more than {MAX_SOURCE_BYTES // 1024}k can't be published")
    try:
        text = source.decode("utf-8-sig")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence": the author's business, not the operator's
            return ast.parse(text)
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise NotAnApp(path, "not UTF-8", line) from error
    except SyntaxError as error:
        raise NotAnApp(path, error.msg or "not Python", error.lineno or 0) from error
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes; nested too deep
        raise NotAnApp(path, f"not Python: {error or 'nested too deep'}") from error


class Module:
    """The names of one module: what is defined in it, what is imported, what derives from htag's Tag."""

    def __init__(self, path: str, tree: ast.Module) -> None:
        self._path = path
        self._tree = tree
        self._nodes = list(ast.walk(tree))
        self._classes: dict[str, ast.ClassDef] = {}
        self._others: set[str] = set()  # bound by an assignment or an import
        self._made: set[str] = set()  # of these, what may be an ASGI application: the result of a call, a coroutine
        self._origins: dict[str, str] = {}  # "Tag" -> "htag.Tag"
        for statement in _statements(tree.body):
            self._bind(statement)

    def served(self) -> str:
        """The htag class, or else the ASGI application `app`."""
        handed = self._handed_to_runners()
        if len(handed) == 1:
            return handed[0]
        if "App" in self._classes or "App" in self._others:
            return self.check("App")
        derived = handed or self._tags()
        roots = [name for name in self._tags("App") if name in derived]
        if len(roots) == 1 or len(derived) == 1:
            return (roots if len(roots) == 1 else derived)[0]
        if not derived and "app" in self._made:
            return "app"
        if not derived:
            expected = "such as class App(Tag.div), nor an ASGI application, such as app = Starlette()"
            raise NotAnApp(self._path, f"no htag class in it, {expected}")
        names = ", ".join(derived[:5]) + (f" and {len(derived) - 5} more" if len(derived) > 5 else "")
        raise NotAnApp(self._path, f"{names} could each be the app: call one App, or choose by the key entry")

    def check(self, name: str) -> str:
        """`name`, if there is such a thing that may be a Tag. What is imported can't be looked into, so it may."""
        if name in self._classes:
            if not self._classes[name].bases:
                raise NotAnApp(
                    self._path, f"class {name} is no htag class: it doesn't derive from Tag", self._line(name)
                )
        elif name not in self._others:
            raise NotAnApp(self._path, f"no {'class ' if self.is_class(name) else ''}{name} in it")
        return name

    def is_class(self, name: str) -> bool:
        """Else it is an ASGI application. What was made elsewhere shows by its name: that of a class is capitalised."""
        return name in self._classes or name[:1].isupper()

    def description(self, name: str) -> str:
        text = ast.get_docstring(self._tree)
        if not text and name in self._classes:
            text = ast.get_docstring(self._classes[name])
        first = next((line.strip()[:200] for line in (text or "").splitlines() if line.strip()), "")
        return first.encode("utf-8", "replace").decode()  # "\\ud800" is Python, and nothing that could be sent

    def dotted(self, node: ast.expr) -> str:
        """`Tag.div` -> "htag.Tag.div"; "" for what is no plain name, or longer than any that matters."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute) and len(parts) < MAX_DOTS:
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        return ".".join([self._origins.get(node.id, node.id), *reversed(parts)])

    def walk(self) -> list[ast.AST]:
        return self._nodes

    def _bind(self, statement: ast.stmt) -> None:
        match statement:
            case ast.ClassDef():
                self._classes[statement.name] = statement
            case ast.Assign():
                names = {target.id for target in statement.targets if isinstance(target, ast.Name)}
                self._others |= names
                self._made |= names if isinstance(statement.value, ast.Call) else set()
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                self._others.add(name)
                self._made |= {name} if isinstance(value, ast.Call) else set()
            case ast.AsyncFunctionDef():
                self._others.add(statement.name)
                self._made.add(statement.name)
            case ast.Import():
                for alias in statement.names:
                    top = alias.name.partition(".")[0]
                    self._origins[alias.asname or top] = alias.name if alias.asname else top
            case ast.ImportFrom():
                for alias in statement.names:
                    if alias.name == "*" and statement.module == "htag":
                        self._origins["Tag"] = "htag.Tag"
                    else:
                        if statement.module not in ("htag", "htagweb"):  # htag 2 has an App of its own: a runner
                            self._others.add(alias.asname or alias.name)
                            self._made.add(alias.asname or alias.name)
                        self._origins[alias.asname or alias.name] = f"{statement.module or ''}.{alias.name}"

    def _handed_to_runners(self) -> list[str]:
        """Classes of this module in calls such as `WebServer(App)` or `Runner("module:App")`, wherever they stand."""
        handed: dict[str, None] = {}
        for call in self.walk():
            if isinstance(call, ast.Call) and self.dotted(call.func).rpartition(".")[2] in RUNNERS:
                given = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "obj")]
                for value in given:
                    name = value.id if isinstance(value, ast.Name) else ""
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        name = re.split(r"[.:]", value.value)[-1]
                    if name in self._classes:
                        handed[name] = None
        return list(handed)

    def _tags(self, kind: str = "") -> list[str]:
        """The classes that derive from htag's Tag.…, or from Tag.`kind`; through classes of this module too. Each is
        looked at once: of classes with two bases there are more ways through them than anybody could walk."""
        below: dict[str, list[str]] = {}
        waiting: list[str] = []
        for name, defined in self._classes.items():
            for base in map(self.dotted, defined.bases):
                parts = base.split(".")
                if parts[0] == "htag" and "Tag" in parts and (not kind or parts[-1] == kind):
                    waiting.append(name)
                below.setdefault(base, []).append(name)
        found: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += below.get(name, ())
        return [name for name in self._classes if name in found]

    def _line(self, name: str) -> int:
        return self._classes[name].lineno


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of a module's top level, in `if`, `try` and `with` as well, in their order."""
    waiting = body[::-1]
    while waiting:
        statement = waiting.pop()
        yield statement
        inner: list[ast.stmt] = []
        if isinstance(statement, (ast.If, ast.Try, ast.With)):
            inner += statement.body
        if isinstance(statement, (ast.If, ast.Try)):
            inner += statement.orelse
        if isinstance(statement, ast.Try):
            inner += [each for handler in statement.handlers for each in handler.body]
        waiting += reversed(inner)


def _module_path(files: Mapping[str, bytes], main: str, module: str) -> str:
    for path in (module.replace(".", "/") + ".py", module.replace(".", "/") + "/__init__.py"):
        if path in files:
            return path
    raise NotAnApp(main, f"no module {module} beside it, as the key entry says")


def _generation(files: Mapping[str, bytes], path: str, module: Module, needs: Needs) -> int:
    """A pin of htag wins; else what only one of the two has; else htag 1, for which most apps were written."""
    pinned = pinned_generation(needs)
    if pinned:
        return pinned
    signs = _signs(module)
    for other, source in files.items():
        # A folder's app.py may get everything from a module beside it.
        if other != path and other.endswith(".py") and b"Tag" in source:
            try:
                signs |= _signs(Module(other, parse(other, source)))
            except NotAnApp:
                continue
    for sign, generation in (("only 2", 2), ("only 1", 1), ("rather 1", 1), ("rather 2", 2)):
        if sign in signs:
            return generation
    return 1


def _signs(module: Module) -> set[str]:
    signs = set()
    for node in module.walk():
        name = ""
        if isinstance(node, ast.ImportFrom) and node.module == "htag":
            names = {alias.name for alias in node.names}
            signs |= {"only 2"} if names & ONLY_IN_HTAG_2 else {"only 1"} if names & ONLY_IN_HTAG_1 else set()
        elif isinstance(node, ast.ImportFrom) and node.module == "htag.render":
            signs.add("only 1")
        elif isinstance(node, ast.Attribute):
            name = node.attr
            if module.dotted(node) in ("htag.Tag.App", "htag.WebApp"):
                signs.add("only 2")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name = node.name
        if name in SIGNS_OF_HTAG_1:
            signs.add("rather 1")
        elif name in SIGNS_OF_HTAG_2:
            signs.add("rather 2")
    return signs

"""What the package asks of the environment that it runs in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sites import Sites

from .conftest import Write

# As on Windows: what asyncio needs of Linux is kept, all that is ours has to do without.
WITHOUT = """
import asyncio, os, signal, socket, subprocess, sys, time, uuid
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog", "readline"):
    sys.modules[name] = None
for module, names in (
    (os, "O_PATH O_DIRECTORY O_NOFOLLOW O_CLOEXEC O_NONBLOCK getuid geteuid getgid killpg getpgid chown fchown fchmod "
         "waitid WNOWAIT WEXITED P_PID fork mkfifo sysconf"),
    (signal, "SIGKILL SIGHUP SIGUSR1"),
    (socket, "SO_PEERCRED"),
    (time, "CLOCK_BOOTTIME"),
):
    for name in names.split():
        delattr(module, name)
class Socket(socket.socket):
    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        if family == socket.AF_UNIX and fileno is None:
            raise OSError("there are no Unix sockets here")
        super().__init__(family, type, proto, fileno)
socket.socket = Socket
"""

SERVES = """
import warnings
warnings.simplefilter("ignore")
import sys
from starlette.testclient import TestClient
from htagweb import WebServerWS
import htagweb_orchestrator.harness as harness
addresses = []
dial = harness.dial
async def noted(address, *, timeout_s):
    addresses.append(type(address).__name__)
    return await dial(address, timeout_s=timeout_s)
harness.dial = noted
import re
with TestClient(WebServerWS("hello:App")) as client:
    page = client.get("/?p=world").text
    base = re.search('data-base="([^"]+)"', page)[1]
    instance = re.search('INSTANCE = "([^"]+)"', page)[1]
    with client.websocket_connect(f"{base}_ws?instance={instance}&page=a&got=0") as socket:
        print("hello world" in page, sorted(set(addresses)))
"""

HELLO = "from htag import Tag\n\nclass App(Tag.div):\n    def init(self, p='nobody'):\n        self += 'hello ' + p\n"


def run(program: str, *folders: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([*map(str, folders), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_importing_the_name_alone_loads_next_to_nothing() -> None:
    ran = run("import sys, htagweb; print(*sorted({name.partition('.')[0] for name in sys.modules}))")
    loaded = set(ran.stdout.split())
    assert "htagweb" in loaded, ran.stderr
    assert not loaded & {"starlette", "uvicorn", "typer", "docker", "structlog", "asyncio", "msgspec"}


@pytest.mark.parametrize("generation", [1, 2])
def test_a_server_needs_the_core_dependencies_alone(write: Write, sites: Sites, generation: int) -> None:
    folder = write("hello.py", HELLO).parent
    missing = "docker structlog typer rich prometheus_client uvloop argon2 authlib cryptography".split()
    block = f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n"
    source = SERVES.partition("import re\n")[0] + (
        'with TestClient(WebServerWS("hello:App")) as client:\n    print("hello" in client.get("/").text)\n'
    )
    ran = run(block + source, folder, sites.root / f"site-gen{generation}")
    assert ran.stdout == "True\n", ran.stderr


@pytest.mark.parametrize("generation", [1, 2])
def test_the_oldest_starlette_that_it_takes_will_do(
    write: Write, sites: Sites, tmp_path: Path, generation: int
) -> None:
    oldest = tmp_path / "oldest"
    install = ["-m", "uv", "pip", "install", "--quiet", "--no-deps", "--target", str(oldest), "starlette==0.40.0"]
    installed = subprocess.run([sys.executable, *install], capture_output=True, text=True, timeout=60)
    if installed.returncode:
        pytest.skip(f"no package index: {installed.stderr[-200:]}")
    source = SERVES.partition("import re\n")[0] + (
        "import re, starlette\n"
        "async def note(request):\n"
        '    request.session["seen"] = True\n'
        '    return await server.handle(request, "hello:App")\n'
        'server = WebServerWS("hello:App")\n'
        'server.add_route("/note", note)\n'
        "with TestClient(server) as client:\n"
        '    page = client.get("/note").text\n'
        '    base = re.search("/_/app-[0-9a-f]+/", page)[0]\n'
        """    instance = re.search('INSTANCE = "([^"]+)"', page)\n"""
        '    path = f"_ws?instance={instance[1]}&page=a&got=0" if instance else "ws"\n'
        "    with client.websocket_connect(base + path):\n"
        '        print(starlette.__version__, "hello nobody" in page)\n'
    )
    ran = run(source, write("hello.py", HELLO).parent, oldest, sites.root / f"site-gen{generation}")
    assert ran.stdout == "0.40.0 True\n", ran.stderr


def test_where_windows_lacks_things_it_serves_over_loopback(write: Write, sites: Sites) -> None:
    folder = write("hello.py", HELLO).parent
    harness = (
        f"import htagweb_orchestrator.composition as composition\ncomposition.BOOT = {WITHOUT!r} + composition.BOOT\n"
    )
    ran = run(WITHOUT + harness + SERVES, folder, sites.root / "site-gen1")
    assert ran.stdout == "True ['TcpAddress']\n", ran.stderr


def test_without_htag_it_says_what_to_install(write: Write) -> None:
    ran = run("from htagweb import WebServer\nWebServer('hello:App').run()", write("hello.py", HELLO).parent)
    assert "htag is missing here: pip install htag" in ran.stderr

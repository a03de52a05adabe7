"""What every measurement of the data path needs running: the upstream, the orchestrator's stand-in, and the proxies."""

from __future__ import annotations

import contextlib
import http.client
import os
import pwd
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .measures import two_cores
from .orchestrator import cookies

HERE = Path(__file__).parent
NPM = HERE / ".rivals" / "node_modules" / ".bin"
START_S = 20.0

_NGINX = """
{user}worker_processes 1; daemon off; pid {directory}/nginx.pid;
error_log {directory}/nginx.log; worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_max_body_size 0;
    keepalive_requests 1000000000;
    client_body_temp_path {directory}/nginx-body; proxy_temp_path {directory}/nginx-proxy;
    fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream sandbox {{ server unix:{upstream}; keepalive 128; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass http://sandbox;
            proxy_http_version 1.1;
            proxy_max_temp_file_size 0;
            proxy_request_buffering off;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Upgrade $http_upgrade;
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Stage:
    directory: Path
    upstream: Path  # its Unix socket
    upstream_port: int  # and the same on TCP
    cookies: list[str]  # one a visitor


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and how it is started. `missing` says what has to be installed first, "" if nothing."""

    name: str
    start: Callable[[Stage, int], tuple[list[str], Mapping[str, str]]]
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    name: str
    port: int
    pid: int


def proxies() -> list[Proxy]:
    return [
        Proxy("htagweb", _gateway),
        Proxy("nginx", _nginx, "" if shutil.which("nginx") else "nginx (Debian: nginx-light)"),
        Proxy("aiohttp", _python("benchmarks.aiohttp_proxy"), _lacking("aiohttp")),
        Proxy("configurable-http-proxy", _chp, "" if (NPM / "configurable-http-proxy").exists() else "it, by npm"),
        Proxy("Starlette + httpx", _python("benchmarks.starlette_httpx")),
    ]


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """The upstream and the orchestrator's stand-in, on the core that isn't measured."""
    _, other = two_cores()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a thousand WebSockets are two thousand files
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        (directory / "state").mkdir()
        (directory / "ctl").mkdir()
        built = Stage(directory, directory / "app.sock", free_port(), cookies(directory / "state"))
        for module, *arguments in (
            ("benchmarks.upstream", str(built.upstream), str(built.upstream_port)),
            ("benchmarks.orchestrator", str(directory / "ctl" / "orch.sock"), str(built.upstream)),
        ):
            process = stack.enter_context(pinned([sys.executable, "-m", module, *arguments], other, directory))
            _wait(process, lambda path=arguments[0]: _listens(path))  # type: ignore[misc]
        yield built


@contextlib.contextmanager
def running(proxy: Proxy, at: Stage) -> Iterator[Running]:
    """The proxy, on the core that is measured, once it has answered."""
    core, _ = two_cores()
    port = free_port()
    command, environment = proxy.start(at, port)
    with pinned(command, core, at.directory, environment) as process:
        _wait(process, lambda: answers(port, at.cookies[0]))
        yield Running(proxy.name, port, process.pid)


@contextlib.contextmanager
def pinned(
    command: list[str], core: int, directory: Path, environment: Mapping[str, str] = {}
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command on one core; what it says goes to a file, for proxies have much to say of visitors who leave."""
    with (directory / "output").open("ab") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            env={**os.environ, **environment},
            cwd=HERE.parent,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(port: int, cookie: str) -> bool:
    """Whether a page comes through as it is."""
    from .upstream import PAGE

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/bench/page", headers={"Cookie": cookie})
        answer = connection.getresponse()
        return answer.status == 200 and answer.read() == PAGE
    except OSError:
        return False
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _gateway(at: Stage, port: int) -> tuple[list[str], Mapping[str, str]]:
    return [sys.executable, "-m", "htagweb_gateway"], {
        "HTAGWEB_CTL_DIR": str(at.directory / "ctl"),
        "HTAGWEB_STATE_DIR": str(at.directory / "state"),
        "HTAGWEB_LISTEN_HOST": "127.0.0.1",
        "HTAGWEB_LISTEN_PORT": str(port),
        "HTAGWEB_METRICS_PORT": "0",
    }


def _nginx(at: Stage, port: int) -> tuple[list[str], Mapping[str, str]]:
    # Its worker would else give up root, and with it the way to a socket that is root's own.
    user = f"user {pwd.getpwuid(os.getuid()).pw_name};\n" if os.getuid() == 0 else ""
    configuration = at.directory / "nginx.conf"
    configuration.write_text(_NGINX.format(user=user, directory=at.directory, upstream=at.upstream, port=port))
    return ["nginx", "-e", str(at.directory / "nginx.log"), "-c", str(configuration)], {}


def _chp(at: Stage, port: int) -> tuple[list[str], Mapping[str, str]]:
    target = f"http://127.0.0.1:{at.upstream_port}"
    options = ["--ip=127.0.0.1", f"--port={port}", f"--api-port={free_port()}", f"--default-target={target}"]
    return [str(NPM / "configurable-http-proxy"), *options, "--log-level=error"], {"CONFIGPROXY_AUTH_TOKEN": "bench"}


def _python(module: str) -> Callable[[Stage, int], tuple[list[str], Mapping[str, str]]]:
    return lambda at, port: (
        [sys.executable, "-m", module],
        {"BENCH_UPSTREAM": str(at.upstream), "BENCH_PORT": str(port)},
    )


def _lacking(package: str) -> str:
    try:
        __import__(package)
    except ImportError:
        return package
    return ""


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _wait(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{process.args!r} did not answer within {START_S:g} s")
        time.sleep(0.05)

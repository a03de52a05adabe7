from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.chromium import ARGS, CHROMIUM, NOTE_DRAWN, PATIENCE_MS
from tests.e2e.stack import Stack

Visitor = Callable[[], Page]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("e2e")
    stack = Stack(folder, port=free_port())
    stack.publish()
    try:
        stack.up()
        yield stack
    finally:
        print(stack.logs("orchestrator")[-4000:], stack.logs("gateway")[-4000:])
        stack.down()


@pytest.fixture(scope="module")  # its event loop runs for as long as it lives, and other modules have their own
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield chromium
        chromium.close()


def arrival(browser: Browser, url: str) -> BrowserContext:
    """A browser profile that knows no cookie yet."""
    context = browser.new_context(base_url=url)
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(NOTE_DRAWN)
    return context


@pytest.fixture
def visitor(browser: Browser, stack: Stack) -> Iterator[Visitor]:
    """A function that makes a new visitor: a page in a browser profile of its own."""
    contexts = []

    def arrive() -> Page:
        contexts.append(arrival(browser, stack.url))
        return contexts[-1].new_page()

    yield arrive
    for context in contexts:
        context.close()
    stack.htagweb("reap", "--all", "--yes", check=False)


@pytest.fixture
def shots() -> Path:
    """Where a test leaves pictures to look at; not committed."""
    folder = Path(__file__).parents[2] / ".run" / "shots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    client_max_body_size 32m;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
        }}
    }}
}}
"""


@pytest.fixture(scope="session")
def no_websockets(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the stack behind an nginx that was told nothing of WebSockets, so that none gets through."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, upstream=stack.port))
    nginx = subprocess.Popen(["nginx", "-e", f"{folder}/error.log", "-c", str(config)])
    yield f"http://localhost:{port}"
    nginx.terminate()
    nginx.wait(10)


@pytest.fixture
def another_site(stack: Stack) -> Iterator[str]:
    """The address of a page that frames the counter. 127.0.0.1 and localhost are two sites to a browser."""
    page = f"<!doctype html><h1>Another site</h1><iframe src='{stack.url}/counter/' width=600 height=400></iframe>"

    class Framing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Framing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()

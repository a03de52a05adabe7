"""The images build with an empty wheelhouse, from an index alone: the Dockerfiles know no other way than pip's own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

REPOSITORY = Path(__file__).parents[1]
CONTEXT = ("Dockerfile", ".dockerignore", "gateway", "orchestrator", "htagweb", "sandbox-image")

pytestmark = pytest.mark.docker


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A plain package index on loopback with the wheels that the locks name."""
    root = tmp_path_factory.mktemp("index")
    wheels = sorted((REPOSITORY / "wheelhouse").glob("*.whl"))
    if not wheels:
        pytest.skip("the wheelhouse is empty: scripts/build-env fills it")
    for wheel in wheels:
        folder = root / "simple" / wheel.name.partition("-")[0].lower().replace("_", "-").replace(".", "-")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheel, folder / wheel.name)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        with (folder / "index.html").open("a") as page:
            page.write(f'<a href="{wheel.name}#sha256={digest}">{wheel.name}</a>\n')
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple/"
        server.shutdown()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build context as a clean clone has it: the wheelhouse is empty."""
    folder = tmp_path_factory.mktemp("clone")
    for name in CONTEXT:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    (folder / "wheelhouse").mkdir()
    (folder / "wheelhouse" / ".gitkeep").touch()
    return folder


def base_image() -> str:
    """What compose would take: of .env, which scripts/build-env writes where nothing can be pulled."""
    settings = REPOSITORY / ".env"
    lines = settings.read_text().splitlines() if settings.exists() else []
    return next((line.partition("=")[2] for line in lines if line.startswith("BASE_IMAGE=")), "python:3.13-slim")


@pytest.mark.parametrize(
    "which",
    [("Dockerfile", "gateway"), ("Dockerfile", "orchestrator"), ("sandbox-image/Dockerfile", "")],
    ids=["gateway", "orchestrator", "sandbox-image"],
)
def test_an_image_builds_from_an_index_alone(clone: Path, index: str, which: tuple[str, str]) -> None:
    dockerfile, target = which
    base = os.environ.get("BASE_IMAGE") or base_image()
    arguments = ["--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"PIP_INDEX_URL={index}"]
    arguments += ["--target", target] if target else []
    done = subprocess.run(
        ["docker", "build", "--network", "host", "--quiet", "--file", dockerfile, *arguments, "."],
        cwd=clone,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    image = done.stdout.strip()
    subprocess.run(["docker", "image", "rm", "--force", image], capture_output=True, timeout=60)
    assert image.startswith("sha256:")

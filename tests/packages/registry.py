"""A registry on loopback with one image in it, as `docker save` wrote it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """Answers what an engine asks while it pulls. It has nothing until `manifest` is set."""

    def __init__(self, saved: bytes) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        with tarfile.open(fileobj=io.BytesIO(saved)) as tar:

            def blob(name: str, kind: str) -> dict[str, object]:
                file = tar.extractfile(name)
                assert file is not None
                content = file.read()
                digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
                self.blobs[digest] = content
                return {"mediaType": kind, "size": len(content), "digest": digest}

            listed = tar.extractfile("manifest.json")
            assert listed is not None
            (image,) = json.load(listed)
            layers = [blob(each, LAYER) for each in image["Layers"]]
            config = blob(image["Config"], CONFIG)
        self._manifest = json.dumps(
            {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        ).encode()
        self.open = False

    def answer(self, path: str) -> tuple[int, str, bytes]:
        self.asked.append(path)
        if path == "/v2/":
            return 200, "application/json", b"{}"
        if "/manifests/" in path and self.open:
            return 200, MANIFEST, self._manifest
        if (found := self.blobs.get(path.rpartition("/")[2])) is not None:
            return 200, "application/octet-stream", found
        return 404, "application/json", b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'


@contextmanager
def serving(registry: Registry) -> Iterator[str]:
    """Its name: a host and a port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, kind, body = registry.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            if kind == MANIFEST:
                self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(body).hexdigest()}")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

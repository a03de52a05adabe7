"""What no platform can be faster than: the engine's create and start calls, and a Python that imports htag."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker

from htagweb_orchestrator.engines.base import SandboxSpec
from htagweb_orchestrator.engines.docker import DockerEngine, create_container
from htagweb_orchestrator.engines.docker_options import Image, container_name
from htagweb_orchestrator.model import SandboxId
from htagweb_orchestrator.rundir import RunDirectory
from tests.engines.conftest import GATEWAY_GID, SOCKET

INSTANCE = "htagweb-bench-floor"
AT_ONCE = 4  # as many as the orchestrator starts at once on two cores
IMPORT = """
import sys
sys.path[:0] = ["/opt/htagweb/site", "/opt/htagweb/site-gen1"]
import htag
open("/run/app/imported", "w").close()
"""


class Floor:
    """Containers with exactly a sandbox's options, but with another program. `close` after use."""

    def __init__(self, image: str) -> None:
        self._client = docker.APIClient(base_url=f"unix://{SOCKET}", version="auto", num_pools=AT_ONCE)
        self._volume = self._client.create_volume(INSTANCE)
        self._run = RunDirectory(Path(self._volume["Mountpoint"]), gateway_gid=GATEWAY_GID)
        self._image = image
        self._image_id = Image(self._client.inspect_image(image)["Id"], {})  # type: ignore[no-untyped-call]
        self._engine = DockerEngine(instance=INSTANCE, run_volume=INSTANCE, base_url=f"unix://{SOCKET}")
        asyncio.run(self._engine.check([image]))
        self._uids = itertools.count(20000)

    def close(self) -> None:
        self._client.remove_volume(INSTANCE, force=True)
        self._client.close()

    def once(self, program: list[str] | None) -> float:
        """Seconds from the create call until `program` was started; without one, until a Python has imported htag."""
        began = time.perf_counter()
        sandbox, ended = self._start(program)
        self._remove(sandbox)
        return ended - began

    def at_once(self, count: int) -> list[float]:
        """So many, and how long after the first call each had imported htag."""
        began = time.perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            started = list(threads.map(lambda _: self._start(None), range(count)))
        for sandbox, _ in started:
            self._remove(sandbox)
        return [ended - began for _, ended in started]

    def _start(self, program: list[str] | None) -> tuple[SandboxId, float]:
        """Its id, and when it had come so far."""
        sandbox = SandboxId(secrets.token_hex(16))
        uid = next(self._uids)
        self._run.create(sandbox, uid)
        folder = self._run.sockets(sandbox)
        spec = SandboxSpec(sandbox_id=sandbox, uid=uid, directory=str(folder), image=self._image, generation=1)
        options = self._engine.create_options(spec, self._image_id)
        options["Entrypoint"] = program or ["python3", "-I", "-S", "-c", IMPORT]
        options["Cmd"] = []
        created = create_container(self._client, options, container_name(sandbox))
        self._client.start(created)
        patience_s = time.perf_counter() + 60
        while program is None and not (folder / "imported").exists():
            if time.perf_counter() > patience_s:
                raise TimeoutError("the import of htag took more than a minute")
            time.sleep(0.001)
        return sandbox, time.perf_counter()

    def _remove(self, sandbox: SandboxId) -> None:
        self._client.remove_container(container_name(sandbox), force=True)
        self._run.remove(sandbox)

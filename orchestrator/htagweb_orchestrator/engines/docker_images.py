"""Images for apps, made by Docker. Keeps the promises of image_maker.ImageMaker.

Not by the engine's builder, which has neither our limits nor our seccomp profile: the packages are installed in a
container like a sandbox, which is thrown away; only files come out of it, and go into one that never runs.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import docker
import msgspec

from ..brings import Brings
from ..errors import EngineUnavailable, ImageNotFound
from ..image_maker import BuildFailed, ImageFacts, ImageOrder, MadeImage, PullFailed
from ..quantities import show_duration, show_size
from .docker import create_container, inspect_image
from .docker_calls import Call, Client, DockerCalls, unavailable
from .docker_options import BASE, BUILDER, BYTES, MADE_BY, NEVER_SET, Options, differing, seccomp_profile
from .docker_tar import BadArchive, Counted, cleaned, one_file, packed

T = TypeVar("T")

UID = 60000  # nobody's: sandboxes have 20000 to 59999
MEMORY = 512 * 1024**2
LOG_LINES, LOG_CHARS = 400, 64 * 1024
LOOK_S = 0.25
NAMELESS = "<none>:<none>"  # of an image that another took the name of
BRINGS = "/opt/htagweb/brings.json"


class DockerImages:
    """`copy_timeout_s` is for moving an app's packages through this process, as many as there are, `pull_timeout_s` for
    getting an image from its registry, during which `silence_s` may pass without a word."""

    def __init__(
        self,
        *,
        instance: str,
        base_url: str = "unix:///var/run/docker.sock",
        call_timeout_s: float = 20.0,
        copy_timeout_s: float = 300.0,
        pull_timeout_s: float = 3600.0,
        silence_s: float = 60.0,
    ) -> None:
        self._instance = instance
        self._base_url = base_url
        self._calls = DockerCalls(base_url, timeout_s=call_timeout_s, threads=2)
        self._copies = DockerCalls(base_url, timeout_s=copy_timeout_s, threads=2)
        self._pulls = DockerCalls(base_url, timeout_s=pull_timeout_s, threads=1, silence_s=silence_s)
        self._seen: dict[str, ImageFacts] = {}  # by id, which stands for one content

    async def look(self, image: str) -> ImageFacts:
        found: Options = await self._ask(lambda client: inspect_image(client, image), image)
        if found["Id"] not in self._seen:
            volumes = tuple(found["Config"].get("Volumes") or ())
            brings = await self._ask(lambda client: _brings(client, found["Id"], self._labels(found)), image)
            self._seen[found["Id"]] = ImageFacts(id=found["Id"], brings=brings, volumes=volumes)
        return self._seen[found["Id"]]

    async def make(self, order: ImageOrder, on_log: Callable[[str], None]) -> None:
        base: Options = await self._ask(lambda client: inspect_image(client, order.base), order.base)
        worker = pristine = ""
        try:
            options = await self._worker_options(order, base)
            worker = await self._create(options, order.base)
            made: Options = await self._ask(lambda client: client.inspect_container(worker))
            _refuse_differences(made, options)
            await self._copy(lambda client: _give(client, worker, order))
            await self._ask(lambda client: client.start(worker))
            await self._watch(worker, order, on_log)
            pristine = await self._create({"Image": base["Id"], "Labels": self._labels(base)}, order.base)
            counted = Counted()
            try:
                await self._copy(lambda client: _take_over(client, worker, pristine, order.most_bytes, counted))
            except BadArchive as error:
                raise BuildFailed(f"The packages hold what none may have: {error}.") from error
            await self._copy(lambda client: self._commit(client, pristine, order, base, counted.bytes))
        finally:
            for container in filter(None, (worker, pristine)):
                await asyncio.shield(self._remove_container(container))

    async def pull(self, image: str, on_progress: Callable[[int, int], None]) -> None:
        given_up = threading.Event()
        try:
            await self._pulls.run(lambda client: _pull(client, image, on_progress, given_up))
        except docker.errors.APIError as error:
            raise PullFailed(str(error.explanation or error)) from error
        finally:
            given_up.set()

    async def made(self) -> list[MadeImage]:
        def listed(client: Client) -> list[MadeImage]:
            return [
                MadeImage(
                    name=name if name != NAMELESS else image["Id"],
                    id=image["Id"],
                    base=image["Labels"].get(BASE, ""),
                    bytes=int(image["Labels"].get(BYTES) or 0),
                    created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(image["Created"])),
                )
                for image in client.images(filters={"label": f"{MADE_BY}={self._instance}"})
                for name in image["RepoTags"] or (NAMELESS,)
            ]

        return await self._ask(listed)

    async def remove(self, names: Sequence[str]) -> list[str]:
        def gone(client: Client, name: str) -> bool:
            try:
                client.remove_image(name)
            except docker.errors.ImageNotFound:
                return True
            except docker.errors.APIError as error:
                if error.status_code != 409:
                    raise
                return False  # a container uses it
            return True

        return [name for name in names if await self._ask(lambda client, name=name: gone(client, name))]  # type: ignore[misc]

    async def tidy(self) -> None:
        left = await self._ask(
            lambda client: client.containers(all=True, filters={"label": f"{BUILDER}={self._instance}"})
        )
        for container in left:
            await self._remove_container(container["Id"])

    async def close(self) -> None:
        self._calls.close()
        self._copies.close()
        self._pulls.close()

    # -- the container that installs --------------------------------------------------------------------------------

    async def _worker_options(self, order: ImageOrder, base: Options) -> Options:
        version: Options = await self._ask(lambda client: client.version())
        info: Options = await self._ask(lambda client: client.info())
        given = {
            "generation": order.generation,
            "constraints": order.constraints,
            "index": bool(order.index_url),
            "timeout_s": order.timeout_s,
        }
        return {
            "Image": base["Id"],
            "User": f"{UID}:{UID}",
            "Hostname": "build",
            "WorkingDir": "/",
            "Entrypoint": ["python3", "-I", "-S", "-c", _program()],
            "Cmd": [json.dumps(given)],
            "Env": ["LANG=C.UTF-8"],
            "Labels": self._labels(base),
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {
                "NetworkMode": order.network or "none",
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges:true", f"seccomp={seccomp_profile(str(version['Arch']))}"],
                "IpcMode": "private",
                "CgroupnsMode": "private",
                "Memory": MEMORY,
                # Not taken over by an engine that can't.
                **({"MemorySwap": MEMORY} if info["SwapLimit"] else {}),
                "NanoCpus": 1_000_000_000,
                "CpuShares": 64,  # visitors go first
                "PidsLimit": 64,
                "Ulimits": [
                    {"Name": "core", "Soft": 0, "Hard": 0},
                    {"Name": "fsize", "Soft": order.most_bytes, "Hard": order.most_bytes},
                ],
                "OomScoreAdj": 500,
                "Init": False,
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
                "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            },
        }

    async def _watch(self, container: str, order: ImageOrder, on_log: Callable[[str], None]) -> None:
        """Until it has ended well. The engine bounds all but the disk and the time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + order.timeout_s
        while True:
            log, state, used = await self._ask(lambda client: _progress(client, container))
            on_log(log)
            if not state["Running"]:
                break
            if used > 2 * order.most_bytes:  # the wheels, and what they hold
                raise BuildFailed(f"The packages take more than {show_size(order.most_bytes)}.")
            if loop.time() > deadline:
                raise BuildFailed(f"The packages were not installed after {show_duration(order.timeout_s)}.")
            await asyncio.sleep(LOOK_S)
        if state["OOMKilled"]:
            raise BuildFailed(f"Installing the packages took more than {show_size(MEMORY)} of memory.")
        if state["ExitCode"]:
            raise BuildFailed(explained(log, int(state["ExitCode"])))

    # -- calls ------------------------------------------------------------------------------------------------------

    def _labels(self, image: Options) -> dict[str, str]:
        inherited = (image["Config"].get("Labels") or {}) if image else {}
        return {label: "" for label in inherited} | {BUILDER: self._instance}

    def _commit(self, client: Client, container: str, order: ImageOrder, base: Options, size: int) -> None:
        facts = {MADE_BY: self._instance, BASE: order.base, BYTES: str(size), BUILDER: ""}
        repository, _, tag = order.name.partition(":")
        changes = [f"LABEL {name}={json.dumps(value)}" for name, value in facts.items()]
        client.commit(container, repository=repository, tag=tag, changes=changes)

    async def _create(self, options: Options, image: str) -> str:
        name = f"htagweb-build-{secrets.token_hex(8)}"
        return await self._ask(
            lambda client: create_container(client, options, name),
            image,
            undo=lambda client: client.remove_container(name, v=True, force=True),
        )

    async def _remove_container(self, container: str) -> None:
        def remove(client: Client) -> None:
            try:
                client.remove_container(container, v=True, force=True)
            except docker.errors.NotFound:
                pass
            except docker.errors.APIError as error:
                if error.status_code != 409:  # somebody else is removing it
                    raise

        await self._ask(remove)

    async def _ask(self, call: Call[T], image: str = "", undo: Call[object] | None = None) -> T:
        try:
            return await self._calls.run(call, undo=undo)
        except docker.errors.NotFound as error:
            if not image:
                raise unavailable(self._base_url, error) from error
            raise ImageNotFound(f"the engine has no image {image!r}", image=image) from error
        except docker.errors.APIError as error:
            raise unavailable(self._base_url, error) from error

    async def _copy(self, call: Call[T]) -> T:
        try:
            return await self._copies.run(call)
        except docker.errors.APIError as error:
            raise unavailable(self._base_url, error) from error


def explained(log: str, code: int) -> str:
    """pip's last words as one sentence."""
    causes = re.findall(r"(?m)^    (The user requested .+|\S+ \S+ depends on .+)$", log)
    if causes:
        said = "; ".join(
            cause.replace("The user requested (constraint)", "sandboxes themselves run on") for cause in causes
        )
        return f"These requirements contradict each other: {said.replace('The user requested', 'the app wants')}."
    errors = [line.removeprefix("ERROR: ").strip() for line in log.splitlines() if line.startswith("ERROR: ")]
    if any("DO NOT MATCH THE HASHES" in error for error in errors):
        named = re.search(r"(?m)^ +(\S+) from (?!.*Expected)", log)
        return f"The requirements give another hash for {named[1] if named else 'a package'} than it has."
    for error in errors:
        if missing := re.search(r"No matching distribution found for (.+)", error):
            if "WARNING: Retrying (" in log:
                return f"There is no wheel of {missing[1]} here, and the package index could not be reached."
            return f"There is no wheel of {missing[1]} that fits; nothing is built from source."
    if code == 124:
        return "The packages were not installed in time."
    return f"{errors[-1].rstrip('.')}." if errors else f"Installing the packages ended with exit code {code}."


def _refuse_differences(made: Options, asked: Options) -> None:
    found = differing(asked["HostConfig"], made["HostConfig"])
    found += [option for option in NEVER_SET if made["HostConfig"].get(option)]
    found += [option for option in ("User", "Entrypoint") if made["Config"].get(option) != asked[option]]
    if found:
        raise EngineUnavailable(f"the engine did not take over these options of a build: {', '.join(found)}")


def _brings(client: Client, image: str, labels: dict[str, str]) -> Brings | None:
    """Out of a container that is never started."""
    options = {"Image": image, "Labels": labels, "Cmd": ["true"]}
    container = create_container(client, options, f"htagweb-build-{secrets.token_hex(8)}")
    try:
        stream, _ = client.get_archive(container, BRINGS)
        return msgspec.json.decode(one_file(stream, most_bytes=256 * 1024), type=Brings)
    except (docker.errors.NotFound, BadArchive, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    finally:
        client.remove_container(container, v=True, force=True)


def _give(client: Client, container: str, order: ImageOrder) -> None:
    files: dict[str, bytes | Path] = {
        "build/index.txt": _index(order.index_url).encode(),
        "build/requirements.txt": ("\n".join(order.requirements) + "\n").encode(),
        "build/constraints.txt": ("\n".join(order.constraints) + "\n").encode(),
    }
    files |= {f"build/wheels/{wheel.name}": wheel for wheel in order.wheels}
    client.put_archive(container, "/", packed(["build", "build/wheels"], files, uid=UID))


def _index(address: str) -> str:
    """pip's options as lines of a file, which nobody else reads: the address may hold a password."""
    options = ["--find-links /build/wheels", "--only-binary :all:"]
    if address != "default":  # else pip asks the one that it asks everywhere
        options.append(f"--index-url {address}")
    url = urlsplit(address)
    if url.scheme == "http":  # the operator means it
        options.append(f"--trusted-host {url.netloc.rpartition('@')[2]}")
    return "\n".join(options) + "\n"


def _pull(client: Client, image: str, on_progress: Callable[[int, int], None], given_up: threading.Event) -> None:
    """The engine ends it when nobody listens any more."""
    layers: dict[str, tuple[int, int]] = {}
    try:
        lines = client.pull(image, stream=True, decode=True)
    except docker.errors.InvalidRepository as error:
        raise PullFailed(str(error)) from error
    for line in lines:
        if given_up.is_set():
            return
        if "error" in line:
            raise PullFailed(str(line["error"]))
        detail = line.get("progressDetail") or {}
        if line.get("status") == "Downloading" and detail.get("total"):
            layers[line["id"]] = int(detail.get("current") or 0), int(detail["total"])
        done, total = (sum(column) for column in zip((0, 0), *layers.values(), strict=True))
        on_progress(done, total)


def _progress(client: Client, container: str) -> tuple[str, dict[str, Any], int]:
    """The log, the state, and how much it wrote to the disk."""
    log = client.logs(container, tail=LOG_LINES).decode("utf-8", "replace")[-LOG_CHARS:]
    listed = client.containers(all=True, size=True, filters={"id": container})
    return log, client.inspect_container(container)["State"], sum(int(each.get("SizeRw") or 0) for each in listed)


def _take_over(client: Client, source: str, target: str, most_bytes: int, counted: Counted) -> None:
    stream, _ = client.get_archive(source, "/build/out")
    client.put_archive(target, "/opt/htagweb", cleaned(stream, most_bytes=most_bytes, counted=counted))


def _program() -> str:
    return (Path(__file__).parent.parent / "installer.py").read_text()

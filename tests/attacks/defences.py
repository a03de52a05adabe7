"""The defences, each of which can be switched off, to see that the attacks which it stops are then no longer stopped.

    ATTACKS_WITHOUT=seal pytest tests/attacks

`python -m tests.attacks.defences` does that for all of them and prints the table of docs/isolation.md.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import docker
import pytest

from htagweb_gateway import errand, exchange, front, handshake, headers, relay
from htagweb_gateway.identity import Identity, Visitor
from htagweb_orchestrator import address, service
from htagweb_orchestrator.admission import Admission, Rate
from htagweb_orchestrator.engines import docker as docker_engine
from htagweb_orchestrator.engines.docker_options import Options, container_name, create_options
from htagweb_orchestrator.model import Platform, SandboxId, UnixAddress, UserId
from htagweb_orchestrator.rundir import RunDirectory, UidAllocator
from htagweb_orchestrator.visitors import Visitors

Off = Callable[[pytest.MonkeyPatch], None]
ROOT = Path(__file__).parents[2]


def options(change: Callable[[Options], object]) -> Off:
    """Create sandboxes with other options; the comparison afterwards takes them for what was wanted."""

    def off(patch: pytest.MonkeyPatch) -> None:
        def changed(*args: Any, **values: Any) -> Options:
            made = create_options(*args, **values)
            change(made)
            return made

        patch.setattr("htagweb_orchestrator.engines.docker.create_options", changed)

    return off


def host(**values: Any) -> Off:
    return options(lambda made: made["HostConfig"].update(values))


def security_opt(unwanted: str, instead: str = "") -> Off:
    def change(made: Options) -> None:
        kept = [each for each in made["HostConfig"]["SecurityOpt"] if not each.startswith(unwanted)]
        made["HostConfig"]["SecurityOpt"] = [*kept, instead] if instead else kept

    return options(change)


def rights(made: Options) -> None:
    made["HostConfig"]["CapDrop"] = []


def log_pipes(made: Options) -> None:
    """The harness behind docker-init, with the engine's pipes in its hands."""
    made["HostConfig"]["Init"] = True
    made["Entrypoint"] = ["sh", "-c", 'exec python3 -I -S /opt/htagweb/harness "$@" 3>&1', "sh"]


def files_without_limit(made: Options) -> None:
    made["HostConfig"]["Tmpfs"] = {
        folder: re.sub(r"size=\d+,nr_inodes=\d+", "size=1g", given)
        for folder, given in made["HostConfig"]["Tmpfs"].items()
    }
    made["HostConfig"]["ShmSize"] = 1 << 30


def no_seal(patch: pytest.MonkeyPatch) -> None:
    def leave_open(self: RunDirectory, sandbox_id: SandboxId, uid: int) -> str:
        return self.boot_log(sandbox_id)

    patch.setattr(RunDirectory, "seal", leave_open)


def naive_dial(patch: pytest.MonkeyPatch) -> None:
    async def connect(to: UnixAddress, timeout_s: float) -> socket.socket:
        unix = socket.socket(socket.AF_UNIX)
        unix.setblocking(False)
        try:
            await asyncio.wait_for(asyncio.get_running_loop().sock_connect(unix, to.path), timeout_s)
        except (OSError, TimeoutError) as error:
            unix.close()
            raise address.DialFailed(str(error)) from error
        return unix

    patch.setattr(address, "_dial_unix", connect)


def one_uid_for_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(UidAllocator, "take", lambda self: 23456)


def whole_run_directory(made: Options) -> None:
    """Every sandbox gets the volume itself: what an old engine does when it is asked for a part of it."""
    mount = made["HostConfig"]["Mounts"][0]
    mount["Source"] = str(Path(mount["Source"]).parents[1])


def headers_pass(patch: pytest.MonkeyPatch) -> None:
    def untouched(given: Iterable[tuple[bytes, bytes]], forward: headers.Forward) -> headers.RawHeaders:
        gone = (b"content-length", b"transfer-encoding", b"cookie")
        kept = [pair for pair in given if pair[0] not in gone]
        return [*kept, (b"cookie", headers._without_cookies(dict(given).get(b"cookie", b""), forward.cookie_names))]

    for module in (headers, exchange, handshake):
        patch.setattr(module, "request_headers", untouched)


def cookies_pass(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(headers, "_without_cookies", lambda value, names: value)


def answers_pass(patch: pytest.MonkeyPatch) -> None:
    def untouched(given: Iterable[tuple[bytes, bytes]], forward: Any, *, status: int = 200) -> headers.RawHeaders:
        return [pair for pair in given if pair[0] not in headers._HOP_BY_HOP]

    for module in (headers, exchange, errand):
        patch.setattr(module, "response_headers", untouched)


def any_origin(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(front, "check_origin", lambda origin, **how: None)


def any_host(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(front, "host_allowed", lambda host, platform: True)


def any_path(patch: pytest.MonkeyPatch) -> None:
    """Routed by the decoded path, as frameworks do, and nothing refused."""
    from urllib.parse import unquote

    patch.setattr(front, "check_path", lambda path, query=b"": None)
    original = front.parse_target

    def parse(path: bytes) -> tuple[str | None, bytes]:
        decoded = unquote(path.decode("latin-1"))
        slash = "/" if decoded.endswith("/") and decoded != "/" else ""
        return original((os.path.normpath(decoded).replace("//", "/") + slash).encode("latin-1", "replace"))

    patch.setattr(front, "parse_target", parse)


def any_cookie(patch: pytest.MonkeyPatch) -> None:
    """Whoever names a user is that user."""

    def believe(self: Identity, cookie: bytes) -> Visitor | None:
        return Visitor(UserId(cookie.decode().rsplit(".", 2)[0]), 0.0) if cookie else None

    patch.setattr(Identity, "_verify", believe)


def any_message(patch: pytest.MonkeyPatch) -> None:
    def endless(*args: Any, **values: Any) -> relay.Carrier:
        return relay.relay_for(*args, **{**values, "message_size": 1 << 30})

    patch.setattr("htagweb_gateway.app.relay_for", endless)


def any_sockets(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("htagweb_orchestrator.settings.Platform", partial(Platform, sockets_per_user=1 << 20))


def any_peer(patch: pytest.MonkeyPatch) -> None:
    """Whoever gets as far as the orchestrator's socket is heard."""

    class Everybody(set[int]):
        def __contains__(self, uid: object) -> bool:
            return True

    served = service.server
    patch.setattr(service, "server", lambda app, *, allowed_uids: served(app, allowed_uids=Everybody()))


def any_operator(patch: pytest.MonkeyPatch) -> None:
    async def believe(self: Visitors, secret: str, client: str = "") -> str:
        return "root"

    patch.setattr(Visitors, "operator", believe)


def polite_stop(patch: pytest.MonkeyPatch) -> None:
    """Ask first, and wait for it."""
    remove = docker_engine._remove

    def ask(client: Any, sandbox_id: SandboxId) -> None:
        with suppress(docker.errors.APIError):
            client.stop(container_name(sandbox_id), timeout=6)
        remove(client, sandbox_id)

    patch.setattr(docker_engine, "_remove", ask)


def any_rate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Rate, "allows", lambda self, name, now: True)


def any_number(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Admission, "admit", lambda self, *args, **facts: None)


# What each is switched off by, and the tests that are worth running then. Without any limit of memory and processes
# these would take the machine with them, so those two are only raised.
DEFENCES: dict[str, tuple[Off, str]] = {
    "safe dial": (naive_dial, "test_13 or test_14"),
    "seal": (no_seal, "test_13_a or test_15 or test_16"),
    "a uid of its own": (one_uid_for_all, "test_01 or test_04 or counts_by_uid"),
    "a directory of its own": (options(whole_run_directory), "test_04 or test_07 or test_15"),
    "no capabilities": (options(rights), "test_01 or test_07"),
    "no-new-privileges": (security_opt("no-new-privileges"), "test_01 or test_07"),
    "seccomp": (security_opt("seccomp", "seccomp=unconfined"), "test_01 or test_06 or test_07"),
    "read-only root": (host(ReadonlyRootfs=False), "test_02 or test_07"),
    "network none": (host(NetworkMode=""), "test_03 or test_07 or test_20"),
    "memory": (host(Memory=3 << 30, MemorySwap=3 << 30), "test_07 or eats_memory"),
    "pids": (host(PidsLimit=400), "test_07 or test_21"),
    "cpus": (host(NanoCpus=0), "test_07 or test_24"),
    "open files": (host(Ulimits=[]), "test_07 or open_files"),
    "small tmpfs": (options(files_without_limit), "test_07 or own_files or without_content"),
    "no log pipes": (options(log_pipes), "test_07 or test_23"),
    "request headers": (headers_pass, "test_48"),
    "our cookie stays here": (cookies_pass, "test_49"),
    "answers' headers": (answers_pass, "test_36 or test_37"),
    "origin": (any_origin, "test_56 or test_59"),
    "host": (any_host, "test_42"),
    "path rules": (any_path, "test_44"),
    "signed cookie": (any_cookie, "test_55"),
    "message size": (any_message, "test_60"),
    "sockets per user": (any_sockets, "test_60_one"),
    "cap per user": (any_number, "test_27_one_user"),
    "starts per minute": (any_rate, "test_27_a_user or test_27_starts"),
    "no asking at the end": (polite_stop, "test_25"),
    "the peer's uid": (any_peer, "test_18_whoever"),
    "operators' token": (any_operator, "test_62_without"),
}


def without(name: str, patch: pytest.MonkeyPatch, network: str) -> None:
    off, _ = DEFENCES[name]
    if name == "network none":  # a real one, that leads nowhere
        off = host(NetworkMode=network)
    off(patch)


def main(names: list[str]) -> int:
    for name in names or DEFENCES:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--tb=no", "tests/attacks", "-k", DEFENCES[name][1]],
            cwd=ROOT,
            env={**os.environ, "ATTACKS_WITHOUT": name},
            capture_output=True,
            text=True,
        )
        said = done.stdout.splitlines()
        red = sorted({re.split(r"::|\[| - ", line)[1] for line in said if line.startswith("FAILED")})
        red += ["**broken**" for line in said if line.startswith("ERROR")][:1]  # this module needs mending, then
        print(f"| {name} | {', '.join(f'`{test}`' for test in red) or '**none**'} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

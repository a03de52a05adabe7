"""What Docker's answers mean in base.Engine's words."""

from __future__ import annotations

from typing import Any

import docker

from ..errors import EngineUnavailable
from ..model import SandboxId
from .base import Found, Stats
from .docker_calls import Client
from .docker_options import IMAGE, SANDBOX, UID, Options, container_name

OLDEST_API = (1, 41)  # Docker 20.10
RUNNING = ("running", "paused")


def api_version(version: Options) -> tuple[int, int]:
    major, _, minor = str(version["ApiVersion"]).partition(".")
    return int(major), int(minor)


def refuse_unfit(version: Options, info: Options) -> None:
    """Raise EngineUnavailable for an engine on which the wall would have a hole."""
    if any("podman" in component["Name"].lower() for component in version.get("Components") or ()):
        raise EngineUnavailable("this is Podman; htagweb needs Docker Engine 20.10 or newer")
    if api_version(version) < OLDEST_API:
        raise EngineUnavailable(f"Docker Engine {version['Version']} is too old; htagweb needs 20.10 or newer")
    if version.get("Os") != "linux":
        raise EngineUnavailable("this engine runs Windows containers; switch it to Linux containers")
    if not any(option.startswith("name=seccomp") for option in info.get("SecurityOptions") or ()):
        raise EngineUnavailable("this engine has no seccomp, without which sandboxes are not safe")
    missing = [limit for limit in ("MemoryLimit", "PidsLimit", "CpuCfsQuota") if not info.get(limit)]
    if missing or info.get("CgroupDriver") == "none":
        # A rootless engine without cgroup delegation takes limits, shows them and enforces nothing.
        raise EngineUnavailable(f"this engine can't limit what a sandbox uses ({', '.join(missing) or 'no cgroups'})")


def sandbox_found(client: Client, entry: Options) -> Found | None:
    """None if it went away after the list was made."""
    labels = entry["Labels"]
    running = entry["State"] in RUNNING
    state: Options = {}
    if not running:
        try:
            state = client.inspect_container(entry["Id"])["State"]
        except docker.errors.NotFound:
            return None
    ended = state.get("Status") not in (None, "created", *RUNNING)
    return Found(
        sandbox_id=SandboxId(labels.get(SANDBOX, "")),
        running=running,
        uid=int(labels.get(UID) or -1),
        image=labels.get(IMAGE, ""),
        exit_code=int(state["ExitCode"]) if ended else None,
        out_of_memory=bool(state.get("OOMKilled")),
    )


def sandbox_stats(client: Client, sandbox_id: SandboxId) -> Stats | None:
    try:
        answer: dict[str, Any] = client.stats(container_name(sandbox_id), stream=False, one_shot=True)
    except docker.errors.APIError as error:
        if error.status_code in (404, 409):
            return None
        raise
    memory, cpu, pids = answer["memory_stats"], answer["cpu_stats"], answer["pids_stats"]
    if "usage" not in memory:
        return None  # it doesn't run
    # File cache that the kernel gives back at once is no use of memory. tmpfs contents are not among it.
    details = memory.get("stats") or {}
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))  # cgroup v1, v2
    return Stats(
        memory_bytes=max(0, memory["usage"] - cache),
        cpu_s=cpu["cpu_usage"]["total_usage"] / 1e9,
        pids=int(pids.get("current", 0)),
    )


def sandbox_life(client: Client, sandbox_id: SandboxId) -> str:
    try:
        container: Options = client.inspect_container(container_name(sandbox_id))
    except docker.errors.NotFound:
        return ""
    state = container["State"]
    lines = [
        f"container {container_name(sandbox_id)} {state['Status']}",
        f"created {container['Created']}, started {state['StartedAt']}, finished {state['FinishedAt']}",
        f"exit code {state['ExitCode']}{', out of memory' if state['OOMKilled'] else ''}",
    ]
    return "\n".join([*lines, *filter(None, [state["Error"]])])

"""What every sandbox is created with, and the comparison of that with what the engine made of it.

All of it is constant but for the few values of a SandboxSpec: no request chooses an image, a mount or a security
option. Source: Docker Engine API, POST /containers/create.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ..errors import IsolationBroken
from ..model import SandboxId
from .base import SandboxSpec

Options = dict[str, Any]

SANDBOX, INSTANCE, IMAGE, CREATED, UID = (
    f"htagweb.{fact}" for fact in ("sandbox", "instance", "image", "created", "uid")
)
BUILDER, MADE_BY, BASE, BYTES = (f"htagweb.{fact}" for fact in ("builder", "made-by", "base", "bytes"))  # of images
ENTRYPOINT = ["/opt/htagweb/boot"]
RUN_APP = "/run/app"
DATA = "/data"
FEWEST_PIDS_RUNSC = 256  # gVisor's own threads count, and with fewer a fork bomb kills its kernel

# What may never be set on a sandbox, whoever set it: an image's own declarations, an engine's defaults.
NEVER_SET = (
    "AutoRemove", "Binds", "CapAdd", "Cgroup", "CgroupParent", "DeviceCgroupRules", "DeviceRequests", "Devices", "Dns",
    "ExtraHosts", "GroupAdd", "Links", "PidMode", "PortBindings", "Privileged", "PublishAllPorts", "Sysctls", "UTSMode",
    "UsernsMode", "VolumesFrom",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Image:
    """An image as it was when its name was resolved. `labels` are its own; a container inherits them."""

    id: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the engine said of itself and of its host."""

    api: tuple[int, int]
    cpus: int
    limits_swap: bool
    run_volume: str
    run_mountpoint: str  # as the engine's host sees it
    data_volume: str = ""
    data_mountpoint: str = ""  # "": there is no such volume


def container_name(sandbox_id: SandboxId) -> str:
    return f"htagweb-{sandbox_id}"


def seccomp_profile(arch: str) -> str:
    """Our profile on one line. `scripts/seccomp` makes the files. Raises FileNotFoundError for another machine."""
    text = resources.files(__package__.rpartition(".")[0]).joinpath("seccomp", f"{arch}.json").read_text()
    return json.dumps(json.loads(text), separators=(",", ":"))


def mount(volume: str, mountpoint: str, directory: str, target: str, api: tuple[int, int]) -> Options:
    """One directory of a volume, never the volume.

    An engine below API 1.45 ignores Subpath without a word and would mount every sandbox's sockets; there it is a bind.
    Above, the volume is named, because Docker Desktop's host paths are not those that the engine reports.
    """
    if api >= (1, 45):
        options = {"NoCopy": True, "Subpath": directory}
        return {"Type": "volume", "Source": volume, "Target": target, "VolumeOptions": options}
    # No propagation is asked for: the source lies in the engine's own folder, where some engines refuse `rprivate`.
    return {"Type": "bind", "Source": f"{mountpoint}/{directory}", "Target": target}


def _mounts(spec: SandboxSpec, machine: Machine) -> list[Options]:
    """Its own directory with the sockets, and what its user keeps if the app has that."""
    run = mount(machine.run_volume, machine.run_mountpoint, f"{spec.sandbox_id}/s", RUN_APP, machine.api)
    if not spec.data:
        return [run]
    return [run, mount(machine.data_volume, machine.data_mountpoint, f"{spec.data}/d", DATA, machine.api)]


def create_options(spec: SandboxSpec, *, instance: str, image: Image, machine: Machine, seccomp: str) -> Options:
    """The body of the create call."""
    if spec.network == "host" or spec.network.startswith("container:"):
        raise IsolationBroken(f"network {spec.network!r} would put sandboxes into a network of the host's")
    pids = max(spec.pids, FEWEST_PIDS_RUNSC) if spec.runtime == "runsc" else spec.pids
    owner = f"uid={spec.uid},gid={spec.uid}"
    host: Options = {
        "NetworkMode": spec.network or "none",
        "Mounts": _mounts(spec, machine),
        "Runtime": spec.runtime,
        # The wall.
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true", f"seccomp={seccomp}"],
        "ReadonlyRootfs": True,
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "Tmpfs": {
            "/tmp": f"size={spec.tmp_bytes},nr_inodes=4096,mode=1777,noexec,nosuid,nodev",
            "/app": f"size={spec.app_bytes},nr_inodes=4096,mode=0700,{owner},noexec,nosuid,nodev",
            "/run/secrets": f"size=1m,nr_inodes=64,mode=0700,{owner},noexec,nosuid,nodev",
        },
        "ShmSize": 8 * 1024 * 1024,
        # The limits. Memory = MemorySwap means no swap.
        "Memory": spec.memory_bytes,
        "NanoCpus": int(min(spec.cpus, machine.cpus) * 1_000_000_000),
        "CpuShares": 128,  # gateway and engine go first
        "PidsLimit": pids,
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}, {"Name": "nofile", "Soft": 512, "Hard": 512}],
        "OomScoreAdj": 500,  # a host without memory ends sandboxes first
        # docker-init would keep the log pipes open, and a flood of output then costs the engine's CPU.
        "Init": False,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "64k", "max-file": "1"}},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    }
    if spec.data:  # no file of it gets larger than all of it may be, between two measurements
        most = max(spec.data_bytes, spec.tmp_bytes, spec.app_bytes)
        host["Ulimits"] += [{"Name": "fsize", "Soft": most, "Hard": most}]
    if machine.limits_swap:
        host["MemorySwap"] = spec.memory_bytes
    return {
        "Image": image.id,
        "User": f"{spec.uid}:{spec.uid}",
        "Hostname": "sandbox",
        "WorkingDir": "/",
        "Env": ["HOME=/tmp", "TMPDIR=/tmp", "LANG=C.UTF-8"],
        # Whatever the image declares: who can choose it must not choose what runs first, or what the engine runs in it.
        "Entrypoint": ENTRYPOINT,
        "Healthcheck": {"Test": ["NONE"]},
        "Cmd": ["--generation", str(spec.generation)],
        "Labels": _labels(spec, instance, image),
        "StopTimeout": 2,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "HostConfig": host,
    }


def _labels(spec: SandboxSpec, instance: str, image: Image) -> dict[str, str]:
    # compose labels the images that it builds; a container that inherited them would belong to the project, and
    # `docker compose down --remove-orphans` or `ps` would take it for one of its services. Ours of images mean nothing
    # on a sandbox, or worse: what a build left is found by one.
    blanks = {label: "" for label in image.labels if label.startswith(("com.docker.compose.", "htagweb."))}
    return blanks | {
        SANDBOX: spec.sandbox_id,
        INSTANCE: instance,
        IMAGE: spec.image,
        CREATED: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        UID: str(spec.uid),
    }


def differences(asked: Options, made: Options) -> list[str]:
    """What differs between the create call and the engine's inspect of the result; names of options, empty if nothing.

    Engines ignore what they don't know, so an answer without an error proves nothing.
    """
    config, host = made["Config"], made["HostConfig"]
    exact = ("Image", "User", "Hostname", "Cmd", "StopTimeout", "Entrypoint", "WorkingDir")
    found = [option for option in exact if config.get(option) != asked[option]]
    # To these the image may have added its own.
    if (config.get("Healthcheck") or {}).get("Test") != asked["Healthcheck"]["Test"]:
        found.append("Healthcheck")
    if not set(asked["Env"]) <= set(config.get("Env") or ()):
        found.append("Env")
    if not asked["Labels"].items() <= (config.get("Labels") or {}).items():
        found.append("Labels")
    found += differing(asked["HostConfig"], host)
    found += [option for option in NEVER_SET if host.get(option)]
    targets = sorted(each["Target"] for each in asked["HostConfig"]["Mounts"])
    if sorted(point["Destination"] for point in made["Mounts"]) != targets:
        found.append("Mounts (no other)")  # a VOLUME of the image's would be one
    return found


def differing(asked: Options, made: Options) -> list[str]:
    """Names of options in a HostConfig that aren't what was asked for."""
    return [option for option, value in asked.items() if _plain(made.get(option)) != _plain(value)]


def _plain(value: Any) -> Any:
    """Order doesn't matter in a list of options, nor do the empty fields that an engine adds to an object."""
    if isinstance(value, list):
        return sorted((_plain(item) for item in value), key=repr)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in sorted(value.items()) if item not in (None, "", [], {})}
    return value

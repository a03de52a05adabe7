"""What an operator should know of his engine, and of the networks that he gives to apps."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import docker

from .base import Advice
from .docker_answers import api_version
from .docker_calls import Client
from .docker_options import Options

SUBPATH_API = (1, 45)  # Docker 26.0
ICC = "com.docker.network.bridge.enable_icc"


def advice(client: Client, networks: Collection[str]) -> list[Advice]:
    version, info = client.version(), client.info()
    found = [*_of_engine(version, info)]
    for name in sorted(networks):
        found += _of_network(client, name)
    return found


def _of_engine(version: Options, info: Options) -> list[Advice]:
    found = []
    if not info.get("LiveRestoreEnabled"):
        found.append(
            Advice(
                subject="live-restore",
                found='off: a restart of the engine ends every sandbox ("live-restore": true in its daemon.json)',
            )
        )
    if not info.get("SwapLimit"):
        found.append(Advice(subject="swap", found="can't be limited here: where the host has swap, memory isn't hard"))
    if api_version(version) < SUBPATH_API:
        found.append(
            Advice(
                subject="engine",
                found=f"Docker {version['Version']} is old: from 26.0 on it mounts parts of volumes itself",
            )
        )
    return found


def _of_network(client: Client, name: str) -> list[Advice]:
    subject = f"network {name}"
    try:
        network: dict[str, Any] = client.inspect_network(name)
    except docker.errors.NotFound:
        return [Advice(subject=subject, found=f"isn't there: docker network create {name}", wrong=True)]
    found = []
    if (network.get("Options") or {}).get(ICC, "true") != "false":
        found.append(Advice(subject=subject, found=f"its members reach each other: create it with --opt {ICC}=false"))
    if not network.get("Internal"):
        found.append(
            Advice(
                subject=subject,
                found="leads out: to this host, its neighbours and the metadata address, unless a firewall says no",
            )
        )
    return found

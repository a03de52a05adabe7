"""Installs an app's packages into a folder. Runs in the container of a build, not in the orchestrator.

Started as a program of its own, with a JSON object as its only argument. Knows the standard library, and the pip that
the sandbox image brings on no app's path. Nothing of the packages is run: wheels only, no build, no .pth file.
"""

from __future__ import annotations

import compileall
import json
import os
import py_compile
import re
import shutil
import signal
import subprocess
import sys
from typing import Any

HOME = "/build"  # this user's only folder; the orchestrator put requirements, constraints and wheels there
OUT = f"{HOME}/out"
REQUIREMENTS, REPORT = f"{HOME}/requirements.txt", f"{HOME}/report.json"
IMAGE = "/opt/htagweb"
PIP = "import runpy, sys; sys.path += {paths!r}; sys.argv[0] = 'pip'; runpy.run_module('pip', run_name='__main__')"


LOCAL = ["--no-index", "--find-links", f"{HOME}/wheels", "--only-binary", ":all:"]


def pip(paths: list[str], *arguments: str, quiet: bool = False) -> int:
    """pip's exit code. It sees what lies in `paths` as installed."""
    program = PIP.format(paths=[f"{IMAGE}/pip", *paths])
    command = [sys.executable, "-I", "-S", "-c", program, *arguments, "--disable-pip-version-check", "--no-input"]
    command += ["--no-cache-dir", "--no-color", "--progress-bar", "off", "--retries", "2"]
    silence = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, check=False, stdout=silence, stderr=silence).returncode


def choose(there: list[str], constraints: list[str], index: list[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """What is to be installed, and pip's options for where it is. The index is asked only where the wheels here
    don't do: it may be far away, or not there."""
    for place, quiet in [(LOCAL, bool(index)), *([(index, False)] if index else [])]:
        code = pip(
            there, "install", "--dry-run", "--report", REPORT, *place, "-r", REQUIREMENTS, *constraints, quiet=quiet
        )
        if not code:
            with open(REPORT, "rb") as file:
                return place, json.load(file)["install"]
    sys.exit(code)


def pinned(item: dict[str, Any]) -> tuple[str, list[str]]:
    hashes = item["download_info"].get("archive_info", {}).get("hashes", {})
    return f"{item['metadata']['name']}=={item['metadata']['version']}", [f"{k}:{v}" for k, v in hashes.items()]


def main() -> None:
    given = json.loads(sys.argv[-1])
    # The first process of a container ignores what it has no handler for. Nobody else would end an orphan.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(124))
    signal.alarm(int(given["timeout_s"]))
    os.environ |= {"HOME": HOME, "TMPDIR": f"{HOME}/tmp"}
    os.makedirs(f"{HOME}/tmp", exist_ok=True)
    # What the image brings need not be installed again; what must stay as it is, the constraints say.
    there = [f"{IMAGE}/site", f"{IMAGE}/site-gen{given['generation']}"]
    with open(REQUIREMENTS, "rb") as file:
        hashed = b" --hash=" in file.read()
    constraints = [] if hashed else ["--constraint", f"{HOME}/constraints.txt"]
    index = ["-r", f"{HOME}/index.txt"] if given["index"] else []
    place, report = choose(there, constraints, index)
    chosen = [pinned(item) for item in report]
    fixed = dict(line.split("==") for line in given["constraints"])
    for name, _, version in (pin.partition("==") for pin, _ in chosen):
        kept = fixed.get(re.sub("[-_.]+", "-", name).lower(), version)
        if version != kept:
            sys.exit(f"ERROR: {name}=={version} can't be installed: sandboxes themselves run on {kept}")
    with open(f"{HOME}/pins.txt", "w") as file:
        all_hashed = all(hashes for _, hashes in chosen)
        for pin, hashes in chosen:
            file.write(" ".join([pin, *(f"--hash={each}" for each in hashes if all_hashed)]) + "\n")
    target = f"{OUT}/site-app"
    os.makedirs(target)
    if chosen:
        pins = ["--no-deps", "--no-compile", "--target", target, "-r", f"{HOME}/pins.txt"]
        if code := pip([], "install", *place, *pins):
            sys.exit(code)
    # htag is imported before any app is known, so it has a folder of its own.
    for name in os.listdir(target):
        if name == "htag" or name.startswith("htag-"):
            os.makedirs(f"{OUT}/site-htag", exist_ok=True)
            shutil.move(f"{target}/{name}", f"{OUT}/site-htag/{name}")
    for folder in os.listdir(OUT):
        compileall.compile_dir(
            f"{OUT}/{folder}",
            quiet=2,
            stripdir=OUT,
            prependdir=IMAGE,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    print("installed:", *(pin for pin, _ in chosen), flush=True)


if __name__ == "__main__":
    main()

"""The original's hello worlds run as they are. They take port 8000 of every address, so each gets a network alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sites import Sites

from .conftest import Write
from .seeds import RUNS, SERVER

# Runs in the network of its own: starts the command, asks, ends it, and says what is left.
DRIVER = """
import http.client, json, os, re, signal, subprocess, sys, time

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
server = subprocess.Popen(json.loads(sys.argv[1]), stdout=sys.stderr)

def ours():
    found = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            found[int(pid)] = open(f"/proc/{pid}/cmdline").read().replace(chr(0), " ")
            if os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net") or int(pid) == os.getpid():
                del found[int(pid)]
        except OSError:
            found.pop(int(pid), None)
    return found

def get(path, cookie=""):
    connection = http.client.HTTPConnection("localhost", 8000, timeout=30)
    connection.request("GET", path, headers={"cookie": cookie} if cookie else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), (answer.getheader("set-cookie") or "").partition(";")[0]

deadline = time.monotonic() + 40
while True:
    try:
        first = get("/")
        break
    except OSError:
        assert time.monotonic() < deadline and server.poll() is None, "it does not serve"
        time.sleep(0.05)
said = {"status": first[0], "page": first[1]}
said["others"] = [get("/", first[2])[0] for _ in range(8)]

def pids():
    found = set()
    for _ in range(12):  # whichever worker is asked
        try:
            found |= set(re.findall(r"pid (\\d+)", get("/", first[2])[1]))
        except OSError:  # the one that was killed had it
            pass
    return sorted(found)

def children(of):
    return [int(pid) for pid in open(f"/proc/{of}/task/{of}/children").read().split()]

said["pids"] = pids()
for kill in sys.argv[2:]:
    if kill == "worker":
        os.kill(children(server.pid)[0], signal.SIGKILL)
    else:
        os.kill(next(pid for pid, line in ours().items() if "htagweb._control" in line), signal.SIGKILL)
    said[f"pids after {kill}"] = pids()

said["apps"] = sum("htagweb_harness" in line for line in ours().values())
server.send_signal(signal.SIGTERM if "gunicorn" in sys.argv[1] else signal.SIGINT)
server.wait(30)
deadline = time.monotonic() + 20
while ours() and time.monotonic() < deadline:
    time.sleep(0.05)
said["left"] = list(ours().values())
print(json.dumps(said))
"""


def alone(command: list[str], folder: Path, sites: Sites, *kill: str) -> dict[str, Any]:
    """Run it in a network namespace with nothing but loopback; `kill` is what is killed meanwhile."""
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("a network namespace takes root")
    path = os.pathsep.join([str(sites.root / "site-gen1"), *filter(None, sys.path)])
    ran = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", DRIVER, json.dumps(command), *kill],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=80,
    )
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout)
    said["stderr"] = ran.stderr
    return said


def test_the_file_that_runs_itself(write: Write, sites: Sites) -> None:
    file = write("hello.py", RUNS)
    said = alone([sys.executable, file.name], file.parent, sites)
    assert said["status"] == 200
    assert "hello world" in said["page"]
    assert said["others"] == [200] * 8
    assert said["apps"] >= 1
    assert said["left"] == []
    assert said["stderr"].count("no isolation boundary") == 1


GUNICORN = ["-w", "4", "-b", "localhost:8000", "--preload", "server:app"]


@pytest.mark.timeout(100)
def test_the_file_for_four_workers_of_gunicorn(write: Write, sites: Sites) -> None:
    folder = write("server.py", SERVER).parent
    # The class that the original's README names.
    command = [sys.executable, "-m", "gunicorn", "-k", "uvicorn.workers.UvicornH11Worker", *GUNICORN]
    said = alone(command, folder, sites)
    assert said["status"] == 200
    assert "hello world" in said["page"]
    assert said["others"] == [200] * 8
    assert said["left"] == []
    assert said["stderr"].count("no isolation boundary") == 1


@pytest.mark.timeout(100)
def test_workers_share_one_process_per_user_whichever_of_them_dies(write: Write, sites: Sites) -> None:
    source = SERVER.replace('"hello world"', 'f"pid {os.getpid()}"').replace("from htag ", "import os\nfrom htag ", 1)
    folder = write("server.py", source).parent
    # The class of today's releases.
    command = [sys.executable, "-m", "gunicorn", "-k", "uvicorn_worker.UvicornH11Worker", *GUNICORN]
    said = alone(command, folder, sites, "worker", "control")
    assert len(said["pids"]) == 1
    assert said["pids after worker"] == said["pids"]
    assert len(said["pids after control"]) == 1  # a new one, and one for all
    assert said["pids after control"] != said["pids"]
    assert said["left"] == []

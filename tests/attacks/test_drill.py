"""The break-in drill: somebody has a shell in the gateway's container, with its uid, its mounts and its network.

On the stack as compose makes it. What he does get is said in SECURITY.md: the traffic, and the gateway's own verbs.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.attacks.stage import CONSOLE_SOURCE
from tests.e2e.stack import Stack, docker

pytestmark = [pytest.mark.docker, pytest.mark.e2e]

SHELL = """
import errno, json, os, socket, stat, sys

def refused(call, *args):
    try:
        call(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return ""

def connect(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(path)

ORCHESTRATOR = "/run/htagweb/ctl/orch.sock"

def ask(method, path, body=None):
    import httpx
    client = httpx.Client(transport=httpx.HTTPTransport(uds=ORCHESTRATOR), base_url="http://x")
    return client.request(method, path, json=body)

def routes():
    import httpx
    client = httpx.Client(transport=httpx.HTTPTransport(uds=ORCHESTRATOR), base_url="http://x")
    with client.stream("GET", "/v1/watch") as answer:
        for line in answer.iter_lines():
            return json.loads(line)["routes"]
"""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with mock.patch.dict(os.environ):  # where the stack puts its settings
        stack = Stack(tmp_path_factory.mktemp("attacks"), project="htagweb-attacks", port=_free_port())
        apps = stack.folder / "apps"
        apps.mkdir()
        (apps / "console.py").write_text(CONSOLE_SOURCE)
        (stack.folder / "htagweb.toml").write_text("")
        try:
            stack.up()
            yield stack
        finally:
            stack.down()


@pytest.fixture
def visit(stack: Stack) -> Iterator[None]:
    """Somebody has a sandbox."""
    accept = {"Accept": "text/html"}
    cookie = stack.get("/console/", headers=accept)[1]["set-cookie"].partition(";")[0]
    stack.get("/console/", headers={**accept, "Cookie": cookie})
    yield
    stack.htagweb("reap", "--all", "--yes", check=False)


def shell(stack: Stack, program: str, *, user: str = "10001:10001", service: str = "gateway") -> Any:
    """Run Python in the service's container, as that user; what it left in `answer`."""
    words = ("exec", "-T", "-u", user, service, "python", "-c", f"{SHELL}\n{program}\nprint(json.dumps(answer))")
    return json.loads(stack.docker_compose(*words).stdout)


@pytest.mark.usefixtures("visit")
def test_17_the_gateway_can_not_list_or_change_the_run_directory(stack: Stack) -> None:
    sandbox = stack.rows()[0]["id"]
    found = shell(
        stack,
        f"""
own = "/run/htagweb/sandboxes/{sandbox}"
answer = {{
    "ls": refused(os.listdir, "/run/htagweb/sandboxes"),
    "ls own": refused(os.listdir, own),
    "ls sockets": refused(os.listdir, own + "/s"),
    "touch": refused(open, own + "/s/x", "w"),
    "rm": refused(os.unlink, own + "/s/app.sock"),
    "mkdir": refused(os.mkdir, "/run/htagweb/sandboxes/x"),
    "lease": refused(open, own + "/lease.json"),
}}
control = refused(connect, own + "/s/control.sock"), refused(connect, own + "/s/app.sock")
answer = answer, control
""",
    )
    errors, (control, app) = found
    assert {what: error for what, error in errors.items() if error not in ("EACCES", "EROFS")} == {}
    assert (control, app) == ("EACCES", "")  # the visitors' way is open to it, the orchestrator's isn't


def test_18_no_other_uid_of_the_gateways_container_reaches_the_orchestrator(stack: Stack) -> None:
    assert shell(stack, "answer = refused(connect, ORCHESTRATOR)", user="10002") == "EACCES"
    # Through the group he gets as far as the connection, and no byte of his is read.
    said = shell(
        stack,
        """
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(5)
    try:
        sock.connect(ORCHESTRATOR)
        sock.sendall(b"GET /v1/watch HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        answer = sock.recv(100).decode()
    except OSError as error:
        answer = errno.errorcode[error.errno]
""",
        user="10002:10001",
    )
    assert said in ("", "EACCES", "ECONNRESET", "EPIPE")


def test_62_the_operators_socket_and_verbs_are_not_in_the_gateway(stack: Stack) -> None:
    answers, admin = shell(
        stack,
        """
verbs = [("GET", "/v1/sandboxes"), ("GET", "/v1/sandboxes/a"), ("GET", "/v1/logs/a"), ("POST", "/v1/reap"),
         ("GET", "/v1/apps"), ("GET", "/v1/doctor"), ("GET", "/v1/readyz"), ("GET", "/"), ("GET", "/v1/../admin")]
answer = [ask(method, path).status_code for method, path in verbs], refused(connect, "/run/htagweb/admin/admin.sock")
""",
    )
    assert set(answers) == {404}
    assert admin in ("EACCES", "ENOENT")


@pytest.mark.usefixtures("visit")
def test_the_gateway_ends_nothing_as_an_operator(stack: Stack) -> None:
    """Its `release` names a user and an app, and is the visitor's Stop button whatever word it brings."""
    row = stack.rows()[0]
    released = shell(
        stack,
        f"""
asked = {{"user": {row["user"]!r}, "app": "console", "ending": "operator"}}
ask("POST", "/v1/release", asked)
answer = ask("POST", "/v1/find", {{"user": {row["user"]!r}, "app": "console"}}).json()["ending"]
""",
    )
    assert released == "visitor"


def test_nothing_outside_the_catalogue_starts(stack: Stack) -> None:
    words = ["nope", "../console", "debian", "htagweb-attacks-sandbox-image", "console:latest", "", "/", "x" * 500]
    extra = (
        '{"user": "x", "app": "console", "image": "debian", "privileged": True, "mounts": ["/:/host"], "wait_s": 20}'
    )
    answers, made = shell(
        stack,
        f"""
answer = [ask("POST", "/v1/lease", {{"user": "x", "app": app}}).status_code for app in {words!r}]
answer = answer, ask("POST", "/v1/lease", {extra}).status_code
""",
    )
    assert set(answers) == {404}
    assert made == 200  # the catalogue's app, as it is; what else was asked for is not even looked at
    (container,) = stack.containers()
    host = json.loads(docker("inspect", container["ID"]))[0]["HostConfig"]
    assert (host["Privileged"], host["Binds"], len(host["Mounts"])) == (False, None, 1)
    stack.htagweb("reap", "--all", "--yes")


def test_there_is_no_way_to_the_engine(stack: Stack) -> None:
    sockets, tcp = shell(
        stack,
        """
sockets = []
for folder, names, files in os.walk("/", followlinks=False):
    names[:] = [name for name in names if os.path.join(folder, name) not in ("/proc", "/sys")]
    for name in files:
        try:
            if stat.S_ISSOCK(os.lstat(os.path.join(folder, name)).st_mode):
                sockets.append(os.path.join(folder, name))
        except OSError:
            pass
for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"):
    if refused(connect, path) != "ENOENT":
        sockets.append(path)
gateway = next(line.split()[2] for line in open("/proc/net/route") if line.split()[1] == "00000000")
host = ".".join(str(int(gateway[n : n + 2], 16)) for n in (6, 4, 2, 0))
def tcp(port):
    with socket.socket() as sock:
        sock.settimeout(2)
        return refused(sock.connect, (host, port))
answer = sockets, [tcp(port) for port in (2375, 2376)]
""",
    )
    assert sockets in ([], ["/run/htagweb/ctl/orch.sock"])
    assert "" not in tcp


def test_it_has_no_right_and_nowhere_to_write(stack: Stack) -> None:
    status, errors = shell(
        stack,
        """
places = ["/", "/etc", "/usr", "/opt/htagweb", "/run", "/run/htagweb/ctl", "/home", "/root"]
answer = open("/proc/self/status").read(), {place: refused(open, place + "/x", "w") for place in places}
""",
    )
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {int(lines[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert (lines["NoNewPrivs"], lines["Seccomp"], lines["Uid"].split()) == ("1", "2", ["10001"] * 4)
    assert set(errors.values()) <= {"EROFS", "EACCES"}


@pytest.mark.usefixtures("visit")
def test_it_has_the_cookies_key_and_no_session(stack: Stack) -> None:
    """Sessions and everybody's data lie in a volume that only the orchestrator mounts."""
    files = shell(stack, "answer = os.listdir('/var/lib/htagweb')")
    assert files == ["cookie.key"]
    stores = shell(
        stack,
        """
answer = [os.path.join(folder, name) for folder, _, files in os.walk("/") for name in files
          if name.endswith((".sqlite", ".log", "lease.json"))
          and not folder.startswith(("/proc", "/sys", "/usr", "/opt", "/var/log"))]
""",
    )
    assert stores == []


def test_both_services_are_walled_in_themselves(stack: Stack) -> None:
    for service in ("gateway", "orchestrator"):
        container = stack.docker_compose("ps", "-q", service).stdout.strip()
        found = json.loads(docker("inspect", container))[0]
        host, config = found["HostConfig"], found["Config"]
        assert (host["ReadonlyRootfs"], host["Privileged"], host["CapDrop"]) == (True, False, ["ALL"])
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert host["Memory"] > 0
        assert 0 < host["CpuQuota"] <= 2 * host["CpuPeriod"]
        assert 0 < host["PidsLimit"] <= 256
        assert config["Healthcheck"]["Test"]
        mounts = {mount["Destination"]: mount["RW"] for mount in found["Mounts"] if mount["Type"] != "tmpfs"}
        if service == "gateway":
            assert config["User"] == "10001:10001"
            assert not host["CapAdd"]
            assert {binding["HostIp"] for ports in host["PortBindings"].values() for binding in ports} == {"127.0.0.1"}
            assert mounts == {
                "/run/htagweb/sandboxes": False,
                "/run/htagweb/ctl": False,
                "/var/lib/htagweb": True,
            }
        else:
            assert host["NetworkMode"] == "none"
            assert sorted(name.removeprefix("CAP_") for name in host["CapAdd"]) == ["CHOWN", "DAC_OVERRIDE", "FOWNER"]
            assert not host["PortBindings"]
            assert mounts["/apps"] is False
            assert mounts["/etc/htagweb/htagweb.toml"] is False


def test_what_is_shipped_mounts_the_engine_in_one_service_only() -> None:
    composed = subprocess.run(
        ["docker", "compose", "-f", "compose.yaml", "config", "--format", "json"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    services = json.loads(composed.stdout)["services"]
    holders = [name for name, service in services.items() if "docker.sock" in json.dumps(service.get("volumes", []))]
    assert holders == ["orchestrator"]
    assert services["orchestrator"].get("ports") is None

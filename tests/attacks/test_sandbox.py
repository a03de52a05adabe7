"""What hostile code finds in a sandbox. The numbers are those of docs/isolation.md."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import pytest

from htagweb_orchestrator.errors import AppNotFound
from htagweb_orchestrator.model import AppName, UserId
from htagweb_orchestrator.operators import Operators
from htagweb_orchestrator.settings import AppSettings
from tests.attacks.stage import CONSOLE_SOURCE, Stage, eventually
from tests.engines.test_seccomp import CALLS

pytestmark = pytest.mark.docker

APP = "from htag import Tag\n\n\nclass App(Tag.div):\n    def init(self):\n        "


async def test_01_hostile_code_has_a_uid_of_its_own_and_no_right_at_all(stage: Stage) -> None:
    first, second = await stage.console(), await stage.console()
    for visitor in (first, second):
        status = stage.on_host(visitor)
        uid = stage.sandbox(visitor).lease.uid
        assert uid >= 20000
        assert set(status["Uid"].split() + status["Gid"].split()) == {str(uid)}
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert stage.sandbox(first).lease.uid != stage.sandbox(second).lease.uid


async def test_01_a_setuid_program_gives_no_right(stage: Stage) -> None:
    visitor = await stage.console()
    found = await visitor.run("""
        programs = [name for folder in ("/usr/bin", "/usr/sbin") for name in glob.glob(folder + "/*")]
        setuid = [name for name in programs if os.path.exists(name) and os.stat(name).st_mode & 0o4000]
        said = subprocess.run(["su", "-c", "id -u"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        answer = setuid, said.stdout, refused(os.setuid, 0), refused(os.setgroups, [0]), os.geteuid()
        """)
    setuid, said, as_root, as_group, uid = found
    assert setuid, "the image has no setuid program: this test proves nothing"
    assert (said, as_root, as_group) == ("", "EPERM", "EPERM")
    assert uid == stage.sandbox(visitor).lease.uid


async def test_02_nothing_outside_its_tmpfs_can_be_written(stage: Stage) -> None:
    visitor = await stage.console()
    errors = await visitor.run("""
        places = ["/", "/etc", "/run", "/var/tmp", "/usr", "/opt/htagweb", "/opt/htagweb/site", "/home"]
        answer = {place: refused(open, place + "/x", "w") for place in places if os.path.isdir(place)}
        answer["sysrq"] = refused(open, "/proc/sysrq-trigger", "w")
        answer["core_pattern"] = refused(open, "/proc/sys/kernel/core_pattern", "w")
        answer["cgroup"] = refused(os.mkdir, "/sys/fs/cgroup/memory/x")
        """)
    assert set(errors.values()) <= {"EROFS", "EACCES", "ENOENT", "EPERM"}
    assert errors["/etc"] == errors["/"] == errors["/run"] == errors["/var/tmp"] == "EROFS"


async def test_03_there_is_no_interface_but_loopback_and_no_name_resolves(stage: Stage) -> None:
    visitor = await stage.console()
    names, resolved = await visitor.run("""
        try:
            resolved = len(socket.getaddrinfo("example.org", 80))
        except socket.gaierror:
            resolved = 0
        answer = os.listdir("/sys/class/net"), resolved
        """)
    assert (names, resolved) == (["lo"], 0)


async def test_04_no_two_sandboxes_share_a_uid_or_a_directory(closed_stage: Stage) -> None:
    stage = closed_stage
    stage.publish("second.py", CONSOLE_SOURCE)
    await stage.open()
    visitor, other = await stage.console(), await stage.console()
    await stage.console(visitor, app="second")
    found = [stage.sandbox(visitor), stage.sandbox(visitor, "second"), stage.sandbox(other)]
    assert len({each.lease.uid for each in found}) == 3
    sources = {mount["Source"] for each in found for mount in stage.inspect(each.id)["Mounts"]}
    assert len(sources) == 3
    seen = await visitor.run("""
        answer = [refused(os.listdir, "/run/app"), os.listdir("/run")]
        """)
    assert seen[0] == "EACCES"
    assert not any(each.id in name for each in found for name in seen[1])


async def test_05_no_process_in_there_holds_a_secret(stage: Stage) -> None:
    visitor = await stage.console()
    names = await visitor.run("""
        found = set(os.environ)
        for file in glob.glob("/proc/[0-9]*/environ"):
            found |= {pair.split(b"=")[0].decode() for pair in open(file, "rb").read().split(b"\\0") if pair}
        answer = sorted(found)
        """)
    assert set(names) - {"LC_CTYPE"} == {"HOME", "HOSTNAME", "LANG", "PATH", "PWD", "TMPDIR"}


async def test_05_a_secret_is_in_its_own_apps_sandboxes_and_nowhere_else(
    closed_stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage, secret = closed_stage, f"hush-{os.urandom(8).hex()}"
    stage.publish("inside.py", CONSOLE_SOURCE)
    (stage.folder / "secrets").mkdir()
    (stage.folder / "secrets" / "api-key").write_text(secret)
    caplog.set_level(logging.DEBUG)
    said = AppSettings(secrets=("api-key",), env={"LANGUAGE": "en"})
    await stage.open(apps={"inside": said}, secrets_dir=stage.folder / "secrets")
    owner, other = await stage.console(app="inside"), await stage.console()
    look = """
        def inside(path):
            with open(path, "rb") as file:
                return file.read().decode("latin-1")
        paths = glob.glob("/run/secrets/*")
        found = [(path, inside(path), oct(os.stat(path).st_mode)) for path in paths]
        answer = found, os.environ.get("LANGUAGE"), [inside(path) for path in glob.glob("/proc/[0-9]*/environ")]
        """
    found, language, environs = await owner.run(look, app="inside")
    assert (found, language) == ([["/run/secrets/api-key", secret, "0o100400"]], "en")
    assert not any(secret in environ for environ in environs)
    found, language, environs = await other.run(look)
    assert (found, language) == ([], None)
    assert environs
    assert not any(secret in environ for environ in environs)
    for visitor, app in ((owner, "inside"), (other, "console")):
        assert secret not in json.dumps(stage.inspect(stage.sandbox(visitor, app).id))
    operators = Operators(control=stage.control, engine=stage.engine, catalogue=stage.catalogue, output=stage.output)
    told = [*operators.apps(), *await operators.rows(), *await operators.inspect(stage.sandbox(owner, "inside").id)]
    assert secret not in repr(told) + repr(stage.gateway.routes.apps) + caplog.text
    kept = [file for file in (stage.folder / "state").rglob("*") if file.is_file()]
    leases = [file for file in stage.run.path.rglob("lease.json")]
    assert kept
    assert leases
    assert not any(secret.encode() in file.read_bytes() for file in (*kept, *leases))


async def test_06_calls_that_attack_the_kernel_are_refused(stage: Stage) -> None:
    """The same list as before any app is loaded: a filter outlives whatever the process becomes."""
    visitor = await stage.console()
    errors = await visitor.run(f"""
        libc = ctypes.CDLL(None, use_errno=True)
        answer = {{}}
        for name, number in {CALLS}[os.uname().machine].items():
            ctypes.set_errno(0)
            done = libc.syscall(number, 0, 0, 0, 0, 0, 0)
            answer[name] = errno.errorcode[ctypes.get_errno()] if done == -1 else done
        for family in (16, 17, 38, 40, 44):
            answer[f"family {{family}}"] = refused(lambda: socket.socket(family, socket.SOCK_SEQPACKET).close())
        """)
    assert {name: error for name, error in errors.items() if error not in ("EPERM", "ENOSYS")} == {}


def _expected(limits: Any) -> dict[str, Any]:
    """docs/sandbox.md's table in the engine's words, written once more by hand."""
    return {
        "NetworkMode": "none",
        "CapDrop": ["ALL"],
        "CapAdd": None,
        "Privileged": False,
        "ReadonlyRootfs": True,
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,
        "NanoCpus": 1_000_000_000,
        "CpuShares": 128,
        "PidsLimit": 64,
        "OomScoreAdj": 500,
        "Init": False,
        "IpcMode": "private",
        "ShmSize": 8 << 20,
        "PidMode": "",
        "UTSMode": "",
        "UsernsMode": "",
        "Binds": None,
        "VolumesFrom": None,
        "GroupAdd": None,
        "PortBindings": {},
        "Runtime": "runc",
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "LogConfig": {"Type": "json-file", "Config": {"max-file": "1", "max-size": "64k"}},
    }


async def test_07_every_running_sandbox_is_what_the_documents_say(stage: Stage) -> None:
    visitors = [await stage.console() for _ in range(2)]
    for visitor in visitors:
        sandbox = stage.sandbox(visitor)
        found = stage.inspect(sandbox.id)
        host, config = found["HostConfig"], found["Config"]
        expected = _expected(sandbox.lease.limits)
        assert {option: host[option] or None for option in expected} == {
            option: value or None for option, value in expected.items()
        }
        assert config["User"] == f"{sandbox.lease.uid}:{sandbox.lease.uid}"
        assert [mount["Destination"] for mount in found["Mounts"]] == ["/run/app"]
        assert found["Mounts"][0]["Source"].endswith(f"/{sandbox.id}/s")
        assert any(option.startswith("seccomp={") for option in host["SecurityOpt"])
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert {name: options.split(",")[0] for name, options in host["Tmpfs"].items()} == {
            "/tmp": f"size={32 << 20}",
            "/app": f"size={16 << 20}",
            "/run/secrets": "size=1m",
        }
        assert not host["Devices"]
        assert not host["ExtraHosts"]
        assert {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]} == {"core": 0, "nofile": 512}


@pytest.mark.parametrize("key", ["nope", "htagweb-sandbox-image", "htagweb-sandbox-image:latest", "../console", ""])
async def test_10_what_is_not_in_the_catalogue_starts_nothing(stage: Stage, key: str) -> None:
    visitor = stage.visitor()
    await visitor.enter()
    response = await visitor.request("GET", f"/{key}/", {"Accept": "text/html"})
    assert response.status in (400, 404)
    with pytest.raises(AppNotFound):  # and a gateway that was taken over gets no further
        await stage.control.lease(UserId("anybody"), AppName(key))
    assert stage.containers() == []


FAILING = {
    "dies while it is loaded": "import os\nos.kill(os.getpid(), 9)\n" + APP + "pass\n",
    "hangs while it is loaded": "import time\ntime.sleep(1e6)\n" + APP + "pass\n",
    "dies in its first page": "import os\n" + APP + "os.kill(os.getpid(), 9)\n",
    "hangs in its first page": "import time\n" + APP + "time.sleep(1e6)\n",
}


@pytest.mark.parametrize("source", FAILING.values(), ids=FAILING)
async def test_12_an_app_that_never_answers_is_one_page_and_leaves_nothing(closed_stage: Stage, source: str) -> None:
    stage = closed_stage
    stage.publish("failing.py", source)
    await stage.open(start_timeout_s=3.0)
    visitor = stage.visitor()
    page = await visitor.open("failing")
    assert b"This app could not start" in page.body
    assert (await visitor.status("failing"))["ending"] == "failed"
    await eventually(lambda: not stage.containers() and not stage.run.ids())


async def test_12_an_app_that_accepts_nobody_is_a_504_within_its_deadline(closed_stage: Stage) -> None:
    stage = closed_stage
    deaf = "import asyncio, sys\nasync def serve(*_):\n    await asyncio.sleep(1e6)\n"
    stage.publish("deaf.py", deaf + 'sys.modules["htagweb_harness.boot"].serve = serve\n' + APP + "pass\n")
    await stage.open(interaction_timeout_s=1.0)
    page = await stage.visitor().open("deaf")
    assert page.status == 504
    assert b"That takes too long" in page.body

"""What a sandbox is made of, seen from inside it and from the host, before any app is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from htagweb_orchestrator.engines.base import SandboxSpec

from .conftest import Bench
from .probes import eventually, read

pytestmark = pytest.mark.docker

WAIT = "\ntell(answer); time.sleep(600)"


def on_host(bench: Bench, spec: SandboxSpec) -> dict[str, str]:
    """/proc/<pid>/status of the sandbox's first process, which it can't forge."""
    pid = bench.inspect(spec.sandbox_id)["State"]["Pid"]
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def test_its_process_has_a_uid_of_its_own_and_no_right_at_all(bench: Bench) -> None:
    first, second = await bench.start(), await bench.start()
    for spec in (first, second):
        status = on_host(bench, spec)
        assert set(status["Uid"].split() + status["Gid"].split()) == {str(spec.uid)}
        assert status["Groups"] in ("", str(spec.uid))
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert first.uid != second.uid


async def test_it_has_no_network_but_its_own_loopback(bench: Bench) -> None:
    names, resolved, sent = await bench.ask(
        """
names = os.listdir("/sys/class/net")
try:
    resolved = socket.getaddrinfo("example.org", 80)
except socket.gaierror:
    resolved = None
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
answer = names, resolved, refused(udp.sendto, b"x", ("192.0.2.1", 53))
"""
        + WAIT
    )
    assert names == ["lo"]
    assert resolved is None
    assert sent == "ENETUNREACH"


async def test_it_can_write_nowhere_but_in_three_small_folders(bench: Bench) -> None:
    errors, rooms, inodes = await bench.ask(
        """
places = ["/", "/etc", "/usr/lib", "/var/tmp", "/run", "/opt", "/home"]
errors = {place: refused(open, os.path.join(place, "x"), "w") for place in places if os.path.isdir(place)}
def fill(folder):
    written = 0
    try:
        with open(folder + "/big", "wb") as file:
            while True:
                written += file.write(bytes(1 << 16))
    except OSError as error:
        os.unlink(folder + "/big")
        return written, errno.errorcode[error.errno]
def many(folder):
    os.mkdir(folder + "/many")
    for n in range(10000):
        if error := refused(os.mkdir, f"{folder}/many/{n}"):
            return error
rooms = {folder: fill(folder) for folder in ("/tmp", "/app", "/dev/shm")}
answer = errors, rooms, {folder: many(folder) for folder in ("/tmp", "/app")}
"""
        + WAIT,
        tmp_bytes=2 << 20,
        app_bytes=1 << 20,
    )
    assert set(errors.values()) <= {"EROFS", "EACCES"}
    assert errors["/"] == "EROFS"
    assert errors["/etc"] == "EROFS"
    assert rooms == {"/tmp": [2 << 20, "ENOSPC"], "/app": [1 << 20, "ENOSPC"], "/dev/shm": [8 << 20, "ENOSPC"]}
    assert inodes == {"/tmp": "ENOSPC", "/app": "ENOSPC"}


async def test_nothing_that_it_writes_can_be_executed(bench: Bench) -> None:
    answer = await bench.ask(
        """
import shutil, subprocess
answer = {}
for folder in ("/tmp", "/app", "/dev/shm"):
    shutil.copy("/bin/true", folder + "/true")
    os.chmod(folder + "/true", 0o755)
    answer[folder] = refused(subprocess.call, [folder + "/true"])
"""
        + WAIT
    )
    assert set(answer.values()) == {"EACCES"}


async def test_it_is_told_nothing_but_where_its_home_is(bench: Bench) -> None:
    names, hostname = await bench.ask("answer = sorted(os.environ), socket.gethostname()" + WAIT)
    assert set(names) - {"LC_CTYPE"} == {"HOME", "HOSTNAME", "LANG", "PATH", "TMPDIR"}
    assert hostname == "sandbox"


async def test_a_fork_bomb_stops_at_the_limit_of_processes(bench: Bench) -> None:
    forked = await bench.ask(
        """
answer = 0
try:
    while answer < 500:
        if os.fork() == 0:
            time.sleep(600)
        answer += 1
except BlockingIOError:
    pass
"""
        + WAIT
    )
    assert forked == 63


async def test_open_files_are_limited_and_no_core_is_written(bench: Bench) -> None:
    answer = await bench.ask(
        """
import resource
answer = [resource.getrlimit(limit) for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)]
"""
        + WAIT
    )
    assert answer == [[512, 512], [0, 0]]


async def test_every_limit_stands_in_the_engines_own_record(bench: Bench) -> None:
    """Through inspect, which is the same under both versions of cgroups."""
    spec = await bench.start(memory_bytes=64 << 20, cpus=0.5, pids=32)
    host = bench.inspect(spec.sandbox_id)["HostConfig"]
    assert (host["Memory"], host["MemorySwap"]) == (64 << 20, 64 << 20)
    assert (host["NanoCpus"], host["CpuShares"], host["PidsLimit"]) == (500_000_000, 128, 32)
    assert (host["NetworkMode"], host["RestartPolicy"]["Name"], host["Init"]) == ("none", "no", False)
    assert (host["OomScoreAdj"], host["IpcMode"], host["ReadonlyRootfs"]) == (500, "private", True)
    assert (host["CapDrop"], host["CapAdd"], host["Privileged"]) == (["ALL"], None, False)


async def test_more_cpus_than_there_are_means_all_of_them(bench: Bench) -> None:
    spec = await bench.start(cpus=4096)
    cpus = bench.client.info()["NCPU"]
    assert bench.inspect(spec.sandbox_id)["HostConfig"]["NanoCpus"] == cpus * 1_000_000_000


async def test_it_sees_its_own_directory_alone(bench: Bench) -> None:
    other = await bench.start()
    names, above, mine = await bench.ask(
        """
answer = os.listdir("/run/app"), os.listdir("/run"), refused(os.chmod, "/run/app", 0o777)
"""
        + WAIT
    )
    assert names == []
    assert other.sandbox_id not in " ".join(above)
    assert mine == "EPERM"


async def test_a_sealed_directory_can_not_be_written_or_listed(bench: Bench) -> None:
    spec = await bench.start("""
socks = [socket.socket(socket.AF_UNIX) for _ in range(2)]
for sock, name in zip(socks, ("app.sock", "control.sock")):
    sock.bind("/run/app/" + name)
while os.access("/run/app", os.W_OK):
    time.sleep(0.01)
answer = {
    "create": refused(open, "/run/app/x", "w"),
    "link": refused(os.symlink, "/run/app/app.sock", "/run/app/y"),
    "unlink": refused(os.unlink, "/run/app/app.sock"),
    "rename": refused(os.rename, "/run/app/app.sock", "/run/app/z"),
    "chmod": refused(os.chmod, "/run/app", 0o777),
    "list": refused(os.listdir, "/run/app"),
}
with open("/tmp/answer.new", "w") as file:
    json.dump(answer, file)
os.rename("/tmp/answer.new", "/tmp/answer")
time.sleep(600)
""")
    await bench.run.wait_for_sockets(spec.sandbox_id, spec.uid, timeout_s=15)
    assert bench.run.seal(spec.sandbox_id, spec.uid) == ""
    # /run/app is closed to the probe now, so its answer is read where it lies: in its own tmpfs.
    pid = bench.inspect(spec.sandbox_id)["State"]["Pid"]
    file = Path(f"/proc/{pid}/root/tmp/answer")
    answers = json.loads(await eventually(lambda: read(file)))
    assert answers == {
        "create": "EACCES",
        "link": "EACCES",
        "unlink": "EACCES",
        "rename": "EACCES",
        "chmod": "EPERM",
        "list": "EACCES",
    }

"""A sandbox that takes all it can get: it meets its limits, and the others are served."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from htagweb_orchestrator.admission import Admission
from tests.attacks.stage import CONSOLE_SOURCE, Stage, eventually
from tests.attacks.visitor import Visitor

pytestmark = [pytest.mark.docker, pytest.mark.alone]

MIB = 1 << 20


async def _served(visitor: Visitor) -> None:
    """Another user is still answered, within an ordinary wait."""
    assert (await visitor.request("GET", "/console/", within_s=15)).body == b"console"


async def test_21_a_fork_bomb_stops_at_its_limit(stage: Stage) -> None:
    attacker, other = await stage.console(), await stage.console()
    uid = stage.sandbox(attacker).lease.uid
    forked, error = await attacker.run("""
        forked, error = 0, ""
        while forked < 500 and not error:
            try:
                if os.fork() == 0:
                    while True:
                        try:
                            os.fork()
                        except OSError:
                            time.sleep(0.01)
                forked += 1
            except OSError as full:
                error = errno.errorcode[full.errno]
        answer = forked, error
        """)
    assert forked < 64
    assert error == "EAGAIN"
    assert _processes_of(uid) <= 64
    await _served(other)
    began = time.monotonic()
    await attacker.post("/-/stop", b"app=console")
    assert time.monotonic() - began < 4
    assert _processes_of(uid) == 0


async def test_21_a_thread_bomb_stops_at_its_limit(stage: Stage) -> None:
    attacker, other = await stage.console(), await stage.console()
    started = await attacker.run("""
        started = 0
        try:
            while started < 500:
                threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
                started += 1
        except RuntimeError:
            pass
        answer = started
        """)
    assert started < 64
    await _served(other)


async def test_22_who_eats_memory_is_ended_for_it(closed_stage: Stage) -> None:
    stage = closed_stage
    await stage.open(memory_bytes=64 * MIB)
    attacker, other = await stage.console(), await stage.console()
    wire = await attacker.send(
        "POST",
        "/console/run",
        {"Origin": f"http://{attacker.host}"},
        b"x = [bytearray(b'x') * (8 << 20) for _ in range(128)]",
    )
    await eventually(lambda: len(stage.containers()) == 1)
    wire.abort()
    assert (await attacker.status("console"))["ending"] == "memory"
    await _served(other)


@pytest.mark.parametrize(("folder", "room"), [("/tmp", 8), ("/app", 4), ("/dev/shm", 8)])
async def test_22_its_own_files_are_bounded(closed_stage: Stage, folder: str, room: int) -> None:
    stage = closed_stage
    await stage.open(memory_bytes=64 * MIB, tmp_bytes=8 * MIB, app_bytes=4 * MIB)
    attacker, other = await stage.console(), await stage.console()
    error, size = await attacker.run(f"""
        error = fill({folder!r}, 256 << 20)
        answer = error, sum(os.path.getsize(name) for name in glob.glob({folder!r} + "/filled-*"))
        """)
    assert error == "ENOSPC"
    assert size <= room * MIB
    await _served(other)


async def test_22_files_without_content_are_bounded_too(stage: Stage) -> None:
    attacker, other = await stage.console(), await stage.console()
    errors = await attacker.run("""
        answer = {}
        for folder in ("/tmp", "/app"):
            made = 0
            while made < 20000 and not (error := refused(os.mkdir, f"{folder}/d{made}")):
                made += 1
            answer[folder] = error, made < 4096
        """)
    assert errors == {"/tmp": ["ENOSPC", True], "/app": ["ENOSPC", True]}
    await _served(other)


async def test_22_open_files_are_bounded(stage: Stage) -> None:
    attacker, other = await stage.console(), await stage.console()
    error, opened = await attacker.run("""
        held = []
        error = refused(lambda: [held.append(open("/dev/null")) for _ in range(5000)])
        answer = error, len(held)
        held.clear()
        """)
    assert error == "EMFILE"
    assert opened < 512
    await _served(other)


def _most_watches() -> int:
    return int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())


WATCHES = """
    libc = ctypes.CDLL(None)
    taken = 0
    while taken < 300 and libc.inotify_init1(0) >= 0:
        taken += 1
    answer = taken
    """


async def test_22_what_the_kernel_counts_by_uid_is_counted_for_each_sandbox_alone(stage: Stage) -> None:
    attacker, other = await stage.console(), await stage.console()
    most = _most_watches()
    taken = await attacker.run(WATCHES)
    assert taken == min(most, 300)
    assert await other.run(WATCHES) == taken


FLOOD = """
    block = b"flood " * 10_000
    stop = time.monotonic() + 3
    opened = []
    for name in glob.glob("/proc/[0-9]*/fd/[0-9]*"):
        try:
            if os.readlink(name).startswith("pipe:") or name.rpartition("/")[2] in "012":
                opened.append(os.open(name, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            pass
    written = 0
    while time.monotonic() < stop:
        for fd in (1, 2, *opened):
            try:
                written += os.write(fd, block)
            except OSError:
                pass
    answer = written
    """


def _cpu_s(program: str) -> float:
    """What all processes of this name have used; -1 without one."""
    used = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition(" (")[2].rpartition(") ")
        except OSError:
            continue
        if name == program:
            used.append(sum(map(int, rest.split()[11:13])) / os.sysconf("SC_CLK_TCK"))
    return sum(used) if used else -1.0


async def test_23_a_flood_of_output_costs_the_engine_nothing(stage: Stage) -> None:
    attacker, other = await stage.console(), await stage.console()
    log_path = Path(stage.inspect(stage.sandbox(attacker).id)["LogPath"])
    before = {program: _cpu_s(program) for program in ("dockerd", "containerd-shim")}
    if before["dockerd"] < 0:
        pytest.skip("the engine's process can't be seen from here")
    began = time.monotonic()
    flooding = asyncio.create_task(attacker.run(FLOOD))
    while not flooding.done():
        await _served(other)
        await asyncio.sleep(0.1)
    assert flooding.result() > MIB, "this was no flood"
    used = {program: _cpu_s(program) - cpu_s for program, cpu_s in before.items()}
    passed_s = time.monotonic() - began
    # Through the log pipes each would be as busy as the flood. Nobody else uses the engine: this module runs alone.
    assert used["dockerd"] < max(0.2, 0.2 / 5 * passed_s)
    assert used["containerd-shim"] < max(0.2, 0.2 / 5 * passed_s)
    assert _size(log_path) <= 128 * 1024
    assert len(stage.output.read(stage.sandbox(attacker).id) or "") <= 256 * 1024


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


async def test_24_who_spins_gets_his_share_and_no_more(closed_stage: Stage) -> None:
    stage = closed_stage
    await stage.open(cpus=0.5)
    other = await stage.console()
    spinning = [await stage.console() for _ in range(os.cpu_count() or 1)]
    for attacker in spinning:
        await attacker.run("""
            for _ in range(4):
                if os.fork() == 0:
                    while True:
                        pass
            """)
    ids = [stage.sandbox(attacker).id for attacker in spinning]
    began = time.monotonic()
    before = await stage.engine.stats(ids)
    while time.monotonic() < began + 3:
        await _served(other)
        await asyncio.sleep(0.05)
    after = await stage.engine.stats(ids)
    passed_s = time.monotonic() - began  # both looks included, which take an engine its time: never less than was used
    for sandbox in ids:
        assert (after[sandbox].cpu_s - before[sandbox].cpu_s) / passed_s < 0.5 * 1.3


async def test_25_who_ignores_signals_is_gone_all_the_same(stage: Stage) -> None:
    attacker = await stage.console()
    uid = stage.sandbox(attacker).lease.uid
    await attacker.run("""
        for number in set(range(1, 65)) - {9, 17, 19, 32, 33}:
            ctypes.CDLL(None).signal(number, 1)  # SIG_IGN for the whole process, from whichever thread
        for _ in range(3):
            if os.fork() == 0:
                while True:
                    time.sleep(1)
        # Not even the harness's thread, which would end the process, hears that it shall.
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGSTOP)).start()
        """)
    await eventually(lambda: _processes_of(uid, state="T"))
    began = time.monotonic()
    await attacker.post("/-/stop", b"app=console")
    assert time.monotonic() - began < 3
    assert stage.containers() == []
    assert _processes_of(uid) == 0


async def test_26_no_daemon_outlives_its_sandbox(stage: Stage) -> None:
    attacker = await stage.console()
    uid = stage.sandbox(attacker).lease.uid
    wire = await attacker.send("POST", "/console/run", {"Origin": f"http://{attacker.host}"}, b"""
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            time.sleep(1)
    os.kill(os.getpid(), 9)
time.sleep(0.2)
os.kill(os.getpid(), 9)
""")  # fmt: skip
    await eventually(lambda: stage.containers() == [])
    wire.abort()
    assert _processes_of(uid) == 0


async def test_27_one_user_gets_no_more_sandboxes_than_his_cap(closed_stage: Stage) -> None:
    stage = closed_stage
    names = [f"console{n}" for n in range(6)]
    for name in names:
        stage.publish(f"{name}.py", CONSOLE_SOURCE)
    await stage.open(max_per_user=2)
    visitor = stage.visitor()
    await visitor.enter("console0")
    pages = await asyncio.gather(*(visitor.open(name) for name in names))
    assert sorted(page.status for page in pages) == [200, 200, 429, 429, 429, 429]
    assert len(stage.containers()) == 2
    for name in names:  # and he may ask as often as he likes
        await visitor.open(name)
    assert len(stage.containers()) == 2


async def test_27_a_user_who_starts_and_ends_without_pause_has_to_wait(closed_stage: Stage) -> None:
    stage = closed_stage
    await stage.open(max_per_user=2, admission=Admission(max_per_user=2, starts_per_minute=3))
    visitor = stage.visitor()
    await visitor.enter()
    for number in range(100):
        answer = await visitor.open("console")
        if number < 3:
            assert answer.status == 200
            assert (await visitor.post("/-/stop", b"app=console")).status == 303
        else:
            assert answer.status == 429
            assert int(answer.header(b"retry-after") or 0) > 0
    assert stage.containers() == []


class OfOneAddress(Visitor):
    """Behind a proxy that is trusted."""

    def head(self, method: str, target: str, headers: dict[str, str]) -> bytes:
        return super().head(method, target, {"X-Forwarded-For": "192.0.2.1", **headers})


async def test_27_starts_of_ever_new_visitors_count_for_their_address(closed_stage: Stage) -> None:
    stage = closed_stage
    await stage.open(trusted_proxies=("127.0.0.1",), admission=Admission(max_per_user=2, starts_per_address=2))
    for number in range(20):
        answer = await OfOneAddress(stage.server).open("console")
        assert answer.status == (200 if number < 2 else 429)
        assert number < 2 or int(answer.header(b"retry-after") or 0) > 0
    assert len(stage.containers()) == 2
    assert (await stage.visitor().open("console")).status == 200  # from elsewhere


async def test_27_without_a_cookie_that_came_back_nothing_is_started(stage: Stage) -> None:
    async def stranger() -> int:
        visitor = stage.visitor()
        return (await visitor.request("GET", "/console/", {"Accept": "text/html"})).status

    assert {await stranger() for _ in range(50)} == {303}
    assert stage.containers() == []


def _processes_of(uid: int, state: str = "") -> int:
    """On the host, where nobody hides: those in this state, or all that live."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == uid:
                is_in = (process / "status").read_text().partition("State:\t")[2][:1]
                found += is_in == state if state else is_in != "Z"
        except OSError:
            continue
    return found

"""Which system calls a sandbox has: none that it could attack the kernel with, all that Python needs."""

from __future__ import annotations

import json
import platform

import pytest

from htagweb_orchestrator.engines.docker_options import seccomp_profile

from .conftest import Bench

WAIT = "\ntell(answer); time.sleep(600)"


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_the_profile_has_one_architecture_and_no_conditions(arch: str) -> None:
    """Through a machine's 32-bit calls, the family of a socket can't be filtered."""
    profile = json.loads(seccomp_profile(arch))
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert len(profile["architectures"]) == 1
    assert {key for rule in profile["syscalls"] for key in rule} <= {"names", "action", "args", "errnoRet"}


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_the_profile_allows_no_call_that_attacks_need(arch: str) -> None:
    rules = json.loads(seccomp_profile(arch))["syscalls"]
    free = {
        name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule for name in rule["names"]
    }
    assert {"read", "write", "futex", "execve", "epoll_wait" if arch == "amd64" else "epoll_pwait"} <= free
    assert not free & {
        "add_key", "bpf", "clone", "clone3", "io_setup", "io_uring_setup", "keyctl", "mount", "perf_event_open",
        "process_vm_readv", "ptrace", "request_key", "setns", "socket", "socketcall", "socketpair", "sync", "unshare",
        "userfaultfd", "vmsplice",
    }  # fmt: skip


@pytest.mark.docker
async def test_only_plain_unix_tcp_and_udp_sockets_can_be_made(bench: Bench) -> None:
    answer = await bench.ask(
        """
good = [(1, 1, 0), (1, 2, 0), (1, 5, 0), (2, 1, 0), (2, 1, 6), (2, 2, 0), (2, 2, 17), (10, 1, 0), (10, 2, 17)]
# netlink, packet, ALG, VSOCK, XDP, bluetooth; raw; SCTP, MPTCP, DCCP
bad = [(16, 3, 0), (17, 3, 0), (38, 5, 0), (40, 1, 0), (44, 3, 0), (31, 3, 0), (2, 3, 1), (2, 1, 132), (2, 1, 262),
       (2, 6, 33), (2, 5, 132), (10, 1, 262)]
def make(wanted):
    family, kind, protocol = wanted
    return refused(lambda: socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol).close())
pair = refused(lambda: socket.socketpair(40, 1))
answer = [make(each) for each in good], [make(each) for each in bad], pair
"""
        + WAIT
    )
    good, bad, pair = answer
    assert set(good) == {""}
    assert set(bad) == {"EPERM"}
    assert pair == "EPERM"


# Numbers as x86-64 and arm64 have them; the calls are made by number, so that no library stands between.
CALLS = {
    "x86_64": {
        "ptrace": 101, "mount": 165, "pivot_root": 155, "unshare": 272, "setns": 308, "bpf": 321, "keyctl": 250,
        "add_key": 248, "request_key": 249, "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425,
        "io_setup": 206, "process_vm_readv": 310, "open_by_handle_at": 304, "fsopen": 430, "sync": 162, "kcmp": 312,
        "pidfd_getfd": 438, "memfd_secret": 447, "swapon": 167, "init_module": 175, "clone3": 435,
    },
    "aarch64": {
        "ptrace": 117, "mount": 40, "pivot_root": 41, "unshare": 97, "setns": 268, "bpf": 280, "keyctl": 219,
        "add_key": 217, "request_key": 218, "perf_event_open": 241, "userfaultfd": 282, "io_uring_setup": 425,
        "io_setup": 0, "process_vm_readv": 270, "open_by_handle_at": 265, "fsopen": 430, "sync": 81, "kcmp": 272,
        "pidfd_getfd": 438, "memfd_secret": 447, "swapon": 224, "init_module": 105, "clone3": 435,
    },
}  # fmt: skip


@pytest.mark.docker
async def test_calls_that_attack_the_kernel_are_refused(bench: Bench) -> None:
    answer = await bench.ask(
        f"calls = {CALLS}[os.uname().machine]"
        + """
libc = ctypes.CDLL(None, use_errno=True)
answer = {}
for name, number in calls.items():
    ctypes.set_errno(0)
    done = libc.syscall(number, 0, 0, 0, 0, 0, 0)
    answer[name] = errno.errorcode[ctypes.get_errno()] if done == -1 else done
# A new user namespace by clone's flags: CLONE_NEWUSER | SIGCHLD.
clone = 56 if os.uname().machine == "x86_64" else 220
ctypes.set_errno(0)
if libc.syscall(clone, 0x10000000 | 17, 0, 0, 0, 0) == 0:
    os._exit(0)
answer["clone"] = errno.errorcode.get(ctypes.get_errno(), "")
"""
        + WAIT
    )
    assert answer.pop("clone3") == "ENOSYS"
    assert {name: error for name, error in answer.items() if error != "EPERM"} == {}


@pytest.mark.docker
async def test_the_32_bit_way_into_the_kernel_kills(bench: Bench) -> None:
    """socketcall(2) through int 0x80 would pass a filter of 64-bit calls."""
    answer = await bench.ask(
        """
import mmap, signal
answer = "other machine"
if os.uname().machine == "x86_64":
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("b814000000" "cd80" "c3"))  # mov eax, 20 (getpid); int 0x80; ret
    code = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    if (child := os.fork()) == 0:
        code()
        os._exit(0)
    answer = signal.Signals(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) * -1).name
"""
        + WAIT
    )
    assert answer == ("SIGSYS" if platform.machine() == "x86_64" else "other machine")


@pytest.mark.docker
async def test_python_is_whole_in_a_sandbox(bench: Bench) -> None:
    answer = await bench.ask(
        """
sys.path += ["/opt/htagweb/site"]
import asyncio, concurrent.futures, multiprocessing, multiprocessing.shared_memory, pathlib, signal, sqlite3, ssl
import subprocess, tempfile, threading

def threads():
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return sum(pool.map(abs, range(-10, 0)))

def processes():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return sum(pool.map(abs, range(-10, 0)))

def shared():
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=1000)
    memory.buf[0] = 55
    found = memory.buf[0]
    memory.close()
    memory.unlink()
    return found

def program():
    return int(subprocess.check_output([sys.executable, "-S", "-c", "print(55)"]))

async def loop():
    child = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", "print(55)", stdout=subprocess.PIPE)
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    writer.close()
    server.close()
    return int((await child.communicate())[0])

def uv():
    import uvloop
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(loop())

def database():
    with tempfile.TemporaryDirectory() as folder:
        with sqlite3.connect(folder + "/a.sqlite") as connection:
            connection.execute("pragma journal_mode = wal")
            connection.execute("create table a (n)")
            connection.executemany("insert into a values (?)", [(n,) for n in range(11)])
            return connection.execute("select sum(n) from a").fetchone()[0]

def fifo():
    os.mkfifo("/tmp/fifo")
    threading.Thread(target=lambda: pathlib.Path("/tmp/fifo").write_text("55")).start()
    return int(pathlib.Path("/tmp/fifo").read_text())

def tls():
    return 55 if ssl.create_default_context() else 0

def pillow():
    import io
    from PIL import Image, ImageDraw
    kept = io.BytesIO()
    drawn = Image.new("RGB", (64, 64))
    ImageDraw.Draw(drawn).rectangle((0, 0, 32, 32), fill=(55, 0, 0))
    drawn.save(kept, "PNG")
    return Image.open(kept).getpixel((10, 10))[0]

def alarm():
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    return 55 if signal.sigwait([signal.SIGALRM]) else 0

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
answer = {}
for work in (threads, processes, shared, program, lambda: asyncio.run(loop()), uv, database, fifo, tls, pillow, alarm):
    try:
        answer[work.__name__] = work()
    except Exception as error:
        answer[work.__name__] = repr(error)
"""
        + WAIT
    )
    assert {name: value for name, value in answer.items() if value != 55} == {}

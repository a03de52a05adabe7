"""The run directory. What lies in a sandbox's own folder is written here as a hostile sandbox would."""

from __future__ import annotations

import os
import secrets
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from htagweb_orchestrator.address import DialFailed
from htagweb_orchestrator.errors import IsolationBroken
from htagweb_orchestrator.model import SandboxId, Struct
from htagweb_orchestrator.rundir import RunDirectory, UidAllocator

GATEWAY, SANDBOX = 10001, 23456
Bind = Callable[..., None]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the run directory belongs to root")


class Lease(Struct, frozen=True):
    sandbox: SandboxId
    user: str = ""


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    (tmp_path / "run").mkdir()
    return RunDirectory(tmp_path / "run", GATEWAY)


@pytest.fixture
def sandbox(run: RunDirectory) -> SandboxId:
    sandbox_id = SandboxId(secrets.token_hex(16))
    run.create(sandbox_id, SANDBOX)
    return sandbox_id


@pytest.fixture
def bind() -> Iterator[Bind]:
    """Make a socket there, as the sandbox."""
    with ExitStack() as made:

        def bind(folder: Path, *names: str, uid: int = SANDBOX) -> None:
            for name in names:
                made.enter_context(listener := socket.socket(socket.AF_UNIX))
                # Through the folder's descriptor: a socket's path may have 107 bytes only.
                here = os.open(folder, os.O_PATH)
                listener.bind(f"/proc/self/fd/{here}/{name}")
                os.close(here)
                os.chown(folder / name, uid, uid)

        yield bind


def owner_and_mode(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def test_a_new_sandbox_owns_nothing_of_its_directory(run: RunDirectory, sandbox: SandboxId) -> None:
    assert owner_and_mode(run.path) == (0, 0, 0o711)
    assert owner_and_mode(run.path / sandbox) == (0, GATEWAY, 0o710)
    assert owner_and_mode(run.sockets(sandbox)) == (0, SANDBOX, 0o771)
    assert run.ids() == [sandbox]


def test_an_id_is_used_once(run: RunDirectory, sandbox: SandboxId) -> None:
    with pytest.raises(FileExistsError):
        run.create(sandbox, SANDBOX)


def test_only_an_id_of_ours_becomes_a_path(run: RunDirectory) -> None:
    for name in ("..", "a/../../b", "", "A" * 32, "a" * 33):
        with pytest.raises(ValueError, match="no sandbox id"):
            run.create(SandboxId(name), SANDBOX)
        with pytest.raises(ValueError, match="no sandbox id"):
            run.remove(SandboxId(name))


def test_a_lease_is_read_as_it_was_written_last(run: RunDirectory, sandbox: SandboxId) -> None:
    assert run.read_lease(sandbox, Lease) is None
    for user in ("alice", "bob"):
        run.write_lease(Lease(sandbox=sandbox, user=user))
    assert run.read_lease(sandbox, Lease) == Lease(sandbox=sandbox, user="bob")
    assert owner_and_mode(run.path / sandbox / "lease.json") == (0, 0, 0o600)
    for damaged in (b"{", b'{"user":"\xff"}'):
        (run.path / sandbox / "lease.json").write_bytes(damaged)
        assert run.read_lease(sandbox, Lease) is None


async def test_waiting_ends_when_both_sockets_are_the_sandboxes(
    run: RunDirectory, sandbox: SandboxId, bind: Bind
) -> None:
    folder = run.sockets(sandbox)
    bind(folder, "app.sock")
    bind(folder, "control.sock", uid=SANDBOX + 1)
    with pytest.raises(DialFailed):
        await run.wait_for_sockets(sandbox, SANDBOX, timeout_s=0.05)
    os.chown(folder / "control.sock", SANDBOX, SANDBOX)
    await run.wait_for_sockets(sandbox, SANDBOX, timeout_s=5)


async def test_a_link_to_a_socket_is_no_socket(run: RunDirectory, sandbox: SandboxId, bind: Bind) -> None:
    folder = run.sockets(sandbox)
    bind(folder, "control.sock", "other")
    os.symlink("other", folder / "app.sock")
    with pytest.raises(DialFailed):
        await run.wait_for_sockets(sandbox, SANDBOX, timeout_s=0.05)


def test_sealing_takes_the_folder_and_the_boot_log(run: RunDirectory, sandbox: SandboxId, bind: Bind) -> None:
    folder = run.sockets(sandbox)
    bind(folder, "app.sock", "control.sock")
    (folder / "boot.log").write_text("a warning\n")
    assert run.seal(sandbox, SANDBOX) == "a warning\n"
    assert owner_and_mode(folder) == (0, 0, 0o711)
    assert set(os.listdir(folder)) == {"app.sock", "control.sock"}


def test_a_folder_with_anything_else_in_it_is_not_sealed(run: RunDirectory, sandbox: SandboxId, bind: Bind) -> None:
    folder = run.sockets(sandbox)
    with pytest.raises(IsolationBroken, match="nothing"):
        run.seal(sandbox, SANDBOX)
    bind(folder, "app.sock", "control.sock")
    (folder / "extra").touch()
    with pytest.raises(IsolationBroken, match=r"app\.sock, control\.sock, extra"):
        run.seal(sandbox, SANDBOX)
    assert owner_and_mode(folder) == (0, 0, 0o711)


def test_a_socket_that_is_a_link_is_not_sealed(
    run: RunDirectory, sandbox: SandboxId, tmp_path: Path, bind: Bind
) -> None:
    bind(tmp_path, "victim.sock")
    bind(run.sockets(sandbox), "control.sock")
    os.symlink(tmp_path / "victim.sock", run.sockets(sandbox) / "app.sock")
    with pytest.raises(IsolationBroken, match=r"app\.sock"):
        run.seal(sandbox, SANDBOX)


def test_the_boot_log_is_bounded_and_given_once(run: RunDirectory, sandbox: SandboxId) -> None:
    (run.sockets(sandbox) / "boot.log").write_bytes(b"x" * 100_000 + b"\xffend")
    text = run.boot_log(sandbox)
    assert len(text) == 64 * 1024
    assert text.endswith("\ufffdend")
    assert run.boot_log(sandbox) == ""


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder", "socket"])
def test_a_boot_log_that_is_a_trap_is_left_alone(
    kind: str, run: RunDirectory, sandbox: SandboxId, bind: Bind, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    trap = run.sockets(sandbox) / "boot.log"
    match kind:
        case "link":
            trap.symlink_to(secret)
        case "dangling":
            trap.symlink_to(tmp_path / "nowhere")
        case "pipe":
            os.mkfifo(trap)
        case "folder":
            trap.mkdir()
        case "socket":
            bind(trap.parent, "boot.log")
    assert run.boot_log(sandbox) == ""
    assert secret.read_text() == "secret"


def test_removing_follows_no_link_and_may_be_repeated(run: RunDirectory, sandbox: SandboxId, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    folder = run.sockets(sandbox)
    (folder / "link").symlink_to(outside)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "up").symlink_to("../../../..")
    os.chmod(folder / "deep", 0)
    run.remove(sandbox)
    run.remove(sandbox)
    assert run.ids() == []
    assert (outside / "file").exists()


def test_a_removed_sandbox_has_no_lease_no_log_and_no_sockets(run: RunDirectory, sandbox: SandboxId) -> None:
    run.remove(sandbox)
    assert run.read_lease(sandbox, Lease) is None
    assert run.boot_log(sandbox) == ""


def test_no_two_living_sandboxes_share_a_uid() -> None:
    uids = UidAllocator(20000, 20003)
    uids.reserve(20002)
    first, second, third = uids.take(), uids.take(), uids.take()
    assert {first, second, third} == {20000, 20001, 20003}
    with pytest.raises(IndexError):
        uids.take()
    uids.give_back(second)
    assert uids.take() == second


def test_a_uid_rests_before_it_is_used_again() -> None:
    uids = UidAllocator(20000, 20009)
    taken = []
    for _ in range(10):
        taken.append(uid := uids.take())
        uids.give_back(uid)
    assert sorted(taken) == list(range(20000, 20010))

"""What each store of sessions must do; so far there is the one of SQLite. Then what that one does when its file is
locked, gone, damaged, or the disk full."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from htagweb_orchestrator.errors import SessionRefused, SessionStoreFailed, SessionTooLarge
from htagweb_orchestrator.model import AppName, UserId
from htagweb_orchestrator.session_store import Record, SessionKey, SessionStore
from htagweb_orchestrator.sessions import Sessions

ALICE, BOB, VISITOR = UserId("alice"), UserId("bob"), UserId("anon-1")
SHARED, OWN = SessionKey(ALICE), SessionKey(ALICE, AppName("clock"))
SIZE = 2000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.sqlite"


@pytest.fixture(params=[Sessions])
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[SessionStore]:
    store: SessionStore = request.param(path, size=SIZE)
    yield store
    store.close()


# -- the contract ----------------------------------------------------------------------------------------------------


async def test_a_patch_sets_and_deletes_keys_and_leaves_the_others(store: SessionStore) -> None:
    assert await store.get(SHARED) == {}
    await store.patch(SHARED, {"a": 1, "b": {"deep": [1, None, "ü\ud800"]}, "c": True}, [])
    await store.patch(SHARED, {"a": 2.5}, ["c", "never there"])
    assert await store.get(SHARED) == {"a": 2.5, "b": {"deep": [1, None, "ü\ud800"]}}
    await store.patch(SHARED, {"a": 3}, ["a"])  # what is both is set
    assert (await store.get(SHARED))["a"] == 3


async def test_the_records_of_users_and_of_apps_are_apart(store: SessionStore) -> None:
    keys = [SHARED, OWN, SessionKey(BOB), SessionKey(BOB, AppName("clock")), SessionKey(UserId("alice\x00clock"))]
    for number, key in enumerate(keys):
        await store.patch(key, {"n": number}, [])
    assert [await store.get(key) for key in keys] == [{"n": number} for number in range(len(keys))]
    await store.forget(ALICE)
    assert [await store.get(key) for key in keys] == [{}, {}, {"n": 2}, {"n": 3}, {"n": 4}]


async def test_a_patch_that_is_too_large_changes_nothing(store: SessionStore) -> None:
    await store.patch(SHARED, {"a": "x" * 1500, "b": 1}, [])
    with pytest.raises(SessionTooLarge, match="larger than 2000 bytes; the old value was kept"):
        await store.patch(SHARED, {"c": "y" * 1000}, ["b"])
    assert await store.get(SHARED) == {"a": "x" * 1500, "b": 1}
    await store.patch(SHARED, {"c": "y" * 1000}, ["a"])
    await store.patch(OWN, {"a": "x" * 1500}, [])  # each record has the size for itself


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), b"bytes"])
async def test_what_json_can_not_say_is_refused_and_changes_nothing(store: SessionStore, value: object) -> None:
    await store.patch(SHARED, {"a": 1}, [])
    with pytest.raises(SessionRefused):
        await store.patch(SHARED, {"a": 2, "odd": value}, [])
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SessionRefused):
        await store.patch(SHARED, {"deep": deep}, [])
    assert await store.get(SHARED) == {"a": 1}


async def test_calls_count_in_their_order_and_what_is_changed_later_does_not(store: SessionStore) -> None:
    value: list[object] = [0]
    patches = []
    for number in range(50):
        value.append(number)
        patches.append(asyncio.ensure_future(store.patch(SHARED, {"list": value, "last": number}, [])))
        await asyncio.sleep(0)
        value = list(value)
    value.append("later")
    await asyncio.gather(*patches)
    assert await store.get(SHARED) == {"list": [0, *range(50)], "last": 49}


async def test_a_hundred_writers_of_two_users_lose_nothing_and_cross_nothing(store: SessionStore) -> None:
    async def writer(user: UserId, number: int) -> None:
        """As an app that appends in place: the whole list travels."""
        mine: list[int] = []
        for step in range(4):
            mine.append(step)
            await store.patch(SessionKey(user), {f"w{number}": list(mine), "shared": user}, [f"gone{number}"])

    users = (ALICE, BOB)
    await asyncio.gather(*(writer(users[number % 2], number) for number in range(100)))
    for parity, user in enumerate(users):
        expected: Record = {f"w{number}": [0, 1, 2, 3] for number in range(100) if number % 2 == parity}
        assert await store.get(SessionKey(user)) == expected | {"shared": user}


async def test_a_visitors_records_become_the_persons_who_keeps_his_own(store: SessionStore) -> None:
    await store.patch(SessionKey(VISITOR), {"cart": 1}, [])
    await store.patch(SessionKey(VISITOR, AppName("clock")), {"visitors": 1}, [])
    await store.patch(OWN, {"own": 1}, [])
    assert await store.hand_over(VISITOR, ALICE) == {
        "": ({"cart": 1}, {"cart": 1}),
        "clock": ({"visitors": 1}, {"own": 1}),
    }
    assert (await store.get(SHARED), await store.get(OWN)) == ({"cart": 1}, {"own": 1})
    assert await store.get(SessionKey(VISITOR)) == await store.get(SessionKey(VISITOR, AppName("clock"))) == {}
    assert await store.hand_over(UserId("anon-2"), BOB) == {}


# -- SQLite ----------------------------------------------------------------------------------------------------------


async def test_what_nobody_changed_for_its_life_is_forgotten(path: Path) -> None:
    store = Sessions(path, life_s=1000.0, anonymous_life_s=-1.0)
    await store.patch(SHARED, {"a": 1}, [])
    await store.patch(SessionKey(VISITOR), {"a": 1}, [])
    assert await store.prune() == 1
    assert (await store.get(SHARED), await store.get(SessionKey(VISITOR))) == ({"a": 1}, {})
    store.close()


async def test_what_is_read_is_kept_for_another_life(path: Path) -> None:
    store = Sessions(path, life_s=1000.0)
    await store.patch(SHARED, {"a": 1}, [])
    await store.patch(OWN, {"b": 1}, [])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE record SET touched = touched - 999")
        assert await store.get(SHARED) == {"a": 1}
        other.execute("UPDATE record SET touched = touched - 500")
    assert await store.prune() == 1
    assert (await store.get(SHARED), await store.get(OWN)) == ({"a": 1}, {})
    store.close()


async def test_a_locked_store_can_be_read_however_old_a_record_is(path: Path) -> None:
    store = Sessions(path, life_s=1000.0)
    await store.patch(SHARED, {"a": 1}, [])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE record SET touched = touched - 999")
        other.execute("BEGIN IMMEDIATE")
        assert await store.get(SHARED) == {"a": 1}
        other.execute("ROLLBACK")
    store.close()


def test_the_store_is_for_its_owner_only(path: Path) -> None:
    store = Sessions(path)
    asyncio.run(store.patch(SHARED, {"a": 1}, []))
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    store.close()
    assert len(modes) == 3  # the write-ahead log and its index, too
    assert set(modes.values()) == {0o600}


async def test_records_of_an_earlier_version_are_taken_over(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        old.execute("CREATE TABLE session (user TEXT PRIMARY KEY, data TEXT NOT NULL, touched REAL NOT NULL)")
        old.execute("INSERT INTO session VALUES ('alice', '{\"a\":1}', 4e9)")
    for _ in range(2):
        store = Sessions(path)
        assert await store.get(SHARED) == {"a": 1}
        store.close()


async def test_a_locked_store_refuses_and_goes_on_afterwards(path: Path) -> None:
    store = Sessions(path)
    await store.patch(SHARED, {"a": 1}, [])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SessionStoreFailed, match="could not be stored; the old value was kept"):
            await store.patch(SHARED, {"a": 2}, [])
        assert await store.get(SHARED) == {"a": 1}
        other.execute("ROLLBACK")
    await store.patch(SHARED, {"b": 2}, [])
    assert await store.get(SHARED) == {"a": 1, "b": 2}
    store.close()


async def test_a_store_that_is_gone_is_noticed_and_one_put_back_is_used(path: Path) -> None:
    """SQLite itself would go on writing into the file that nobody can find any more."""
    store = Sessions(path)
    await store.patch(SHARED, {"a": 1}, [])
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(path.with_name("copy"))) as copy:
        source.backup(copy)
    for file in path.parent.glob("sessions.sqlite*"):
        file.unlink()
    with pytest.raises(SessionStoreFailed):
        await store.patch(SHARED, {"a": 2}, [])
    with pytest.raises(SessionStoreFailed):
        await store.get(SHARED)
    path.with_name("copy").rename(path)
    await store.patch(SHARED, {"b": 2}, [])
    store.close()
    again = Sessions(path)
    assert await again.get(SHARED) == {"a": 1, "b": 2}
    again.close()


async def test_a_damaged_record_is_a_failure_and_no_empty_session(path: Path) -> None:
    store = Sessions(path)
    await store.patch(SHARED, {"a": 1}, [])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE record SET data = '{\"a\":'")
    for attempt in (store.get(SHARED), store.patch(SHARED, {"b": 1}, [])):
        with pytest.raises(SessionStoreFailed):
            await attempt
    store.close()


ON_A_SMALL_DISK = """
import asyncio, json, sys
from pathlib import Path
from htagweb_orchestrator.errors import SessionStoreFailed
from htagweb_orchestrator.session_store import SessionKey
from htagweb_orchestrator.sessions import Sessions

async def main(folder: Path) -> None:
    store = Sessions(folder / "sessions.sqlite", size=65536)
    alice = SessionKey("alice")
    await store.patch(alice, {"kept": True}, [])
    (folder / "filler").write_bytes(b"x" * 64 * 1024)
    refused = stored = 0
    while refused < 3:
        try:
            await store.patch(SessionKey(f"user{stored}"), {"fill": "x" * 60000}, [])
            stored += 1
        except SessionStoreFailed:
            refused += 1
            try:
                await store.patch(alice, {"kept": False, "more": "x" * 60000}, [])
            except SessionStoreFailed:
                pass
    during = await store.get(alice)
    (folder / "filler").unlink()
    await store.patch(alice, {"after": 1}, [])
    others = [len((await store.get(SessionKey(f"user{n}"))).get("fill", "")) for n in range(stored)]
    print(json.dumps({"during": during, "after": await store.get(alice), "others": others}))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_full_disk_refuses_and_nothing_is_half_written(tmp_path: Path) -> None:
    """On a file system of its own, which is really full."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root: mounts a file system of its own")
    mount = 'mount -t tmpfs -o size=768k none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", tmp_path, sys.executable, ON_A_SMALL_DISK],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["during"] == {"kept": True}
    assert found["after"] == {"kept": True, "after": 1}
    assert len(found["others"]) >= 3
    assert set(found["others"]) == {60000}


WRITERS = """
import asyncio, sys
from pathlib import Path
from htagweb_orchestrator.session_store import SessionKey
from htagweb_orchestrator.sessions import Sessions

async def main() -> None:
    store = Sessions(Path(sys.argv[1]))

    async def writer(user: str, number: int) -> None:
        known = (await store.get(SessionKey(user))).get(f"w{number}", [])
        for step in range(len(known), 1_000_000):
            known.append(f"{user} {step}")
            await store.patch(SessionKey(user), {f"w{number}": known[-5:] + [step]}, [])
            print(user, number, step, flush=True)
            known = known[-5:]

    async with asyncio.TaskGroup() as writers:
        for number in range(100):
            writers.create_task(writer(("alice", "bob")[number % 2], number))

asyncio.run(main())
"""


def test_a_kill_in_the_middle_of_a_hundred_writers_loses_nothing_that_was_acknowledged(path: Path) -> None:
    acknowledged: dict[tuple[str, str], int] = {}
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITERS, path], stdout=subprocess.PIPE, text=True) as writers:
            assert writers.stdout is not None
            for count, line in enumerate(writers.stdout):
                who, number, step = line.split()
                acknowledged[who, number] = int(step)
                if count == 250:
                    os.kill(writers.pid, signal.SIGKILL)
        store = Sessions(path)
        records: dict[str, Record] = {user: asyncio.run(store.get(SessionKey(user))) for user in (ALICE, BOB)}
        store.close()
        for (who, number), seen in acknowledged.items():
            *words, last = records[who][f"w{number}"]
            assert last >= seen
            assert words[-1] == f"{who} {last}"
        acknowledged.clear()

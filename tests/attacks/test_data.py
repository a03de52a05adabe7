"""What an app keeps in /data: there again for its user, for nobody else, and no way out of it."""

from __future__ import annotations

from typing import Any

import pytest

from htagweb_orchestrator import control
from htagweb_orchestrator.model import AppName, Ending
from htagweb_orchestrator.settings import AppSettings
from tests.attacks.stage import CONSOLE_SOURCE, Stage, eventually
from tests.attacks.visitor import Visitor

pytestmark = pytest.mark.docker
MIB = 1 << 20


async def opened(stage: Stage, **limits: Any) -> Stage:
    stage.publish("inside.py", CONSOLE_SOURCE)
    kept = AppSettings(overrides={"data_bytes": 4 * MIB, **limits})
    await stage.open(apps={"console": kept, "inside": kept})
    return stage


async def again(stage: Stage, visitor: Visitor) -> Visitor:
    """The same visitor, in a new sandbox of the app."""
    await stage.control.release(visitor.user, AppName("console"), Ending.VISITOR)
    return await stage.console(visitor)


async def test_it_is_there_again_for_its_user_and_for_no_other_user_or_app(closed_stage: Stage) -> None:
    stage = await opened(closed_stage)
    visitor, other = await stage.console(), await stage.console()
    uid = stage.sandbox(visitor).lease.uid
    await visitor.run("""
        os.makedirs("/data/deep/er")
        for name in ("note", "deep/er/note"):
            with open("/data/" + name, "w") as file:
                file.write("kept")
        os.chmod("/data/deep", 0)
        os.chmod("/data", 0o777)
        """)
    await stage.console(visitor, app="inside")
    look = 'answer = os.listdir("/data"), oct(os.stat("/data").st_mode)'
    assert await visitor.run(look, app="inside") == [[], "0o40700"]
    assert await other.run(look) == [[], "0o40700"]
    await again(stage, visitor)
    assert stage.sandbox(visitor).lease.uid != uid
    found = await visitor.run("""
        os.chmod("/data/deep", 0o700)  # it is the owner
        mine = {os.lstat(path).st_uid for path in ("/data", "/data/note", "/data/deep", "/data/deep/er/note")}
        answer = sorted(os.listdir("/data")), open("/data/deep/er/note").read(), mine == {os.getuid()}
        """)
    assert found == [["deep", "note"], "kept", True]
    mounts = stage.inspect(stage.sandbox(visitor).id)["Mounts"]
    assert sorted(mount["Destination"] for mount in mounts) == ["/data", "/run/app"]


async def test_links_and_pipes_that_an_earlier_sandbox_left_lead_nowhere(closed_stage: Stage) -> None:
    stage = await opened(closed_stage)
    outside = stage.folder / "outside"
    outside.mkdir()
    (outside / "file").write_text("root's")
    visitor = await stage.console()
    await visitor.run(f"""
        os.symlink("{outside}", "/data/folder")
        os.symlink("{outside}/file", "/data/file")
        os.symlink("/proc/self/root", "/data/root")
        os.mkfifo("/data/pipe")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind("/data/socket")
        """)
    await again(stage, visitor)
    assert (outside.stat().st_uid, (outside / "file").stat().st_uid) == (0, 0)
    assert await visitor.run('answer = len(os.listdir("/data"))') == 5
    # The way up leads to the sandbox's own root, and the folder's parents aren't there.
    assert await visitor.run('answer = os.path.exists("/data/../about.json")') is False
    user = visitor.user
    await stage.control.release(user, AppName("console"), Ending.VISITOR)
    assert stage.control.kept is not None
    assert await stage.control.kept.remove(user) == [{"user": user, "app": "console", "removed": True}]
    assert (outside / "file").read_text() == "root's"
    assert list(stage.data.iterdir()) == []


async def test_who_keeps_more_than_he_may_is_ended_and_one_file_cannot(closed_stage: Stage, monkeypatch: Any) -> None:
    monkeypatch.setattr(control, "DATA_S", 0.2)
    stage = await opened(closed_stage, tmp_bytes=MIB, app_bytes=MIB)
    visitor, many = await stage.console(), await stage.console()
    refusal = await visitor.run("""
        def fill(name, size):
            with open("/data/" + name, "wb", buffering=0) as file:
                for _ in range(size):
                    file.write(bytes(1 << 20))
        answer = refused(fill, "huge", 6)
        """)
    assert refusal == "EFBIG"
    await many.run('for n in range(10_050): open(f"/data/{n}", "w").close()')
    await visitor.run('fill("another", 2)')
    for each in (visitor, many):
        key = (each.user, AppName("console"))
        route = await eventually(lambda key=key: stage.control._endings.of(key))  # type: ignore[misc]
        assert route is not None
        assert route.ending is Ending.DATA
    said = {route.detail for route in stage.control.ended("")}
    assert said == {"it keeps more than 10000 files", "it keeps 6m, more than 4m"}

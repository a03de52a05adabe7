"""The folders with what apps keep, on the host's side."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from htagweb_orchestrator.data import MAX_DEPTH, MAX_FILES, DataFolders, TooMuch, key_of
from htagweb_orchestrator.model import AppName, UserId

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away, which takes root")
ANN, BOB, SHOP, NOTES = UserId("ann"), UserId("bob"), AppName("shop"), AppName("notes")
MIB = 1 << 20


@pytest.fixture
def folders(tmp_path: Path) -> DataFolders:
    return DataFolders(tmp_path / "data", wall_s=lambda: 1000.0)


def inside(tmp_path: Path, key: str) -> Path:
    return tmp_path / "data" / key / "d"


def test_each_user_and_app_has_one_that_only_root_and_the_sandbox_reach(folders: DataFolders, tmp_path: Path) -> None:
    keys = [folders.prepare(user, app, 20001) for user in (ANN, BOB) for app in (SHOP, NOTES)]
    assert len({*keys}) == 4
    for key in keys:
        own, data = tmp_path / "data" / key, inside(tmp_path, key)
        assert (own.stat().st_mode & 0o777, own.stat().st_uid) == (0o700, 0)
        assert (data.stat().st_mode & 0o777, data.stat().st_uid) == (0o700, 20001)


def test_the_next_sandbox_gets_all_of_it_and_no_link_is_followed(folders: DataFolders, tmp_path: Path) -> None:
    data = inside(tmp_path, folders.prepare(ANN, SHOP, 20001))
    outside = tmp_path / "outside"
    outside.write_text("x")
    (data / "deep").mkdir()
    (data / "deep" / "file").write_text("x")
    (data / "link").symlink_to(outside)
    (data / "folder").symlink_to(tmp_path)
    os.mkfifo(data / "pipe")
    (data / "deep" / "file").chmod(0o4755)
    folders.prepare(ANN, SHOP, 20002)
    for path in (data, data / "deep", data / "deep" / "file", data / "link", data / "folder", data / "pipe"):
        assert path.lstat().st_uid == 20002
    assert (outside.stat().st_uid, tmp_path.stat().st_uid) == (0, 0)
    assert (data / "deep" / "file").stat().st_mode & 0o7000 == 0  # chown takes setuid away
    (data / "deep" / "file").unlink()


def test_a_folder_that_was_replaced_by_a_link_is_not_entered(folders: DataFolders, tmp_path: Path) -> None:
    data = inside(tmp_path, folders.prepare(ANN, SHOP, 20001))
    data.rmdir()
    data.symlink_to(tmp_path)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        folders.prepare(ANN, SHOP, 20002)
    assert tmp_path.stat().st_uid == 0


def test_what_is_too_much_is_said(folders: DataFolders, tmp_path: Path) -> None:
    data = inside(tmp_path, folders.prepare(ANN, SHOP, 20001))
    (data / "file").write_bytes(b"x" * 2 * MIB)
    assert folders.measure(ANN, SHOP, 4 * MIB) == ""
    [about] = folders.all().values()
    assert (about.user, about.app, about.bytes, about.files, about.used_s) == (ANN, SHOP, 2 * MIB, 1, 1000.0)
    assert folders.measure(ANN, SHOP, MIB) == "it keeps 2m, more than 1m"


def test_more_files_or_folders_than_anybody_needs_are_too_much(folders: DataFolders, tmp_path: Path) -> None:
    data = inside(tmp_path, folders.prepare(ANN, SHOP, 20001))
    for number in range(MAX_FILES + 1):
        (data / str(number)).touch()
    assert folders.measure(ANN, SHOP, MIB) == f"it keeps more than {MAX_FILES} files"
    with pytest.raises(TooMuch):
        folders.prepare(ANN, SHOP, 20002)
    deep = inside(tmp_path, folders.prepare(BOB, SHOP, 20001))
    for _ in range(MAX_DEPTH + 2):
        deep = deep / "d"
        deep.mkdir()
    assert folders.measure(BOB, SHOP, MIB) == f"it keeps folders in folders, more than {MAX_DEPTH} deep"


def test_what_one_had_becomes_anothers_who_has_nothing_there(folders: DataFolders, tmp_path: Path) -> None:
    for app in (SHOP, NOTES):
        (inside(tmp_path, folders.prepare(ANN, app, 20001)) / f"of-ann-{app}").touch()
    (inside(tmp_path, folders.prepare(BOB, NOTES, 20002)) / "of-bob").touch()
    folders.hand_over(ANN, BOB)
    assert os.listdir(inside(tmp_path, key_of(BOB, SHOP))) == ["of-ann-shop"]
    assert os.listdir(inside(tmp_path, key_of(BOB, NOTES))) == ["of-bob"]
    assert {(about.user, about.app) for about in folders.all().values()} == {(BOB, SHOP), (BOB, NOTES), (ANN, NOTES)}


def test_removing_takes_the_folder_and_nothing_that_it_links_to(folders: DataFolders, tmp_path: Path) -> None:
    key = folders.prepare(ANN, SHOP, 20001)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    (inside(tmp_path, key) / "link").symlink_to(tmp_path / "outside")
    folders.remove([key, key])
    assert (list((tmp_path / "data").iterdir()), (tmp_path / "outside" / "file").exists()) == ([], True)

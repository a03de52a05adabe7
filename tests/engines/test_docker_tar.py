"""Files from a container that installed packages: whatever it says, what goes into an image is made anew."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from htagweb_orchestrator.engines.docker_images import explained
from htagweb_orchestrator.engines.docker_tar import BadArchive, Counted, cleaned, one_file, packed


def archive(*members: tuple[tarfile.TarInfo, bytes], piece: int = 1000) -> Iterator[bytes]:
    """As an engine sends it: in pieces that end anywhere."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    data = whole.getvalue()
    return iter([data[at : at + piece] for at in range(0, len(data), piece)])


def member(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.uid, info.gid, info.uname = kind, mode, link, 60000, 60000, "nobody"
    return info


def clean(stream: Iterator[bytes], most_bytes: int = 1_000_000) -> list[tuple[tarfile.TarInfo, bytes]]:
    whole = io.BytesIO(b"".join(cleaned(stream, most_bytes=most_bytes, counted=Counted())))
    with tarfile.open(fileobj=whole) as tar:
        return [(info, (tar.extractfile(info) or io.BytesIO()).read() if info.isreg() else b"") for info in tar]


def test_what_goes_into_an_image_is_roots_and_nobody_can_write_it() -> None:
    folder = member("out/site-app", tarfile.DIRTYPE, 0o777)
    script = member("out/site-app/bin", mode=0o6777)
    long_name = "out/site-app/" + "x" * 150 + "/" + "é" * 60
    content = bytes(range(256)) * 5000
    made = clean(
        archive((member("out", tarfile.DIRTYPE), b""), (folder, b""), (script, b"#!"), (member(long_name), content)),
        2_000_000,
    )
    assert [(info.name, info.mode, info.uid, info.gid, info.uname) for info, _ in made] == [
        ("site-app", 0o755, 0, 0, ""),
        ("site-app/bin", 0o755, 0, 0, ""),
        (long_name.removeprefix("out/"), 0o644, 0, 0, ""),
    ]
    assert made[2][1] == content


@pytest.mark.parametrize(
    "bad",
    [
        member("out/../../etc/passwd"),
        member("out//etc/passwd"),
        member("out/./x"),
        member("out/link", tarfile.SYMTYPE, link="/etc/passwd"),
        member("out/link", tarfile.LNKTYPE, link="out/x"),
        member("out/device", tarfile.CHRTYPE),
        member("out/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name} {info.type!r}",
)
def test_what_no_package_holds_is_refused(bad: tarfile.TarInfo) -> None:
    with pytest.raises(BadArchive):
        clean(archive((member("out/x"), b"x"), (bad, b"")))


def test_more_than_an_image_may_have_is_refused_before_it_is_copied() -> None:
    with pytest.raises(BadArchive, match="more files"):
        clean(archive((member("out/x"), bytes(5000))), most_bytes=4999)


def test_one_small_file_is_read_and_no_large_one() -> None:
    assert one_file(archive((member("brings.json"), b"{}")), most_bytes=2) == b"{}"
    for stream in (archive((member("brings.json"), b"{ }")), archive(), archive((member("x", tarfile.DIRTYPE), b""))):
        with pytest.raises(BadArchive):
            one_file(stream, most_bytes=2)


def test_what_a_build_is_given_only_its_own_user_reads(tmp_path: Path) -> None:
    (tmp_path / "wheel").write_bytes(b"wheel" * 200_000)
    stream = packed(["build"], {"build/options": b"secret", "build/wheel": tmp_path / "wheel"}, uid=60000)
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        assert [(info.name, info.mode, info.uid) for info in tar] == [
            ("build", 0o700, 60000),
            ("build/options", 0o600, 60000),
            ("build/wheel", 0o600, 60000),
        ]


@pytest.mark.parametrize(
    ("log", "code", "said"),
    [
        ("ERROR: No matching distribution found for x>1\n", 1, "There is no wheel of x>1 that fits; nothing is built"),
        ("ERROR: HTTP error 403 while getting x.\n", 1, "HTTP error 403 while getting x."),
        (
            "WARNING: Retrying (Retry(total=1)) after connection broken\nERROR: No matching distribution found for x\n",
            1,
            "There is no wheel of x here, and the package index could not be reached.",
        ),
        ("", 124, "The packages were not installed in time."),
        ("nonsense", 3, "Installing the packages ended with exit code 3."),
        (
            "    The user requested a==1\n    b 2.0 depends on a>1\n",
            1,
            "These requirements contradict each other: the app",
        ),
    ],
)
def test_pips_last_words_become_a_sentence(log: str, code: int, said: str) -> None:
    assert explained(log, code).startswith(said)

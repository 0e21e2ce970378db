"""The manifest gives the walk back, from any file on."""

import os
from pathlib import Path

import pytest

from cxrbatch.scoring.archive import Walk, read_manifest, write_manifest


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    for number, name in enumerate(
        (b"a b", b"\xff", b"line\nfeed", b"7 7", b"quote\"'", b"x" * 255)
    ):
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))
        path.write_bytes(name)
        os.utime(path, ns=(0, -1 if number == 2 else number))
    return folder


def write(archive: Path, folder: Path) -> str:
    found: list[int] = []
    count, sha256 = write_manifest(Walk(archive), folder, found=found.append)
    assert (count, found) == (6, [1, 2, 3, 4, 5, 6])
    return sha256


def test_gives_the_walk_back_from_any_file_on(archive: Path, tmp_path: Path) -> None:
    write(archive, tmp_path)
    walked = list(Walk(archive))
    for start in range(7):
        for stop in range(7):
            assert list(read_manifest(tmp_path, start=start, stop=stop)) == walked[start:stop]


def test_the_hash_tells_of_every_change(archive: Path, tmp_path: Path) -> None:
    before = write(archive, tmp_path)
    assert write(archive, tmp_path) == before
    os.utime(archive / "7 7", ns=(0, 99))
    changed = write(archive, tmp_path)
    (archive / "7 7").rename(archive / "8 8")
    assert len({before, changed, write(archive, tmp_path)}) == 3

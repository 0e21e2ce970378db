"""The walk finds each regular file once, in one order, and waits for nothing."""

import os
import socket
from pathlib import Path

import pytest

from cxrbatch.errors import UsageError
from cxrbatch.scoring.archive import ArchiveFile, Walk


def paths(walk: Walk) -> list[bytes]:
    return [found.path for found in walk]


def test_finds_every_file_sorted_by_components(tmp_path: Path) -> None:
    names = ["b/2", "b/10", "a.dcm", "b.dcm", "B", "a/é", "a/deep/er/x"]
    for name in reversed(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * len(name))
    found = list(Walk(tmp_path))
    assert [f.path for f in found] == sorted(
        (os.fsencode(n) for n in names), key=lambda path: path.split(b"/")
    )
    assert {f.path: f.size for f in found}[b"a/deep/er/x"] == len("a/deep/er/x")


def test_order_does_not_depend_on_the_disk(tmp_path: Path) -> None:
    names = [f"{i * 7919 % 100:02d}" for i in range(100)]
    for folder, order in (("one", names), ("two", sorted(names))):
        (tmp_path / folder).mkdir()
        for name in order:
            (tmp_path / folder / name).touch()
    assert paths(Walk(tmp_path / "one")) == paths(Walk(tmp_path / "two"))


def test_names_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    hostile = [b"\xff\xfe", b"new\nline", b"quote'\"", b"back\\slash", b" space "]
    for name in hostile:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).touch()
    assert paths(Walk(tmp_path)) == sorted(hostile)


def test_special_files_are_counted_and_never_opened(tmp_path: Path) -> None:
    (tmp_path / "film").touch()
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    (tmp_path / "link").symlink_to("film")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    walk = Walk(tmp_path)
    assert paths(walk) == [b"film"]
    assert walk.passed_over == {"fifo": 1, "socket": 1, "link": 3}


def test_followed_links_end_every_loop(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "film").touch()
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "again").symlink_to("a")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "same").symlink_to("a/film")
    walk = Walk(tmp_path, follow_links=True)
    assert paths(walk) == [b"a/film", b"same"]
    assert walk.passed_over == {"link_loop": 3, "dangling_link": 1}


def test_one_file_is_an_archive(tmp_path: Path) -> None:
    (tmp_path / "film.dcm").write_bytes(b"abc")
    os.utime(tmp_path / "film.dcm", ns=(1, 1234567890123456789))
    walk = Walk(tmp_path / "film.dcm")
    assert list(walk) == [ArchiveFile(b"film.dcm", 3, 1234567890123456789)]
    assert walk.base == tmp_path


def test_own_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("film", "results.parquet"):
        (tmp_path / name).touch()
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "manifest").touch()
    own = [(tmp_path / name).stat() for name in ("results.parquet", "partial")]
    walk = Walk(tmp_path, skip=frozenset((s.st_dev, s.st_ino) for s in own))
    assert paths(walk) == [b"film"]
    assert walk.passed_over == {"own_output": 2}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_unreadable_folder_is_counted(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    walk = Walk(tmp_path)
    assert paths(walk) == []
    assert walk.passed_over == {"unreadable_folder": 1}


def test_missing_root_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read archive"):
        list(Walk(tmp_path / "nowhere"))


def test_deep_trees_are_walked(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(500):
        folder = folder / "d"
        folder.mkdir()
    (folder / "film").touch()
    assert paths(Walk(tmp_path)) == [b"d/" * 500 + b"film"]


def test_files_beyond_the_longest_path_are_found(tmp_path: Path) -> None:
    name, depth = "d" * 200, 30
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
        os.close(os.open("film", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    walk = Walk(tmp_path)
    found = paths(walk)
    assert not walk.passed_over
    assert sorted(found, key=len) == [
        b"/".join([name.encode()] * level + [b"film"]) for level in range(1, depth + 1)
    ]

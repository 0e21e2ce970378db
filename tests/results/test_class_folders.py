"""Labels of class folders: every file of a folder, or an error that names it."""

import os
from pathlib import Path

import pytest

from cxrbatch.errors import LabelError
from cxrbatch.files import text_to_path
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.results.truth import files_below, labels_from_folders


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_are_classes_and_the_order_is_sorted(tmp_path: Path) -> None:
    make(tmp_path, "B/2.png", "B/10.png", "A/deep/er/x", "A/a.png", "A/deep/b", "loose.png")
    make(tmp_path, ".checkpoints/x.png", "A/.DS_Store", "B/.thumbnails/2.png")
    assert labels_from_folders(tmp_path) == [
        LabelledFile("A/a.png", "A"),
        LabelledFile("A/deep/b", "A"),
        LabelledFile("A/deep/er/x", "A"),
        LabelledFile("B/10.png", "B"),
        LabelledFile("B/2.png", "B"),
    ]


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    (tmp_path / "A").mkdir()
    with pytest.raises(LabelError, match="has no class folders with files"):
        labels_from_folders(tmp_path)


def test_an_empty_class_folder_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "A/a.png", "B/b.png")
    (tmp_path / "C\n" / "inner").mkdir(parents=True)
    (tmp_path / "D").mkdir()
    (tmp_path / "D" / ".DS_Store").touch()
    with pytest.raises(LabelError, match=r"empty class folders .*: 'C\\n', 'D'; fill or remove"):
        labels_from_folders(tmp_path)


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "file")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(LabelError, match="cannot list"):
            labels_from_folders(path)


def test_names_of_any_bytes_have_a_text_that_leads_back(tmp_path: Path) -> None:
    make(tmp_path, "A/plain")
    name = b"\xff back\\slash\n"
    (tmp_path / os.fsdecode(b"A/" + name)).touch()
    paths = [item.path for item in labels_from_folders(tmp_path)]
    assert [text_to_path(path) for path in paths] == [b"A/plain", b"A/" + name]


def test_loops_and_fifos_do_not_hang_the_walk(tmp_path: Path) -> None:
    make(tmp_path, "A/a.png")
    (tmp_path / "A" / "loop").symlink_to("loop")
    (tmp_path / "A" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "A" / "link.png").symlink_to(tmp_path / "A" / "a.png")
    os.mkfifo(tmp_path / "A" / "fifo")
    deep = tmp_path / "A" / Path(*"d" * 60)
    os.makedirs(deep)
    (deep / "x").touch()
    assert list(files_below(tmp_path / "A")) == [
        "a.png",
        "fifo",
        "link.png",
        "loop",
        "/".join("d" * 60) + "/x",
    ]

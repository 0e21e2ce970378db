"""The sample archive: complete, counted, labelled, the same on every run."""

from __future__ import annotations

import csv
import errno
import hashlib
import importlib.util
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from cxrbatch.commands.bench import sample
from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.sample import archive_writer
from cxrbatch.sample.archive_writer import (
    KINDS,
    REAL,
    REAL_RADIOGRAPHS,
    SampleSummary,
    write_sample,
)
from cxrbatch.sample.phantom import CLASSES

HAS_REAL = importlib.util.find_spec("data_store") is not None


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def labels(root: Path) -> list[dict[str, str]]:
    with (root / "labels.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_another_process_writes_the_same_bytes(written: SampleSummary, tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from cxrbatch.sample.archive_writer import write_sample;"
        "write_sample(pathlib.Path(sys.argv[1]))"
    )
    again = tmp_path / "again"
    surroundings = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", program, str(again)], check=True, env=surroundings)
    assert digests(again) == digests(written.directory)


def test_summary_counts_what_is_on_disk(written: SampleSummary) -> None:
    files = [path for path in written.directory.rglob("*") if path.is_file()]
    assert written.files == len(files)
    assert written.size == sum(path.stat().st_size for path in files)
    assert written.labelled == len(labels(written.directory))
    assert list(written.kinds) == list(KINDS)


def test_archive_stays_small(written: SampleSummary) -> None:
    assert 40 <= written.files <= 60
    assert written.size < 60_000_000


def test_labels_point_at_files_and_cover_all_classes(written: SampleSummary) -> None:
    rows = labels(written.directory)
    assert list(rows[0]) == ["path", "label", "patient"]
    assert all((written.directory / row["path"]).is_file() for row in rows)
    assert len({row["path"] for row in rows}) == len(rows)
    assert {row["label"] for row in rows} == set(CLASSES)


def test_labels_name_only_phantoms_of_chests(written: SampleSummary) -> None:
    paths = {row["path"] for row in labels(written.directory)}
    assert not [path for path in paths if path.startswith(("real/", "broken/", "pacs/other/"))]
    assert "pacs/PHANTOM-002/study 2/IM0002.dcm" not in paths  # the forearm


def test_a_patient_has_one_class_and_shows_up_in_several_containers(written: SampleSummary) -> None:
    rows = labels(written.directory)
    classes = {(row["patient"], row["label"]) for row in rows}
    assert len(classes) == len({row["patient"] for row in rows}) == 12
    suffixes = Counter((row["patient"], Path(row["path"]).parts[0]) for row in rows)
    assert all(suffixes[patient, "pacs"] for patient, _ in classes)
    assert sum(1 for _, top in suffixes if top == "export") >= 10


def test_names_hold_blanks_and_other_scripts(written: SampleSummary) -> None:
    names = [str(path.relative_to(written.directory)) for path in written.directory.rglob("*")]
    assert any(not name.isascii() for name in names)
    assert any(" " in name for name in names)
    assert any(path.is_file() and not path.suffix for path in written.directory.rglob("IM*"))


@pytest.mark.skipif(not HAS_REAL, reason="pydicom-data is not installed")
def test_real_radiographs_are_copied_unchanged(written: SampleSummary) -> None:
    spec = importlib.util.find_spec("data_store")
    source = Path(spec.origin).parent / "data"
    assert written.kinds[REAL] == len(REAL_RADIOGRAPHS)
    assert not written.remark
    for name in REAL_RADIOGRAPHS:
        assert (written.directory / "real" / name).read_bytes() == (source / name).read_bytes()


def test_without_pydicom_data_the_summary_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_writer, "_real_folder", lambda: None)
    monkeypatch.setattr(archive_writer, "_contents", lambda real: iter([("a", KINDS[0], b"x")]))
    summary = write_sample(tmp_path / "new")
    assert "cxrbatch[sample]" in summary.remark
    assert summary.kinds[REAL] == 0
    assert summary.files == 1


def test_a_directory_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="not empty; name a new or empty directory"):
        write_sample(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("keep")
    with pytest.raises(UsageError, match="is a file"):
        write_sample(place)
    assert place.read_text() == "keep"


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(archive_writer, "_contents", lambda real: iter([("a/b", KINDS[0], b"x")]))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CxrbatchError) as raised:
        write_sample(tmp_path / "new")
    message = str(raised.value)
    assert os.strerror(errno.ENOSPC) in message
    assert "\n" not in message


def test_the_command_prints_counts_labels_and_what_is_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = [("a.dcm", KINDS[0], b"x"), ("labels.csv", KINDS[-1], b"y")]
    monkeypatch.setattr(archive_writer, "_contents", lambda real: iter(content))
    place = tmp_path / "two words"
    result = CliRunner().invoke(sample, [str(place)])
    assert result.exit_code == 0
    assert result.stdout.startswith("2 files")
    assert str(place / "labels.csv") in result.stdout
    assert f"cxrbatch score '{place}'" in result.stdout
    assert "not patients" in result.stdout


def test_help_has_an_example() -> None:
    result = CliRunner().invoke(sample, ["--help"])
    assert "cxrbatch sample sample-archive" in result.stdout

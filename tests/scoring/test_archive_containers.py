"""A container counts by its members, wherever its members' rows come from."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from listeners import Silent
from PIL import Image

from cxrbatch.scoring.archive import ArchiveFile, Walk, read_manifest, write_manifest
from cxrbatch.scoring.run import ScoringOptions, Summary
from cxrbatch.scoring.score import score_archive

IMAGES = 40


@pytest.fixture(scope="session")
def files() -> dict[str, bytes]:
    """Films and notes by name; the names sort as they are made."""
    made = {}
    for index in range(IMAGES):
        pixels = np.random.default_rng(index).integers(0, 256, (40 + index, 60), dtype=np.uint8)
        target = io.BytesIO()
        Image.fromarray(pixels).save(target, "PNG")
        made[f"{index:02d}/film"] = b"a note" if index % 10 == 9 else target.getvalue()
    return made


@pytest.fixture(scope="session")
def archive(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same files plain and in one container of each kind."""
    folder = tmp_path_factory.mktemp("containers")
    for name, content in files.items():
        (folder / "plain" / name).parent.mkdir(parents=True)
        (folder / "plain" / name).write_bytes(content)
    for name, method in (("deflated.zip", zipfile.ZIP_DEFLATED), ("stored.ZIP", 0)):
        with zipfile.ZipFile(folder / name, "w", method) as archive:
            for member, content in files.items():
                archive.writestr(member, content)
    pack(folder / "plain.tar", files)
    pack(folder / "packed.tar.gz", files)
    pack(folder / "packed.txz", files)
    return folder


def pack(path: Path, files: dict[str, bytes]) -> None:
    modes = {".gz": "w:gz", ".tgz": "w:gz", ".txz": "w:xz"}
    with tarfile.open(path, modes.get(path.suffix, "w")) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def score(archive: Path, output: Path, checkpoint: Path, *, workers: int = 0) -> Summary:
    options = ScoringOptions(workers=workers, batch_size=16, precision="fp32", device="cpu")
    progress = Silent()
    summary = score_archive(
        archive, output, checkpoint=checkpoint, options=options, progress=progress
    )
    assert progress.done == summary.counts.files
    return summary


def rows(table: Path) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = pq.read_table(table).to_pylist()
    return read


def found(walk: Walk) -> list[tuple[bytes, bytes | None]]:
    return [(file.path, file.member) for file in walk]


def test_rows_of_members_equal_those_of_files_with_any_workers(
    archive: Path, files: dict[str, bytes], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    tables = []
    for workers in (0, 1, 2):
        summary = score(archive, tmp_path / f"{workers}", tiny_checkpoint, workers=workers)
        tables.append(rows(tmp_path / f"{workers}"))
    assert tables[0] == tables[1] == tables[2]
    assert summary.counts.files == summary.counts.rows == 6 * IMAGES
    assert summary.counts.outcomes == {"scored": 6 * 36, "not_an_image": 6 * 4}
    by_container: dict[str, list[dict[str, Any]]] = {}
    for row in tables[0]:
        path = row.pop("path")
        container = "plain" if path.startswith("plain/") else path.partition("!/")[0]
        del row["file_modified_ns"]
        row["name"] = path.removeprefix(container).lstrip("!").lstrip("/")
        by_container.setdefault(container, []).append(row)
    plain = by_container.pop("plain")
    assert [row["name"] for row in plain] == list(files)
    tars = {"plain.tar", "packed.tar.gz", "packed.txz"}
    assert set(by_container) == {"deflated.zip", "stored.ZIP"} | tars
    assert all(packed == plain for packed in by_container.values())


def test_a_zip_of_windows_gives_the_rows_of_its_twin(
    files: dict[str, bytes], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    tables = []
    for host, divider in ((0, "\\"), (3, "/")):
        folder = tmp_path / f"archive{host}"
        folder.mkdir()
        with zipfile.ZipFile(folder / "a.zip", "w") as archive:
            for name, content in {"00/": b"", **files}.items():
                entry = zipfile.ZipInfo(name.replace("/", divider))
                entry.create_system = host
                archive.writestr(entry, content)
        os.utime(folder / "a.zip", (0, 0))
        summary = score(folder, tmp_path / f"{host}.parquet", tiny_checkpoint)
        assert summary.passed_over == {"member_folder": 1}
        tables.append(rows(tmp_path / f"{host}.parquet"))
    assert tables[0] == tables[1]
    assert [row["path"] for row in tables[0]] == [f"a.zip!/{name}" for name in files]


def test_an_archive_may_be_one_container(
    archive: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    summary = score(archive / "packed.tar.gz", tmp_path / "r.parquet", tiny_checkpoint)
    assert summary.counts.files == IMAGES
    assert rows(tmp_path / "r.parquet")[0]["path"] == "packed.tar.gz!/00/film"


def test_files_compressed_alone_have_the_rows_of_plain_ones(
    files: dict[str, bytes], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    suffixes = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    for number, name in enumerate(["00/film", "01/film", "09/film"]):
        plain = tmp_path / "archive" / "Normal" / f"{number}.png"
        plain.parent.mkdir(parents=True, exist_ok=True)
        plain.write_bytes(files[name])
        for suffix, compress in suffixes.items():
            plain.with_name(plain.name + suffix).write_bytes(compress(files[name]))
    plain.with_name("rest.png.gz").write_bytes(gzip.compress(files["00/film"]) + b"rest")
    plain.with_name("cut.png.gz").write_bytes(gzip.compress(files["00/film"])[:-9])
    plain.with_name("a.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(600))
    summary = score(tmp_path / "archive", tmp_path / "r.parquet", tiny_checkpoint, workers=1)
    table = {row["path"].removeprefix("Normal/"): row for row in rows(tmp_path / "r.parquet")}
    assert summary.counts.outcomes == {
        "scored": 9,
        "not_an_image": 4,
        "truncated": 1,
        "unsupported_container": 1,
    }
    assert table["cut.png.gz!/cut.png"]["outcome"] == "truncated"
    assert table["rest.png.gz!/rest.png"]["image_flags"] == ["nonconforming"]
    ignored = ("path", "file_size", "file_modified_ns")
    for number in range(3):
        plain_row = table[f"{number}.png"]
        for suffix in suffixes:
            row = table[f"{number}.png{suffix}!/{number}.png"]
            assert {k: v for k, v in row.items() if k not in ignored} == {
                k: v for k, v in plain_row.items() if k not in ignored
            }


def test_hard_links_have_rows(
    files: dict[str, bytes], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    for suffix in (".tar", ".tgz"):
        folder.mkdir(exist_ok=True)
        pack(folder / f"a{suffix}", {"film": files["00/film"], "other": files["01/film"]})
        with tarfile.open(folder / f"a{suffix}") as archive:
            entries = [(e, archive.extractfile(e)) for e in archive]
            modes = {".tar": "w", ".tgz": "w:gz"}
            with tarfile.open(folder / f"b{suffix}", modes[suffix]) as linked:  # type: ignore[call-overload]
                for entry, content in entries:
                    linked.addfile(entry, content)
                link = tarfile.TarInfo("twin")
                link.type, link.linkname = tarfile.LNKTYPE, "film"
                linked.addfile(link)
        (folder / f"a{suffix}").unlink()
    score(folder, tmp_path / "r.parquet", tiny_checkpoint)
    table = rows(tmp_path / "r.parquet")
    hashes = {row["path"]: row["image_hash"] for row in table}
    assert list(hashes) == [
        *("b.tar!/film", "b.tar!/other", "b.tar!/twin"),
        *("b.tgz!/film", "b.tgz!/twin", "b.tgz!/other"),
    ]
    assert len({hashes[path] for path in hashes if not path.endswith("other")}) == 1


def test_what_has_no_content_is_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo("x")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        archive.addfile(tarfile.TarInfo("film"))
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    walk = Walk(tmp_path)
    assert found(walk) == [(b"all.tar", b"film"), (b"empty.tar", None)]
    assert walk.passed_over == {
        "member_folder": 1,
        "member_link": 2,
        "member_special": 1,
        "empty_container": 1,
    }


def test_doubled_names_are_two_rows(files: dict[str, bytes], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("film", files["00/film"])
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("film", files["01/film"])
    one, other = Walk(tmp_path)
    assert one.member == other.member == b"film"
    assert one.offset != other.offset
    assert (one.size, other.size) == (len(files["00/film"]), len(files["01/film"]))


def test_a_broken_container_has_a_row_beside_its_members(
    files: dict[str, bytes], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    pack(folder / "cut.tar", {"film": files["00/film"], "other": os.urandom(50_000)})
    os.truncate(folder / "cut.tar", 20_000)
    pack(folder / "cut.tgz", {"film": files["00/film"], "other": os.urandom(50_000)})
    os.truncate(folder / "cut.tgz", 20_000)
    (folder / "no.zip").write_bytes(b"PK\3\4" + bytes(2000))
    summary = score(folder, tmp_path / "r.parquet", tiny_checkpoint, workers=1)
    table = rows(tmp_path / "r.parquet")
    assert [(row["path"], row["outcome"]) for row in table] == [
        ("cut.tar!/film", "scored"),
        ("cut.tar!/other", "truncated"),
        ("cut.tar", "truncated"),
        ("cut.tgz!/film", "truncated"),
        ("cut.tgz!/other", "truncated"),
        ("cut.tgz", "truncated"),
        ("no.zip", "truncated"),
    ]
    assert all(row["detail"] for row in table if row["outcome"] == "truncated")
    assert summary.failures == 6


def test_the_manifest_gives_members_and_faults_back(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    hostile = ["a//b", "line\nfeed", "../..", 'quote"', "n" * 10_000]
    pack(folder / "a b.tar", dict.fromkeys(hostile, b"x"))
    with zipfile.ZipFile(folder / "c.zip", "w") as archive:
        archive.writestr("abc", b"x")
    data = (folder / "c.zip").read_bytes().replace(b"abc", b"\0\\\xff")
    (folder / "c.zip").write_bytes(data)
    (folder / "d.zip").write_bytes(b"PK\3\4")
    (folder / "e").touch()
    expected = list(Walk(folder))
    count, _ = write_manifest(Walk(folder), tmp_path, found=lambda files: None)
    assert list(read_manifest(tmp_path, start=0, stop=count)) == expected
    assert [file.member for file in expected if file.path == b"c.zip"] == [b"\0\\\xff"]
    assert expected[-1] == ArchiveFile(b"e", 0, (folder / "e").stat().st_mtime_ns)
    assert expected[-2].fault is not None

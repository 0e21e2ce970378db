"""Zip and tar members: listed as the archivers list them, read as the plain files are read."""

import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from archivers import (
    DICOM,
    FILES,
    MAKERS,
    PNG,
    assert_equal,
    count_starts,
    listed,
    make_compressed_tar,
    make_stored_zip,
    make_tar,
    make_zip,
    outcomes,
    read,
)

from cxrbatch.reading.containers.listing import is_container, list_members
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.reading.radiograph import iterate_radiographs_bytes


@pytest.fixture(params=MAKERS)
def container(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    suffix, make = MAKERS[request.param]
    return os.fsencode(make(tmp_path / f"all{suffix}", FILES))


def test_members_read_as_the_plain_files(container: bytes) -> None:
    assert is_container(container)
    members = list(list_members(container))
    assert [(m.name.decode(), m.size) for m in members] == [(n, len(c)) for n, c in FILES.items()]
    for member in [*members, *reversed(members)]:
        (plain,) = iterate_radiographs_bytes(FILES[member.name.decode()])
        assert_equal(read(container, member), plain)


def of(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> tuple[str, int]:
    """Kind and size of what Python would unpack; a hard link is the file that it names."""
    if entry.isfile() or entry.islnk():
        content = archive.extractfile(entry)
        assert content is not None
        return "file", len(content.read())
    return "folder" if entry.isdir() else "link" if entry.issym() else "special", entry.size


@pytest.mark.parametrize("form", ["v7", "ustar", "oldgnu", "pax"])
def test_tars_of_gnu_tar_are_listed_as_it_lists_them(form: str, tmp_path: Path) -> None:
    if not shutil.which("tar"):
        pytest.skip("tar is not installed")
    deep = tmp_path / "tree" / ("d" * 30) / ("e" * 30)
    deep.mkdir(parents=True)
    (deep / "film").write_bytes(PNG)
    (deep / "line\nfeed\xff").write_bytes(b"note")
    (deep / "link").symlink_to("film")
    os.link(deep / "film", deep / "twin")
    if form != "v7":
        os.mkfifo(deep / "fifo")
    path = tmp_path / "all.tar"
    command = ["tar", f"--format={form}", "-C", str(tmp_path), "-cf", str(path), "tree"]
    subprocess.run(command, check=True)
    with tarfile.open(path) as archive:
        expected = [(e.name.encode(errors="surrogateescape"), *of(archive, e)) for e in archive]
    members, failure = listed(os.fsencode(path))
    assert failure is None
    assert [(m.name.rstrip(b"/"), m.kind, m.size) for m in members] == expected


def test_zips_of_info_zip_are_listed_as_python_lists_them(tmp_path: Path) -> None:
    if not shutil.which("zip"):
        pytest.skip("zip is not installed")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "film").write_bytes(PNG)
    (tree / "Müller").write_bytes(b"note" * 100)
    (tree / "link").symlink_to("film")
    subprocess.run(["zip", "-qry", "all.zip", "tree"], cwd=tmp_path, check=True)
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        expected = [(e.orig_filename.encode("cp437"), e.file_size) for e in archive.infolist()]
    members = list(list_members(os.fsencode(tmp_path / "all.zip")))
    assert [(m.name, m.size) for m in members] == expected
    assert {m.name: m.kind for m in members if m.kind != "file"} == {
        b"tree/": "folder",
        b"tree/link": "link",
    }


def test_a_zip_written_to_a_pipe_and_one_with_64_bit_fields_are_read(tmp_path: Path) -> None:
    path = tmp_path / "piped.zip"

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: bytes, /) -> int:  # type: ignore[override]
            with path.open("ab") as file:
                return file.write(data)

    with zipfile.ZipFile(Pipe(), "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[arg-type]
        archive.writestr("film", DICOM)
        with archive.open("wide", "w", force_zip64=True) as member:
            member.write(PNG)
    assert outcomes(os.fsencode(path)) == {b"film": "scored", b"wide": "scored"}


HOSTILE = ["../../etc/passwd", "/etc/passwd", "back\\slash", "line\nfeed", "..", "n" * 10_000]


@pytest.mark.parametrize("kind", MAKERS)
def test_hostile_names_are_only_names(kind: str, tmp_path: Path) -> None:
    suffix, make = MAKERS[kind]
    path = os.fsencode(make(tmp_path / f"all{suffix}", dict.fromkeys(HOSTILE, PNG)))
    before = sorted(tmp_path.rglob("*"))
    assert outcomes(path) == {name.encode(): "scored" for name in HOSTILE}
    assert sorted(tmp_path.rglob("*")) == before


def test_names_with_nul_or_not_utf8_keep_their_bytes(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "all.zip", {"abcd": PNG, "efgh": PNG})
    path.write_bytes(
        path.read_bytes().replace(b"abcd", b"a\0\xff\n").replace(b"efgh", b"a\0\xff\n")
    )
    members = list(list_members(os.fsencode(path)))
    assert [m.name for m in members] == [b"a\0\xff\n"] * 2
    assert [read(os.fsencode(path), m).outcome for m in members] == [Outcome.SCORED] * 2
    tar = tmp_path / "all.tar"
    with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("\udcff\udcfe" + "n" * 200))
    assert [m.name for m in list_members(os.fsencode(tar))] == [b"\xff\xfe" + b"n" * 200]


def test_the_sum_of_a_header_of_high_bytes_is_right(tmp_path: Path) -> None:
    """Names and link of 0xFF add up to more than 65,521, at which Adler-32 begins anew."""
    tar = tmp_path / "high.tar"
    entry = tarfile.TarInfo("\udcff" * 100 + "/" + "\udcff" * 99)
    entry.type, entry.linkname = tarfile.SYMTYPE, "\udcff" * 100
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT, errors="surrogateescape") as archive:
        archive.addfile(entry)
        archive.addfile(tarfile.TarInfo("behind"))
    assert sum(tar.read_bytes()[:512]) > 70_000
    members, failure = listed(bytes(tar))
    assert failure is None
    assert [member.name for member in members] == [b"\xff" * 100 + b"/" + b"\xff" * 99, b"behind"]


def test_what_a_name_alone_says_is_no_container(tmp_path: Path) -> None:
    for name, content in {
        "film.zip": PNG,
        "film.tar": DICOM,
        "film.png.gz": PNG,
        "film.tar.bz2": DICOM,
        "empty.zip": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert not is_container(os.fsencode(tmp_path / name))
    make_tar(tmp_path / "really a tar.zip", FILES)
    assert is_container(os.fsencode(tmp_path / "really a tar.zip"))
    os.mkfifo(tmp_path / "fifo.zip")
    assert not is_container(os.fsencode(tmp_path / "fifo.zip"))


@pytest.mark.parametrize("kind", MAKERS)
def test_a_container_in_a_container_is_not_opened(kind: str, tmp_path: Path) -> None:
    suffix, make = MAKERS[kind]
    inner = make(tmp_path / f"inner{suffix}", {"note": os.urandom(2000)}).read_bytes()
    path = os.fsencode(make_stored_zip(tmp_path / "outer.zip", {f"inner{suffix}": inner}))
    (member,) = list_members(path)
    reading = read(path, member)
    assert reading.outcome is Outcome.NOT_AN_IMAGE
    assert "lies in no other" in reading.detail
    assert "archive.zip!/member" in reading.detail


def test_a_container_that_changed_since_is_noticed(container: bytes) -> None:
    members = list(list_members(container))
    kind = MAKERS["deflated zip" if container.endswith(b"ip") else "pax tar"][1]
    for member in members[:2]:
        read(container, member)
    kind(Path(os.fsdecode(container)), {"other" + name: PNG for name in FILES})
    for member in members:
        assert read(container, member).outcome.kind.value == "failed"
    os.unlink(container)
    assert read(container, members[0]).outcome is Outcome.UNREADABLE_FILE


def test_a_compressed_tar_is_inflated_once_for_members_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.fsencode(make_compressed_tar(tmp_path / "all.tgz", {f"{i}": PNG for i in range(40)}))
    found = list(list_members(path))
    starts = count_starts(monkeypatch)
    assert all(read(path, member).outcome is Outcome.SCORED for member in found)
    assert len(starts) == 1

"""Zip and tar members: listed as the archivers list them, read as the plain files are read."""

import gzip
import io
import os
import shutil
import subprocess
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from makers import make_dicom, make_image_file, ramp

from cxrbatch.reading.containers import is_container, list_members
from cxrbatch.reading.members import Member
from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.radiograph import Reading, read_member, read_radiographs_bytes

DICOM = make_dicom(ramp())
PNG = make_image_file(ramp(), "PNG")
CT = make_dicom(ramp(), modality="CT")
FILES = {
    "a/film.dcm": DICOM,
    "a/film.png": PNG,
    "ct": CT,
    "note.txt": b"a note",
    "empty": b"",
    "n" * 240: PNG,
}
Maker = Callable[[Path, dict[str, bytes]], Path]


def make_zip(path: Path, files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_stored_zip(path: Path, files: dict[str, bytes]) -> Path:
    return make_zip(path, files, method=zipfile.ZIP_STORED)


def make_tar(
    path: Path, files: dict[str, bytes], *, mode: str = "w", form: int = tarfile.PAX_FORMAT
) -> Path:
    with tarfile.open(path, mode, format=form) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def make_gnu_tar(path: Path, files: dict[str, bytes]) -> Path:
    return make_tar(path, files, form=tarfile.GNU_FORMAT)


def make_compressed_tar(path: Path, files: dict[str, bytes]) -> Path:
    return make_tar(path, files, mode="w:gz")


MAKERS: dict[str, tuple[str, Maker]] = {
    "stored zip": (".zip", make_stored_zip),
    "deflated zip": (".ZIP", make_zip),
    "pax tar": (".tar", make_tar),
    "GNU tar": (".tar", make_gnu_tar),
    "tar.gz": (".tar.gz", make_compressed_tar),
}


@pytest.fixture(params=MAKERS)
def container(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    suffix, make = MAKERS[request.param]
    return os.fsencode(make(tmp_path / f"all{suffix}", FILES))


def listed(path: bytes) -> tuple[list[Member], ReadingError | None]:
    """What could be listed, and why no more."""
    found: list[Member] = []
    try:
        found.extend(list_members(path))
    except ReadingError as error:
        # `extend` keeps what came before the error.
        return found, error
    return found, None


def read(path: bytes, member: Member) -> Reading:
    (reading,) = read_member(path, member.name, member.offset)
    return reading


def outcomes(path: bytes) -> dict[bytes, str]:
    """Outcome of each member, and under b"" that of the container where it is damaged."""
    members, failure = listed(path)
    found = {m.name: (m.fault or read(path, m)).outcome.value for m in members if m.kind == "file"}
    return found | ({b"": failure.outcome.value} if failure else {})


def assert_equal(one: Reading, other: Reading) -> None:
    assert (one.outcome, one.detail, one.format) == (other.outcome, other.detail, other.format)
    assert (one.facts, one.flags, one.frame) == (other.facts, other.flags, other.frame)
    assert (one.display is None) == (other.display is None)
    if one.display is not None and other.display is not None:
        np.testing.assert_array_equal(one.display, other.display)


def test_members_read_as_the_plain_files(container: bytes) -> None:
    assert is_container(container)
    members = list(list_members(container))
    assert [(m.name.decode(), m.size) for m in members] == [(n, len(c)) for n, c in FILES.items()]
    for member in [*members, *reversed(members)]:
        (plain,) = read_radiographs_bytes(FILES[member.name.decode()])
        assert_equal(read(container, member), plain)


@pytest.mark.parametrize("options", [["--format=ustar"], ["--format=oldgnu"], ["--format=pax"]])
def test_tars_of_gnu_tar_are_listed_as_it_lists_them(options: list[str], tmp_path: Path) -> None:
    if not shutil.which("tar"):
        pytest.skip("tar is not installed")
    deep = tmp_path / "tree" / ("d" * 30) / ("e" * 30)
    deep.mkdir(parents=True)
    (deep / "film").write_bytes(PNG)
    (deep / "line\nfeed\xff").write_bytes(b"note")
    (deep / "link").symlink_to("film")
    os.link(deep / "film", deep / "twin")
    os.mkfifo(deep / "fifo")
    path = tmp_path / "all.tar"
    command = ["tar", *options, "-C", str(tmp_path), "-cf", str(path), "tree"]
    subprocess.run(command, check=True)
    with tarfile.open(path) as archive:
        kinds = {True: "file"}
        expected = [
            (
                entry.name.encode(errors="surrogateescape"),
                kinds.get(entry.isfile())
                or ("folder" if entry.isdir() else "special" if entry.isfifo() else "link"),
                entry.size,
            )
            for entry in archive
        ]
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
        "note.tar.gz": gzip.compress(b"a note" * 200),
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
    if kind != "tar.gz":  # its first bytes alone do not inflate to a header
        assert "lies in no other" in reading.detail


def damaged(path: Path, at: int) -> bytes:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
    return os.fsencode(path)


@pytest.mark.parametrize("make", [make_zip, make_stored_zip])
def test_a_damaged_zip_member_is_not_scored(make: Maker, tmp_path: Path) -> None:
    path = make(tmp_path / "all.zip", {"film": DICOM, "whole": DICOM})
    where = path.read_bytes().index(b"whole") - 60
    assert outcomes(damaged(path, where)) == {b"film": "corrupt", b"whole": "scored"}


def test_a_wrong_checksum_alone_is_corrupt(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "all.zip", {"film": DICOM, "ct": CT})
    directory = path.read_bytes().index(b"PK\1\2")
    assert outcomes(damaged(path, directory + 16)) == {
        b"film": "corrupt",
        b"ct": "not_a_radiograph",
    }


def test_a_zip_that_claims_other_sizes_is_corrupt(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "all.zip", {"film": PNG.ljust(0x2000, b"\0")})
    directory = path.read_bytes().index(b"PK\1\2")
    assert outcomes(damaged(path, directory + 25)) == {b"film": "truncated"}
    path = make_zip(tmp_path / "all.zip", {"film": PNG.ljust(0x3000, b"\0")})
    data = path.read_bytes()
    assert outcomes(damaged(path, data.index(b"PK\1\2") + 25)) == {b"film": "corrupt"}


def test_members_that_are_not_read_say_why(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "all.zip", {"film": DICOM}, method=zipfile.ZIP_BZIP2)
    (member,) = list_members(os.fsencode(path))
    reading = read(os.fsencode(path), member)
    assert (reading.outcome, "method 12" in reading.detail) == (Outcome.UNREADABLE_FILE, True)
    path = make_zip(tmp_path / "all.zip", {"film": DICOM})
    locked = damaged(path, path.read_bytes().index(b"PK\1\2") + 8)
    path.write_bytes(path.read_bytes().replace(b"PK\1\2\x14\3\x14\0\x10", b"PK\1\2\x14\3\x14\0\1"))
    (member,) = list_members(locked)
    assert "encrypted" in read(locked, member).detail


def test_encrypted_members_of_info_zip_say_so(tmp_path: Path) -> None:
    if not shutil.which("zip"):
        pytest.skip("zip is not installed")
    (tmp_path / "film").write_bytes(DICOM)
    subprocess.run(["zip", "-q", "-P", "secret", "all.zip", "film"], cwd=tmp_path, check=True)
    path = os.fsencode(tmp_path / "all.zip")
    (member,) = list_members(path)
    reading = read(path, member)
    assert reading.outcome is Outcome.UNREADABLE_FILE
    assert "encrypted" in reading.detail


def test_a_sparse_member_says_so(tmp_path: Path) -> None:
    if not shutil.which("tar"):
        pytest.skip("tar is not installed")
    with (tmp_path / "film").open("wb") as file:
        file.write(DICOM)
        file.truncate(1 << 22)
    (tmp_path / "whole").write_bytes(PNG)
    for form in ("gnu", "pax"):
        command = ["tar", f"--format={form}", "-Scf", f"{form}.tar", "film", "whole"]
        subprocess.run(command, cwd=tmp_path, check=True)
        found = outcomes(os.fsencode(tmp_path / f"{form}.tar"))
        assert found == {b"film": "unreadable_file", b"whole": "scored"}


def test_a_cut_zip_is_one_failure(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "all.zip", FILES)
    path.write_bytes(path.read_bytes()[:-200])
    assert outcomes(os.fsencode(path)) == {b"": "truncated"}


def test_a_damaged_directory_keeps_what_came_before(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "all.zip", {"one": PNG, "two": PNG})
    second = path.read_bytes().rindex(b"PK\1\2")
    assert outcomes(damaged(path, second)) == {b"one": "scored", b"": "corrupt"}


def test_a_cut_or_damaged_tar_keeps_what_came_before(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "all.tar", {"one": PNG, "two": DICOM, "three": PNG})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"two\0") + 1000])
    assert outcomes(os.fsencode(path)) == {b"one": "scored", b"two": "truncated", b"": "truncated"}
    path.write_bytes(data)
    assert outcomes(damaged(path, data.index(b"three\0"))) == {
        b"one": "scored",
        b"two": "scored",
        b"": "corrupt",
    }
    path.write_bytes(data.rstrip(b"\0").ljust(-(-len(data.rstrip(b"\0")) // 512) * 512, b"\0"))
    assert outcomes(os.fsencode(path))[b""] == "truncated"  # no end mark


@pytest.mark.parametrize("cut", [-1, -5, -4000])
def test_no_member_of_a_cut_compressed_tar_is_scored(cut: int, tmp_path: Path) -> None:
    path = make_compressed_tar(tmp_path / "all.tgz", {"film": DICOM, "noise": os.urandom(9000)})
    path.write_bytes(path.read_bytes()[:cut])
    found = outcomes(os.fsencode(path))
    assert set(found.values()) == {"truncated"}
    assert {b"film", b""} <= set(found)


def test_no_member_of_a_damaged_compressed_tar_is_scored(tmp_path: Path) -> None:
    files = {"film": DICOM, "noise": os.urandom(200_000)}
    path = make_compressed_tar(tmp_path / "all.tgz", files)
    assert outcomes(damaged(path, len(path.read_bytes()) - 6)) == {
        b"film": "corrupt",
        b"noise": "corrupt",
        b"": "corrupt",
    }


def test_a_member_is_inflated_no_further_than_its_refusal_needs(tmp_path: Path) -> None:
    rest = os.urandom(300_000)
    path = make_zip(tmp_path / "all.zip", {"ct": CT + rest, "note": rest, "film": DICOM + rest})
    data = bytearray(path.read_bytes())
    for name in (b"note", b"film", b"PK\1\2"):
        end = data.index(name)
        data[end - 1000 : end - 100] = bytes(900)  # no deflate stream survives this
    path.write_bytes(data)
    assert outcomes(os.fsencode(path)) == {
        b"ct": "not_a_radiograph",
        b"note": "not_an_image",
        b"film": "corrupt",
    }


def test_an_empty_claim_hides_nothing(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "all.zip", {"film": PNG.ljust(0x1000, b"\0")})
    assert outcomes(damaged(path, path.read_bytes().index(b"PK\1\2") + 25)) == {b"film": "corrupt"}


def test_gzip_streams_that_follow_each_other_are_one(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "all.tar", FILES).read_bytes()
    parts = [gzip.compress(tar[i : i + 5000]) for i in range(0, len(tar), 5000)]
    (tmp_path / "all.tgz").write_bytes(b"".join(parts) + bytes(512))
    found = outcomes(os.fsencode(tmp_path / "all.tgz"))
    assert found == outcomes(os.fsencode(tmp_path / "all.tar"))


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
    from cxrbatch.reading import members as streams

    path = os.fsencode(make_compressed_tar(tmp_path / "all.tgz", {f"{i}": PNG for i in range(40)}))
    found = list(list_members(path))
    starts = []
    start = streams.Inflated._start

    def counted(inflated: streams.Inflated) -> None:
        starts.append(inflated)
        start(inflated)

    monkeypatch.setattr(streams.Inflated, "_start", counted)
    assert all(read(path, member).outcome is Outcome.SCORED for member in found)
    assert len(starts) == 1

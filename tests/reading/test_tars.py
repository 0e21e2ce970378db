"""Tars as other hands leave them: without magic, one behind the other, with hard links."""

import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from archivers import (
    DICOM,
    PNG,
    assert_equal,
    count_starts,
    listed,
    make_tar,
    make_v7_tar,
    outcomes,
    read,
    to_v7,
)

from cxrbatch.reading.containers import tar
from cxrbatch.reading.containers.listing import is_container, list_members, open_member
from cxrbatch.reading.containers.tar import is_tar_header
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.reading.radiograph import iterate_radiographs_bytes

Mode = Literal["w", "w:gz", "w:bz2", "w:xz"]
FILES = {"a/film.dcm": DICOM, "a/film.png": PNG, "note": b"a note" * 300}
OTHERS = {"b/film.dcm": DICOM, "b/film.png": PNG}
SCORED = {b"a/film.dcm": "scored", b"a/film.png": "scored", b"note": "not_an_image"}
ALL = SCORED | {b"b/film.dcm": "scored", b"b/film.png": "scored"}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes,
    ".tgz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".txz": lzma.compress,
}


@pytest.fixture(params=PACKERS)
def suffix(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def tars(tmp_path: Path) -> tuple[bytes, bytes]:
    """Two tars, each with its end mark and padding."""
    one, other = (make_tar(tmp_path / "x", files).read_bytes() for files in (FILES, OTHERS))
    return one, other


def written(path: Path, data: bytes) -> bytes:
    path.write_bytes(data)
    return os.fsencode(path)


def header(**fields: bytes) -> bytes:
    """The first header of a V7 tar, with the fields at some places replaced, its sum made right."""
    entry = tarfile.TarInfo("film")
    block = bytearray(to_v7(entry.tobuf(tarfile.USTAR_FORMAT)))
    for place, value in fields.items():
        at = int(place.lstrip("_"))
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_a_tar_without_magic_is_read(suffix: str, tmp_path: Path) -> None:
    plain = make_v7_tar(tmp_path / "x", FILES)
    with tarfile.open(plain) as archive:
        assert archive.getnames() == list(FILES)
    assert b"ustar" not in plain.read_bytes()
    path = written(tmp_path / f"all{suffix}", PACKERS[suffix](plain.read_bytes()))
    assert is_container(path)
    assert outcomes(path) == SCORED


def test_a_header_without_magic_needs_more_than_a_checksum() -> None:
    assert is_tar_header(header())
    assert is_tar_header(header(_100=b"   644 \0", _108=b" " * 8))
    for wrong in (
        {"_0": b"\0"},
        {"_124": b"9" * 11},
        {"_100": b"\0" * 48},
        {"_100": b"rw-r--r--"[:8]},
        {"_156": b"q"},
    ):
        assert not is_tar_header(header(**wrong))
    assert not is_tar_header(bytes(512))
    assert not is_tar_header(b" " * 512)
    assert not is_tar_header(header()[:511])
    noise = random.Random(0)
    assert not any(is_tar_header(noise.randbytes(512)) for _ in range(2000))


def test_tars_that_follow_each_other_are_read_to_the_end(
    suffix: str, tars: tuple[bytes, bytes], tmp_path: Path
) -> None:
    pack = PACKERS[suffix]
    for data in (pack(tars[0]) + pack(tars[1]), pack(tars[0] + bytes(3 << 20) + tars[1])):
        path = written(tmp_path / f"all{suffix}", data)
        assert outcomes(path) == ALL
        if shutil.which("tar") and suffix == ".tar":
            told = subprocess.run(["tar", "-itf", path], capture_output=True, check=True).stdout
            assert told.split() == list(ALL)


def test_a_tar_behind_an_empty_one_is_read(
    suffix: str, tars: tuple[bytes, bytes], tmp_path: Path
) -> None:
    pack, empty = PACKERS[suffix], make_tar(tmp_path / "x", {}).read_bytes()
    for zeros in (empty, empty[:512], empty * 3, bytes((1 << 20) - 512)):
        for data in (pack(zeros + tars[0]), pack(zeros) + pack(tars[0])):
            path = written(tmp_path / f"all{suffix}", data)
            assert is_container(path)
            assert outcomes(path) == SCORED


def test_zeros_alone_are_no_tar_and_are_not_read_to_their_end(tmp_path: Path) -> None:
    path = written(tmp_path / "all.tar", bytes(10240))
    assert not is_container(path)
    os.truncate(path, 1 << 42)
    assert not is_container(path)


def test_padding_of_zeros_is_nothing(
    suffix: str, tars: tuple[bytes, bytes], tmp_path: Path
) -> None:
    pack = PACKERS[suffix]
    for data in (pack(tars[0] + bytes(100_000)), pack(tars[0]) + bytes(4096), pack(tars[0])):
        assert outcomes(written(tmp_path / f"all{suffix}", data)) == SCORED


def test_a_hole_behind_the_end_is_not_read(
    suffix: str, tars: tuple[bytes, bytes], tmp_path: Path
) -> None:
    pack = PACKERS[suffix]
    path = written(tmp_path / f"all{suffix}", pack(tars[0]))
    os.truncate(path, 1 << 42)
    assert outcomes(path) == SCORED
    with open(path, "r+b") as file:
        file.seek(1 << 41)
        file.write(pack(tars[1]))
    assert outcomes(path) == ALL


def test_other_bytes_behind_the_end_have_a_row(
    suffix: str, tars: tuple[bytes, bytes], tmp_path: Path
) -> None:
    pack = PACKERS[suffix]
    rests = [b"trailing garbage", b"\x1f", b"x" * 100_000, bytes(5000) + b"x"]
    for rest in rests:
        path = written(tmp_path / f"all{suffix}", pack(tars[0]) + rest)
        assert outcomes(path) == SCORED | {b"": "corrupt"}
        _, failure = listed(path)
        assert failure is not None
        assert "follow" in failure.detail
        path = written(tmp_path / f"all{suffix}", pack(tars[0] + rest))
        assert outcomes(path) == SCORED | {b"": "corrupt"}


def test_damage_in_a_later_stream_costs_no_earlier_member(
    suffix: str, tars: tuple[bytes, bytes], tmp_path: Path
) -> None:
    one, other = map(PACKERS[suffix], tars)
    found = outcomes(written(tmp_path / f"all{suffix}", one + other[: len(other) // 2]))
    assert found.pop(b"") == "truncated"
    assert found.items() >= SCORED.items()
    assert set(found.values()) <= {"scored", "not_an_image", "truncated"}


def test_tars_of_two_kinds_that_follow_each_other_are_told(
    tars: tuple[bytes, bytes], tmp_path: Path
) -> None:
    for one, other in (
        (bytes, gzip.compress),
        (gzip.compress, bytes),
        (gzip.compress, bz2.compress),
    ):
        path = written(tmp_path / "all.tar", one(tars[0]) + other(tars[1]))
        assert outcomes(path) == SCORED | {b"": "corrupt"}


def linked_tar(path: Path, entries: list[tuple[str, bytes | str]], mode: Mode = "w") -> bytes:
    """A tar of files, by their content, and hard links, by the name of their target."""
    with tarfile.open(path, mode) as archive:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.LNKTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return os.fsencode(path)


LONG = "n" * 150
LINKED: list[tuple[str, bytes | str]] = [
    *(("film", PNG), ("twin", "film"), ("film", DICOM), ("late", "film"), ("chain", "late")),
    *((LONG, PNG), ("long", LONG)),
]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_hard_link_is_the_file_that_came_before(mode: str, tmp_path: Path) -> None:
    path = linked_tar(tmp_path / "a.tar", LINKED, mode)
    members = list(list_members(path))
    assert {m.kind for m in members} == {"file"}
    assert sorted(m.name for m in members) == sorted(name.encode() for name, _ in LINKED)
    formats = {b"twin": "png", b"late": "dicom", b"chain": "dicom", b"long": "png"}
    with tarfile.open(os.fsdecode(path)) as archive:
        for member in [m for m in members if m.name in formats]:
            assert (member.size == len(PNG)) == (formats[member.name] == "png")
            (plain,) = iterate_radiographs_bytes(PNG if formats[member.name] == "png" else DICOM)
            assert_equal(read(path, member), plain)
        long = archive.extractfile("long")
        assert long is not None
        assert long.read() == PNG


def test_a_hard_link_to_no_earlier_file_stays_a_link(tmp_path: Path) -> None:
    path = linked_tar(tmp_path / "a.tar", [("a", "../film"), ("b", "film"), ("film", PNG)])
    assert [m.kind for m in list_members(path)] == ["link", "link", "file"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("./film", "film"),
        ("film", "./film"),
        ("/film", "film"),
        ("film", "/film"),
        ("a/film", "./a//film"),
    ],
)
def test_a_hard_link_may_spell_its_file_otherwise(
    name: str, target: str, mode: str, tmp_path: Path
) -> None:
    path = linked_tar(tmp_path / "a.tar", [(name, PNG), ("twin", target)], mode)
    assert outcomes(path) == {name.encode(): "scored", b"twin": "scored"}


def test_a_hard_link_in_a_tar_that_changed_is_not_followed(tmp_path: Path) -> None:
    path = linked_tar(tmp_path / "a.tar", LINKED)
    twin = next(m for m in list_members(path) if m.name == b"twin")
    make_tar(tmp_path / "a.tar", {"mlif": PNG})
    assert read(path, twin).outcome is Outcome.UNREADABLE_FILE


def test_hard_links_have_a_failure_where_there_is_no_room_for_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar, "_MOST_INDEX_BYTES", 0)
    path = linked_tar(tmp_path / "a.tar", [("other", PNG), ("film", PNG), ("twin", "film")])
    assert outcomes(path)[b"twin"] == "unreadable_file"


def test_hard_links_cost_a_compressed_tar_no_second_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = [os.urandom(1 << 17) + bytes([n]) for n in range(10)]
    files = [(f"{n}", data) for n, data in enumerate(noise)]
    links = [(f"link{n}", f"{n % 10}") for n in range(30)]
    path = linked_tar(tmp_path / "a.tgz", [*files, *links], "w:gz")
    members = list(list_members(path))
    starts = count_starts(monkeypatch)
    for member in members:
        with open_member(path, member.name, member.offset) as opened:
            content = opened.stream.read()
            opened.verify()
        assert content == noise[int(member.name.removeprefix(b"link")) % 10]
    assert len(members) == 40
    assert len(starts) == 1


@pytest.mark.parametrize("form", ["v7", "oldgnu", "pax"])
def test_a_label_and_incremental_folders_are_passed_over(form: str, tmp_path: Path) -> None:
    if not shutil.which("tar"):
        pytest.skip("tar is not installed")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "film").write_bytes(PNG)
    extra = [] if form == "v7" else ["-V", "label", "-g", "snapshot"]
    subprocess.run(
        ["tar", f"--format={form}", *extra, "-cf", "a.tar", "folder"], cwd=tmp_path, check=True
    )
    path = os.fsencode(tmp_path / "a.tar")
    assert is_container(path)
    assert outcomes(path) == {b"folder/film": "scored"}


def test_the_end_of_a_divided_member_says_so(tmp_path: Path) -> None:
    if not shutil.which("tar"):
        pytest.skip("tar is not installed")
    (tmp_path / "film").write_bytes(DICOM + os.urandom(30_000))
    (tmp_path / "whole").write_bytes(PNG)
    command = ["tar", "-cM", "-L", "20", "-f", "1.tar", "-f", "2.tar", "film", "whole"]
    subprocess.run(command, cwd=tmp_path, check=True, stdin=subprocess.DEVNULL)
    assert outcomes(os.fsencode(tmp_path / "1.tar")) == {b"film": "truncated", b"": "truncated"}
    assert outcomes(os.fsencode(tmp_path / "2.tar")) == {
        b"film": "unreadable_file",
        b"whole": "scored",
    }


def test_a_pax_header_for_all_and_base_256_sizes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "all.tar"
    with tarfile.open(path, "w", pax_headers={"comment": "x" * 2000}) as archive:
        entry = tarfile.TarInfo("film")
        entry.size = len(PNG)
        archive.addfile(entry, io.BytesIO(PNG))
    data = bytearray(path.read_bytes())
    at = data.index(b"film\0")
    data[at + 124 : at + 136] = b"\x80" + len(PNG).to_bytes(11, "big")
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    path.write_bytes(data)
    with tarfile.open(path) as archive:
        assert archive.getmember("film").size == len(PNG)
    assert outcomes(os.fsencode(path)) == {b"film": "scored"}


def test_a_compressed_tar_of_noise_in_its_first_block_is_listed(tmp_path: Path) -> None:
    """The first block of bzip2 gives nothing before 900 kB of it are there."""
    path = tmp_path / "all.tar.bz2"
    with tarfile.open(path, "w:bz2") as archive:
        for name in ("noise", "film"):
            content = os.urandom(1_000_000) if name == "noise" else PNG
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    assert outcomes(os.fsencode(path)) == {b"noise": "not_an_image", b"film": "scored"}

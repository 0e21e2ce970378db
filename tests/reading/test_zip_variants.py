"""Zips as other programs write them: read as unzip and Python's zipfile read them."""

import io
import os
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from archivers import DICOM, PNG, by_python, by_unzip, contents, listed, make_zip, outcomes, read

from cxrbatch.reading.containers import zip as zipped
from cxrbatch.reading.containers import zip_directory
from cxrbatch.reading.containers.listing import is_container, members_named, open_member
from cxrbatch.reading.outcomes import Outcome

FILES = {"a/film.dcm": DICOM, "a/film.png": PNG, "note": b"a note" * 99}
FRONTS = {
    "split marker": b"PK\7\10",
    "marker of one volume": b"PK00",
    "self-extractor": b"MZ" + bytes(range(256)) * 4,
    "zeros": bytes(512),
    "many zeros": bytes(70_000),
    "script": b"#!/bin/sh\nexec unzip $0 # PK\3\4 PK\5\6 PK\1\2\n",
    "image": PNG,
    "cut zip": b"PK\3\4" + bytes(100),
}


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("are_offsets_of_file", [False, True])
def test_what_lies_in_front_of_a_zip_is_passed_over(
    front: str, are_offsets_of_file: bool, tmp_path: Path
) -> None:
    path = tmp_path / "all.zip"
    path.write_bytes(FRONTS[front])
    if are_offsets_of_file:
        with zipfile.ZipFile(path, "a") as archive:
            for name, content in FILES.items():
                archive.writestr(name, content)
    else:
        packed = make_zip(tmp_path / "twin.zip", FILES).read_bytes()
        path.write_bytes(FRONTS[front] + packed)
    assert contents(path) == by_python(path) == FILES
    assert by_unzip(path) == sorted(FILES)
    path.write_bytes(path.read_bytes() + bytes(1000))
    assert contents(path) == by_python(path) == FILES


@pytest.mark.parametrize("comment", [b"", b"a comment"])
@pytest.mark.parametrize("front", ["self-extractor", "zeros"])
def test_other_bytes_behind_a_zip_have_a_row(comment: bytes, front: str, tmp_path: Path) -> None:
    path = make_zip(tmp_path / "all.zip", FILES)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = comment
    whole = FRONTS[front] + path.read_bytes()
    scored = {b"a/film.dcm": "scored", b"a/film.png": "scored", b"note": "not_an_image"}
    for rest in (b"\n and more behind it", bytes(5000) + b"x", DICOM[:60_000], b"PK\3\4" * 9):
        path.write_bytes(whole + rest)
        assert outcomes(os.fsencode(path)) == scored | {b"": "corrupt"}
        _, failure = listed(os.fsencode(path))
        assert failure is not None
        assert "follow" in failure.detail
        assert by_python(path) == FILES
    path.write_bytes(whole + bytes(5000))
    assert outcomes(os.fsencode(path)) == scored


def test_the_members_offsets_may_count_the_front_where_that_of_the_directory_does_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "all.zip"
    whole = make_zip(path, FILES).read_bytes()
    (start,) = struct.unpack_from("<L", whole, len(whole) - 6)
    shifted = bytearray(whole)
    at = start
    while (at := whole.find(b"PK\1\2", at)) >= 0:
        (local,) = struct.unpack_from("<L", whole, at + 42)
        struct.pack_into("<L", shifted, at + 42, local + 100)
        at += 4
    path.write_bytes(bytes(100) + shifted)
    assert contents(path) == FILES


def test_a_cut_zip_with_something_in_front_is_a_failure(tmp_path: Path) -> None:
    whole = make_zip(tmp_path / "all.zip", FILES).read_bytes()
    for front in (b"PK00", b"PK\7\10", bytes(512)):
        (tmp_path / "all.zip").write_bytes(front + whole[:-200])
        assert is_container(os.fsencode(tmp_path / "all.zip"))
        assert outcomes(os.fsencode(tmp_path / "all.zip")) == {b"": "truncated"}
    damaged = whole.replace(b"PK\1\2", b"PK\1\3")
    (tmp_path / "all.zip").write_bytes(b"MZ" + damaged)
    assert is_container(os.fsencode(tmp_path / "all.zip"))
    assert outcomes(os.fsencode(tmp_path / "all.zip")) == {b"": "corrupt"}


def test_of_two_zips_in_a_row_the_last_is_read_and_the_other_is_a_failure(tmp_path: Path) -> None:
    one = make_zip(tmp_path / "one.zip", FILES).read_bytes()
    other = make_zip(tmp_path / "other.zip", {"film": PNG}).read_bytes()
    path = tmp_path / "both.zip"
    path.write_bytes(one + other)
    assert list(by_python(path)) == ["film"]
    assert outcomes(os.fsencode(path)) == {b"film": "scored", b"": "corrupt"}
    path.write_bytes(one + b"PK\5\6" + bytes(18))
    assert outcomes(os.fsencode(path)) == {b"": "corrupt"}
    path.write_bytes(bytes(512) + b"PK\5\6" + bytes(18))
    assert outcomes(os.fsencode(path)) == {}


def test_one_volume_of_a_split_zip_is_a_failure(tmp_path: Path) -> None:
    if not shutil.which("zip"):
        pytest.skip("zip is not installed")
    (tmp_path / "noise").write_bytes(os.urandom(200_000))
    subprocess.run(["zip", "-qs", "64k", "all.zip", "noise"], cwd=tmp_path, check=True)
    assert is_container(os.fsencode(tmp_path / "all.zip"))
    members, failure = listed(os.fsencode(tmp_path / "all.zip"))
    assert not members
    assert failure is not None
    assert "zip -s 0" in failure.detail


def comments() -> dict[str, bytes]:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("inner", PNG)
    whole = inner.getvalue()
    return {
        "signature": b"files and PK\5\6 and more of them follow here",
        "signature at the end": b"PK\5\6",
        "signatures": b"PK\5\6" * 10_000,
        "zip": whole,
        "damaged zip": whole.replace(b"PK\1\2", b"PK\1\3"),
        "cut zip": whole[100:],
        "empty zip": b"PK\5\6" + bytes(18),
        "end record": whole[-22:],
        "end record that leads out": b"PK\5\6" + bytes(8) + b"\xff" * 8 + bytes(2),
        "zip and more": whole + b"PK\5\6",
        "one part of several": b"PK\5\6\1\0\1\0" + bytes(14),
    }


@pytest.mark.parametrize("comment", comments())
def test_a_comment_is_a_comment(comment: str, tmp_path: Path) -> None:
    for front in (b"", bytes(600), b"MZ a stub"):
        path = make_zip(tmp_path / "all.zip", FILES)
        path.write_bytes(front + path.read_bytes())
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = comments()[comment]
        assert contents(path) == FILES


def test_the_comment_of_a_member_may_look_like_a_zip64_locator(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("film")
        entry.comment = b"PK\6\7" + bytes(12) + b"\1" + bytes(3)
        archive.writestr(entry, PNG)
    assert contents(path) == by_python(path) == {"film": PNG}


def test_a_stored_zip_is_a_member_whatever_its_comment_claims(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"x": PNG}).read_bytes()
    for claim in range(150, 210):
        stored = inner[:-2] + struct.pack("<H", claim)
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            archive.writestr("inner.zip", stored)
            archive.writestr("film", b"film")
        members, failure = listed(os.fsencode(tmp_path / "all.zip"))
        assert failure is None
        assert [member.name for member in members] == [b"inner.zip", b"film"]


@pytest.mark.parametrize("front", [b"", b"PK00"])
def test_offsets_and_sizes_beyond_4_gib_may_be_cut_to_32_bits(front: bytes, tmp_path: Path) -> None:
    """As the Archive Utility of macOS writes them."""
    films = [(b"first", 0), (b"film", 1 << 32), (b"last", (3 << 32) + 77)]
    path = tmp_path / "all.zip"
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(DICOM) + packer.flush()
    directory = b""
    with path.open("wb") as file:
        file.write(front)

        def put(name: bytes, place: int, content: bytes, method: int, size: int) -> None:
            nonlocal directory
            flags = 8 if method else 0
            fields = struct.pack("<5HL", 20, flags, method, 0, 0, zlib.crc32(DICOM))
            claims = struct.pack("<2L", *(n & 0xFFFFFFFF for n in (size, size)))
            if method:
                claims = struct.pack("<2L", len(content), len(DICOM))
            file.seek(len(front) + place)
            lengths = struct.pack("<2H", len(name), 0)
            local = fields[:-4] + bytes(12) if method else fields + claims
            file.write(b"PK\3\4" + local + lengths + name + content)
            if not method:
                file.seek(len(front) + place + 30 + len(name) + size)
            file.write(b"PK\7\10" + fields[-4:] + claims)
            where = struct.pack("<3H2L", 0, 0, 0, 0, place & 0xFFFFFFFF)
            directory += b"PK\1\2\x1e\3" + fields + claims + lengths + where + name

        for name, place in films:
            put(name, place, packed, 8, len(DICOM))
        put(b"giant", (3 << 32) + (1 << 20), DICOM, 0, (1 << 32) + 99)
        start = file.tell()
        file.write(directory)
        claims = struct.pack("<2L", len(directory), (start - len(front)) & 0xFFFFFFFF)
        file.write(b"PK\5\6" + struct.pack("<4H", 0, 0, 4, 4) + claims + bytes(2))
    assert outcomes(os.fsencode(path)) == {
        **dict.fromkeys((b"first", b"film", b"last"), "scored"),
        b"giant": "too_large",
    }


def many(folder: Path) -> tuple[Path, list[tuple[bytes, int]]]:
    path = folder / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(300):
            entry = zipfile.ZipInfo(f"{number % 50}/{'n' * (number * 37 % 900)}")
            entry.comment = b"PK\1\2" * (number % 7 * 300)
            entry.extra = b"\x99\x99" + struct.pack("<H", number) + bytes(number)
            archive.writestr(entry, b"x" * number)
    with zipfile.ZipFile(path) as archive:
        return path, [(e.filename.encode(), e.file_size) for e in archive.infolist()]


@pytest.mark.parametrize("block", [1300, 5000, 1 << 20])
def test_the_directory_is_read_in_blocks(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, expected = many(tmp_path)
    monkeypatch.setattr(zip_directory, "_BLOCK", block)
    members, failure = listed(os.fsencode(path))
    assert failure is None
    assert [(member.name, member.size) for member in members] == expected
    for name, _ in expected[::60]:
        found = list(members_named(os.fsencode(path), name))
        assert found == [member for member in members if member.name == name]
    assert not list(members_named(os.fsencode(path), b"absent"))


def counting(calls: list[object], function: Callable[..., object]) -> Callable[..., object]:
    def counted(*arguments: object) -> object:
        calls.append(arguments)
        return function(*arguments)

    return counted


def test_the_directory_is_found_once_for_members_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.fsencode(make_zip(tmp_path / "all.zip", {f"{i}": PNG for i in range(40)}))
    members, _ = listed(path)
    calls: list[object] = []
    monkeypatch.setattr(zipped, "find_directory", counting(calls, zipped.find_directory))
    assert all(read(path, member).outcome is Outcome.SCORED for member in members)
    assert len(calls) == 1


def test_two_zips_may_be_read_by_turns_and_a_child_process_has_its_own(tmp_path: Path) -> None:
    paths = [os.fsencode(make_zip(tmp_path / f"{i}.zip", {"film": DICOM})) for i in (1, 2)]
    members = [listed(path)[0][0] for path in paths]
    with open_member(paths[0], b"film", members[0].offset) as one:
        with open_member(paths[1], b"film", members[1].offset) as other:
            assert one.stream.read(200) == other.stream.read(200) == DICOM[:200]
        child = os.fork()
        if child == 0:
            os._exit(read(paths[1], members[1]).outcome is not Outcome.SCORED)
        assert one.stream.read() == DICOM[200:]
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    one.verify()


@pytest.mark.parametrize(("method", "name"), [(9, "deflate64"), (93, "Zstandard"), (7, "method 7")])
def test_a_compression_that_is_not_read_is_named(method: int, name: str, tmp_path: Path) -> None:
    path = make_zip(tmp_path / "all.zip", {"film": PNG})
    data = bytearray(path.read_bytes())
    for at in (8, data.index(b"PK\1\2") + 10):
        data[at] = method
    path.write_bytes(data)
    (member,) = listed(os.fsencode(path))[0]
    reading = read(os.fsencode(path), member)
    assert reading.outcome is Outcome.UNREADABLE_FILE
    assert name in reading.detail
    assert "deflate" in reading.detail

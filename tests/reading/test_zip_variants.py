"""Zips as other programs write them: read as unzip and Python's zipfile read them."""

import io
import os
import shutil
import struct
import subprocess
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from archivers import DICOM, PNG, listed, make_zip, outcomes, read

from cxrbatch.reading import zip_entries, zipped
from cxrbatch.reading.containers import is_container, members_named, open_member
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


def contents(path: Path) -> dict[str, bytes]:
    """Content of each file as reading gives it, checked against its checksum."""
    assert is_container(os.fsencode(path))
    members, failure = listed(os.fsencode(path))
    assert failure is None
    found = {}
    for member in members:
        if member.kind == "file":
            with open_member(os.fsencode(path), member.name, member.offset) as opened:
                opened.verify()
                opened.stream.seek(0)
                found[member.name.decode()] = opened.stream.read(member.size)
    return found


def by_python(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def by_unzip(path: Path) -> list[str]:
    """Names of the files that unzip unpacks, whatever it warns of."""
    if not shutil.which("unzip"):
        pytest.skip("unzip is not installed")
    target = path.parent / f"{path.name}.unpacked"
    command = ["unzip", "-qq", str(path), "-d", str(target)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return sorted(str(f.relative_to(target)) for f in target.rglob("*") if f.is_file())


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


def write_as(path: Path, host: int, names: dict[str, bytes], *, attributes: int = 0x20) -> Path:
    """A zip that claims to be made on a host system; names end as they are given."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in names.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = host, attributes
            archive.writestr(entry, content)
    return path


@pytest.mark.parametrize("host", [0, 10, 11, 14])
def test_backslashes_of_windows_divide_folders(host: int, tmp_path: Path) -> None:
    names = {"Normal\\": b"", "Normal\\a b\\1.dcm": DICOM, "Müll\\2": PNG, "top/Müll\\3": PNG}
    path = write_as(tmp_path / "all.zip", host, names)
    expected = {name.replace("\\", "/"): content for name, content in names.items() if content}
    assert contents(path) == expected
    folder = listed(os.fsencode(path))[0][0]
    assert (folder.name, folder.kind) == (b"Normal/", "folder")
    if host == 0:
        ascii_names = {"Normal\\": b"", "Normal\\a b\\1.dcm": DICOM}
        path = write_as(tmp_path / "ascii.zip", host, ascii_names)
        assert by_unzip(path) == list(contents(path)) == ["Normal/a b/1.dcm"]


@pytest.mark.parametrize("host", [3, 19])
def test_backslashes_of_unix_are_letters(host: int, tmp_path: Path) -> None:
    names = {"a\\b": PNG, "a/b": DICOM, "c\\": b""}
    path = write_as(tmp_path / "all.zip", host, names, attributes=0o100644 << 16)
    assert contents(path) == by_python(path) == names
    assert by_unzip(path) == sorted(names)


def test_a_backslash_may_be_half_a_character(tmp_path: Path) -> None:
    """The second byte of some characters in Shift JIS, as Windows in Japan writes names."""
    name = "表/表.dcm".encode("cp932")
    path = write_as(tmp_path / "all.zip", 0, {"a" * len(name): DICOM})
    path.write_bytes(path.read_bytes().replace(b"a" * len(name), name))
    (member,) = listed(os.fsencode(path))[0]
    assert member.name == name
    assert read(os.fsencode(path), member).outcome is Outcome.SCORED


def test_folders_are_told_by_slash_attribute_or_mode_and_have_no_content(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    kinds = {
        "slash/": (0, 0x20, b"", "folder"),
        "attribute": (0, 0x10, b"", "folder"),
        "unix": (3, 0x10, b"", "folder"),
        "mode": (3, 0o40755 << 16, b"", "folder"),
        "darwin": (19, 0o40755 << 16, b"", "folder"),
        "link": (19, 0o120755 << 16, b"film", "link"),
        "empty": (0, 0x20, b"", "file"),
        "device": (3, 0o20600 << 16, b"", "special"),
        "pipe": (3, 0o10600 << 16, PNG, "file"),
        "full": (3, 0o40755 << 16, PNG, "file"),
        "full too": (0, 0x10, PNG, "file"),
        "of content/": (0, 0x10, PNG, "file"),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, (host, attributes, content, _) in kinds.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = host, attributes
            archive.writestr(entry, content)
    members, failure = listed(os.fsencode(path))
    assert failure is None
    assert {m.name.decode(): m.kind for m in members} == {n: kinds[n][3] for n in kinds}


def with_local_name(path: Path, central: bytes, local: bytes) -> Path:
    """A zip of one film, which has one name in the directory and another in front of itself."""
    make_zip(path, {"c" * len(central): PNG})
    data = path.read_bytes()
    at = data.rindex(b"c" * len(central))
    size = struct.pack("<H", len(local))
    head = data[:26] + size + data[28:30] + local + data[30 + len(central) : at]
    end = bytearray(data[at + len(central) :])
    struct.pack_into("<L", end, len(end) - 6, len(head) - 46)
    path.write_bytes(head + central + end)
    return path


@pytest.mark.parametrize(
    ("central", "local"),
    [
        (b"a/film.png", b"a\\film.png"),
        (b"a/Film.png", b"A/FILM.PNG"),
        ("Müller".encode(), "Müller".encode("cp437")),
        ("Müller".encode(), "Müller".encode("cp1252")),
        ("Müller".encode(), b"M?ller"),
        ("胸部/1.png".encode(), "胸部/1.png".encode("gbk")),
        ("胸部/1.png".encode(), b"__/1.png"),
        ("Müller".encode(), b"M_ller"),
        ("Müller".encode(), unicodedata.normalize("NFD", "Müller").encode()),
        (unicodedata.normalize("NFD", "Müller").encode(), "Müller".encode("cp437")),
        (b"a/film.png", b"./a/film.png"),
        (b"/a/film.png", b"a/film.png"),
        (b".\\film.png", b"film.png"),
        (b"a/film.png", b""),
    ],
)
def test_two_spellings_of_one_name_are_read(central: bytes, local: bytes, tmp_path: Path) -> None:
    path = with_local_name(tmp_path / "all.zip", central, local)
    (member,) = listed(os.fsencode(path))[0]
    assert member.name == central
    assert read(os.fsencode(path), member).outcome is Outcome.SCORED


@pytest.mark.parametrize(
    "local", [b"other.png", b"b/film.png", b"film.pn", b".film.png", b"../film.png"]
)
def test_two_names_of_one_member_are_a_failure(local: bytes, tmp_path: Path) -> None:
    path = with_local_name(tmp_path / "all.zip", b"film.png", local)
    with pytest.raises(zipfile.BadZipFile, match="differ"):
        by_python(path)
    (member,) = listed(os.fsencode(path))[0]
    reading = read(os.fsencode(path), member)
    assert (reading.outcome, "two names" in reading.detail) == (Outcome.CORRUPT, True)


def test_a_header_without_a_name_must_be_of_the_member(tmp_path: Path) -> None:
    path = with_local_name(tmp_path / "all.zip", b"film.png", b"")
    data = bytearray(path.read_bytes())
    (member,) = listed(os.fsencode(path))[0]
    data[14] ^= 1
    path.write_bytes(data)
    assert read(os.fsencode(path), member).outcome is Outcome.CORRUPT
    data[6] |= 8
    path.write_bytes(data)
    assert read(os.fsencode(path), member).outcome is Outcome.SCORED


def test_a_name_in_utf8_beside_the_other_counts_if_it_is_of_it(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for old, name, checked in (
            ("M_ller/1", "Müller/1", b"M_ller/1"),
            ("renamed", "before", b"other"),
        ):
            entry = zipfile.ZipInfo(old)
            field = struct.pack("<BL", 1, zlib.crc32(checked)) + name.encode()
            entry.extra = struct.pack("<2H", 0x7075, len(field)) + field
            archive.writestr(entry, old.encode())
    assert contents(path) == {"Müller/1": b"M_ller/1", "renamed": b"renamed"}
    assert by_unzip(path) == ["Müller/1", "renamed"]
    (member,) = members_named(os.fsencode(path), "Müller/1".encode())
    assert member.size == 8


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
    monkeypatch.setattr(zip_entries, "_BLOCK", block)
    members, failure = listed(os.fsencode(path))
    assert failure is None
    assert [(member.name, member.size) for member in members] == expected
    for name, _ in expected[::60]:
        found = list(members_named(os.fsencode(path), name))
        assert found == [member for member in members if member.name == name]
    assert not list(members_named(os.fsencode(path), b"absent"))


def test_members_of_a_name_are_found_by_either_slash(tmp_path: Path) -> None:
    names = {"a\\b\\c": b"1", "a/b\\c": b"22", "a.b.c": b"333", "a/b/c": b"4444", "x\\y": b"5"}
    path = os.fsencode(write_as(tmp_path / "all.zip", 0, names))
    assert [member.size for member in members_named(path, b"a/b/c")] == [1, 2, 4]
    assert not list(members_named(path, b"a\\b\\c"))
    path = os.fsencode(write_as(tmp_path / "all.zip", 3, names))
    assert [member.size for member in members_named(path, b"a/b/c")] == [4]
    assert [member.size for member in members_named(path, b"a\\b\\c")] == [1]
    for name in ("n" * 5_000, "n" * 60_000):
        path = os.fsencode(make_zip(tmp_path / "long.zip", {name: PNG, "b": PNG}))
        (member,) = members_named(path, name.encode())
        assert member.name == name.encode()
    assert not list(members_named(path, b"n" * 70_000))


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


def test_names_of_two_code_pages_are_two_members(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "all.zip", {"é": PNG, "zz": DICOM, "yy": DICOM})
    data = path.read_bytes().replace(b"zz", "é".encode("cp437") + b"!").replace(b"yy", b"\xc3\xaa")
    path.write_bytes(data)
    members = listed(os.fsencode(path))[0]
    assert [member.name for member in members] == ["é".encode(), b"\x82!", "ê".encode()]
    assert [read(os.fsencode(path), m).outcome for m in members] == [Outcome.SCORED] * 3

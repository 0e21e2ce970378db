"""Names of a zip's members as other programs write them: code pages, slashes, and two of one."""

import os
import struct
import unicodedata
import zipfile
import zlib
from pathlib import Path

import pytest
from archivers import DICOM, PNG, by_python, by_unzip, contents, listed, make_zip, read

from cxrbatch.reading.containers.listing import members_named
from cxrbatch.reading.outcomes import Outcome


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


def test_a_long_name_is_not_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Canonical order is made by a sort that takes the square of the accents in a row."""
    lengths = []

    def normalize(form: str, text: str) -> str:
        lengths.append(len(text.encode()))
        return text

    monkeypatch.setattr("cxrbatch.reading.containers.zip.unicodedata.normalize", normalize)
    accents = ("a" + "\u0301" * 16_000 + "\u0316" * 16_000).encode()
    path = with_local_name(tmp_path / "all.zip", b"film.png", accents)
    (member,) = listed(os.fsencode(path))[0]
    assert read(os.fsencode(path), member).outcome is Outcome.CORRUPT
    assert lengths == [len("film.png")]


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


def test_names_of_two_code_pages_are_two_members(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "all.zip", {"é": PNG, "zz": DICOM, "yy": DICOM})
    data = path.read_bytes().replace(b"zz", "é".encode("cp437") + b"!").replace(b"yy", b"\xc3\xaa")
    path.write_bytes(data)
    members = listed(os.fsencode(path))[0]
    assert [member.name for member in members] == ["é".encode(), b"\x82!", "ê".encode()]
    assert [read(os.fsencode(path), m).outcome for m in members] == [Outcome.SCORED] * 3

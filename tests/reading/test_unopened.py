"""Containers that are not opened are named, by their content; what only looks like one is not."""

import shutil
import subprocess
from pathlib import Path

import pytest
from archivers import DICOM, PNG, make_stored_zip, read

from cxrbatch.reading.containers.listing import list_members
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.reading.radiograph import Reading, iterate_radiographs_bytes, read_radiographs

RELATED = b'Content-Type: multipart/related; type="application/dicom"; boundary=x\r\n'
PART = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + DICOM + b"\r\n--x--\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
MULTIPART = {
    "part": PART,
    "part behind an empty line": b"\r\n" + PART,
    "long boundary": PART.replace(b"--x", b"------=_Part_" + b"7" * 40),
    "other headers first": PART.replace(b"Content-T", b"Content-Length: 9\r\nContent-T", 1),
    "location first": PART.replace(b"Content-T", b"Location: /studies/1\r\ncontent-t", 1),
    "line feeds": PART.replace(b"\r\n", b"\n", 3),
    "frames": PART.replace(b"application/dicom", b"application/octet-stream"),
    "pictures": PART.replace(b"application/dicom", b"image/jpeg"),
    "headers": b"MIME-Version: 1.0\r\n" + RELATED + b"\r\n" + PART,
    "folded": RELATED.replace(b"; ", b";\r\n\t") + b"\r\n" + PART,
    "response": OK + b"Server: x\r\n" + RELATED + b"\r\n" + PART,
    "long response": OK + b"Cookie: " + b"y" * 2000 + b"\r\n" + RELATED + b"\r\n" + PART,
    "text in front": b"This is a multi-part message.\r\n" + PART,
    "no headers": b"--x\r\n\r\n" + DICOM,
    "a form's file": b'--x\r\nContent-Disposition: form-data;\r\n name="a"\r\n\r\n' + DICOM,
    "byte order mark": b"\xef\xbb\xbf" + PART,
    "byte order mark, no headers": b"\xef\xbb\xbf--x\r\n\r\n" + DICOM,
    "chunks": b"12a\r\n" + PART,
    "date first": b"Date: Mon\r\n" + RELATED + b"\r\n" + PART,
    "pictures, date first": b"Date: Mon\r\n" + RELATED + b"\r\n--x\r\n\r\n" + PNG,
    "response without a type": OK + b"content-type: multipart/related\r\n\r\n" + PART,
}
ONE_FILE = {
    "response": OK + b"Content-Type: application/dicom\r\n\r\n" + DICOM,
    "HTTP/2 response": b"HTTP/2 200\r\ncontent-type: application/dicom\r\n\r\n" + DICOM,
    "headers": b"Content-Type: application/dicom\r\nContent-Length: 9\r\n\r\n" + DICOM,
    "picture": OK + b"Content-Type: image/png\r\n\r\n" + PNG,
}
NOTHING = {
    "error page": OK + b"Content-Type: text/html\r\n\r\n<html>",
    "error": b'HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n\r\n{"x": 1}',
    "headers alone": b'--x\r\nContent-Type: application/dicom+json\r\n\r\n[{"00080018": {}}]',
    "saved web page": b"MIME-Version: 1.0\r\nContent-Type: multipart/related;\r\n\t"
    b'type="text/html"; boundary=x\r\n\r\n--x\r\nContent-Type: image/png\r\n\r\nabc',
    "mail with a picture": b"From: a\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n"
    b"Content-Type: image/png\r\n\r\nabc",
    "text on parts": b"Title: parts\n--x\nContent-Type: application/dicom\n\n...",
    "text on DICOM": b"A text\n--x\n\nDICM follows 128 bytes",
    "front matter": b"---\ntitle: note\ndate: 1\n---\ntext",
    "program of a data base": b"-- dump\n--\nCREATE TABLE x;",
    "zeros": bytes(40_000),
}
SIGNED = {
    "7z": b"7z\xbc\xaf\x27\x1c",
    "rar": b"Rar!\x1a\x07\x00",
    "rar ": b"Rar!\x1a\x07\x01\x00",
    "Zstandard": b"\x28\xb5\x2f\xfd",
    "Zstandard or LZ4": b"\x50\x2a\x4d\x18",
    "LZ4": b"\x04\x22\x4d\x18",
    "compress": b"\x1f\x9d\x90",
    "lzip": b"LZIP\x01",
    "LZMA": b"\x5d\x00\x00\x80\x00" + b"\xff" * 8,
    "cabinet": b"MSCF\0\0\0\0",
    "LHA": b"\x20\x1c-lh5-",
    "disc image": bytes(32768) + b"\x01CD001\x01",
    "disc image ": (bytes(510) + b"\x55\xaa").ljust(32768, b"\0") + b"\x01CD001\x01",
}


def read_one(data: bytes) -> Reading:
    (reading,) = iterate_radiographs_bytes(data)
    return reading


@pytest.mark.parametrize("name", SIGNED)
def test_a_foreign_container_is_named(name: str) -> None:
    reading = read_one(SIGNED[name].ljust(600, b"x"))
    assert reading.outcome is Outcome.UNSUPPORTED_CONTAINER
    assert name.strip() in reading.detail
    assert "unpack it" in reading.detail


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("7z", ["7z", "a", "-bd", "packed", "film"]),
        ("Zstandard", ["zstd", "-q", "film", "-o", "packed"]),
        ("LZ4", ["lz4", "-q", "film", "packed"]),
        ("LZMA", ["sh", "-c", "xz --format=lzma -c film > packed"]),
    ],
)
def test_the_containers_of_other_tools_are_named(
    name: str, command: list[str], tmp_path: Path
) -> None:
    if not shutil.which(command[0]) or (name == "LZMA" and not shutil.which("xz")):
        pytest.skip(f"{command[0]} is not installed")
    (tmp_path / "film").write_bytes(DICOM)
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (packed,) = (path for path in tmp_path.iterdir() if path.name != "film")
    (reading,) = read_radiographs(packed)
    assert reading.outcome is Outcome.UNSUPPORTED_CONTAINER
    assert name in reading.detail


@pytest.mark.parametrize("name", MULTIPART)
def test_a_multipart_response_is_named(name: str) -> None:
    reading = read_one(MULTIPART[name])
    assert reading.outcome is Outcome.UNSUPPORTED_CONTAINER
    assert "multipart response saved as a file" in reading.detail


@pytest.mark.parametrize("name", ONE_FILE)
def test_a_response_of_one_file_is_named(name: str) -> None:
    reading = read_one(ONE_FILE[name])
    assert reading.outcome is Outcome.UNSUPPORTED_CONTAINER
    assert "saved as a file with its headers" in reading.detail


@pytest.mark.parametrize("name", NOTHING)
def test_other_texts_are_no_container(name: str) -> None:
    assert read_one(NOTHING[name]).outcome is Outcome.NOT_AN_IMAGE


def test_a_foreign_container_in_a_zip_is_named(tmp_path: Path) -> None:
    path = bytes(make_stored_zip(tmp_path / "a.zip", {"a.iso": SIGNED["disc image"].ljust(40_000)}))
    (member,) = list_members(path)
    assert read(path, member).outcome is Outcome.UNSUPPORTED_CONTAINER


def test_a_hostile_message_costs_no_time() -> None:
    for data in (
        b"--x\r\n" + b"a:\r\n\t\r\n" * 4000,
        b" " * 20_000 + b"--x",
        b"--a:\n" * 4000,
        b"--a\n" + b"a:\n " * 4000,
        b"--a\n" + b"a:\r\n\t\r\n" * 3000,
        b"Content-A:" + b"\n" * 20_000,
        b"HTTP/1.1 200 \r\ncontent-type: multipart/related;" + b"\r\n type= " * 4000,
    ):
        assert read_one(data).outcome is Outcome.NOT_AN_IMAGE

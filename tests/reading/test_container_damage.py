"""Containers that are cut, damaged, or claim what is not so: nothing wrong is scored."""

import gzip
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from archivers import (
    CT,
    DICOM,
    FILES,
    PNG,
    Maker,
    make_compressed_tar,
    make_stored_zip,
    make_tar,
    make_zip,
    outcomes,
    read,
)

from cxrbatch.reading.containers.listing import list_members
from cxrbatch.reading.outcomes import Outcome


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
    assert (reading.outcome, "bzip2" in reading.detail) == (Outcome.UNREADABLE_FILE, True)
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

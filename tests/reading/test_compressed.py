"""A file compressed alone is read as the file inside, if its checksum vouches for all of it."""

import bz2
import gzip
import io
import lzma
import os
import shutil
import subprocess
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archivers import (
    CT,
    DICOM,
    PNG,
    assert_equal,
    listed,
    make_bzip2_tar,
    make_compressed_tar,
    make_tar,
    make_xz_tar,
    make_zip,
    outcomes,
    read,
)
from makers import make_dicom, ramp

from cxrbatch.reading import radiograph
from cxrbatch.reading.containers.compression import InflatedStream
from cxrbatch.reading.containers.listing import is_container, list_members, open_member
from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import iterate_radiographs_bytes

Pack = Callable[[bytes], bytes]
PACKERS: dict[str, Pack] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
NOISE = np.random.default_rng(0).integers(0, 4096, (250, 300)).astype(np.uint16)
LARGE = make_dicom(NOISE)


@pytest.fixture(params=PACKERS)
def suffix(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def pack(suffix: str) -> Pack:
    return PACKERS[suffix]


def written(path: Path, data: bytes) -> bytes:
    path.write_bytes(data)
    return os.fsencode(path)


@pytest.mark.parametrize(
    "name", ["a.dcm", "1.ima", "film.png", "IM0001", "no.image", "empty", "CT"]
)
def test_it_is_read_as_the_file_inside(name: str, suffix: str, pack: Pack, tmp_path: Path) -> None:
    contents = {
        "film.png": PNG,
        "no.image": b"a note" * 999,
        "empty": b"",
        "CT": CT,
        "1.ima": LARGE,
    }
    content = contents.get(name, DICOM)
    path = written(tmp_path / f"{name}{suffix}", pack(content))
    assert is_container(path)
    (member,) = list_members(path)
    assert member.name == name.encode()
    (plain,) = iterate_radiographs_bytes(content)
    assert_equal(read(path, member), plain)
    assert_equal(read(path, member), plain)  # from the stream that is at hand


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        *(("A.DCM.GZ", "A.DCM"), ("a.tgz", "a.tar"), ("a.TBZ2", "a.tar"), ("a.txz", "a.tar")),
        *((".gz", ".gz"), ("a.b.gz", "a.b"), ("a.tar.gz", "a.tar"), ("a.tar", "a.tar")),
        *(("a.zip", "a.zip"), ("a.xz", "a")),
    ],
)
def test_its_name_is_that_of_the_container_without_the_suffix(
    outer: str, inner: str, tmp_path: Path
) -> None:
    assert outcomes(written(tmp_path / outer, gzip.compress(DICOM))) == {inner.encode(): "scored"}


def test_the_tools_of_the_formats_agree(suffix: str, tmp_path: Path) -> None:
    tool = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}[suffix]
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    (tmp_path / "a.dcm").write_bytes(LARGE)
    subprocess.run([tool, "-9", "a.dcm"], cwd=tmp_path, check=True)
    path = os.fsencode(tmp_path / f"a.dcm{suffix}")
    assert outcomes(path) == {b"a.dcm": "scored"}
    with open(path, "ab") as file:
        file.write(b"rest")
    told = subprocess.run([tool, "-dc", path], capture_output=True)
    assert told.stdout.startswith(LARGE)
    assert told.stderr  # it has seen the rest too


def test_several_streams_are_one_file(suffix: str, pack: Pack, tmp_path: Path) -> None:
    parts = [pack(LARGE[at : at + 30_000]) for at in range(0, len(LARGE), 30_000)]
    path = written(tmp_path / f"a{suffix}", b"".join(parts) + bytes(512))
    (member,) = list_members(path)
    (plain,) = iterate_radiographs_bytes(LARGE)
    assert_equal(read(path, member), plain)
    parts[3] = parts[3][:-20]
    path = written(tmp_path / f"b{suffix}", b"".join(parts))
    assert outcomes(path)[b"b"] in ("corrupt", "truncated")


def test_other_bytes_behind_it_are_told(suffix: str, pack: Pack, tmp_path: Path) -> None:
    path = written(tmp_path / f"a{suffix}", pack(PNG) + b"trailing garbage")
    (member,) = list_members(path)
    reading = read(path, member)
    assert (reading.outcome, Flag.NONCONFORMING in reading.flags) == (Outcome.SCORED, True)
    assert "other bytes follow" in reading.detail


def test_no_part_of_a_cut_or_damaged_file_is_scored(
    suffix: str, pack: Pack, tmp_path: Path
) -> None:
    whole = pack(LARGE)
    for cut in (len(whole) - 1, len(whole) - 6, len(whole) // 2, 30, 11):
        path = written(tmp_path / f"a{suffix}", whole[:cut])
        assert outcomes(path) == {b"a": "truncated"}, cut
    for at in (len(whole) - 5, len(whole) // 2, 40):
        data = bytearray(whole)
        data[at] ^= 0x10
        assert outcomes(written(tmp_path / f"a{suffix}", bytes(data)))[b"a"] in (
            "corrupt",
            "truncated",
        )


def test_more_than_the_limit_is_not_inflated(
    suffix: str, pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(radiograph, "file_limit", lambda _: len(LARGE) // 2)
    monkeypatch.setattr(radiograph, "_STEP", 1 << 12)
    rest = bytearray(pack(LARGE) + pack(LARGE))
    rest[-300:-100] = bytes(200)  # where no stream survives it
    path = written(tmp_path / f"a{suffix}", bytes(rest))
    assert outcomes(path) == {b"a": "too_large"}


def test_a_name_that_promises_compression_promises_nothing(tmp_path: Path) -> None:
    files = {"film": PNG}
    made = {
        "plain.tar.gz": make_tar(tmp_path / "x", files).read_bytes(),
        "zip.gz": make_zip(tmp_path / "x", files).read_bytes(),
        "zip.tar": make_zip(tmp_path / "x", files).read_bytes(),
        "tar.zip": make_tar(tmp_path / "x", files).read_bytes(),
        "gzip.tar": make_compressed_tar(tmp_path / "x", files).read_bytes(),
        "xz.zip": make_xz_tar(tmp_path / "x", files).read_bytes(),
        "bzip2.gz": make_bzip2_tar(tmp_path / "x", files).read_bytes(),
        "gzip.tar.xz": make_compressed_tar(tmp_path / "x", files).read_bytes(),
    }
    for name, data in made.items():
        path = written(tmp_path / name, data)
        assert is_container(path)
        assert outcomes(path) == {b"film": "scored"}
    assert not is_container(written(tmp_path / "a.png.gz", PNG))


def test_what_lies_deeper_is_not_opened(suffix: str, pack: Pack, tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "x", {"film": PNG}).read_bytes()
    for content in (inner, gzip.compress(DICOM)):
        path = written(tmp_path / f"a.zip{suffix}", pack(content))
        (member,) = list_members(path)
        reading = read(path, member)
        assert reading.outcome is Outcome.NOT_AN_IMAGE
        assert "lies in no other" in reading.detail


def test_a_note_is_inflated_no_further_than_its_refusal_needs(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(os.urandom(300_000)))
    data[-1000:-100] = bytes(900)
    assert outcomes(written(tmp_path / "a.gz", bytes(data))) == {b"a": "not_an_image"}


def test_a_file_that_changed_since_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gz", gzip.compress(PNG))
    (member,) = list_members(path)
    make_compressed_tar(tmp_path / "a.gz", {"film": PNG})
    assert read(path, member).outcome is Outcome.UNREADABLE_FILE
    (film,) = list_members(path)
    written(tmp_path / "a.gz", gzip.compress(PNG))
    assert read(path, film).outcome is Outcome.UNREADABLE_FILE


def test_a_deflated_end_that_fills_the_buffer_is_no_early_end(tmp_path: Path) -> None:
    """A decompressor may have taken all input and still owe what a limit of length held back."""
    path = tmp_path / "a.zip"
    for size in (*range(4000, 4300), 1 << 20):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("zeros", bytes(size))
        (member,) = list_members(os.fsencode(path))
        with open_member(os.fsencode(path), member.name, member.offset) as opened:
            while opened.stream.read(7 if size < 1 << 20 else 4096):
                pass
            opened.verify()


def test_a_deflated_data_set_of_any_length_is_read_whole() -> None:
    """Lengths just over a step: the decompressor has taken all input and still owes the rest."""
    for size in range(1 << 18, (1 << 18) + 400):
        deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed = deflater.compress(bytes(size)) + deflater.flush()
        stream = InflatedStream(io.BytesIO(packed), limit=1 << 20)
        assert len(stream.read(1 << 20)) == size
        stream.finish()


def test_each_thread_reads_its_own_way(tmp_path: Path) -> None:
    path = os.fsencode(make_bzip2_tar(tmp_path / "a.tbz2", {f"{n}": PNG for n in range(20)}))
    members, failure = listed(path)
    assert failure is None
    found: list[Outcome] = []

    def all_read() -> None:
        found.extend(read(path, member).outcome for member in members)

    threads = [threading.Thread(target=all_read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Outcome.SCORED] * 60


def test_a_radiograph_of_every_size_is_read(suffix: str, pack: Pack, tmp_path: Path) -> None:
    for rows in (1, 7, 300):
        film = make_dicom(np.tile(ramp(), (rows, 1)))
        path = written(tmp_path / f"a.dcm{suffix}", pack(film))
        (member,) = list_members(path)
        (plain,) = iterate_radiographs_bytes(film)
        assert_equal(read(path, member), plain)

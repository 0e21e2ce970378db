"""Zip and tar files by Python's own archivers, and what reading gives of them."""

import io
import os
import shutil
import subprocess
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from makers import make_dicom, make_image_file, ramp

from cxrbatch.reading.containers import Member
from cxrbatch.reading.containers.compression import DecompressedFile
from cxrbatch.reading.containers.listing import is_container, list_members, open_member
from cxrbatch.reading.outcomes import ReadingError
from cxrbatch.reading.radiograph import Reading, iterate_member

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
    path: Path,
    files: dict[str, bytes],
    *,
    mode: Literal["w", "w:gz", "w:bz2", "w:xz"] = "w",
    form: int = tarfile.PAX_FORMAT,
) -> Path:
    with tarfile.open(path, mode, format=form) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def make_gnu_tar(path: Path, files: dict[str, bytes]) -> Path:
    return make_tar(path, files, form=tarfile.GNU_FORMAT)


def make_compressed_tar(path: Path, files: dict[str, bytes]) -> Path:
    return make_tar(path, files, mode="w:gz")


def make_bzip2_tar(path: Path, files: dict[str, bytes]) -> Path:
    return make_tar(path, files, mode="w:bz2")


def make_xz_tar(path: Path, files: dict[str, bytes]) -> Path:
    return make_tar(path, files, mode="w:xz")


def to_v7(header: bytes) -> bytes:
    """A ustar header without what Unix V7 did not have: magic, owner's name, device and prefix."""
    bare = bytearray(header[:257].ljust(512, b"\0"))
    bare[156] = bare[156] if bare[156] in b"12" else 0
    bare[148:156] = b" " * 8
    bare[148:156] = b"%06o\0 " % sum(bare)
    return bytes(bare)


def make_v7_tar(path: Path, files: dict[str, bytes]) -> Path:
    data = make_tar(path, files, form=tarfile.USTAR_FORMAT).read_bytes()
    with tarfile.open(path) as archive:
        places = [entry.offset for entry in archive]
    for at in places:
        data = data[:at] + to_v7(data[at : at + 512]) + data[at + 512 :]
    path.write_bytes(data)
    return path


MAKERS: dict[str, tuple[str, Maker]] = {
    "stored zip": (".zip", make_stored_zip),
    "deflated zip": (".ZIP", make_zip),
    "pax tar": (".tar", make_tar),
    "GNU tar": (".tar", make_gnu_tar),
    "tar.gz": (".tar.gz", make_compressed_tar),
    "tar.bz2": (".TBZ2", make_bzip2_tar),
    "tar.xz": (".tar.xz", make_xz_tar),
}


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
    (reading,) = iterate_member(path, member.name, member.offset)
    return reading


def outcomes(path: bytes) -> dict[bytes, str]:
    """Outcome of each member, and under b"" that of the container where it is damaged."""
    members, failure = listed(path)
    found = {m.name: (m.fault or read(path, m)).outcome.value for m in members if m.kind == "file"}
    return found | ({b"": failure.outcome.value} if failure else {})


def count_starts(monkeypatch: pytest.MonkeyPatch) -> list[DecompressedFile]:
    """A list that gets an item whenever a compressed file is decompressed from its start."""
    starts: list[DecompressedFile] = []
    start = DecompressedFile._start

    def counted(file: DecompressedFile) -> None:
        starts.append(file)
        start(file)

    monkeypatch.setattr(DecompressedFile, "_start", counted)
    return starts


def assert_equal(one: Reading, other: Reading) -> None:
    assert (one.outcome, one.detail, one.format) == (other.outcome, other.detail, other.format)
    assert (one.facts, one.flags, one.frame) == (other.facts, other.flags, other.frame)
    assert (one.display is None) == (other.display is None)
    if one.display is not None and other.display is not None:
        np.testing.assert_array_equal(one.display, other.display)


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

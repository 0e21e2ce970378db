"""Makers of single elements, whatever is wrong with them, and the plain twin to compare with."""

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from makers import EXPLICIT, make_dicom, ramp
from PIL import Image

from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import Reading, iterate_radiographs_bytes

WINDOW = {0x00281050: ("DS", 2048), 0x00281051: ("DS", 4096)}
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


def read(data: bytes) -> Reading:
    (reading,) = iterate_radiographs_bytes(data)
    return reading


def plain(transfer_syntax: str = EXPLICIT) -> bytes:
    return make_dicom(ramp(), transfer_syntax=transfer_syntax, elements=WINDOW)


def assert_plain(data: bytes, *, remark: str | None) -> None:
    """Shown as its plain twin is; flagged with a reason, or not flagged."""
    reading = read(data)
    assert (reading.outcome, remark or "") == (Outcome.SCORED, reading.detail[: len(remark or "")])
    assert (Flag.NONCONFORMING in reading.flags) == (remark is not None)
    np.testing.assert_array_equal(reading.display, read(plain()).display)


def tag(number: int, order: str = "<") -> bytes:
    return struct.pack(order + "HH", number >> 16, number & 0xFFFF)


def implicit(number: int, value: bytes, order: str = "<", length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    return tag(number, order) + struct.pack(order + "I", size) + value


def short(number: int, vr: bytes, value: bytes, order: str = "<") -> bytes:
    return tag(number, order) + vr + struct.pack(order + "H", len(value)) + value


def long(
    number: int, vr: bytes, value: bytes, order: str = "<", length: int | None = None
) -> bytes:
    size = len(value) if length is None else length
    return tag(number, order) + vr + b"\0\0" + struct.pack(order + "I", size) + value


def item(content: bytes, order: str = "<", *, is_defined: bool = False) -> bytes:
    if is_defined:
        return implicit(ITEM, content, order)
    return implicit(ITEM, content, order, UNDEFINED) + implicit(ITEM_END, b"", order)


def with_elements(data: bytes, elements: bytes, *, order: str = "<") -> bytes:
    """The same, and other elements in front of Samples per Pixel."""
    at = data.index(tag(0x00280002, order))
    return data[:at] + elements + data[at:]


def dcmtk(data: bytes, folder: Path) -> np.ndarray | None:
    """What dcm2pnm shows; None if it refuses."""
    if shutil.which("dcm2pnm") is None:
        pytest.skip("not installed: dcm2pnm")
    source, target = folder / "a.dcm", folder / "a.pgm"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    command = ["dcm2pnm", "-q", "-O", "+Wi", "1", source, target]
    subprocess.run(command, check=False, capture_output=True, timeout=60)
    return np.asarray(Image.open(target), np.float64) if target.exists() else None


def assert_as_dcmtk(data: bytes, folder: Path) -> None:
    reading, shown = read(data), dcmtk(data, folder)
    assert shown is not None
    np.testing.assert_allclose(np.asarray(reading.display) * 255, shown, atol=1)


def meta_of(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Up to the group length, the rest of the file meta, and the data set."""
    end = 144 + int.from_bytes(data[140:144], "little")
    return data[:144], data[144:end], data[end:]

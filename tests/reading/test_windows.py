"""Windows that are valid in part: the first valid pair counts, as numbers are read by DCMTK."""

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from dcmtk_renderer import missing_tools
from makers import make_dicom, ramp
from PIL import Image

from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import Reading, iterate_radiographs_bytes

CENTER, WIDTH, FUNCTION = 0x00281050, 0x00281051, 0x00281056


def windowed(center: bytes, width: bytes, function: bytes = b"") -> bytes:
    """A file whose window has any bytes as its decimal strings."""
    elements = {CENTER: center, WIDTH: width, FUNCTION: function}
    even = {tag: value + b" " * (len(value) % 2) for tag, value in elements.items() if value}
    data = make_dicom(ramp(), elements={tag: ("OB", value) for tag, value in even.items()})
    for tag, value in even.items():
        name = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        vr = b"CS" if tag == FUNCTION else b"DS"
        long, short = struct.pack("<I", len(value)), struct.pack("<H", len(value))
        data = data.replace(name + b"OB\0\0" + long, name + vr + short)
    return data


def read(data: bytes) -> Reading:
    (reading,) = iterate_radiographs_bytes(data)
    assert reading.outcome is Outcome.SCORED, reading.detail
    return reading


@pytest.mark.skipif(bool(missing_tools()), reason=f"not installed: {', '.join(missing_tools())}")
@pytest.mark.parametrize(
    ("center", "width", "number", "flags"),
    [
        (b"1500,5", b"1000,5", 1, {Flag.NONCONFORMING}),
        (b"1500,800", b"1000,400", 1, {Flag.NONCONFORMING}),
        (b"1500;800", b"1000;400", 1, {Flag.NONCONFORMING}),
        (b"1500 HU", b"1000", 1, {Flag.NONCONFORMING}),
        (b"1500\0\0", b"1000\0\0", 1, set()),
        (b" 1500 ", b"1.0E3", 1, set()),
        (b"1500\\800", b"1000", 1, {Flag.VOI_IGNORED}),
        (b"1500", b"1000\\400", 1, {Flag.VOI_IGNORED}),
        (b"1500\\", b"1000\\", 1, {Flag.VOI_IGNORED}),
        (b"1500\\abc", b"1000\\5", 1, {Flag.VOI_IGNORED}),
        (b"\\1500", b"\\1000", 2, {Flag.VOI_IGNORED}),
        (b"\\1500", b"400\\1000", 2, {Flag.VOI_IGNORED}),
        (b"300\\1500", b"\\1000", 2, {Flag.VOI_IGNORED}),
        (b"abc\\1500", b"400\\1000", 2, {Flag.VOI_IGNORED}),
        (b"300\\1500", b"0\\1000", 2, {Flag.VOI_IGNORED}),
        (b"300\\1500", b"-5\\1000", 2, {Flag.VOI_IGNORED}),
    ],
)
def test_the_first_valid_window_counts(
    center: bytes, width: bytes, number: int, flags: set[Flag], tmp_path: Path
) -> None:
    data = windowed(center, width)
    source, target = tmp_path / "a.dcm", tmp_path / "a.pnm"
    source.write_bytes(data)
    command = ["dcm2pnm", "-q", "-O", "+Wi", str(number), str(source), str(target)]
    subprocess.run(command, check=True, timeout=60)
    with Image.open(target) as image:
        expected = np.asarray(image, np.float64)
    reading = read(data)
    assert np.abs(reading.display * 255 - expected).max() <= 1
    assert reading.facts.voi_source == "window_linear"
    assert set(reading.flags) == flags


@pytest.mark.parametrize(
    ("center", "width"),
    [
        (b"abc", b"400"),
        (b"nan", b"inf"),
        (b"9" * 400 + b",5", b"9"),
        (b",5", b"9"),
        (b"  ", b"1000"),
        (b"1_500", b"1_000"),
    ],
)
def test_without_any_valid_window_the_policy_is_named(center: bytes, width: bytes) -> None:
    reading = read(windowed(center, width))
    assert reading.facts.voi_source == "none_robust"
    assert {Flag.NO_VOI, Flag.VOI_IGNORED} <= set(reading.flags)


def test_small_windows_with_a_decimal_comma() -> None:
    rescale = {0x00281052: ("DS", "0"), 0x00281053: ("DS", "0.001")}
    exact = make_dicom(ramp(), elements={CENTER: ("DS", "1.5"), WIDTH: ("DS", "1.8"), **rescale})
    point, comma = b"1.5 \x28\0\x51\x10DS\x04\x001.8 ", b"1,5 \x28\0\x51\x10DS\x04\x001,8 "
    assert point in exact
    reading = read(exact.replace(point, comma))
    np.testing.assert_array_equal(reading.display, read(exact).display)
    assert Flag.NONCONFORMING in reading.flags


def test_an_unknown_function_is_linear_and_flagged() -> None:
    reading = read(windowed(b"1500", b"1000", b"Sigmoid "))
    assert reading.facts.voi_source == "window_linear"
    assert Flag.VOI_IGNORED in reading.flags

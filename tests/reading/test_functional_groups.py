"""Windows of multi-frame objects, which lie in functional groups (PS3.3 C.7.6.16)."""

import errno
import io
import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import odd_elements as odd
import pytest
from dcmtk_renderer import missing_tools
from makers import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    dataset_of,
    make_dicom,
    make_lut,
    ramp,
    write_dicom,
)
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxrbatch.reading.dicom.reader import read_dicom
from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import Reading, ReadingOptions, iterate_radiographs_bytes

CENTER, WIDTH, FUNCTION = 0x00281050, 0x00281051, 0x00281056
SHARED, PER_FRAME = 0x52009229, 0x52009230
FRAME_VOI, PIXEL_VALUES = 0x00289132, 0x00289145


def item(elements: dict) -> Dataset:
    dataset = Dataset()
    for tag, (vr, value) in elements.items():
        dataset.add_new(tag, vr, value)
    return dataset


def group(
    *,
    window: tuple[object, object] | None = None,
    function: str | None = None,
    rescale: object = None,
) -> Dataset:
    """An item of a functional groups sequence, with a nested group that holds no window."""
    anatomy = item({0x00082218: ("SQ", [item({0x00080100: ("SH", "51185008")})])})
    content = {0x00209071: ("SQ", [anatomy])}
    if window is not None:
        voi = {CENTER: ("DS", window[0]), WIDTH: ("DS", window[1])}
        voi |= {FUNCTION: ("CS", function)} if function else {}
        content[FRAME_VOI] = ("SQ", [item(voi)])
    if rescale is not None:
        slope = {0x00281052: ("DS", rescale[1]), 0x00281053: ("DS", rescale[0])}
        content[PIXEL_VALUES] = ("SQ", [item(slope)])
    return item(content)


def endless(items: list[Dataset]) -> Sequence:
    """A sequence whose items, and theirs, end by delimiters."""
    sequence = Sequence(items)
    sequence.is_undefined_length = True
    for one in items:
        one.is_undefined_length_sequence_item = True
        for element in one:
            if element.VR == "SQ":
                element.value = endless(list(element.value))
                element.is_undefined_length = True
    return sequence


def enhanced(
    shared: Dataset | None,
    frames: list[Dataset],
    *,
    syntax: str = EXPLICIT,
    delimited: bool = False,
) -> bytes:
    cells = np.stack([ramp(), ramp()[::-1]])
    cells = cells.astype(">u2") if syntax == BIG_ENDIAN else cells
    dataset = dataset_of(cells)
    for tag, items in ((SHARED, [shared] if shared else []), (PER_FRAME, frames)):
        if items:
            dataset.add_new(tag, "SQ", endless(items) if delimited else items)
            dataset[tag].is_undefined_length = delimited
    return write_dicom(dataset, transfer_syntax=syntax)


def windowed(center: float, width: float, *, slope: float = 1, intercept: float = 0) -> Dataset:
    """What the header itself would have to say for the same display."""
    return {
        CENTER: ("DS", center),
        WIDTH: ("DS", width),
        0x00281052: ("DS", intercept),
        0x00281053: ("DS", slope),
    }


def displays(data: bytes) -> list[Reading]:
    readings = list(iterate_radiographs_bytes(data))
    assert all(reading.outcome is Outcome.SCORED for reading in readings), readings[0].detail
    return readings


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("delimited", [False, True])
def test_frames_are_shown_in_windows_of_their_own(syntax: str, delimited: bool) -> None:
    groups = [group(window=(1500, 1000)), group(window=(700, 900), function="SIGMOID")]
    readings = displays(enhanced(None, groups, syntax=syntax, delimited=delimited))
    assert [r.facts.voi_source for r in readings] == [
        "window_linear_per_frame",
        "window_sigmoid_per_frame",
    ]
    assert all(Flag.NO_VOI not in reading.flags for reading in readings)
    first = displays(make_dicom(ramp(), elements=windowed(1500, 1000)))[0]
    elements = windowed(700, 900) | {FUNCTION: ("CS", "SIGMOID")}
    second = displays(make_dicom(ramp()[::-1].copy(), elements=elements))[0]
    np.testing.assert_array_equal(readings[0].display, first.display)
    np.testing.assert_array_equal(readings[1].display, second.display)


def test_shared_groups_hold_for_frames_without_their_own() -> None:
    shared = group(window=(1500, 1000), rescale=(2, -300))
    readings = displays(enhanced(shared, [group(), group(window=(700, 900))]))
    assert readings[0].facts.voi_source == "window_linear_shared"
    assert readings[1].facts.voi_source == "window_linear_per_frame"
    elements = windowed(1500, 1000, slope=2, intercept=-300)
    plain = displays(make_dicom(ramp(), elements=elements))[0]
    np.testing.assert_array_equal(readings[0].display, plain.display)
    elements = windowed(700, 900, slope=2, intercept=-300)
    plain = displays(make_dicom(ramp()[::-1].copy(), elements=elements))[0]
    np.testing.assert_array_equal(readings[1].display, plain.display)


def test_a_voi_lut_may_lie_in_a_group() -> None:
    lut = make_lut([x // 16 for x in range(4096)], first=0, bits=8)
    voi = item({0x00283010: ("SQ", [lut])})
    (first, _) = displays(enhanced(item({FRAME_VOI: ("SQ", [voi])}), []))
    assert first.facts.voi_source == "voi_lut_shared"
    (plain,) = displays(make_dicom(ramp(), elements={0x00283010: ("SQ", [lut])}))
    np.testing.assert_array_equal(first.display, plain.display)


def test_the_header_comes_before_the_groups() -> None:
    dataset = dataset_of(ramp(), elements=windowed(1500, 1000))
    dataset.add_new(PER_FRAME, "SQ", [group(window=(100, 50), rescale=(3, 5))])
    (reading,) = displays(write_dicom(dataset))
    assert reading.facts.voi_source == "window_linear"
    (plain,) = displays(make_dicom(ramp(), elements=windowed(1500, 1000)))
    np.testing.assert_array_equal(reading.display, plain.display)


@pytest.mark.parametrize("syntax", [EXPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("delimited", [False, True])
@pytest.mark.parametrize("is_defined", [False, True])
def test_a_macro_in_un_is_in_little_endian(syntax: str, delimited: bool, is_defined: bool) -> None:
    """In implicit VR little endian in all files (PS3.5 section 6.2.2)."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    window = odd.implicit(CENTER, b"1500") + odd.implicit(WIDTH, b"1000")
    macro = odd.item(window, is_defined=is_defined)
    if is_defined:
        macro = odd.long(FRAME_VOI, b"UN", macro, order)
    else:
        macro += odd.implicit(odd.SEQUENCE_END, b"")
        macro = odd.long(FRAME_VOI, b"UN", macro, order, odd.UNDEFINED)
    groups = odd.item(macro, order, is_defined=not delimited)
    groups += odd.implicit(odd.SEQUENCE_END, b"", order) if delimited else b""
    length = odd.UNDEFINED if delimited else None
    data = make_dicom(ramp(), transfer_syntax=syntax)
    at = data.index(odd.tag(0x7FE00010, order))
    element = odd.long(SHARED, b"SQ", groups, order, length)
    (reading,) = displays(data[:at] + element + data[at:])
    (twin,) = displays(make_dicom(ramp(), elements=windowed(1500, 1000)))
    assert (reading.facts.voi_source, reading.detail) == ("window_linear_shared", "")
    np.testing.assert_array_equal(reading.display, twin.display)


def test_an_invalid_window_in_a_group_is_flagged() -> None:
    (first, second) = displays(enhanced(None, [group(window=(100, 0)), group(window=(100, 50))]))
    assert {Flag.NO_VOI, Flag.VOI_IGNORED} <= set(first.flags)
    assert Flag.VOI_IGNORED not in second.flags


class BadDisk(io.BytesIO):
    """A file with one sector that cannot be read once `at` is set to an offset in it."""

    at = -1

    def read(self, count: int | None = -1) -> bytes:
        start, data = self.tell(), super().read(count)
        if start <= self.at < start + len(data):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return data


@pytest.mark.parametrize("bad", [1, 2])
def test_a_group_that_the_disk_loses_costs_its_own_frame(bad: int) -> None:
    dataset = dataset_of(np.stack([ramp()] * 4))
    windows = [(1500, 1000), (71717, 900), (81818, 901), (901, 950)]
    dataset.add_new(PER_FRAME, "SQ", [group(window=window) for window in windows])
    data = write_dicom(dataset)
    stream = BadDisk(data)
    readings = read_dicom(stream, size=len(data), options=ReadingOptions())
    first = next(readings)
    stream.at = data.index(str(windows[bad][0]).encode())
    rest = list(readings)
    assert [reading.frame for reading in (first, *rest)] == [0, 1, 2, 3]
    lost = rest.pop(bad - 1)
    assert (lost.outcome, lost.image) == (Outcome.UNREADABLE_FILE, None)
    assert lost.facts.modality == first.facts.modality == "DX"
    assert {reading.outcome for reading in (first, *rest)} == {Outcome.SCORED}


@pytest.mark.parametrize("delimited", [False, True])
def test_thousands_of_frames(delimited: bool) -> None:
    pairs = 600
    dataset = dataset_of(np.full((2 * pairs, 2, 2), 100, np.uint8), bits_stored=8)
    groups = [group(window=(center, 101), rescale=(1, 0)) for center in (100, 120)]
    dataset.add_new(PER_FRAME, "SQ", endless(groups) if delimited else groups)
    dataset[PER_FRAME].is_undefined_length = delimited
    data = write_dicom(dataset)
    # The two items repeated, which pydicom would take seconds to write.
    start = data.index(b"\x00\x52\x30\x92SQ\0\0") + 12
    end = data.index(
        b"\xfe\xff\xdd\xe0\0\0\0\0\xe0\x7f" if delimited else b"\xe0\x7f\x10\0OB", start
    )
    length = b"\xff" * 4 if delimited else struct.pack("<I", (end - start) * pairs)
    data = data[: start - 4] + length + data[start:end] * pairs + data[end:]
    readings = displays(data)
    greys = [float(reading.display[0, 0]) for reading in readings]
    np.testing.assert_allclose(greys, [0.505, 0.305] * pairs, atol=1e-6)


@pytest.mark.parametrize("junk", [b"\x01\x02" * 20, b"\xfe\xff\x00\xe0\xff\xff\xff\xff" * 9])
def test_groups_that_are_none_are_flagged(junk: bytes) -> None:
    data = make_dicom(ramp(), elements={PER_FRAME: ("OB", junk)})
    (reading,) = displays(data.replace(b"\x00\x52\x30\x92OB", b"\x00\x52\x30\x92SQ"))
    assert {Flag.NONCONFORMING, Flag.NO_VOI} <= set(reading.flags)
    assert "functional groups" in reading.detail


def rendered(data: bytes, folder: Path, *options: str) -> np.ndarray:
    source, target = folder / "a.dcm", folder / "a.pnm"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    command = ["dcm2pnm", "-q", "-O", *options, str(source), str(target)]
    subprocess.run(command, check=True, timeout=60)
    with Image.open(target) as image:
        return np.asarray(image, np.float64)


needs_dcmtk = pytest.mark.skipif(
    bool(missing_tools()), reason=f"not installed: {', '.join(missing_tools())}"
)


@needs_dcmtk
def test_dcmtk_given_the_windows_shows_the_same(tmp_path: Path) -> None:
    data = enhanced(None, [group(window=(1500, 1000)), group(window=(700, 900))])
    for number, (center, width) in enumerate([(1500, 1000), (700, 900)]):
        options = ("+F", str(number + 1), "+Ww", str(center), str(width))
        expected = rendered(data, tmp_path, *options)
        display = displays(data)[number].display
        assert np.abs(display * 255 - expected).max() <= 1


@needs_dcmtk
@pytest.mark.parametrize("number", ["1.1", "12.1", "12.2", "12.3", "12.1.1", "12.2.1"])
@pytest.mark.parametrize("kind", ["lut", "rescale"])
def test_the_modality_lut_of_angiography_is_left_out(
    number: str, kind: str, tmp_path: Path
) -> None:
    elements = {
        0x00080016: ("UI", f"1.2.840.10008.5.1.4.1.1.{number}"),
        CENTER: ("DS", 1500),
        WIDTH: ("DS", 1000),
    }
    if kind == "lut":
        lut = make_lut([x * x // 4095 for x in range(4096)], first=0, bits=12)
        elements[0x00283000] = ("SQ", [lut])
    else:
        elements |= {0x00281052: ("DS", -300), 0x00281053: ("DS", 2)}
    data = make_dicom(ramp(), modality="XA", elements=elements)
    expected = rendered(data, tmp_path, "+Wi", "1")
    (reading,) = iterate_radiographs_bytes(data, ReadingOptions(modalities=frozenset({"XA"})))
    assert np.abs(reading.display * 255 - expected).max() <= 1

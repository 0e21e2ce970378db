"""Encapsulated pixel data of odd structure: delimiters, offset tables, bytes behind the image."""

import shutil
import struct
import subprocess
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from makers import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    JPEG_BASELINE,
    RLE,
    dataset_of,
    make_dicom,
    make_encapsulated,
    make_image_file,
    ramp,
    rle_frame,
)
from PIL import Image

from cxrbatch.reading.codecs.codestreams import codestream_end
from cxrbatch.reading.outcomes import Flag, Outcome, ReadingError
from cxrbatch.reading.radiograph import Reading, iterate_radiographs_bytes

WINDOW = {0x00281050: ("DS", 2048), 0x00281051: ("DS", 4096)}
JPEG = "1.2.840.10008.1.2.4."
LOSSLESS, JPEG_LS, J2K = JPEG + "70", JPEG + "80", JPEG + "90"
CODECS = (JPEG_BASELINE, LOSSLESS, JPEG_LS, J2K)
FRAMES = (ramp(), np.where(ramp() < 500, 0, ramp()).astype(np.uint16))
DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
BEHIND = "bytes lie behind the end of the compressed image"
NO_DELIMITER = "the fragments of the pixel data have no delimiter"


def encode(transfer_syntax: str, cells: np.ndarray) -> bytes:
    if transfer_syntax == JPEG_BASELINE:
        return make_image_file((cells >> 4).astype(np.uint8), "JPEG", quality=90)
    if transfer_syntax == LOSSLESS:
        options = {"lossless": True, "predictor": 1, "bitspersample": 12}
        return bytes(imagecodecs.jpeg8_encode(cells, **options))
    if transfer_syntax == JPEG_LS:
        return bytes(imagecodecs.jpegls_encode(cells))
    if transfer_syntax == RLE:
        return rle_frame(cells)
    return bytes(imagecodecs.jpeg2k_encode(cells, level=0, codecformat="j2k", bitspersample=12))


def item(data: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(data)) + data


def file_of(
    transfer_syntax: str,
    fragments: list[bytes],
    *,
    frames: int = 1,
    table: bytes = b"",
    end: bytes = DELIMITER,
) -> bytes:
    """A DICOM file around fragments as they are, each padded to an even length."""
    is_baseline = transfer_syntax == JPEG_BASELINE
    cells = np.stack([ramp()] * frames) if frames > 1 else ramp()
    cells = (cells >> 4).astype(np.uint8) if is_baseline else cells
    dataset = dataset_of(
        cells, bits_stored=8 if is_baseline else 12, elements=None if is_baseline else WINDOW
    )
    data = make_encapsulated(dataset, [b"\0\0"], transfer_syntax=transfer_syntax)
    head = data[: data.index(b"\xe0\x7f\x10\0OB") + 12]
    items = [item(part + b"\0" * (len(part) % 2)) for part in fragments]
    return head + item(table) + b"".join(items) + end


def read(data: bytes) -> list[Reading]:
    return list(iterate_radiographs_bytes(data))


def assert_shown(data: bytes, twin: bytes, *, remark: str) -> None:
    """Scored, all frames as those of a conforming twin, with a remark and its flag or without."""
    found, expected = read(data), read(twin)
    assert [reading.outcome for reading in found] == [Outcome.SCORED] * len(expected)
    for reading, other in zip(found, expected, strict=True):
        assert other.detail == ""
        assert remark in reading.detail
        assert bool(reading.detail) == (Flag.NONCONFORMING in reading.flags) == bool(remark)
        np.testing.assert_array_equal(reading.display, other.display)


def assert_truncated(data: bytes) -> None:
    assert {(reading.outcome, reading.display) for reading in read(data)} == {
        (Outcome.TRUNCATED, None)
    }


def halves(frame: bytes) -> list[bytes]:
    middle = len(frame) // 4 * 2
    return [frame[:middle], frame[middle:]]


ENDS = {
    "nothing": b"",
    "a part of it": DELIMITER[:5],
    "of an item": b"\xfe\xff\x0d\xe0\0\0\0\0",
    "padding": b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0\0\0\0\0",
    "zeros": bytes(30),
}


@pytest.mark.parametrize("transfer_syntax", CODECS)
def test_whole_frames_without_a_delimiter(transfer_syntax: str) -> None:
    first, second = (encode(transfer_syntax, cells) for cells in FRAMES)
    for fragments, frames in (
        ([first], 1),
        (halves(first), 1),
        ([first, second], 2),
        (halves(first) + halves(second), 2),
    ):
        twin = file_of(transfer_syntax, fragments, frames=frames)
        for end in ENDS.values():
            data = file_of(transfer_syntax, fragments, frames=frames, end=end)
            assert_shown(data, twin, remark=NO_DELIMITER)


@pytest.mark.parametrize("transfer_syntax", CODECS)
def test_what_is_cut_is_not_whole_without_a_delimiter(transfer_syntax: str) -> None:
    frame = encode(transfer_syntax, ramp())
    one = file_of(transfer_syntax, [frame], end=b"")
    for cut in (1, 2, 3, 10, len(frame) // 2):
        assert_truncated(one[:-cut])
    assert_truncated(file_of(transfer_syntax, halves(frame)[:1], end=b""))
    assert_truncated(file_of(transfer_syntax, [frame], frames=2, end=b""))
    assert_truncated(file_of(transfer_syntax, [frame, *halves(frame)[:1]], frames=2, end=b""))
    # One frame more than there should be: who knows what else there was.
    assert_truncated(file_of(transfer_syntax, [frame, frame], end=b""))


def test_rle_needs_its_delimiter() -> None:
    """It has no end marker, so that a cut between two fragments leaves no trace."""
    assert read(file_of(RLE, [rle_frame(ramp())]))[0].outcome is Outcome.SCORED
    assert_truncated(file_of(RLE, [rle_frame(ramp())], end=b""))


JUNK = [b" ", b"\0\0", bytes(100), b"stray bytes" * 9, bytes(1 << 20), b"\0\0\xff\xd9"]


@pytest.mark.parametrize("transfer_syntax", CODECS)
def test_bytes_behind_the_image(transfer_syntax: str) -> None:
    frame = encode(transfer_syntax, ramp())
    frame += b"\0" * (len(frame) % 2)
    twin = file_of(transfer_syntax, [frame])
    for junk in [*JUNK, frame, b"\xff\xd8\xff\xe0\0\4ab" + bytes(50)]:
        assert_shown(file_of(transfer_syntax, [frame + junk]), twin, remark=BEHIND)
        assert_shown(file_of(transfer_syntax, [frame, junk]), twin, remark=BEHIND)
        assert_shown(file_of(transfer_syntax, [*halves(frame), junk]), twin, remark=BEHIND)
    plain = frame.removesuffix(b"\0")
    for padding in (b"", b"\0" * (len(plain) % 2), b"\xff" * 8):
        assert_shown(file_of(transfer_syntax, [plain + padding]), twin, remark="")
    assert_shown(file_of(transfer_syntax, [frame, b""]), twin, remark="")


@pytest.mark.parametrize("transfer_syntax", CODECS)
def test_frames_with_bytes_behind_them(transfer_syntax: str) -> None:
    first, second = (encode(transfer_syntax, cells) for cells in FRAMES)
    first, second = (frame + b"\0" * (len(frame) % 2) for frame in (first, second))
    twin = file_of(transfer_syntax, [first, second], frames=2)
    for junk in JUNK:
        for fragments in (
            [first + junk, second + junk],
            [first, junk, second, junk],
            [*halves(first), junk, *halves(second), junk],
        ):
            data = file_of(transfer_syntax, fragments, frames=2)
            assert_shown(data, twin, remark=BEHIND)


@pytest.mark.parametrize("transfer_syntax", CODECS)
def test_an_image_without_its_end_marker_is_truncated(transfer_syntax: str) -> None:
    frame = encode(transfer_syntax, ramp())
    for lost in (2, 7, len(frame) // 2):
        for behind in (b"", b"\0", b" ", bytes(100), b"stray bytes" * 9):
            assert_truncated(file_of(transfer_syntax, [frame[:-lost] + behind]))


def commented(transfer_syntax: str, frame: bytes, text: bytes) -> bytes:
    """The frame with a comment in front of what matters."""
    if transfer_syntax == J2K:
        at = frame.index(b"\xff\x52")
        return frame[:at] + b"\xff\x64" + struct.pack(">HH", len(text) + 4, 0) + text + frame[at:]
    return frame[:2] + b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text + frame[2:]


@pytest.mark.parametrize("transfer_syntax", CODECS)
def test_the_end_marker_in_a_comment_is_not_the_end(transfer_syntax: str) -> None:
    plain = encode(transfer_syntax, ramp())
    thumbnail = make_image_file(ramp(8, 8, bits=8).astype(np.uint8), "JPEG")
    frame = commented(transfer_syntax, plain, thumbnail)
    assert codestream_end(frame + b"\0\0\xff\xd9") == len(frame)
    twin = file_of(transfer_syntax, [plain])
    assert_shown(file_of(transfer_syntax, [frame]), twin, remark="")
    assert_shown(file_of(transfer_syntax, [frame + bytes(100)]), twin, remark=BEHIND)
    with pytest.raises(ReadingError):
        codestream_end(frame[:-2] + bytes(100))


def test_jpeg_ls_holds_bytes_of_ones_as_data() -> None:
    noise = np.random.default_rng(1).integers(0, 1 << 16, (64, 64)).astype(np.uint16)
    frame = bytes(imagecodecs.jpegls_encode(noise))
    assert any(frame.count(bytes((0xFF, low))) for low in range(1, 0x80))
    assert codestream_end(frame + bytes(9)) == len(frame)


def test_jpeg_2000_whose_tile_parts_tell_no_length() -> None:
    frame = encode(J2K, ramp())
    at = frame.index(b"\xff\x90") + 6
    frame = frame[:at] + bytes(4) + frame[at + 4 :]
    assert codestream_end(frame + b"\xff\xd9") == len(frame)
    twin = file_of(J2K, [encode(J2K, ramp())])
    assert_shown(file_of(J2K, [frame + bytes(100)]), twin, remark=BEHIND)


TABLES = {
    "too high": struct.pack("<2I", 4, 99),
    "not zero": struct.pack("<2I", 1, 0),
    "all zero": bytes(8),
    "too long": bytes(12),
    "too short": bytes(4),
    "an inner fragment": struct.pack("<2I", 0, 0xFFFF),
}


@pytest.mark.parametrize("transfer_syntax", CODECS)
@pytest.mark.parametrize("table", TABLES)
def test_a_wrong_offset_table_is_not_believed(transfer_syntax: str, table: str) -> None:
    first, second = (encode(transfer_syntax, cells) for cells in FRAMES)
    value = TABLES[table]
    if table == "an inner fragment":
        value = struct.pack("<2I", 0, 8 + len(halves(first)[0]))
    for fragments in ([first, second], halves(first) + halves(second)):
        twin = file_of(transfer_syntax, fragments, frames=2)
        data = file_of(transfer_syntax, fragments, frames=2, table=value)
        assert_shown(data, twin, remark="the offset table does not fit the frames")


def test_a_wrong_table_of_a_single_frame() -> None:
    for transfer_syntax in (*CODECS, RLE):
        frame = encode(transfer_syntax, ramp())
        data = file_of(transfer_syntax, [frame], table=b"\7\0\0\0")
        twin = file_of(transfer_syntax, [frame])
        assert_shown(data, twin, remark="the offset table does not fit the frames")


@pytest.mark.parametrize("transfer_syntax", [*CODECS, RLE])
def test_what_lies_behind_the_fragments(transfer_syntax: str) -> None:
    frame = encode(transfer_syntax, ramp())
    twin = file_of(transfer_syntax, [frame])
    padding = b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0\0\0\0\0"
    assert_shown(twin + padding, twin, remark="")
    assert_shown(twin + b"stray", twin, remark="what lies behind the pixel data was not read")


def packed(cells: np.ndarray) -> bytes:
    """Cells of 12 bits one behind the other, the lowest bit first."""
    bits = np.unpackbits(
        cells.astype("<u2").reshape(-1, 1).view(np.uint8), axis=1, bitorder="little"
    )
    data = np.packbits(bits[:, :12].reshape(-1), bitorder="little").tobytes()
    return data + b"\0" * (len(data) % 2)


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("shape", [(40, 50), (3, 40, 50), (3, 15, 11), (15, 11)])
def test_cells_of_twelve_bits_are_packed(
    transfer_syntax: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    generator = np.random.default_rng(1)
    cells = generator.integers(0, 4096, shape).astype(np.uint16)
    value = packed(cells)
    if transfer_syntax == BIG_ENDIAN:
        value = np.frombuffer(value, "<u2").astype(">u2").tobytes()
    elements = {**WINDOW, 0x00280100: ("US", 12), 0x7FE00010: ("OW", value)}
    data = make_dicom(cells.astype(np.uint16), transfer_syntax=transfer_syntax, elements=elements)
    twin = make_dicom(cells, elements=WINDOW)
    assert_shown(data, twin, remark="bits allocated are 12")
    if shutil.which("dcm2pnm") is None:
        pytest.skip("not installed: dcm2pnm")
    source, target = tmp_path / "a.dcm", tmp_path / "a.pgm"
    source.write_bytes(data)
    last = str(shape[0] if len(shape) > 2 else 1)
    command = ["dcm2pnm", "-q", "-O", "+Wi", "1", "+F", last, source, target]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    shown = np.asarray(Image.open(target), np.float64)
    np.testing.assert_allclose(np.asarray(read(data)[-1].display) * 255, shown, atol=1)


def test_packed_cells_that_end_early_are_truncated() -> None:
    value = packed(ramp())
    elements = {**WINDOW, 0x00280100: ("US", 12), 0x7FE00010: ("OW", value[:-2])}
    assert_truncated(make_dicom(ramp(), elements=elements))


def test_cells_of_sixteen_bits_are_not_taken_for_packed_ones() -> None:
    data = make_dicom(ramp(), elements={**WINDOW, 0x00280100: ("US", 12)})
    assert [reading.outcome for reading in read(data)] == [Outcome.UNSUPPORTED_IMAGE]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("has_window", [False, True])
def test_jpeg_2000_with_more_bits_than_stored(
    signed: bool, has_window: bool, tmp_path: Path
) -> None:
    """The codestream counts, as in GDCM; of the header's bits alone, white would be black."""
    low = -30_000 if signed else 0
    values = np.linspace(low, low + 60_000, 2000).reshape(40, 50)
    values = values.astype(np.int16 if signed else np.uint16)
    frame = bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="j2k"))
    elements = WINDOW if has_window else None
    dataset = dataset_of(values.view(np.uint16), signed=signed, elements=elements)
    data = make_encapsulated(dataset, [frame], transfer_syntax=J2K)
    twin = make_dicom(values.view(np.uint16), bits_stored=16, signed=signed, elements=elements)
    assert_shown(data, twin, remark="the values have 16 bits, more than bits stored")
    if shutil.which("gdcmconv") is None:
        pytest.skip("not installed: gdcmconv")
    (tmp_path / "a.dcm").write_bytes(data)
    command = ["gdcmconv", "--raw", tmp_path / "a.dcm", tmp_path / "raw.dcm"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (reading,) = read((tmp_path / "raw.dcm").read_bytes())
    np.testing.assert_array_equal(reading.display, read(data)[0].display)


def test_jpeg_2000_of_more_bits_whose_values_fit_is_as_the_header_says() -> None:
    frame = bytes(imagecodecs.jpeg2k_encode(ramp(), level=0, codecformat="j2k"))
    data = make_encapsulated(dataset_of(ramp()), [frame], transfer_syntax=J2K)
    assert_shown(data, make_dicom(ramp()), remark="")


def test_jpeg_2000_that_does_not_fit_its_cells_is_corrupt() -> None:
    frame = bytes(imagecodecs.jpeg2k_encode(ramp(), level=0, codecformat="j2k"))
    cells = ramp(bits=8).astype(np.uint8)
    data = make_encapsulated(dataset_of(cells, bits_stored=8), [frame], transfer_syntax=J2K)
    assert [reading.outcome for reading in read(data)] == [Outcome.CORRUPT]

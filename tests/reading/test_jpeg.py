"""JPEG against libjpeg's own program and Pillow: every kind, and scans that end too early."""

import io
import random
import shutil
import struct
import subprocess
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from makers import make_image_file
from PIL import Image, ImageOps

from cxrbatch.reading.codecs.codestreams import list_scans, read_jpeg_header
from cxrbatch.reading.codecs.jpeg_completeness import decode_faultless_jpeg, is_cut_short
from cxrbatch.reading.outcomes import Flag, Outcome, ReadingError
from cxrbatch.reading.radiograph import Reading, ReadingOptions, iterate_radiographs_bytes

RNG = np.random.default_rng(13)
WEIGHTS = np.array([0.299, 0.587, 0.114])
COLOUR = Image.fromarray(RNG.integers(0, 256, (12, 14, 3)).astype(np.uint8)).resize((75, 58))
GREY = COLOUR.convert("L")

KINDS = {
    "grey": (GREY, {}),
    "grey, quality 100": (GREY, {"quality": 100}),
    "grey, progressive": (GREY, {"progressive": True}),
    "grey, restarts": (GREY, {"restart_marker_blocks": 3}),
    "colour": (COLOUR, {}),
    "colour, not subsampled": (COLOUR, {"subsampling": 0}),
    "colour, progressive": (COLOUR, {"progressive": True, "quality": 95}),
    "colour, restarts": (COLOUR, {"progressive": True, "restart_marker_rows": 1}),
    "stored as RGB": (COLOUR, {"keep_rgb": True}),
    "CMYK": (COLOUR.convert("CMYK"), {}),
}


def make(name: str) -> bytes:
    image, options = KINDS[name]
    return make_image_file(image, "JPEG", **options)


def read(data: bytes, options: ReadingOptions | None = None) -> Reading:
    (reading,) = iterate_radiographs_bytes(data, options or ReadingOptions())
    assert reading.format == "jpeg"
    assert (reading.outcome is Outcome.SCORED) == (reading.display is not None)
    return reading


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        values = np.asarray(image.convert("RGB") if image.mode == "CMYK" else image) / 255
    return values if values.ndim == 2 else values @ WEIGHTS


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_equals_pillow(name: str) -> None:
    data = make(name)
    reading = read(data)
    np.testing.assert_allclose(reading.display, by_pillow(data), atol=1e-5)
    assert (Flag.COLOUR in reading.flags) == (not name.startswith("grey"))


def test_ycck_equals_pillow() -> None:
    values = RNG.integers(0, 256, (4, 5, 4)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    data = imagecodecs.jpeg8_encode(values, level=95, colorspace="CMYK", outcolorspace="YCCK")
    np.testing.assert_allclose(read(data).display, by_pillow(data), atol=1e-5)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("turn", [0, *range(1, 9), 9])
def test_it_is_turned_as_its_exif_says(turn: int, order: str) -> None:
    tiff = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    tiff += struct.pack(order + "HHHIHHI", 1, 0x0112, 3, 1, turn, 0, 0)
    data = make_image_file(GREY, "JPEG", exif=b"Exif\0\0" + tiff)
    with Image.open(io.BytesIO(data)) as image:
        twin = np.asarray(ImageOps.exif_transpose(image)) / 255
    np.testing.assert_allclose(read(data).display, twin, atol=1e-6)


@pytest.mark.parametrize(
    "tiff", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"]
)
def test_damaged_exif_is_as_none(tiff: bytes) -> None:
    data = make_image_file(GREY, "JPEG", exif=b"Exif\0\0" + tiff)
    np.testing.assert_array_equal(read(data).display, read(make("grey")).display)


def test_twelve_bits() -> None:
    values = (np.add.outer(np.arange(48), np.arange(64)) * 36).astype(np.uint16)
    reading = read(imagecodecs.jpeg8_encode(values, level=100, bitspersample=12))
    np.testing.assert_allclose(reading.display, values / 4095, atol=2 / 4095)
    assert reading.facts.bits_stored == 12


@pytest.mark.parametrize("process", [0xC3, 0xC5, 0xC9, 0xCA, 0xF7])
def test_other_processes_are_named_unsupported(process: int) -> None:
    data = make("grey").replace(b"\xff\xc0", bytes([0xFF, process]), 1)
    assert read(data).outcome is Outcome.UNSUPPORTED_IMAGE


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 1.0])
def test_a_scan_that_ends_too_early_is_a_truncation(name: str, keep: float) -> None:
    """With its end marker in place, as a program that repairs files would leave it."""
    data = make(name)
    for scan in list_scans(data):
        length = min(int((scan.end - scan.start) * keep), scan.end - scan.start - 2)
        cut = data[: scan.start + length] + data[scan.end :]
        assert read(cut).outcome is Outcome.TRUNCATED
        assert read(data[: scan.start + length]).outcome is Outcome.TRUNCATED


@pytest.mark.parametrize("value", [0, 127, 128, 255])
def test_a_flat_image_is_whole(value: int) -> None:
    """What a decoder makes up is flat and grey, too."""
    for options in ({}, {"progressive": True}):
        data = make_image_file(np.full((50, 60), value, np.uint8), "JPEG", **options)
        np.testing.assert_allclose(read(data).display, value / 255, atol=1e-6)


def damaged(number: int) -> bytes:
    """Bytes of the scans cut, taken out or changed; the end marker stays."""
    generator = random.Random(number)
    data = bytearray(make(generator.choice(sorted(KINDS))))
    start, end = data.index(b"\xff\xda") + 14, len(data) - 2
    at = generator.randrange(start, end)
    kind = generator.choice(("cut", "end", "remove", "flip", "fill", "none"))
    if kind == "cut":
        del data[at:end]
    elif kind == "end":
        del data[end - generator.randrange(1, 9) : end]
    elif kind == "remove":
        del data[at : min(end, at + generator.randrange(1, 60))]
    elif kind == "flip":
        data[at] = generator.randrange(256)
    elif kind == "fill":
        data[at : min(end, at + 9)] = bytes([generator.choice((0, 1, 0x7F))]) * min(9, end - at)
    return bytes(data)


def test_what_libjpeg_calls_premature_is_refused(tmp_path: Path) -> None:
    if shutil.which("djpeg") is None:
        pytest.skip("not installed: djpeg")
    path = tmp_path / "damaged.jpg"
    premature = whole = 0
    for number in range(300):
        data = damaged(number)
        path.write_bytes(data)
        done = subprocess.run(
            ["djpeg", "-outfile", tmp_path / "out.pnm", path], capture_output=True, check=False
        )
        outcome = read(data).outcome
        if b"remature" in done.stderr:
            premature += 1
            assert outcome is Outcome.TRUNCATED, number
        elif done.returncode == 0 and not done.stderr:
            whole += 1
            assert outcome is Outcome.SCORED, number
        elif done.returncode == 1:
            assert outcome in (Outcome.CORRUPT, Outcome.TRUNCATED), number
    assert premature > 50
    assert whole > 50


def by_other_means(frame: bytes) -> np.ndarray | None:
    """Samples that need no more data than there are; None where they do, or there are none."""
    try:
        samples = imagecodecs.jpeg8_decode(frame)
        is_short = is_cut_short(frame, samples, decode=imagecodecs.jpeg8_decode)
    except (imagecodecs.Jpeg8Error, ReadingError, ValueError):
        return None
    return None if is_short else samples


@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith("grey")])
def test_a_jpeg_without_fault_is_whole_and_the_same_by_other_means(name: str) -> None:
    chance, whole = random.Random(8), make(name)
    frames = [whole]
    for _ in range(150):
        cut = whole[: chance.randrange(len(whole) // 2, len(whole))]
        frames += [cut + b"\xff\xd9", cut + b"\x7f\xff\xd9"]
        flipped = bytearray(whole)
        flipped[chance.randrange(2, len(whole))] = chance.randrange(256)
        frames.append(bytes(flipped))
    found = 0
    for frame in frames:
        try:
            header = read_jpeg_header(frame)
        except ReadingError:
            continue
        samples = decode_faultless_jpeg(frame, rows=header.rows, columns=header.columns)
        if samples is not None:
            assert np.array_equal(samples, by_other_means(frame))
            found += 1
    assert 20 < found < 200


def test_bytes_behind_the_end_are_no_part_of_it() -> None:
    data = make("grey")
    np.testing.assert_array_equal(read(data + b"more\xff\xda").display, read(data).display)


def test_thousands_of_scans_are_refused() -> None:
    data = make_image_file(np.zeros((4000, 4000), np.uint8), "JPEG", progressive=True)
    last = list_scans(data)[-1]
    again = data[data.rindex(b"\xff\xda") : last.end]
    assert read(data[: last.end] + again * 5000 + data[last.end :]).outcome is Outcome.TOO_LARGE


def test_a_file_far_larger_than_its_image_is_not_read() -> None:
    data = make("grey") + bytes(20 << 20)
    assert read(data).outcome is Outcome.TOO_LARGE


def test_limits_count_components() -> None:
    pixels = COLOUR.width * COLOUR.height
    options = ReadingOptions(max_pixels=2 * pixels)
    assert read(make("grey"), options).outcome is Outcome.SCORED
    assert read(make("colour"), options).outcome is Outcome.TOO_LARGE

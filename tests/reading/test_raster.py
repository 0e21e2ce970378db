"""PNG and JPEG against the PNG specification and Pillow."""

import io
import struct
import zlib

import numpy as np
import pytest
from makers import make_image_file, make_png, png_chunk
from PIL import Image

from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import Reading, ReadingOptions, iterate_radiographs_bytes

RNG = np.random.default_rng(7)
WEIGHTS = np.array([0.299, 0.587, 0.114])


def read(data: bytes, options: ReadingOptions | None = None) -> Reading:
    (reading,) = iterate_radiographs_bytes(data, options or ReadingOptions())
    return reading


def samples(depth: int, channels: int, rows: int = 19, columns: int = 23) -> np.ndarray:
    shape = (rows, columns) if channels == 1 else (rows, columns, channels)
    return RNG.integers(0, 1 << depth, shape).astype(np.uint16)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("depth", "colour_type"),
    [(d, 0) for d in (1, 2, 4, 8, 16)] + [(d, c) for c in (2, 4, 6) for d in (8, 16)],
)
def test_every_depth_and_colour_type(depth: int, colour_type: int, interlaced: bool) -> None:
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    values = samples(depth, channels)
    scaled = values / ((1 << depth) - 1)
    if colour_type == 4:
        expected = scaled[..., 0] * scaled[..., 1]
    elif colour_type == 6:
        expected = (scaled[..., :3] * scaled[..., 3:]) @ WEIGHTS
    else:
        expected = scaled @ WEIGHTS if channels == 3 else scaled
    reading = read(make_png(values, depth=depth, colour_type=colour_type, interlaced=interlaced))
    assert reading.outcome is Outcome.SCORED
    assert reading.facts.bits_stored == depth
    assert reading.display is not None
    np.testing.assert_allclose(reading.display, expected, atol=1e-5)
    assert (Flag.COLOUR in reading.flags) == (colour_type in (2, 6))


@pytest.mark.parametrize("tiles", [1, 4], ids=["divided", "looked up"])
@pytest.mark.parametrize("bits", [8, 16])
def test_grey_has_its_exact_level_at_any_size(bits: int, tiles: int) -> None:
    """Small images are divided and large ones looked up; neither is clipped or rounded twice."""
    every = np.arange(65536).reshape(256, 256).astype(np.uint8 if bits == 8 else np.uint16)
    values = np.tile(every, (tiles, tiles))
    display = read(make_image_file(values, "PNG")).display
    np.testing.assert_array_equal(display, (values / ((1 << bits) - 1)).astype(np.float32))


def test_grey_stored_as_colour_equals_its_twin() -> None:
    grey = samples(8, 1).astype(np.uint8)
    as_colour = read(make_image_file(np.stack([grey] * 3, axis=-1), "PNG"))
    np.testing.assert_array_equal(as_colour.display, read(make_image_file(grey, "PNG")).display)
    assert as_colour.flags == ()


@pytest.mark.parametrize("keep", [0.3, 0.8, 0.99])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_truncated_files_are_refused(form: str, keep: float) -> None:
    data = make_image_file(samples(8, 1, 200, 200).astype(np.uint8), form)
    reading = read(data[: int(len(data) * keep)])
    assert (reading.outcome, reading.display) == (Outcome.TRUNCATED, None)
    assert reading.format == form.lower()


def test_claims_beyond_the_limit_are_refused_before_decoding() -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"x")
    data = b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")
    assert read(data).outcome is Outcome.TOO_LARGE
    small = make_image_file(samples(8, 1).astype(np.uint8), "JPEG")
    assert read(small, ReadingOptions(max_pixels=100)).outcome is Outcome.TOO_LARGE


def test_an_image_that_its_bytes_cannot_hold_is_refused_before_decoding() -> None:
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    data = b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")
    assert read(data).outcome is Outcome.TRUNCATED


@pytest.mark.parametrize("progressive", [False, True])
def test_grey_jpeg_equals_pillow(progressive: bool) -> None:
    grey = np.asarray(Image.fromarray(samples(8, 1).astype(np.uint8)).resize((120, 90)))
    data = make_image_file(grey, "JPEG", progressive=progressive)
    reading = read(data)
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_allclose(reading.display, np.asarray(image) / 255, atol=1e-6)
    assert reading.flags == (Flag.LOSSY,)

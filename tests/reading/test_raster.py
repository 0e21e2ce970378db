"""PNG and JPEG against the PNG specification and Pillow."""

import io
import struct
import zlib

import numpy as np
import pytest
from makers import make_image_file, make_png, png_chunk
from PIL import Image

from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import Reading, ReadingOptions, read_radiographs_bytes

RNG = np.random.default_rng(7)
WEIGHTS = np.array([0.299, 0.587, 0.114])


def read(data: bytes, options: ReadingOptions | None = None) -> Reading:
    (reading,) = read_radiographs_bytes(data, options or ReadingOptions())
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


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palette_with_transparency_lies_over_black(depth: int) -> None:
    palette = RNG.integers(0, 256, (1 << depth, 3)).astype(np.uint8)
    alpha = RNG.integers(0, 256, 1 << depth).astype(np.uint8)
    index = samples(depth, 1)
    data = make_png(
        index, depth=depth, colour_type=3, palette=palette.tobytes(), transparency=alpha.tobytes()
    )
    expected = ((palette / 255) @ WEIGHTS * (alpha / 255))[index]
    np.testing.assert_allclose(read(data).display, expected, atol=1e-5)


@pytest.mark.parametrize("depth", [2, 4, 8, 16])
def test_transparent_grey_is_black(depth: int) -> None:
    values = samples(depth, 1)
    key = int(values[3, 4])
    data = make_png(values, depth=depth, colour_type=0, transparency=struct.pack(">H", key))
    expected = np.where(values == key, 0, values / ((1 << depth) - 1))
    np.testing.assert_allclose(read(data).display, expected, atol=1e-6)


@pytest.mark.parametrize("depth", [8, 16])
def test_transparent_colour_is_black(depth: int) -> None:
    values = samples(depth, 3)
    values[0, :5] = values[0, 0]
    key = struct.pack(">3H", *values[0, 0].tolist())
    display = read(make_png(values, depth=depth, colour_type=2, transparency=key)).display
    assert display is not None
    assert (display[0, :5] == 0).all()
    assert (display > 0).mean() > 0.9


def test_sixteen_bit_grey_is_not_clipped() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    display = read(make_image_file(values, "PNG")).display
    np.testing.assert_array_equal(display, (values / 65535).astype(np.float32))


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


@pytest.mark.parametrize("name", [b"IHDR", b"IDAT", b"IEND"])
def test_every_png_checksum_counts(name: bytes) -> None:
    data = bytearray(make_png(samples(8, 1), depth=8, colour_type=0))
    at = data.index(name)
    length = int.from_bytes(data[at - 4 : at], "big")
    data[at + 4 + length] ^= 1
    assert read(bytes(data)).outcome is Outcome.CORRUPT


def test_damaged_png_signature_is_corrupt_not_foreign() -> None:
    data = make_png(samples(8, 1), depth=8, colour_type=0).replace(b"\r\n", b"\n")
    reading = read(data)
    assert (reading.format, reading.outcome) == ("png", Outcome.CORRUPT)


@pytest.mark.parametrize(("depth", "colour_type"), [(8, 1), (8, 7), (3, 0), (99, 0), (4, 2)])
def test_impossible_png_headers_are_corrupt(depth: int, colour_type: int) -> None:
    header = struct.pack(">IIBBBBB", 4, 4, depth, colour_type, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(500)))
    data = b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")
    assert read(data).outcome is Outcome.CORRUPT


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


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_colour_jpeg_is_luminance(mode: str) -> None:
    image = Image.fromarray(samples(8, 3).astype(np.uint8)).resize((64, 48)).convert(mode)
    data = make_image_file(image, "JPEG", quality=95)
    reading = read(data)
    with Image.open(io.BytesIO(data)) as decoded:
        expected = np.asarray(decoded.convert("RGB")) / 255 @ WEIGHTS
    np.testing.assert_allclose(reading.display, expected, atol=1e-5)
    assert Flag.COLOUR in reading.flags


def test_jpeg_is_turned_as_its_exif_says() -> None:
    grey = np.zeros((16, 32), np.uint8)
    grey[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    display = read(make_image_file(grey, "JPEG", exif=exif)).display
    assert display is not None
    assert display.shape == (32, 16)
    assert display[:4].min() > 0.9
    assert display[12:].max() < 0.1

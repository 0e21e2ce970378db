"""Colour DICOM to luminance."""

import io

import numpy as np
import pytest
from makers import JPEG_BASELINE, dataset_of, make_dicom, make_encapsulated, make_image_file
from PIL import Image

from cxrbatch.reading.colour import expand_segments
from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import Reading, iterate_radiographs_bytes

RNG = np.random.default_rng(5)
RGB = RNG.integers(0, 256, (12, 14, 3)).astype(np.uint8)
WEIGHTS = np.array([0.299, 0.587, 0.114])


def read(data: bytes) -> Reading:
    (reading,) = iterate_radiographs_bytes(data)
    assert reading.outcome is Outcome.SCORED, reading.detail
    return reading


def test_rgb_by_pixel_and_by_plane() -> None:
    by_pixel = read(make_dicom(RGB, photometric="RGB", bits_stored=8))
    np.testing.assert_allclose(by_pixel.display, RGB / 255 @ WEIGHTS, atol=1e-6)
    assert Flag.COLOUR in by_pixel.flags
    planes = np.ascontiguousarray(np.moveaxis(RGB, -1, 0)).reshape(RGB.shape)
    elements = {0x00280006: ("US", 1)}
    by_plane = read(make_dicom(planes, photometric="RGB", bits_stored=8, elements=elements))
    np.testing.assert_array_equal(by_plane.display, by_pixel.display)


def test_grey_stored_as_rgb_equals_monochrome2() -> None:
    grey = RGB[..., 0]
    reading = read(make_dicom(np.stack([grey] * 3, -1), photometric="RGB", bits_stored=8))
    np.testing.assert_array_equal(reading.display, read(make_dicom(grey, bits_stored=8)).display)
    assert Flag.COLOUR not in reading.flags


def luminance_of_ybr(ybr: np.ndarray) -> np.ndarray:
    """By way of RGB, clipped: the inverse of the matrix in PS3.3 C.7.6.3.1.2."""
    forward = np.array(
        [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    )
    rgb = (ybr.astype(float) - [0, 128, 128]) @ np.linalg.inv(forward).T
    return np.clip(rgb, 0, 255) / 255 @ WEIGHTS


def test_ybr_full() -> None:
    ybr = RNG.integers(0, 256, (12, 14, 3)).astype(np.uint8)
    reading = read(make_dicom(ybr, photometric="YBR_FULL", bits_stored=8))
    np.testing.assert_allclose(reading.display, luminance_of_ybr(ybr), atol=1e-5)


def test_grey_stored_as_ybr_equals_monochrome2() -> None:
    grey = RGB[..., 0]
    ybr = np.stack([grey, np.full_like(grey, 128), np.full_like(grey, 128)], -1)
    reading = read(make_dicom(ybr, photometric="YBR_FULL", bits_stored=8))
    np.testing.assert_array_equal(reading.display, read(make_dicom(grey, bits_stored=8)).display)
    assert Flag.COLOUR not in reading.flags


def test_ybr_full_422_shares_chroma() -> None:
    y = RNG.integers(100, 150, (12, 14)).astype(np.uint8)
    pairs = np.stack([y[:, ::2], y[:, 1::2], np.full((12, 7), 120), np.full((12, 7), 130)], -1)
    elements = {
        0x00280002: ("US", 3),
        0x00280004: ("CS", "YBR_FULL_422"),
        0x00280011: ("US", 14),
        0x7FE00010: ("OB", pairs.astype(np.uint8).tobytes()),
    }
    reading = read(make_dicom(y, bits_stored=8, elements=elements))
    chroma = np.broadcast_to(np.array([120, 130]), (12, 14, 2))
    expected = luminance_of_ybr(np.concatenate([y[..., None], chroma], -1))
    np.testing.assert_allclose(reading.display, expected, atol=1e-5)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2"])
def test_jpeg_equals_pillow(subsampling: str) -> None:
    image = Image.fromarray(RGB).resize((76, 58))
    frame = make_image_file(image, "JPEG", quality=95, subsampling=subsampling)
    dataset = dataset_of(np.asarray(image), photometric="YBR_FULL_422", bits_stored=8)
    reading = read(make_encapsulated(dataset, [frame], transfer_syntax=JPEG_BASELINE))
    with Image.open(io.BytesIO(frame)) as decoded:
        # It rounds colours to whole numbers before they are weighed.
        np.testing.assert_allclose(reading.display, decoded @ WEIGHTS / 255, atol=1.5 / 255)
    assert Flag.COLOUR in reading.flags


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_colour(bits: int) -> None:
    index = RNG.integers(0, 220, (12, 14)).astype(np.uint8)
    tables = RNG.integers(0, 1 << bits, (200, 3))
    elements: dict = {0x00280004: ("CS", "PALETTE COLOR")}
    for channel in range(3):
        entries = tables[:, channel].astype("<u2")
        elements[0x00281101 + channel] = ("US", [200, 10, bits])
        elements[0x00281201 + channel] = ("OW", entries.tobytes())
    reading = read(make_dicom(index, bits_stored=8, elements=elements))
    # Of 16 bits the upper 8 count.
    expected = (tables >> (bits - 8))[np.clip(index.astype(int) - 10, 0, 199)] / 255 @ WEIGHTS
    np.testing.assert_allclose(reading.display, expected, atol=1e-5)
    assert Flag.COLOUR in reading.flags


def test_segmented_palette() -> None:
    codes = [0, 2, 10, 20, 1, 4, 60, 0, 1, 5]
    entries = expand_segments(codes, count=7)
    assert entries is not None
    assert entries.tolist() == [10, 20, 30, 40, 50, 60, 5]
    assert expand_segments(codes, count=8) is None
    assert expand_segments(codes, count=5) is None
    assert expand_segments([1, 3, 9], count=3) is None


@pytest.mark.parametrize("photometric", ["HSV", "CMYK", "YBR_PARTIAL_420", "NONSENSE", ""])
def test_other_colour_spaces_are_unsupported(photometric: str) -> None:
    (reading,) = iterate_radiographs_bytes(make_dicom(RGB, photometric=photometric, bits_stored=8))
    assert reading.outcome is Outcome.UNSUPPORTED_IMAGE

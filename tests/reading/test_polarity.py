"""Photometric doubt: negatives are told from radiographs, said, and left as they are."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from makers import make_dicom, make_image_file
from scipy.stats import rankdata

from cxrbatch.reading import polarity as module
from cxrbatch.reading.display import Display, GreyImage
from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.polarity import SIDE, SUSPECT
from cxrbatch.reading.radiograph import (
    DEFAULT_OPTIONS,
    Reading,
    iterate_radiographs_bytes,
    read_radiographs,
)
from cxrbatch.sample.phantom import (
    CLASSES,
    PhantomRequest,
    draw_forearm,
    draw_frontal,
    draw_lateral,
)
from cxrbatch.sample.projection import Detector

DOUBT = "the pixels look inverted against the header (polarity -0."


def polarity(display: Display) -> float:
    return module.measure_polarity(GreyImage(display))


def thumbnail_ranks(display: Display) -> np.ndarray:
    return module.thumbnail_ranks(GreyImage(display))


@cache
def levels(label: str = "Normal", seed: int = 1) -> np.ndarray:
    """A drawn chest as 8-bit grey levels."""
    drawn = draw_frontal(PhantomRequest(label, seed, "FM"[seed % 2], Detector(256, 230)))
    return np.rint(drawn * 255).astype(np.uint8)


def display_of(cells: np.ndarray) -> Display:
    return (cells / np.float32(255)).astype(np.float32)


def read(data: bytes) -> Reading:
    (reading,) = iterate_radiographs_bytes(data)
    return reading


def dicom(cells: np.ndarray, **options: object) -> bytes:
    return make_dicom(cells, bits_stored=8, **options)


@pytest.mark.parametrize("label", CLASSES)
@pytest.mark.parametrize("seed", range(3))
def test_a_chest_is_no_negative_and_its_negative_is_one(label: str, seed: int) -> None:
    cells = levels(label, seed)
    assert polarity(display_of(cells)) > 0.6
    assert polarity(display_of(255 - cells)) < -0.6


@pytest.mark.parametrize("draw", [draw_lateral, draw_forearm])
def test_other_views_are_not_doubted(draw: Callable[[PhantomRequest], np.ndarray]) -> None:
    drawn = draw(PhantomRequest("Normal", 1, "F", Detector(256, 230)))
    assert polarity(drawn.astype(np.float32)) > SUSPECT


@pytest.mark.parametrize("size", [(16, 16), (16, 300), (131, 57), (1000, 700)])
@pytest.mark.parametrize("seed", range(3))
def test_a_negative_has_exactly_the_opposite_number(size: tuple[int, int], seed: int) -> None:
    cells = np.random.default_rng(seed).integers(0, 256, size, np.uint8) // 16 * 16
    cells[: seed * 4] = 80  # a plain border, and cells that share a rank
    number = polarity(display_of(cells))
    assert number != 0
    assert polarity(display_of(255 - cells)) == -number


def test_the_number_is_a_rank_correlation_of_the_means_of_cells() -> None:
    image = np.random.default_rng(0).random((128, 128), np.float32)
    means = image.astype(np.float64).reshape(16, 8, 16, 8).mean(axis=(1, 3)).ravel()
    expected = np.corrcoef(rankdata(means), module._TEMPLATE)[0, 1]
    assert polarity(image) == pytest.approx(expected, abs=1e-3)
    np.testing.assert_array_equal(thumbnail_ranks(image), 2 * rankdata(means) - 257)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_exposure_hardly_changes_the_number(gamma: float) -> None:
    image = display_of(levels())
    assert polarity(image**gamma) == pytest.approx(polarity(image), abs=0.03)
    assert polarity(np.clip(2 * image - 0.5, 0, 1)) == pytest.approx(polarity(image), abs=0.05)


def test_mirroring_hardly_changes_the_number() -> None:
    image = display_of(levels())
    assert polarity(image[:, ::-1]) == pytest.approx(polarity(image), abs=0.01)


@pytest.mark.parametrize("shade", [0.0, 0.5, 1.0])
def test_a_frame_with_a_letter_in_it_hardly_changes_the_number(shade: float) -> None:
    image = display_of(levels())
    framed = np.pad(image, [(30, 90), (140, 0)], constant_values=shade)
    framed[5:20, 10:25] = 1 - shade
    assert polarity(framed) == pytest.approx(polarity(image), abs=0.03)


def test_a_sample_of_a_large_image_is_enough() -> None:
    image = display_of(levels())
    large = np.kron(image, np.ones((11, 9), np.float32))
    grain = np.random.default_rng(0).normal(0, 0.1, large.shape).astype(np.float32)
    noisy = np.clip(large + grain, 0, 1)
    assert polarity(noisy) == pytest.approx(polarity(image), abs=0.03)


@pytest.mark.parametrize("size", [(1, 1), (SIDE - 1, 500), (500, 1)])
def test_too_few_pixels_tell_nothing(size: tuple[int, int]) -> None:
    assert polarity(np.random.default_rng(0).random(size, np.float32)) == 0


@pytest.mark.parametrize("level", [0, 0.3, 1])
def test_one_grey_level_tells_nothing(level: float) -> None:
    assert polarity(np.full((50, 60), level, np.float32)) == 0


@pytest.mark.parametrize(
    ("upright", "inverted"),
    [
        (dicom(levels()), dicom(levels(), photometric="MONOCHROME1")),
        (dicom(255 - levels(), photometric="MONOCHROME1"), dicom(255 - levels())),
        (make_image_file(levels(), "PNG"), make_image_file(255 - levels(), "PNG")),
        (
            make_image_file(levels(), "JPEG", quality=100),
            make_image_file(255 - levels(), "JPEG", quality=100),
        ),
    ],
    ids=["monochrome2", "monochrome1", "png", "jpeg"],
)
def test_doubt_is_flagged_with_its_number_and_the_image_is_not_flipped(
    upright: bytes, inverted: bytes
) -> None:
    right, wrong = read(upright), read(inverted)
    assert Flag.INVERTED_SUSPECTED not in right.flags
    assert right.detail == ""
    assert wrong.outcome is Outcome.SCORED
    assert wrong.flags == tuple(f for f in Flag if f in {*right.flags, Flag.INVERTED_SUSPECTED})
    assert wrong.detail.startswith(DOUBT)
    assert right.display is not None
    assert wrong.display is not None
    np.testing.assert_allclose(wrong.display, 1 - right.display, atol=2 / 255)
    assert f"{polarity(wrong.display):.2f})" in wrong.detail


def test_doubt_is_joined_to_what_else_there_is_to_say() -> None:
    contradictory = {0x20500020: ("CS", "IDENTITY")}
    reading = read(dicom(255 - levels(), photometric="MONOCHROME1", elements=contradictory))
    other = read(dicom(levels(), photometric="MONOCHROME1", elements=contradictory))
    first, doubted = sorted([reading, other], key=lambda r: len(r.detail))
    assert "contradict" in first.detail
    assert DOUBT not in first.detail
    assert doubted.detail.startswith(f"{first.detail}; {DOUBT}")


def test_an_image_that_is_not_scored_is_not_judged() -> None:
    data = dicom(255 - levels(), modality="CT")
    (reading,) = iterate_radiographs_bytes(data, replace(DEFAULT_OPTIONS, render_all=True))
    assert reading.display is not None
    assert Flag.INVERTED_SUSPECTED not in reading.flags


def test_each_frame_is_judged_by_itself() -> None:
    readings = iterate_radiographs_bytes(dicom(np.stack([levels(), 255 - levels()])))
    assert [Flag.INVERTED_SUSPECTED in reading.flags for reading in readings] == [False, True]


@pytest.mark.skipif(importlib.util.find_spec("data_store") is None, reason="needs pydicom-data")
@pytest.mark.parametrize(("name", "is_chest"), [("RG1_UNCR.dcm", True), ("RG3_UNCR.dcm", False)])
def test_real_films_are_not_doubted_and_a_chest_with_the_wrong_tag_is(
    name: str, is_chest: bool
) -> None:
    from pydicom.data import get_testdata_file

    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    (right,) = read_radiographs(path)
    assert Flag.INVERTED_SUSPECTED not in right.flags
    data = Path(path).read_bytes()
    assert data.count(b"MONOCHROME1 ") == 1
    wrong = read(data.replace(b"MONOCHROME1 ", b"MONOCHROME2 "))
    assert (Flag.INVERTED_SUSPECTED in wrong.flags) is is_chest

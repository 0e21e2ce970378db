"""Measures of masks are what can be counted by hand; doubts name the measures that are unusual."""

from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import entropy

from cxrbatch.lungs.shape import (
    MEASURES,
    LungMeasures,
    doubts_about,
    lungs_in,
    measure_lungs,
    resized_mask,
)

WIDE = dict.fromkeys(MEASURES, (-np.inf, np.inf))


def two_boxes() -> np.ndarray:
    """Two boxes of 10 x 4 and 10 x 6 pixels in 20 x 20, 0.9 in them and 0.1 around them."""
    probability = np.full((20, 20), 0.1, np.float32)
    probability[5:15, 2:6] = 0.9
    probability[5:15, 10:16] = 0.9
    return probability


def measured(probability: np.ndarray) -> LungMeasures:
    return measure_lungs(probability, lungs_in(probability))


def test_two_boxes_measure_what_they_are() -> None:
    found = measured(two_boxes())
    bits = entropy([0.1, 0.9], base=2)
    expected = LungMeasures(
        area=100 / 400,
        entropy=bits * 400 / 100,
        parts=2,
        left=0.4,
        height=10 / 20,
        width=14 / 20,
        filled=100 / 140,
        margin=0,
    )
    assert asdict(found) == pytest.approx(asdict(expected))


def test_a_mirrored_mask_has_the_other_share_at_the_left() -> None:
    assert measured(two_boxes()[:, ::-1]).left == pytest.approx(0.6)
    odd = np.full((9, 9), 0.1, np.float32)
    odd[2:7, 1:8] = 0.8  # seven columns: the middle one counts half on each side
    assert measured(odd).left == pytest.approx(0.5)


def test_specks_are_no_lung_and_no_part() -> None:
    probability = two_boxes()
    probability[0, 0] = 0.9  # one of 101 pixels
    probability[19, 17:20] = 0.9  # three of them
    mask = lungs_in(probability)
    assert not mask[0, 0]
    assert mask[19, 19]
    found = measure_lungs(probability, mask)
    assert found.parts == 3
    assert found.margin == pytest.approx(3 / 76)


def test_nothing_is_one_doubt_and_divides_by_nothing() -> None:
    found = measured(np.zeros((16, 16), np.float32))
    assert found.parts == 0
    assert doubts_about(found, WIDE) == ("no lungs were found",)


def test_a_doubt_names_the_measure_and_its_limits() -> None:
    found = measured(two_boxes())
    assert doubts_about(found, WIDE) == ()
    (doubt,) = doubts_about(found, {**WIDE, "width": (0.8, 1.0)})
    assert doubt == "width of the lungs as a share of the image's: 0.7, usual are 0.8 to 1"
    both = doubts_about(found, {**WIDE, "width": (0.8, 1.0), "parts": (1, 1)})
    assert [text.partition(":")[0] for text in both] == [
        "number of parts",
        "width of the lungs as a share of the image's",
    ]


def test_limits_belong_to_what_is_usual() -> None:
    found = measured(two_boxes())
    limits = {name: (value, value) for name, value in asdict(found).items()}
    assert doubts_about(found, limits) == ()


@pytest.mark.parametrize("shape", [(20, 20), (200, 60), (7, 90)])
def test_a_resized_mask_has_the_same_shares_and_no_specks(shape: tuple[int, int]) -> None:
    probability = two_boxes()
    probability[0, 0] = 0.9
    mask = lungs_in(probability)
    resized = resized_mask(probability, mask, shape)
    assert resized.shape == shape
    assert not resized[:2, :2].any()
    assert resized.mean() == pytest.approx(mask.mean(), abs=0.05)
    if shape == mask.shape:
        assert np.array_equal(resized, mask)

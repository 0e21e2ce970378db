"""Controls: the audit's short form, without lungs where they can be found and else without them."""

import numpy as np
import pytest

from cxrbatch.auditing.treatments import Films, LungFields
from cxrbatch.training.controls import SHORT_FORM, evaluate_controls
from cxrbatch.training.dataset import ImageSubset
from cxrbatch.training.model_evaluation import Logits

CLASSES = ("dark", "bright")


class MiddleFinder:
    """Finds lungs in the middle of each image, and doubts the masks of some."""

    def __init__(self, doubted: tuple[int, ...] = ()) -> None:
        self.doubted = doubted

    def masks(self, inputs: Films) -> tuple[LungFields, tuple[tuple[str, ...], ...]]:
        fields = np.zeros(inputs.shape, np.bool_)
        fields[:, 10:22, 8:24] = True
        doubts = tuple(("odd",) if n in self.doubted else () for n in range(len(inputs)))
        return fields, doubts


def lungs_tell(count: int) -> ImageSubset:
    """Images whose middle is bright in every second one."""
    truth = np.arange(count) % 2
    images = np.full((count, 32, 32), 100, np.uint8)
    images[:, 12:20, 10:22] = np.where(truth, 200, 40).astype(np.uint8)[:, None, None]
    return ImageSubset(images, truth)


def by_mean(side: ImageSubset) -> Logits:
    """A model that looks at the brightness of the whole image."""
    means = side.images(np.arange(len(side))).mean(axis=(1, 2)).astype(np.float32)
    return np.stack([-means, means], axis=1)


def test_without_lungs_a_model_that_looks_at_them_knows_nothing() -> None:
    found = evaluate_controls(
        lungs_tell(20), by_mean, classes=CLASSES, sources=[None] * 20, finder=MiddleFinder()
    )
    assert {treatment.name for treatment in SHORT_FORM} <= set(found)
    assert found["as they are"]["macro_auc"] == 1.0
    assert found["lungs only"]["macro_auc"] == 1.0
    for name in ("lungs black", "lungs mean", "border only"):
        assert found[name]["macro_auc"] == pytest.approx(0.5)
    # A fill that is as bright as the lung tells how bright that is.
    assert found["lungs blurred"]["macro_auc"] == 1.0


def test_images_with_a_doubtful_mask_are_left_out_without_lungs_alone() -> None:
    finder = MiddleFinder(doubted=(0, 1, 2))
    found = evaluate_controls(
        lungs_tell(20), by_mean, classes=CLASSES, sources=[None] * 20, finder=finder
    )
    assert (found["lungs black"]["n"], found["border only"]["n"]) == (17, 20)
    all_doubted = evaluate_controls(
        lungs_tell(4),
        by_mean,
        classes=CLASSES,
        sources=[None] * 4,
        finder=MiddleFinder(doubted=(0, 1, 2, 3)),
    )
    assert all_doubted["lungs only"] == {
        "n": 0,
        "undefined": "no mask of the lungs is free of doubt",
    }


def test_without_a_finder_the_border_is_left() -> None:
    found = evaluate_controls(
        lungs_tell(8), by_mean, classes=CLASSES, sources=[None] * 8, finder=None
    )
    assert set(found) == {"border only", "as they are", "within sources"}

"""Figures of a training, and the warning that a model looks at the margins."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from cxrbatch.training.controls import border_warning, evaluate_controls
from cxrbatch.training.dataset import ImageSubset
from cxrbatch.training.fitting import card_figures, card_operating_points, evaluate_logits
from cxrbatch.training.model_evaluation import Logits, logits_to_probabilities

CLASSES = ("A", "B", "C")


def scored(count: int, *, seed: int = 0) -> tuple[np.ndarray, Logits]:
    rng = np.random.default_rng(seed)
    truth = np.arange(count) % 3
    logits = rng.normal(size=(count, 3)) + 1.5 * np.eye(3)[truth]
    return truth, logits.astype(np.float32)


def test_figures_have_intervals_around_them() -> None:
    truth, logits = scored(90)
    found = card_figures(
        evaluate_logits(truth, logits, classes=CLASSES, temperature=1.0, groups=range(90))
    )
    recall = [(logits.argmax(axis=1) == truth)[truth == c].mean() for c in range(3)]
    assert found["n"] == found["groups"] == 90
    assert found["balanced_accuracy"]["value"] == pytest.approx(np.mean(recall))
    for name, value in zip(CLASSES, recall, strict=True):
        assert found["recall"][name]["value"] == pytest.approx(value)
        low, high = found["recall"][name]["interval"]
        assert low < value < high


def test_a_class_without_an_image_is_undefined() -> None:
    truth, logits = scored(30)
    found = card_figures(
        evaluate_logits(truth % 2, logits, classes=CLASSES, temperature=1.0, groups=range(30))
    )
    assert found["recall"]["C"] is None
    assert found["auc"]["C"] is None
    assert found["balanced_accuracy"] is not None


def test_operating_points_are_of_calibrated_probabilities() -> None:
    truth, logits = scored(60)
    points = card_operating_points(
        evaluate_logits(truth, logits, classes=CLASSES, temperature=2.0, groups=range(60))
    )
    score = logits_to_probabilities(logits, temperature=2.0)[:, 0]
    youden = points["A"]["youden"]
    assert (score >= youden["threshold"])[truth == 0].mean() == pytest.approx(youden["sensitivity"])


def test_the_triage_point_finds_95_of_100_abnormal_images() -> None:
    truth, logits = scored(90)
    classes = ("A", "normal", "C")
    points = card_operating_points(
        evaluate_logits(truth, logits, classes=classes, temperature=1.5, groups=range(90))
    )
    normal = logits_to_probabilities(logits, temperature=1.5)[:, 1]
    false, true, thresholds = roc_curve(truth != 1, 1.0 - normal, drop_intermediate=False)
    best = np.flatnonzero(true >= 0.95)[0]
    triage = points["normal"]["triage"]
    called_normal = normal >= triage["threshold"]
    assert (~called_normal)[truth != 1].mean() == pytest.approx(true[best])
    assert called_normal[truth == 1].mean() == pytest.approx(1 - false[best])
    assert triage["specificity"] == pytest.approx(true[best])
    assert triage["sensitivity"] == pytest.approx(1 - false[best])
    assert normal[normal < triage["threshold"]].max() <= 1 - thresholds[best] + 1e-12
    assert [name for name in classes if "triage" in points[name]] == ["normal"]


def test_the_calibration_error_stands_beside_that_of_chance() -> None:
    truth, logits = scored(300)
    probabilities = logits_to_probabilities(logits)
    found = card_figures(
        evaluate_logits(truth, logits, classes=CLASSES, temperature=1.0, groups=range(300))
    )
    rng, confidence = np.random.default_rng(1), probabilities.max(axis=1)
    errors = []
    for _ in range(1000):  # classes drawn by these very probabilities
        bins = np.ceil(confidence * 15)
        gaps = confidence - (rng.random(300) < confidence)
        errors.append(sum(abs(gaps[bins == b].sum()) for b in set(bins)) / 300)
    chance = found["expected_calibration_error_by_chance"]
    assert chance["mean"] == pytest.approx(np.mean(errors), rel=0.05)
    assert chance["95th percentile"] == pytest.approx(np.quantile(errors, 0.95), rel=0.05)


def by_corner(side: ImageSubset) -> Logits:
    """A model that looks at one corner pixel alone."""
    corner = side.images(np.arange(len(side)))[:, 0, 0].astype(np.float32)
    return np.stack([-abs(corner - 100 * c) for c in range(3)], axis=1)


def by_centre(side: ImageSubset) -> Logits:
    """A model that looks at the middle."""
    middle = side.images(np.arange(len(side)))[:, 16, 16].astype(np.float32)
    return np.stack([-abs(middle - 100 * c) for c in range(3)], axis=1)


@pytest.mark.parametrize(("model", "warned"), [(by_corner, True), (by_centre, False)])
def test_a_model_that_sees_the_margins_is_warned_of(model: object, warned: bool) -> None:
    truth = np.arange(30) % 3
    side = ImageSubset(np.tile((100 * truth)[:, None, None], (1, 32, 32)).astype(np.uint8), truth)
    found = evaluate_controls(
        side, model, classes=CLASSES, sources=["x"] * 20 + ["y"] * 10, finder=None
    )
    assert found["as they are"]["balanced_accuracy"] == 1.0
    assert found["border only"]["balanced_accuracy"] == pytest.approx(1.0 if warned else 1 / 3)
    assert (border_warning(found) is not None) == warned


def test_sources_are_judged_among_their_own_classes() -> None:
    truth = np.array([0, 1, 0, 1, 2, 2])
    logits = np.array(
        [[1, 0, 9], [0, 1, 9], [1, 0, 9], [0, 1, 9], [0, 0, 1], [0, 0, 1]], np.float32
    )
    side = ImageSubset(np.zeros((6, 32, 32), np.uint8), truth)
    sources = ["one"] * 4 + ["two"] * 2
    found = evaluate_controls(side, lambda _: logits, classes=CLASSES, sources=sources, finder=None)
    assert found["within sources"]["one"]["classes"] == ["A", "B"]
    assert found["within sources"]["one"]["balanced_accuracy"] == 1.0
    assert found["within sources"]["two"]["undefined"] == "one class only"

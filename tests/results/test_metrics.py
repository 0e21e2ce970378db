"""Statistics against counting by hand and scikit-learn, and where they are undefined."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxrbatch.results.statistics import intervals as metrics

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def random_scores(seed: int, *, classes: int = 4, count: int = 80) -> Arrays:
    """Truth, prediction and probabilities; coarse, so that scores tie."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), rng.integers(0, classes, count - classes)])
    scores = np.round(rng.random((count, classes)) + 0.3 * np.eye(classes)[truth], 1)
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    return truth, probabilities.argmax(axis=1), probabilities


def area_by_pairs(positive: np.ndarray, score: np.ndarray) -> float:
    """Share of pairs, one positive and one not, that are in order; ties count half."""
    difference = score[positive][:, None] - score[~positive][None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


@pytest.mark.parametrize("seed", range(5))
def test_against_counting(seed: int) -> None:
    truth, predicted, probabilities = random_scores(seed)
    counts = np.zeros((4, 4), int)
    for t, p in zip(truth, predicted, strict=True):
        counts[t, p] += 1
    assert np.array_equal(metrics.confusion(truth, predicted, classes=4), counts)
    recalls = counts.diagonal() / counts.sum(axis=1)
    assert metrics.recalls(truth, predicted, classes=4) == pytest.approx(list(recalls))
    assert metrics.balanced_accuracy(truth, predicted) == pytest.approx(recalls.mean())
    areas = [area_by_pairs(truth == c, probabilities[:, c]) for c in range(4)]
    assert metrics.one_vs_rest_auc(truth, probabilities) == pytest.approx(areas)
    assert metrics.macro_auc(truth, probabilities) == pytest.approx(np.mean(areas))


def test_against_scikit_learns_own_average() -> None:
    truth, _, probabilities = random_scores(9, classes=3)
    expected = roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    assert metrics.macro_auc(truth, probabilities) == pytest.approx(expected)


def test_perfect_reversed_and_constant_scores() -> None:
    truth = np.array([0, 0, 1, 1])
    right = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    assert metrics.one_vs_rest_auc(truth, right) == [1.0, 1.0]
    assert metrics.one_vs_rest_auc(truth, right[::-1]) == [0.0, 0.0]
    assert metrics.one_vs_rest_auc(truth, np.full((4, 2), 0.5)) == [0.5, 0.5]


def test_a_class_without_an_image_is_undefined_and_left_out() -> None:
    truth = np.array([0, 0, 1, 1])
    predicted = np.array([0, 1, 1, 1])
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.3, 0.7, 0.0], [0.1, 0.9, 0.0]])
    assert metrics.recalls(truth, predicted, classes=3) == [0.5, 1.0, None]
    assert metrics.one_vs_rest_auc(truth, probabilities) == [0.75, 0.75, None]
    assert metrics.macro_auc(truth, probabilities) == 0.75
    assert metrics.balanced_accuracy(truth, predicted) == 0.75
    assert metrics.confusion(truth, predicted, classes=3)[2].tolist() == [0, 0, 0]


def test_a_prediction_of_a_class_without_an_image_is_just_wrong() -> None:
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    assert metrics.balanced_accuracy(truth, predicted) == 0.75
    assert metrics.recalls(truth, predicted, classes=3) == [0.5, 1.0, None]


def test_one_class_alone_has_no_area() -> None:
    truth = np.zeros(3, int)
    probabilities = np.full((3, 2), 0.5)
    assert metrics.one_vs_rest_auc(truth, probabilities) == [None, None]
    with pytest.raises(ValueError, match="at least two classes"):
        metrics.macro_auc(truth, probabilities)
    assert metrics.confusion(truth, truth, classes=2).tolist() == [[3, 0], [0, 0]]
    assert metrics.recalls(truth, truth, classes=2) == [1.0, None]


def test_values_are_plain_numbers() -> None:
    """They go into JSON."""
    truth, predicted, probabilities = random_scores(1)
    assert type(metrics.balanced_accuracy(truth, predicted)) is float
    assert type(metrics.macro_auc(truth, probabilities)) is float
    assert {type(v) for v in metrics.recalls(truth, predicted, classes=4)} == {float}
    assert {type(v) for v in metrics.one_vs_rest_auc(truth, probabilities)} == {float}

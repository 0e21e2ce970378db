"""Statistics of the most probable class, from the counts of truth against prediction."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from cxrbatch.results.figures import Figure
from cxrbatch.results.reported import (
    NO_IMAGES,
    NO_NEGATIVE,
    NO_POSITIVE,
    proportion,
    resampled,
)
from cxrbatch.results.statistics.groups import Groups
from cxrbatch.results.statistics.intervals import Estimate, Weights
from cxrbatch.results.statistics.metrics import (
    Classes,
    Probabilities,
    Values,
    mean_of_defined,
    ratio,
)

OVERALL = ("accuracy", "balanced_accuracy", "macro_f1")
BY_CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1")

_REASONS = (
    NO_POSITIVE,
    NO_NEGATIVE,
    "this class is never predicted",
    "this class is always predicted",
    "no image is of this class, and none is predicted to be",
)


class ClassDecisions(NamedTuple):
    """The rates of one class; see `figures.ClassFigures`."""

    sensitivity: Figure
    specificity: Figure
    ppv: Figure
    npv: Figure
    f1: Figure


class Decisions:
    """Truth and the most probable class of n images, to be counted under many weights.

    Args:
        truth: Shape (n,), class indices.
        probabilities: Shape (n, classes).
        groups: Shape (n,), whose each image is.

    Attributes:
        predicted: Shape (n,), class indices; the first of several that are equally probable.
    """

    def __init__(self, truth: Classes, probabilities: Probabilities, groups: Groups) -> None:
        n, self._classes = probabilities.shape
        self.predicted = probabilities.argmax(axis=1)
        self._truth, self._groups = truth, groups
        pairs = truth.astype(np.int32) * self._classes + self.predicted.astype(np.int32)
        starts = np.arange(n + 1, dtype=np.int32)
        self._cells = csr_array((np.ones(n), pairs, starts), (n, self._classes**2))

    def statistics(self, weights: Weights) -> Values:
        """The statistics of `OVERALL`, then those of `BY_CLASS` per class, under weights (b, n).

        Balanced accuracy is the mean sensitivity over the classes that occur, macro F1 the mean
        over those that occur or are predicted.
        """
        counted = np.asarray((self._cells.T @ weights.T.astype(np.float64)).T)
        return decision_rates(counted.reshape(-1, self._classes, self._classes))

    def accuracy(self, estimates: Sequence[Estimate]) -> Figure:
        """The share of right predictions."""
        return proportion(estimates[0], np.ones(len(self._truth), bool), self._groups, NO_IMAGES)

    def balanced_accuracy(self, estimates: Sequence[Estimate]) -> Figure:
        """The mean sensitivity."""
        return resampled(estimates[1], len(self._truth), NO_IMAGES)

    def macro_f1(self, estimates: Sequence[Estimate]) -> Figure:
        """The mean F1."""
        return resampled(estimates[2], len(self._truth), NO_IMAGES)

    def of_class(self, index: int, estimates: Sequence[Estimate]) -> ClassDecisions:
        """The rates of one class."""
        start = len(OVERALL) + len(BY_CLASS) * index
        own = estimates[start : start + len(BY_CLASS)]
        true, called = self._truth == index, self.predicted == index
        sensitivity, specificity, ppv, npv = (
            proportion(estimate, among, self._groups, reason)
            for estimate, among, reason in zip(
                own[:4], (true, ~true, called, ~called), _REASONS[:4], strict=True
            )
        )
        f1 = resampled(own[4], len(true), _REASONS[4])
        return ClassDecisions(sensitivity, specificity, ppv, npv, f1)


def decision_rates(counts: Values) -> Values:
    """Statistics of counts by truth and prediction, shape (b, classes, classes).

    Returns:
        Shape (b, 3 + 5 * classes), as `Decisions.statistics`; NaN where undefined.
    """
    total = counts.sum(axis=(1, 2))[:, None]
    true, called = counts.sum(axis=2), counts.sum(axis=1)
    hits = np.diagonal(counts, axis1=1, axis2=2)
    rest = total - true - called + hits
    sensitivity, f1 = ratio(hits, true), ratio(2.0 * hits, true + called)
    ppv, npv = ratio(hits, called), ratio(rest, total - called)
    by_class = np.stack([sensitivity, ratio(rest, total - true), ppv, npv, f1], axis=2)
    overall = [
        ratio(hits.sum(axis=1), total[:, 0]),
        mean_of_defined(sensitivity),
        mean_of_defined(f1),
    ]
    return np.concatenate([np.stack(overall, axis=1), by_class.reshape(len(counts), -1)], axis=1)

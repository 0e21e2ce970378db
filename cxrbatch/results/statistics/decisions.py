"""Shares of images as figures; rates of the most probable class.

Not by scikit-learn, which takes one vector of weights at a time: here many resamples are one
sparse product.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from cxrbatch.results.figures import Figure
from cxrbatch.results.statistics.intervals import (
    Classes,
    Estimate,
    Groups,
    Probabilities,
    Values,
    Weights,
    mean_of_defined,
    ratio,
    wilson,
)

Chosen = npt.NDArray[np.bool_]

WILSON, WILSON_OF_PATIENTS = "Wilson", "Wilson over patients"
BOOTSTRAP = "patient bootstrap"

NO_IMAGES = "no images"
NO_POSITIVE, NO_NEGATIVE = "no image is of this class", "every image is of this class"

OVERALL = ("accuracy", "balanced_accuracy", "macro_f1")
BY_CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1")

_REASONS = (
    NO_POSITIVE,
    NO_NEGATIVE,
    "this class is never predicted",
    "this class is always predicted",
    "no image is of this class, and none is predicted to be",
)


def one_each(groups: Groups) -> bool:
    """Return whether no two images are of the same patient.

    Args:
        groups: Shape (n,), the number of each image's patient, from 0 without gaps.
    """
    return len(groups) == 0 or int(groups.max()) + 1 == len(groups)


def undefined(n: int, reason: str) -> Figure:
    """Return a figure without value and interval.

    Args:
        n: Number of images that it describes.
        reason: Why there is no value, for a reader.
    """
    return Figure(None, None, None, n, None, reason)


def resampled(estimate: Estimate, n: int, reason: str) -> Figure:
    """Return the figure of a statistic with its bootstrap interval.

    Args:
        estimate: The statistic; where it has no interval, its `reason` goes into the figure.
        n: Number of images that it describes.
        reason: Why it has no value, for a reader; used only if it has none.
    """
    if estimate.value is None:
        return undefined(n, reason)
    if estimate.interval is None:
        return Figure(estimate.value, None, None, n, None, estimate.reason)
    return Figure(estimate.value, *estimate.interval, n, BOOTSTRAP)


def proportion(estimate: Estimate, among: Chosen, groups: Groups, reason: str) -> Figure:
    """Return the figure of a share, with Wilson's interval or the bootstrap's.

    If each patient has one image, the interval is Wilson's, else the bootstrap's if it has one. But
    where a share of 0 or 1 is `constant`, as all resamples agree, its interval is Wilson's with the
    number of the chosen images' patients in place of that of images.

    Args:
        estimate: The share, with the bootstrap's interval.
        among: Shape (n,), bool, which images the denominator of the share counts.
        groups: Shape (n,), the number of each image's patient.
        reason: Why the share has no value, for a reader; used only if it has none.
    """
    n = int(np.count_nonzero(among))
    if n == 0 or estimate.value is None:
        return undefined(n, reason)
    if one_each(groups):
        return Figure(estimate.value, *wilson(round(estimate.value * n), n), n, WILSON)
    if estimate.constant and estimate.value in (0.0, 1.0):
        patients = len(np.unique(groups[among]))
        bounds = wilson(round(estimate.value * patients), patients)
        return Figure(estimate.value, *bounds, n, WILSON_OF_PATIENTS)
    return resampled(estimate, n, reason)


def proportion_of_images(hits: int, n: int) -> Figure:
    """Return the figure `hits` / `n` with Wilson's interval, as if each image had its own patient.

    A figure without a value where `n` is 0.
    """
    if n == 0:
        return undefined(0, NO_IMAGES)
    return Figure(hits / n, *wilson(hits, n), n, WILSON)


class Decisions:
    """True class and most probable class of n images, to be counted in many resamples.

    The methods that return a Figure take the estimates that `bootstrap_by_group` makes of
    `statistics`.

    Attributes:
        predicted: Shape (n,), class indices; the first of several that are equally probable.
    """

    def __init__(self, truth: Classes, probabilities: Probabilities, groups: Groups) -> None:
        """Choose the most probable class of each image.

        Args:
            truth: Shape (n,), class indices.
            probabilities: Shape (n, classes).
            groups: Shape (n,), the patient of each image.
        """
        n, self._classes = probabilities.shape
        self.predicted = probabilities.argmax(axis=1)
        self._truth, self._groups = truth, groups
        pairs = truth.astype(np.int32) * self._classes + self.predicted.astype(np.int32)
        starts = np.arange(n + 1, dtype=np.int32)
        self._cells = csr_array((np.ones(n), pairs, starts), (n, self._classes**2))

    def statistics(self, weights: Weights) -> Values:
        """Calculate the statistics of the most probable class in each of b resamples.

        These are accuracy, balanced accuracy (the mean sensitivity over the classes that occur) and
        macro F1 (the mean over those that occur or are predicted); then, for each class,
        sensitivity, specificity, PPV, NPV and F1.

        Args:
            weights: Shape (b, n), how often each resample has each image.

        Returns:
            Shape (b, 3 + 5 * classes); NaN where undefined.
        """
        counted = np.asarray((self._cells.T @ weights.T.astype(np.float64)).T)
        return decision_rates(counted.reshape(-1, self._classes, self._classes))

    def accuracy(self, estimates: Sequence[Estimate]) -> Figure:
        """Return the accuracy, the share of right predictions, as a figure.

        The interval is Wilson's where each patient has one image; see `proportion`.

        Args:
            estimates: Those that `bootstrap_by_group` makes of `statistics`.
        """
        return proportion(estimates[0], np.ones(len(self._truth), bool), self._groups, NO_IMAGES)

    def balanced_accuracy(self, estimates: Sequence[Estimate]) -> Figure:
        """Return the mean sensitivity of classes that occur as a figure, bootstrapped.

        Args:
            estimates: Those that `bootstrap_by_group` makes of `statistics`.
        """
        return resampled(estimates[1], len(self._truth), NO_IMAGES)

    def macro_f1(self, estimates: Sequence[Estimate]) -> Figure:
        """Return the mean F1 of classes that occur or are predicted as a figure, bootstrapped.

        Args:
            estimates: Those that `bootstrap_by_group` makes of `statistics`.
        """
        return resampled(estimates[2], len(self._truth), NO_IMAGES)

    def of_class(self, index: int, estimates: Sequence[Estimate]) -> dict[str, Figure]:
        """Return sensitivity, specificity, PPV, NPV and F1 of one class as figures.

        An image is positive if the class is its most probable one.

        Args:
            index: The class.
            estimates: Those that `bootstrap_by_group` makes of `statistics`.

        Returns:
            The figures by the names in `BY_CLASS`.
        """
        start = len(OVERALL) + len(BY_CLASS) * index
        own = estimates[start : start + len(BY_CLASS)]
        true, called = self._truth == index, self.predicted == index
        among = (true, ~true, called, ~called)
        figures = [
            proportion(estimate, chosen, self._groups, reason)
            for estimate, chosen, reason in zip(own[:4], among, _REASONS[:4], strict=True)
        ]
        f1 = resampled(own[4], len(true), _REASONS[4])
        return dict(zip(BY_CLASS, (*figures, f1), strict=True))


def decision_rates(counts: Values) -> Values:
    """Calculate accuracy, balanced accuracy, macro F1 and the rates of each class from counts.

    Args:
        counts: Shape (b, classes, classes), numbers of images by truth and prediction.

    Returns:
        Shape (b, 3 + 5 * classes): the first three, then sensitivity, specificity, PPV, NPV and
        F1 of each class; NaN where undefined.
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

"""Shares of images as figures; rates of the most probable class, and calibration.

Not by scikit-learn, which takes one vector of weights at a time: here many resamples are one
sparse product.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from cxrbatch.results.figures import Calibration, Figure
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


BINS = 15


class Reliability:
    """Confidence against accuracy of n images, to be calculated in many resamples.

    Confidence is the largest probability; bins (a, b] are of equal width over (0, 1].

    Attributes:
        images: Shape (bins,), number of images in each bin.
        confidence: Shape (bins,), mean confidence; NaN where a bin is empty.
        accuracy: Shape (bins,), share of right predictions; NaN where a bin is empty.
    """

    def __init__(self, truth: Classes, probabilities: Probabilities, *, bins: int = BINS) -> None:
        """Put the images into bins.

        Args:
            truth: Shape (n,), class indices.
            probabilities: Shape (n, classes).
            bins: Number of bins.
        """
        confidence = probabilities.max(axis=1).astype(np.float64)
        right = probabilities.argmax(axis=1) == truth
        bin_of = np.clip(np.ceil(confidence * bins).astype(np.int32) - 1, 0, bins - 1)
        self.images = np.bincount(bin_of, minlength=bins)
        self.confidence = ratio(np.bincount(bin_of, confidence, bins), self.images)
        self.accuracy = ratio(np.bincount(bin_of, right, bins), self.images)
        # Of the number of right predictions in each bin, were every confidence true.
        self._variance = np.bincount(bin_of, confidence * (1.0 - confidence), bins)
        # Each image has its gap in its own bin's column, and its score in the last.
        n = len(truth)
        entries = np.stack([confidence - right, squared_distance(truth, probabilities)], axis=1)
        columns = np.stack([bin_of, np.full(n, bins, np.int32)], axis=1)
        starts = np.arange(0, 2 * n + 1, 2, dtype=np.int32)
        self._entries = csr_array((entries.ravel(), columns.ravel(), starts), (n, bins + 1))

    def statistics(self, weights: Weights) -> Values:
        """Calculate the expected calibration error and the Brier score of each resample.

        The error is the mean of |confidence - accuracy| over the bins, weighted by their images.

        Args:
            weights: Shape (b, n), how often each resample has each image.

        Returns:
            Shape (b, 2): of each resample the error, then the score; NaN without images.

        Source: Guo et al., "On calibration of modern neural networks", ICML 2017; Brier,
        "Verification of forecasts expressed in terms of probability", 1950.
        """
        summed = (self._entries.T @ weights.T.astype(np.float64)).T
        total = weights.sum(axis=1, dtype=np.int64)
        return np.stack(
            [ratio(np.abs(summed[:, :-1]).sum(axis=1), total), ratio(summed[:, -1], total)], axis=1
        )

    def error_by_chance(self) -> float | None:
        """Calculate the calibration error that a perfectly calibrated model would have by chance.

        Its right predictions in a bin are a sum of independent trials with these confidences as
        probabilities. The mean distance of their number from its expectation is that of the normal
        distribution; divided by the bin's images it is the bin's error.

        Returns:
            The mean of the bins' errors, weighted by their images; None without images.

        Source: Vaicenavicius et al., "Evaluating model calibration in classification", AISTATS
        2019.
        """
        n = int(self.images.sum())
        return float(np.sqrt(2.0 / np.pi * self._variance).sum() / n) if n else None

    def figures(self, estimates: Sequence[Estimate]) -> Calibration:
        """Return the bins of confidence, and calibration error and Brier score as figures.

        Args:
            estimates: The two that `bootstrap_by_group` makes of `statistics`.
        """
        n = int(self.images.sum())
        ece, brier = (resampled(estimate, n, NO_IMAGES) for estimate in estimates)
        return Calibration(
            edges=tuple(np.linspace(0.0, 1.0, len(self.images) + 1).tolist()),
            images=tuple(self.images.tolist()),
            confidence=tuple(None if np.isnan(v) else float(v) for v in self.confidence),
            accuracy=tuple(None if np.isnan(v) else float(v) for v in self.accuracy),
            ece=ece,
            ece_by_chance=self.error_by_chance(),
            brier=brier,
        )


def squared_distance(truth: Classes, probabilities: Probabilities) -> Values:
    """Calculate the Brier score of each image: its squared distance from the truth.

    Args:
        truth: Shape (n,), class indices.
        probabilities: Shape (n, classes).

    Returns:
        Shape (n,), the squared differences of probability and truth (1 for the true class, 0 for
        the others), summed over the classes; in [0, 2].
    """
    squares = np.einsum("ij,ij->i", probabilities, probabilities, dtype=np.float64)
    of_truth = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    distance: Values = np.maximum(squares - 2.0 * of_truth + 1.0, 0.0)
    return distance


def expected_calibration_error(truth: Classes, probabilities: Probabilities) -> float:
    """Return the mean of |confidence - accuracy| over 15 bins of confidence, weighted by images.

    `truth` has shape (n,), class indices; `probabilities` has shape (n, classes), and confidence is
    the largest one of an image. NaN without images.
    """
    once = np.ones((1, len(truth)), np.int32)
    return float(Reliability(truth, probabilities).statistics(once)[0, 0])

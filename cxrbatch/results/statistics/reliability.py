"""Calibration: confidence against accuracy, and what chance alone gives."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from cxrbatch.results.figures import Calibration
from cxrbatch.results.statistics.decisions import NO_IMAGES, resampled
from cxrbatch.results.statistics.intervals import (
    Classes,
    Estimate,
    Probabilities,
    Values,
    Weights,
    ratio,
)

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

    def high_error_by_chance(self, *, draws: int = 20_000) -> float | None:
        """Calculate the 95th percentile of the error of which `error_by_chance` is the mean.

        The bins' numbers of right predictions are drawn from the normal distribution.

        Args:
            draws: How often they are drawn; always with the same seed.

        Returns:
            In [0, 1]; None without images.
        """
        n = int(self.images.sum())
        if not n:
            return None
        drawn = np.random.default_rng(0).standard_normal((draws, len(self.images)))
        errors = np.abs(drawn) @ np.sqrt(self._variance) / n
        return min(float(np.quantile(errors, 0.95)), 1.0)

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
            ece_by_chance_high=self.high_error_by_chance(),
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

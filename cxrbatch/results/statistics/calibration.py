"""Whether probabilities mean what they say."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from cxrbatch.results.figures import Calibration
from cxrbatch.results.reported import NO_IMAGES, resampled
from cxrbatch.results.statistics.intervals import Estimate, Weights
from cxrbatch.results.statistics.metrics import Classes, Probabilities, Values, ratio

BINS = 15


class Reliability:
    """Confidence against accuracy of n images, to be computed under many weights.

    Confidence is the largest probability; bins (a, b] are of equal width over (0, 1].

    Args:
        truth: Shape (n,), class indices.
        probabilities: Shape (n, classes).
        bins: How many.

    Attributes:
        images: Shape (bins,).
        confidence: Shape (bins,), its mean; NaN where a bin is empty.
        accuracy: Shape (bins,), likewise.
    """

    def __init__(self, truth: Classes, probabilities: Probabilities, *, bins: int = BINS) -> None:
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
        """Expected calibration error and Brier score under weights of shape (b, n), as (b, 2).

        Source: Guo et al., "On calibration of modern neural networks", ICML 2017; Brier,
        "Verification of forecasts expressed in terms of probability", 1950.
        """
        summed = (self._entries.T @ weights.T.astype(np.float64)).T
        total = weights.sum(axis=1, dtype=np.int64)
        return np.stack(
            [ratio(np.abs(summed[:, :-1]).sum(axis=1), total), ratio(summed[:, -1], total)], axis=1
        )

    def error_by_chance(self) -> float | None:
        """Mean expected calibration error of a perfectly calibrated model with these confidences.

        Right predictions in a bin are then a sum of independent trials, which strays from its
        expectation by the mean absolute deviation of the normal distribution. Source: Vaicenavicius
        et al., "Evaluating model calibration in classification", AISTATS 2019, on that floor.
        """
        n = int(self.images.sum())
        return float(np.sqrt(2.0 / np.pi * self._variance).sum() / n) if n else None

    def figures(self, estimates: Sequence[Estimate]) -> Calibration:
        """The bins and the errors, with the bootstrap's intervals."""
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
    """Of each image's probabilities from its truth, summed over the classes, in [0, 2]."""
    squares = np.einsum("ij,ij->i", probabilities, probabilities, dtype=np.float64)
    of_truth = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    found: Values = np.maximum(squares - 2.0 * of_truth + 1.0, 0.0)
    return found


def expected_calibration_error(truth: Classes, probabilities: Probabilities) -> float:
    """The gap between confidence and accuracy, averaged over 15 bins by their images."""
    once = np.ones((1, len(truth)), np.int32)
    return float(Reliability(truth, probabilities).statistics(once)[0, 0])

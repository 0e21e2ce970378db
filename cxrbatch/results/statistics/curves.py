"""Areas and points of the ROC and precision-recall curves of many resamples at once.

Scores are sorted once; a resample is a weight per image, and its curves are running sums.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

from cxrbatch.results.statistics.intervals import Weights
from cxrbatch.results.statistics.metrics import Probabilities, Values, ratio


class ThresholdRates(NamedTuple):
    """What a threshold does in each resample, each of shape (b,); NaN where undefined.

    Attributes:
        sensitivity: Share of the positive images that reach it.
        specificity: Share of the others that do not.
        ppv: Share of those that reach it that are positive.
        npv: Share of those that do not that are not.
        below: Share of all images that do not reach it.
    """

    sensitivity: Values
    specificity: Values
    ppv: Values
    npv: Values
    below: Values


class Curves:
    """The curves of b resamples, at the scores that positive images have.

    Attributes:
        auc: Shape (b,), ties count half; NaN without positive or other images.
        average_precision: Shape (b,), without interpolation; NaN without positive images.
    """

    def __init__(self, ranking: "Ranking", weights: Weights) -> None:
        self._through = ranking.through
        self._total = np.zeros((len(weights), weights.shape[1] + 1), np.int32)
        taken = np.take(weights, ranking.order, axis=1)
        np.cumsum(taken, axis=1, dtype=np.int32, out=self._total[:, 1:])
        reached = self._total[:, ranking.through]
        tied = self._total[:, ranking.tied]
        gained = reached - tied
        self._true = np.zeros((len(weights), len(ranking.through) + 1), np.int32)
        np.cumsum(gained, axis=1, dtype=np.int32, out=self._true[:, 1:])
        self._positive = self._true[:, -1].astype(np.float64)
        self._negative = self._total[:, -1] - self._positive
        # Other images above each score, those that share it counting half.
        above = (tied + self._total[:, ranking.before]) * 0.5 - self._true[:, :-1]
        lost = np.einsum("ij,ij->i", gained, above)
        precision = np.divide(self._true[:, 1:], reached, where=reached > 0, out=above)
        found = np.einsum("ij,ij->i", gained, np.where(reached > 0, precision, 0.0))
        self.auc = 1.0 - ratio(lost, self._positive * self._negative)
        self.average_precision = ratio(found, self._positive)

    def at(self, cut: int) -> ThresholdRates:
        """The rates of the threshold that the first `cut` images of the ranking reach."""
        reached = self._total[:, cut].astype(np.float64)
        hits = self._true[:, np.searchsorted(self._through, cut, side="right")]
        false = reached - hits
        below = self._positive + self._negative - reached
        return ThresholdRates(
            ratio(hits, self._positive),
            ratio(self._negative - false, self._negative),
            ratio(hits, reached),
            ratio(self._negative - false, below),
            ratio(below, self._positive + self._negative),
        )


class Ranking:
    """Images by falling score; of those that share one, the positive ones last.

    Attributes:
        order: Shape (n,), positions of the images.
        before: For each score that a positive image has, how many images have a higher one.
        tied: That, and the other images that have it too.
        through: How many images reach it.
    """

    def __init__(self, positive: npt.NDArray[np.bool_], score: Probabilities) -> None:
        order = np.lexsort((positive, -score))
        falling, hit = score[order], positive[order]
        ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(order) - 1) + 1
        starts = np.concatenate([[0], ends[:-1]])
        hits = np.concatenate([[0], np.cumsum(hit)])
        inside = hits[ends] - hits[starts]
        kept = inside > 0
        self.order = order.astype(np.int32)
        self.before = starts[kept].astype(np.int32)
        self.through = ends[kept].astype(np.int32)
        self.tied = (ends - inside)[kept].astype(np.int32)

    def curves(self, weights: Weights) -> Curves:
        """The curves of resamples, whose weights have shape (b, n)."""
        return Curves(self, weights)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold and what it does: an image is positive where its score reaches it.

    Attributes:
        threshold: In [0, 1] for probabilities.
        sensitivity: Share of the positive images that reach it.
        specificity: Share of the others that do not.
    """

    threshold: float
    sensitivity: float
    specificity: float


@dataclass(frozen=True, slots=True)
class Roc:
    """All points of a ROC curve, by falling threshold.

    Attributes:
        specificity: Shape (points,).
        sensitivity: Shape (points,).
        threshold: Shape (points,); the first is just above every score.
    """

    specificity: Values
    sensitivity: Values
    threshold: Values

    def point(self, index: int | np.integer) -> OperatingPoint:
        """One of its points."""
        rates = self.threshold[index], self.sensitivity[index], self.specificity[index]
        return OperatingPoint(*map(float, rates))

    def youden(self) -> OperatingPoint:
        """The point of the largest sensitivity + specificity."""
        return self.point(np.argmax(self.sensitivity - (1.0 - self.specificity)))

    def at_sensitivity(self, level: float) -> OperatingPoint:
        """The most specific point whose sensitivity reaches `level`."""
        return self.point(np.argmax(np.where(self.sensitivity >= level, self.specificity, -1.0)))

    def at_specificity(self, level: float) -> OperatingPoint:
        """The most sensitive point whose specificity reaches `level`."""
        # Where a rate is level, the other one decides.
        allowed = np.where(self.specificity >= level, self.sensitivity, -1.0)
        return self.point(len(allowed) - 1 - np.argmax(allowed[::-1]))


def roc(positive: npt.NDArray[np.bool_], score: Probabilities) -> Roc | None:
    """The ROC curve of scores of shape (n,); None without positive or without other images."""
    if positive.all() or not positive.any():
        return None
    false_positive, sensitivity, thresholds = roc_curve(positive, score, drop_intermediate=False)
    # The curve's first point takes no image for positive; its threshold is infinite.
    thresholds[0] = np.nextafter(score.max(), np.inf)
    return Roc(1.0 - false_positive, sensitivity, thresholds)


def operating_points(curve: Roc, *, level: float = 0.95) -> dict[str, OperatingPoint]:
    """Choose three points of a curve.

    Args:
        curve: What to choose from.
        level: The sensitivity, or specificity, that two of the points reach at least.

    Returns:
        "youden" maximises sensitivity + specificity; "sensitive" is the most specific point whose
        sensitivity reaches `level`, "specific" the most sensitive one whose specificity does.

    Source: Youden, "Index for rating diagnostic tests", Cancer 1950.
    """
    return {
        "youden": curve.youden(),
        "sensitive": curve.at_sensitivity(level),
        "specific": curve.at_specificity(level),
    }

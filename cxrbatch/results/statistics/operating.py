"""Thresholds chosen on a ROC curve's own points."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

from cxrbatch.results.statistics.metrics import Probabilities, Values


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

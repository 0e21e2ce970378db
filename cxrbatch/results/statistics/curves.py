"""ROC and precision-recall curves of many resamples at once, operating points, DeLong's areas.

For resamples, scores are sorted once; a resample is a weight per image, and its curves are running
sums.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from scipy.stats import norm, rankdata
from sklearn.metrics import roc_curve

from cxrbatch.results.statistics.intervals import (
    LEVEL,
    Groups,
    Interval,
    Probabilities,
    Values,
    Weights,
    ratio,
)

_Z = float(ndtri((1.0 + LEVEL) / 2.0))


class ThresholdRates(NamedTuple):
    """The rates at a threshold in each of b resamples, each of shape (b,); NaN where undefined.

    Attributes:
        sensitivity: Share of the positive images whose score is at least the threshold.
        specificity: Share of the negative images whose score is below it.
        ppv: Share of the images at or above the threshold that are positive.
        npv: Share of the images below the threshold that are negative.
        below: Share of all images that are below the threshold.
    """

    sensitivity: Values
    specificity: Values
    ppv: Values
    npv: Values
    below: Values


class Curves:
    """ROC and precision-recall curves of b resamples, made by `Ranking.curves`.

    They are calculated at the scores of positive images. Not by scikit-learn, which takes one
    vector of weights at a time.

    Attributes:
        auc: Shape (b,), area under the ROC curve, ties count half; NaN without positive or
            negative images.
        average_precision: Shape (b,), without interpolation; NaN without positive images.
    """

    def __init__(self, ranking: "Ranking", weights: Weights) -> None:
        """Calculate the curves; `weights` has shape (b, n)."""
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
        # Negative images above each score; those with the same score count half.
        above = (tied + self._total[:, ranking.before]) * 0.5 - self._true[:, :-1]
        lost = np.einsum("ij,ij->i", gained, above)
        precision = np.divide(self._true[:, 1:], reached, where=reached > 0, out=above)
        summed = np.einsum("ij,ij->i", gained, np.where(reached > 0, precision, 0.0))
        self.auc = 1.0 - ratio(lost, self._positive * self._negative)
        self.average_precision = ratio(summed, self._positive)

    def at(self, cut: int) -> ThresholdRates:
        """Calculate the rates of each resample at one threshold.

        Args:
            cut: Which threshold: the number of the n ranked images whose score is at least that,
                each image counted once, however often a resample has it; from 0 to n.
        """
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
    """n images by falling score; of images with the same score the negative ones first.

    The arrays `before`, `tied` and `through` have one entry per score that a positive image has,
    from the highest score.

    Attributes:
        order: Shape (n,), positions of the images in the arguments.
        before: Number of images with a higher score.
        tied: That number plus the number of negative images with the same score.
        through: Number of images with this score or a higher one.
    """

    def __init__(self, positive: npt.NDArray[np.bool_], score: Probabilities) -> None:
        """Sort the images; both arguments have shape (n,)."""
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
        """Calculate the ROC and precision-recall curves of b resamples of the ranked images.

        NaN are `auc` without positive or negative images, `average_precision` without positive.

        Args:
            weights: Shape (b, n), how often each resample has each image. Column i is for image i
                of the arrays that `Ranking` was made of, which are not sorted.
        """
        return Curves(self, weights)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold and its rates: an image is called positive where its score is at least that.

    Attributes:
        threshold: In [0, 1] for probabilities, or just above the highest score.
        sensitivity: Share of the positive images that are called positive.
        specificity: Share of the negative images that are not.
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
        """Return threshold, sensitivity and specificity of the ROC curve's point at an index."""
        rates = self.threshold[index], self.sensitivity[index], self.specificity[index]
        return OperatingPoint(*map(float, rates))

    def youden(self) -> OperatingPoint:
        """Return the ROC curve's point with the largest sensitivity + specificity.

        Of several such points, the one with the highest threshold.
        """
        return self.point(np.argmax(self.sensitivity - (1.0 - self.specificity)))

    def at_sensitivity(self, level: float) -> OperatingPoint:
        """Return, of the ROC curve's points with sensitivity >= `level`, the most specific one.

        Of several such points, the one with the highest threshold.
        """
        return self.point(np.argmax(np.where(self.sensitivity >= level, self.specificity, -1.0)))

    def at_specificity(self, level: float) -> OperatingPoint:
        """Return, of the ROC curve's points with specificity >= `level`, the most sensitive one.

        Of several such points, the one with the lowest threshold.
        """
        # Of points with the same sensitivity the last, which is found from the other end.
        allowed = np.where(self.specificity >= level, self.sensitivity, -1.0)
        return self.point(len(allowed) - 1 - np.argmax(allowed[::-1]))


def roc(positive: npt.NDArray[np.bool_], score: Probabilities) -> Roc | None:
    """Calculate the ROC curve of scores, with a point for each distinct score.

    Args:
        positive: Shape (n,), whether each image is of the class.
        score: Shape (n,), higher for images that are more probably of the class.

    Returns:
        The curve; None where no image, or every image, is positive.
    """
    if positive.all() or not positive.any():
        return None
    false_positive, sensitivity, thresholds = roc_curve(positive, score, drop_intermediate=False)
    # scikit-learn's first threshold, which no image reaches, is infinite.
    thresholds[0] = np.nextafter(score.max(), np.inf)
    return Roc(1.0 - false_positive, sensitivity, thresholds)


def operating_points(curve: Roc, *, level: float = 0.95) -> dict[str, OperatingPoint]:
    """Choose three points of a ROC curve.

    Args:
        curve: The ROC curve.
        level: The least sensitivity, or specificity, of the second and third point.

    Returns:
        Three points by name. "youden" maximises sensitivity + specificity. "sensitive" has the
        largest specificity of the points with a sensitivity of at least `level`; "specific" has the
        largest sensitivity of the points with a specificity of at least `level`.

    Source: Youden, "Index for rating diagnostic tests", Cancer 1950.
    """
    return {
        "youden": curve.youden(),
        "sensitive": curve.at_sensitivity(level),
        "specific": curve.at_specificity(level),
    }


class Area(NamedTuple):
    """An area under a ROC curve and how much each group of images adds to its error.

    Attributes:
        value: In [0, 1].
        influence: Shape (groups,). The sum of its squares is the variance of the area; the sum of
            its products with the influence on another area of the same images, the covariance.
    """

    value: float
    influence: Values


class Contrast(NamedTuple):
    """The difference of two areas under ROC curves on the same images, tested against 0.

    Attributes:
        interval: 95 % interval of the difference.
        p: Two-sided p value of no difference.
    """

    interval: Interval
    p: float


def delong_area(
    positive: npt.NDArray[np.bool_], score: Probabilities, groups: Groups
) -> Area | None:
    """Calculate an area under a ROC curve and each group's influence on it.

    The influences come from DeLong's structural components, summed over each group: the sum of
    their squares is the variance of the area, with one image per group DeLong's, with several that
    for clustered data. No library of ours has it.

    Args:
        positive: Shape (n,), whether each image is of the class.
        score: Shape (n,).
        groups: Shape (n,), the number of each image's group, usually its patient, from 0.

    Returns:
        The area and the influence of each group, shape (groups,); None where fewer than two groups
        have positive images, or fewer than two have negative ones.

    Source: DeLong et al., Biometrics 1988, in the form of Sun and Xu, IEEE Signal Processing
    Letters 2014; Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 1997.
    """
    sides = groups[positive], groups[~positive]
    if min(len(np.unique(side)) for side in sides) < 2:
        return None
    ranks = rankdata(score)
    components = (
        (ranks[positive] - rankdata(score[positive])) / len(sides[1]),
        1.0 - (ranks[~positive] - rankdata(score[~positive])) / len(sides[0]),
    )
    value = float(components[0].mean())
    count = int(groups.max()) + 1
    parts = [_summed(c - value, side, count) for c, side in zip(components, sides, strict=True)]
    return Area(value, parts[0] + parts[1])


def mean_area(areas: list[Area]) -> Area:
    """Average one or more areas of the same images: their values, and each group's influences."""
    influence = np.mean([a.influence for a in areas], axis=0)
    return Area(float(np.mean([a.value for a in areas])), influence)


def delong_interval(area: Area) -> Interval | None:
    """Calculate the 95 % interval of an area by the normal distribution, cut to [0, 1].

    Return None where the variance of the area is 0, but for rounding.
    """
    spread = _Z * _deviation(area.influence)
    if spread == 0.0:
        return None
    return Interval(max(area.value - spread, 0.0), min(area.value + spread, 1.0))


def contrast(first: Area, second: Area) -> Contrast | None:
    """Test by the normal distribution whether two areas on the same images differ.

    Returns:
        The interval of `first` - `second` and its p; None where the variance of the difference is
        0, but for rounding.
    """
    difference = first.value - second.value
    deviation = _deviation(first.influence - second.influence)
    if deviation == 0.0:
        return None
    bounds = Interval(difference - _Z * deviation, difference + _Z * deviation)
    return Contrast(bounds, float(2.0 * norm.sf(abs(difference) / deviation)))


def _summed(components: Values, groups: Groups, count: int) -> Values:
    """What each group adds to the mean of the components, for the unbiased variance."""
    several = len(np.unique(groups))
    factor = np.sqrt(several / (several - 1.0)) / len(components)
    summed: Values = np.bincount(groups, components, minlength=count) * factor
    return summed


def _deviation(influence: Values) -> float:
    """Standard deviation; 0 where only rounding is left."""
    deviation = float(np.sqrt(np.square(influence).sum()))
    return deviation if deviation > 1e-12 else 0.0

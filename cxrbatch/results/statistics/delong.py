"""The variance of areas under ROC curves without resampling, and of their differences."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from scipy.stats import norm, rankdata

from cxrbatch.results.statistics.intervals import LEVEL, Groups, Interval
from cxrbatch.results.statistics.metrics import Probabilities, Values

_Z = float(ndtri((1.0 + LEVEL) / 2.0))


class Area(NamedTuple):
    """An area under a ROC curve and what each group adds to its error.

    Attributes:
        value: In [0, 1].
        influence: Shape (groups,). The sum of its squares is the area's variance; that of its
            products with another area's, on the same images, the covariance.
    """

    value: float
    influence: Values


class Contrast(NamedTuple):
    """The difference of two areas on the same images.

    Attributes:
        interval: Of the difference.
        p: Two-sided, for no difference.
    """

    interval: Interval
    p: float


def area(positive: npt.NDArray[np.bool_], score: Probabilities, groups: Groups) -> Area | None:
    """The area by DeLong's structural components, summed over each group.

    With one image per group it is DeLong's variance; with several, that for clustered data.

    Args:
        positive: Shape (n,).
        score: Shape (n,).
        groups: Shape (n,), whose each image is.

    Returns:
        None where fewer than two groups have positive images, or other ones.

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
    """The mean of areas of different classes on the same images."""
    influence = np.mean([a.influence for a in areas], axis=0)
    return Area(float(np.mean([a.value for a in areas])), influence)


def interval(found: Area) -> Interval | None:
    """The normal interval, within [0, 1]; None where the variance is 0."""
    spread = _Z * _deviation(found.influence)
    if spread == 0.0:
        return None
    return Interval(max(found.value - spread, 0.0), min(found.value + spread, 1.0))


def contrast(first: Area, second: Area) -> Contrast | None:
    """Compare first - second; None where the difference has no variance."""
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
    found = float(np.sqrt(np.square(influence).sum()))
    return found if found > 1e-12 else 0.0

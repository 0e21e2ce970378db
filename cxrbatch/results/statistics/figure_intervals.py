"""Makes figures: a statistic with the 95 % interval that fits it, or why there is none."""

import numpy as np
import numpy.typing as npt

from cxrbatch.results.figures import Curve, Figure, Histogram
from cxrbatch.results.statistics.curves import Area, delong_interval
from cxrbatch.results.statistics.intervals import Estimate, Groups, Probabilities, Values, wilson

Chosen = npt.NDArray[np.bool_]

WILSON, WILSON_OF_PATIENTS = "Wilson", "Wilson over patients"
BOOTSTRAP = "patient bootstrap"
DELONG, DELONG_OF_PATIENTS = "DeLong", "DeLong over patients"

NO_IMAGES = "no images"
NO_POSITIVE, NO_NEGATIVE = "no image is of this class", "every image is of this class"

_HISTOGRAM_BINS = 20
_MOST_POINTS = 300


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
        estimate: The statistic; it says itself why it has no interval.
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

    Wilson's is for one image per patient; with several images of a patient, the bootstrap's is
    taken. But a share of 0 or 1 is the same in all resamples; its interval is Wilson's with the
    number of patients in place of that of images.

    Args:
        estimate: The share, with the bootstrap's interval.
        among: Shape (n,), whether the share's denominator counts each image.
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


def area_figure(value: float | None, found: Area | None, groups: Groups, reason: str) -> Figure:
    """Return the figure of an area under a ROC curve, with DeLong's interval.

    Args:
        value: The area; None where undefined.
        found: The same with its variance; None where there are too few patients: the figure then
            has no interval. Nor has it one where the variance is 0.
        groups: Shape (n,), the number of each image's patient.
        reason: Why the area has no value, for a reader; used only if it has none.
    """
    n = len(groups)
    if value is None:
        return undefined(n, reason)
    if found is None:
        too_few = "no interval: fewer than two patients on one side"
        return Figure(value, None, None, n, None, too_few)
    bounds = delong_interval(found)
    if bounds is None:
        return Figure(value, None, None, n, None, "no interval: DeLong's variance is 0")
    method = DELONG if one_each(groups) else DELONG_OF_PATIENTS
    return Figure(value, *bounds, n, method)


def histogram(positive: Chosen, score: Probabilities) -> Histogram:
    """Count images by score in 20 bins of equal width over [0, 1].

    Args:
        positive: Shape (n,), whether each image is of the class; both sides are counted apart.
        score: Shape (n,), in [0, 1].
    """
    edges = np.linspace(0.0, 1.0, _HISTOGRAM_BINS + 1)
    counts = [np.histogram(score[side], edges)[0] for side in (positive, ~positive)]
    first, second = (tuple(map(int, side)) for side in counts)
    return Histogram(tuple(edges.tolist()), first, second)


def thinned(x: Values, y: Values) -> Curve:
    """Return at most about 300 points of a curve, at equal steps along it, with both its ends.

    Args:
        x: Shape (points,).
        y: Shape (points,).
    """
    along = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    wanted = np.searchsorted(along, np.linspace(0.0, along[-1], _MOST_POINTS))
    kept = np.unique(np.concatenate([[0], np.minimum(wanted, len(x) - 1), [len(x) - 1]]))
    return Curve(tuple(x[kept].tolist()), tuple(y[kept].tolist()))

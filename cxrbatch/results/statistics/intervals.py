"""Plain metrics, and 95 % intervals: Wilson's, and the bootstrap over patients.

Patients are resampled whole, as the images of one patient are alike.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, recall_score, roc_auc_score

Probabilities = npt.NDArray[np.floating]
Classes = npt.NDArray[np.integer]
Values = npt.NDArray[np.float64]


def confusion(truth: Classes, predicted: Classes, *, classes: int) -> npt.NDArray[np.int64]:
    """Count images by true class (rows) and predicted class (columns).

    Args:
        truth: Shape (n,), class indices.
        predicted: Shape (n,), class indices.
        classes: Number of classes.

    Returns:
        Shape (classes, classes).
    """
    if not len(truth):
        return np.zeros((classes, classes), np.int64)
    counts: npt.NDArray[np.int64] = confusion_matrix(truth, predicted, labels=range(classes))
    return counts


def recalls(truth: Classes, predicted: Classes, *, classes: int) -> list[float | None]:
    """Calculate the recall of each class: the share of its images that are predicted rightly.

    Args:
        truth: Shape (n,), class indices; n at least 1.
        predicted: Shape (n,), class indices.
        classes: Number of classes.

    Returns:
        One value per class in [0, 1]; None for a class without an image.
    """
    options = {"labels": range(classes), "average": None, "zero_division": np.nan}
    return [
        None if np.isnan(value) else float(value)
        for value in recall_score(truth, predicted, **options)
    ]


def balanced_accuracy(truth: Classes, predicted: Classes) -> float:
    """Average the recall over the classes that occur in `truth`, in [0, 1].

    Both arguments are class indices of shape (n,), n at least 1.
    """
    # Not `balanced_accuracy_score`, which warns where a predicted class does not occur.
    return float(recall_score(truth, predicted, labels=np.unique(truth), average="macro"))


def one_vs_rest_auc(truth: Classes, probabilities: Probabilities) -> list[float | None]:
    """Calculate the area under the ROC curve of each class against all others.

    Args:
        truth: Shape (n,), class indices.
        probabilities: Shape (n, classes).

    Returns:
        One value per class in [0, 1]; None where no image, or every image, is of the class.
    """
    areas: list[float | None] = []
    for index, score in enumerate(probabilities.T):
        positive = truth == index
        is_defined = positive.any() and not positive.all()
        areas.append(float(roc_auc_score(positive, score)) if is_defined else None)
    return areas


def macro_auc(truth: Classes, probabilities: Probabilities) -> float:
    """Average the area under the ROC curve, class against all others, over the classes.

    A class of which no image, or every image, is has no area and is left out.

    Args:
        truth: Shape (n,), class indices.
        probabilities: Shape (n, classes).

    Returns:
        The mean, in [0, 1].

    Raises:
        ValueError: No class has an area.
    """
    areas = [area for area in one_vs_rest_auc(truth, probabilities) if area is not None]
    if not areas:
        raise ValueError("an area under the curve needs images of at least two classes")
    return float(np.mean(areas))


def ratio(part: npt.NDArray[np.generic], whole: npt.NDArray[np.generic]) -> Values:
    """Divide arrays of one shape element by element; NaN where `whole` is not above 0."""
    undefined = np.full(np.shape(whole), np.nan)
    quotient: Values = np.divide(part, whole, out=undefined, where=np.asarray(whole) > 0)
    return quotient


def mean_of_defined(values: Values) -> Values:
    """Average each row of a matrix over its values that are not NaN; the result has shape (rows,).

    It is NaN for a row of which all values are NaN.
    """
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1))


Groups = npt.NDArray[np.int32]
"""Shape (n,): the group, usually the patient, of each image, numbered from 0 without gaps."""

Weights = npt.NDArray[np.int32]
"""Shape (b, n): in each of b resamples, how often each image was drawn."""

Statistics = Callable[[Weights], Values]
"""Returns s statistics of each of b resamples, shape (b, s); NaN where one is undefined."""

LEVEL = 0.95
MOST_REPLICATES, FEWEST_REPLICATES = 2000, 200
_IMAGES_WITH_ALL_REPLICATES = 20_000
_FEWEST_GROUPS = 5
_MOST_BLOCKS = 200
_WEIGHTS_AT_ONCE = 1 << 18
_Z = float(ndtri((1.0 + LEVEL) / 2.0))
# Beyond this bias so few resamples lie on one side of the value that the correction is a guess.
_MOST_BIAS = float(ndtri(0.9))


class Interval(NamedTuple):
    """The lower and upper bound of a 95 % confidence interval."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A statistic of all images, with its bootstrap interval.

    Attributes:
        value: None where the statistic is undefined.
        interval: None where there is none.
        reason: Why there is a value but no interval; None otherwise.
        constant: Whether there is no interval because, but for rounding, all resamples agree.
    """

    value: float | None
    interval: Interval | None
    reason: str | None
    constant: bool


def numbered(groups: Sequence[Hashable] | npt.NDArray[np.generic]) -> Groups:
    """Number groups from 0 without gaps.

    Args:
        groups: A name of each image's group. Groups of a sequence are numbered by first occurrence,
            those of an array in the order of their values.

    Returns:
        Shape (n,), the number of each image's group.
    """
    if isinstance(groups, np.ndarray):
        codes: Groups = np.unique(groups, return_inverse=True)[1].astype(np.int32)
        return codes
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(g, len(numbers)) for g in groups], np.int32)


def wilson(hits: int, n: int) -> Interval:
    """Calculate Wilson's 95 % score interval of the proportion `hits` / `n`, with `n` at least 1.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA
    1927.
    """
    found = binomtest(hits, n).proportion_ci(LEVEL, method="wilson")
    return Interval(float(found.low), float(found.high))


def replicates_for(images: int) -> int:
    """Return how many bootstrap resamples to draw from a number of images.

    2,000 up to 20,000 images; beyond, fewer in proportion (40,000,000 // images), but at least 200.
    """
    affordable = MOST_REPLICATES * _IMAGES_WITH_ALL_REPLICATES // max(images, 1)
    return min(max(affordable, FEWEST_REPLICATES), MOST_REPLICATES)


def bootstrap_by_group(
    statistics: Statistics, groups: Groups, *, seed: int = 0, replicates: int | None = None
) -> list[Estimate]:
    """Estimate statistics with 95 % bootstrap intervals, resampling whole groups with replacement.

    The intervals are bias-corrected and accelerated (BCa). The acceleration comes from the
    jackknife over groups, or over at most 200 blocks of groups. `scipy.stats.bootstrap` is not
    used, as it resamples single images.

    Args:
        statistics: Called with weights, shape (b, n), how often each of b resamples has each image;
            returns s statistics of each, shape (b, s), NaN where undefined.
        groups: Shape (n,), the number of each image's group, from 0 without gaps.
        seed: Seed of the resampling.
        replicates: Number of resamples; None for `replicates_for` the number of images.

    Returns:
        One estimate per statistic. An estimate has no interval with fewer than five groups, where
        the statistic is undefined for all images or in more than one resample of ten, where all
        resamples agree, or where more than 90 % lie on one side of the value.

    Source: DiCiccio and Efron, "Bootstrap confidence intervals", Statistical Science 1996; Field
    and Welsh, "Bootstrapping clustered data", JRSS B 2007.
    """
    count = int(groups.max(initial=-1)) + 1
    values = statistics(np.ones((1, len(groups)), np.int32))[0]
    if count < _FEWEST_GROUPS:
        return [_without(value, f"fewer than {_FEWEST_GROUPS} patients") for value in values]
    replicates = replicates or replicates_for(len(groups))
    rng = np.random.default_rng(seed)
    drawn = _through(statistics, groups, _draws(rng, count, replicates, len(groups)))
    blocks = rng.permutation(count) % min(count, _MOST_BLOCKS, max(replicates // 4, 2))
    left = _through(statistics, groups, _deletions(blocks, len(groups)))
    return [_estimate(*columns) for columns in zip(values, drawn.T, left.T, strict=True)]


def _through(statistics: Statistics, groups: Groups, counts: Iterator[Weights]) -> Values:
    alone = len(groups) == int(groups.max()) + 1
    if alone and np.array_equal(groups, np.arange(len(groups))):
        return np.concatenate([statistics(c) for c in counts])
    return np.concatenate([statistics(np.take(c, groups, axis=1)) for c in counts])


def _draws(rng: np.random.Generator, groups: int, replicates: int, n: int) -> Iterator[Weights]:
    """How often each group is drawn, some resamples at a time."""
    step = max(1, _WEIGHTS_AT_ONCE // n)
    for start in range(0, replicates, step):
        some = min(step, replicates - start)
        drawn = rng.integers(0, groups, (some, groups), np.int32)
        if some > 1:
            drawn += (groups * np.arange(some, dtype=np.int32))[:, None]
        counts = np.bincount(drawn.ravel(), minlength=some * groups)
        yield counts.reshape(some, groups).astype(np.int32)


def _deletions(blocks: npt.NDArray[np.int64], n: int) -> Iterator[Weights]:
    """All groups but those of one block, some blocks at a time."""
    numbers = np.arange(blocks.max() + 1)
    step = max(1, _WEIGHTS_AT_ONCE // n)
    for start in range(0, len(numbers), step):
        yield (blocks != numbers[start : start + step, None]).astype(np.int32)


def _estimate(value: float, drawn: Values, left: Values) -> Estimate:
    defined = np.sort(drawn[~np.isnan(drawn)])
    if np.isnan(value) or len(defined) < 0.9 * len(drawn):
        return _without(value, "it is undefined in more than one resample of ten")
    # Sums in another order differ in the last bits.
    slack = 1e-12 * max(1.0, abs(value))
    if defined[-1] - defined[0] <= slack:
        return _without(value, "all resamples agree", constant=True)
    below = np.searchsorted(defined, value - slack), np.searchsorted(defined, value + slack)
    bias = float(ndtri(sum(below) / 2.0 / len(defined)))
    if abs(bias) > _MOST_BIAS:
        return _without(value, "the resamples lie nearly all on one side")
    pull = _acceleration(left)
    bounds = [bias + (bias + z) / (1.0 - pull * (bias + z)) for z in (-_Z, _Z)]
    low, high = np.quantile(defined, ndtr(bounds))
    return Estimate(float(value), Interval(float(low), float(high)), None, False)


def _acceleration(left: Values) -> float:
    """A sixth of the skewness of the jackknife's values, which keeps within a quarter."""
    influence = np.nan_to_num(np.nanmean(left) - left) if not np.isnan(left).all() else left * 0.0
    spread = float((influence**2).sum()) ** 1.5
    found = float((influence**3).sum()) / (6.0 * spread) if spread > 0.0 else 0.0
    return min(max(found, -0.25), 0.25)


def _without(value: float, reason: str, *, constant: bool = False) -> Estimate:
    if np.isnan(value):
        return Estimate(None, None, None, False)
    return Estimate(float(value), None, f"no interval: {reason}", constant)

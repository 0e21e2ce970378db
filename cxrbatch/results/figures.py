"""The figures of an evaluation as plain values: what a page shows and JSON holds.

All numbers are Python's own, so that `dataclasses.asdict` is ready for JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxrbatch.results.statistics.delong import Area, interval
from cxrbatch.results.statistics.intervals import Estimate, Groups, wilson
from cxrbatch.results.statistics.metrics import Probabilities, Values

Numbers = tuple[float, ...]
Counts = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """One statistic with its 95 % interval.

    Attributes:
        value: None where the statistic is undefined.
        low: Lower bound; None where there is no interval.
        high: Upper bound, likewise.
        n: The images that it is a statistic of: of a proportion, its denominator.
        method: How the interval was found, for a reader ("Wilson", "patient bootstrap", …); None
            without one.
        undefined: Why there is no value, or, with a value, no interval; None where there is both.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str | None = None
    undefined: str | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve thinned for drawing to a few hundred of its own points.

    Attributes:
        x: Of a ROC curve 1 - specificity; of a precision-recall curve the recall.
        y: Of a ROC curve the sensitivity; of a precision-recall curve the precision.
    """

    x: Numbers
    y: Numbers


@dataclass(frozen=True, slots=True)
class Histogram:
    """Scores of one class in bins of equal width over [0, 1], by truth.

    Attributes:
        edges: One more than bins.
        positive: Images of the class in each bin.
        negative: The other images.
    """

    edges: Numbers
    positive: Counts
    negative: Counts


@dataclass(frozen=True, slots=True)
class OperatingFigures:
    """A threshold of one class and what it does: positive where the score reaches it.

    Attributes:
        name: "youden", "sensitive" (95 % sensitivity) or "specific" (95 % specificity).
        chosen_on: "these images", or "validation" where the checkpoint's card holds the threshold.
        threshold: Just above 1 or the highest score where no image is positive.
        sensitivity: Share of the class's images that reach it.
        specificity: Share of the others that do not.
        ppv: Share of those that reach it that are of the class.
        npv: Share of those that do not that are not.
        ppv_at_prevalence: By Bayes' rule for the stated prevalence; None where none was stated.
        npv_at_prevalence: Likewise.
    """

    name: str
    chosen_on: str
    threshold: float
    sensitivity: Figure
    specificity: Figure
    ppv: Figure
    npv: Figure
    ppv_at_prevalence: Figure | None
    npv_at_prevalence: Figure | None


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class against all others.

    Attributes:
        name: Of the class.
        images: Images that are of the class.
        predicted: Images for which it is the most probable class.
        sensitivity: By the most probable class, as specificity, ppv, npv and f1.
        auc: Area under the ROC curve.
        average_precision: Without interpolation.
        roc: None where undefined: `auc.undefined` says why.
        precision_recall: None where undefined: `average_precision.undefined` says why.
        points: Empty where there is no curve to choose them on.
        prevalence: The stated one, in (0, 1), or None.
        histogram: Of the class's probability.
    """

    name: str
    images: int
    predicted: int
    sensitivity: Figure
    specificity: Figure
    ppv: Figure
    npv: Figure
    f1: Figure
    auc: Figure
    average_precision: Figure
    roc: Curve | None
    precision_recall: Curve | None
    points: tuple[OperatingFigures, ...]
    prevalence: float | None
    histogram: Histogram


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether a confidence of 0.8 is right in 80 of 100.

    Attributes:
        edges: Of the bins of confidence, the largest probability; one more than bins.
        images: Images in each bin.
        confidence: Mean confidence in each bin; None where it is empty.
        accuracy: Share of right predictions in each bin; None where it is empty.
        ece: Expected calibration error.
        ece_by_chance: What it would be on average, were every confidence true: a count of right
            predictions strays from its expectation. None without images.
        brier: Squared distance of the probabilities from the truth, summed over the classes, in
            [0, 2].
    """

    edges: Numbers
    images: Counts
    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    ece: Figure
    ece_by_chance: float | None
    brier: Figure


@dataclass(frozen=True, slots=True)
class RuleOut:
    """A threshold below which images are read as normal.

    Attributes:
        target: The sensitivity for an abnormal image that is reached at least: 0.95, 0.98, 0.99.
        threshold: Of 1 - P(Normal).
        sensitivity: Share of the abnormal images that reach it.
        specificity: Share of the normal images that do not.
        npv: Share of those ruled out that are normal.
        ruled_out: Share of all images that do not reach it.
    """

    target: float
    threshold: float
    sensitivity: Figure
    specificity: Figure
    npv: Figure
    ruled_out: Figure


@dataclass(frozen=True, slots=True)
class Triage:
    """Normal against all else, by 1 - P(Normal).

    Attributes:
        normal: The name of the class.
        images: Abnormal images.
        auc: Area under the ROC curve.
        roc: None where undefined: `auc.undefined` says why.
        rules: One per target; empty where there is no curve.
        histogram: Of 1 - P(Normal); positive is abnormal.
    """

    normal: str
    images: int
    auc: Figure
    roc: Curve | None
    rules: tuple[RuleOut, ...]
    histogram: Histogram


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of scores against truth.

    Attributes:
        images: Images with a truth and scores.
        patients: Groups that were resampled; equal to `images` where each has its own.
        replicates: Of the bootstrap.
        confusion: Counts by truth (rows) and most probable class (columns).
        accuracy: Wilson where every patient has one image, else by patient bootstrap.
        accuracy_of_images: Wilson, as if every image were of another patient.
        balanced_accuracy: Mean sensitivity over the classes that occur.
        macro_f1: Mean F1 over the classes that occur or are predicted.
        macro_auc: Mean area over the classes that have one.
        classes: In the order of the probabilities.
        calibration: Of the probabilities as they are.
        uncalibrated: Of the softmax of the logits; None without logits.
        temperature: What the logits were divided by; None where not stated.
        triage: None where no class is called Normal.
    """

    images: int
    patients: int
    replicates: int
    confusion: tuple[Counts, ...]
    accuracy: Figure
    accuracy_of_images: Figure
    balanced_accuracy: Figure
    macro_f1: Figure
    macro_auc: Figure
    classes: tuple[ClassFigures, ...]
    calibration: Calibration
    uncalibrated: Calibration | None
    temperature: float | None
    triage: Triage | None


@dataclass(frozen=True, slots=True)
class Headline:
    """The headline figures of an evaluation, without curves and tables.

    Attributes:
        images: Images analysed.
        patients: Their patients.
        side: The side of a split that they are on, or None.
        accuracy: As in `Evaluation`, with the next three.
        balanced_accuracy: Likewise.
        macro_f1: Likewise.
        macro_auc: Likewise.
        auc: Class name -> area under the ROC curve of the class against all others.
    """

    images: int
    patients: int
    side: str | None
    accuracy: Figure
    balanced_accuracy: Figure
    macro_f1: Figure
    macro_auc: Figure
    auc: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class SubgroupFigures:
    """The few figures of a subgroup.

    Attributes:
        images: Its images.
        patients: Their patients.
        accuracy: As in `Evaluation`, with the next one.
        balanced_accuracy: Over the classes that occur in the subgroup.
        macro_auc: Over the classes that have an area in the subgroup; its interval is DeLong's.
        sensitivity: One per class, in the order of the probabilities.
    """

    images: int
    patients: int
    accuracy: Figure
    balanced_accuracy: Figure
    macro_auc: Figure
    sensitivity: tuple[Figure, ...]


Chosen = npt.NDArray[np.bool_]

WILSON, WILSON_OF_PATIENTS = "Wilson", "Wilson over patients"
BOOTSTRAP = "patient bootstrap"
DELONG, DELONG_OF_PATIENTS = "DeLong", "DeLong over patients"

NO_IMAGES = "no images"
NO_POSITIVE, NO_NEGATIVE = "no image is of this class", "every image is of this class"

_HISTOGRAM_BINS = 20
_MOST_POINTS = 300


def one_each(groups: Groups) -> bool:
    """Whether every patient has one image."""
    return len(groups) == 0 or int(groups.max()) + 1 == len(groups)


def undefined(n: int, reason: str) -> Figure:
    """A statistic without a value."""
    return Figure(None, None, None, n, None, reason)


def resampled(estimate: Estimate, n: int, reason: str) -> Figure:
    """A statistic with its bootstrap interval; `reason` is said where it is undefined."""
    if estimate.value is None:
        return undefined(n, reason)
    if estimate.interval is None:
        return Figure(estimate.value, None, None, n, None, estimate.reason)
    return Figure(estimate.value, *estimate.interval, n, BOOTSTRAP)


def proportion(estimate: Estimate, among: Chosen, groups: Groups, reason: str) -> Figure:
    """A share of the images chosen by `among`, with Wilson's interval or the bootstrap's.

    Where every patient's images agree that it is all or none, resampling shows no spread, and
    Wilson's interval with patients for images is given.
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
    """A share with Wilson's interval, as if every image were of another patient."""
    if n == 0:
        return undefined(0, NO_IMAGES)
    return Figure(hits / n, *wilson(hits, n), n, WILSON)


def area_figure(value: float | None, found: Area | None, groups: Groups, reason: str) -> Figure:
    """An area under a ROC curve with DeLong's interval."""
    n = len(groups)
    if value is None:
        return undefined(n, reason)
    if found is None:
        too_few = "no interval: fewer than two patients on one side"
        return Figure(value, None, None, n, None, too_few)
    bounds = interval(found)
    if bounds is None:
        return Figure(value, None, None, n, None, "no interval: DeLong's variance is 0")
    method = DELONG if one_each(groups) else DELONG_OF_PATIENTS
    return Figure(value, *bounds, n, method)


def histogram(positive: Chosen, score: Probabilities) -> Histogram:
    """Scores in [0, 1] by truth."""
    edges = np.linspace(0.0, 1.0, _HISTOGRAM_BINS + 1)
    counts = [np.histogram(score[side], edges)[0] for side in (positive, ~positive)]
    first, second = (tuple(map(int, side)) for side in counts)
    return Histogram(tuple(edges.tolist()), first, second)


def thinned(x: Values, y: Values) -> Curve:
    """Points of a curve at equal steps along it, its ends included."""
    along = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    wanted = np.searchsorted(along, np.linspace(0.0, along[-1], _MOST_POINTS))
    kept = np.unique(np.concatenate([[0], np.minimum(wanted, len(x) - 1), [len(x) - 1]]))
    return Curve(tuple(x[kept].tolist()), tuple(y[kept].tolist()))

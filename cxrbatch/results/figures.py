"""The figures of an evaluation as plain values: what a page shows and JSON holds.

All numbers are Python's own, so that `dataclasses.asdict` is ready for JSON.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

FloatTuple = tuple[float, ...]
CountTuple = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """One statistic, such as an accuracy, with its 95 % interval.

    Attributes:
        value: None where the statistic is undefined.
        low: Lower bound of the interval; None where there is no interval.
        high: Upper bound, likewise.
        n: Number of images that it describes; of a proportion, the denominator.
        method: How the interval was calculated, for a reader: "Wilson", "patient bootstrap", …;
            None without an interval.
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
    """The points of a curve for drawing, at most about 300 of all its points.

    Attributes:
        x: Of a ROC curve 1 - specificity; of a precision-recall curve the recall.
        y: Of a ROC curve the sensitivity; of a precision-recall curve the precision.
    """

    x: FloatTuple
    y: FloatTuple


@dataclass(frozen=True, slots=True)
class Histogram:
    """Numbers of images by their score for one class, in bins of equal width over [0, 1].

    Attributes:
        edges: Edges of the bins, one more than there are bins.
        positive: Number of images of the class in each bin.
        negative: Number of the other images in each bin.
    """

    edges: FloatTuple
    positive: CountTuple
    negative: CountTuple


@dataclass(frozen=True, slots=True)
class OperatingFigures:
    """A threshold for one class and its rates: an image is positive if its score is at least that.

    Attributes:
        name: "youden", "sensitive" (95 % sensitivity) or "specific" (95 % specificity).
        chosen_on: "these images", or "validation" where the checkpoint's card holds the threshold.
        threshold: Just above 1 or the highest score where no image is positive.
        sensitivity: Share of the images of the class whose score is at least the threshold.
        specificity: Share of the other images whose score is below it.
        ppv: Share of the positive images that are of the class.
        npv: Share of the images below the threshold that are of another class.
        ppv_at_prevalence: The PPV for the stated prevalence, by Bayes' rule; None where no
            prevalence was stated.
        npv_at_prevalence: The NPV, likewise.
    """

    name: str
    chosen_on: str
    threshold: float
    sensitivity: Figure
    specificity: Figure
    ppv: Figure
    npv: Figure
    ppv_at_prevalence: Figure | None = None
    npv_at_prevalence: Figure | None = None


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """The figures of one class against all others.

    Attributes:
        name: Name of the class.
        images: Number of images that are of the class.
        predicted: Number of images for which it is the most probable class.
        sensitivity: Share of the images of the class for which it is the most probable class.
        specificity: Share of the other images for which it is not.
        ppv: Share of the images for which it is the most probable class that are of the class.
        npv: Share of the images for which it is not that are of another class.
        f1: Harmonic mean of sensitivity and ppv.
        auc: Area under the ROC curve of the class's probability.
        average_precision: Without interpolation.
        roc: None where undefined: `auc.undefined` says why.
        precision_recall: None where undefined: `average_precision.undefined` says why.
        points: Thresholds with their rates: those chosen on these images, none where `roc` is None,
            followed by those from the checkpoint's card.
        prevalence: The stated prevalence, in (0, 1), or None.
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
    """Confidence against accuracy: is a confidence of 0.8 right in 80 of 100 images?

    The confidence of an image is its largest probability.

    Attributes:
        edges: Edges of the bins of confidence, one more than there are bins.
        images: Number of images in each bin.
        confidence: Mean confidence in each bin; None where it is empty.
        accuracy: Share of right predictions in each bin; None where it is empty.
        ece: Expected calibration error: the mean of |accuracy - confidence| over the bins,
            weighted by their images.
        ece_by_chance: Its mean if every confidence were true; None without images.
        ece_by_chance_high: The 95th percentile of the same: an error above it is not chance alone.
        brier: Squared distance of the probabilities from the truth, summed over the classes, in
            [0, 2].
    """

    edges: FloatTuple
    images: CountTuple
    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    ece: Figure
    ece_by_chance: float | None
    ece_by_chance_high: float | None
    brier: Figure


@dataclass(frozen=True, slots=True)
class RuleOut:
    """A threshold of 1 - P(Normal) below which images are read as normal ("ruled out").

    Attributes:
        target: The least sensitivity for abnormal images: 0.95, 0.98 or 0.99.
        threshold: The threshold with the best specificity that meets the target.
        sensitivity: Share of the abnormal images that are not ruled out.
        specificity: Share of the normal images that are ruled out.
        npv: Share of the images ruled out that are normal.
        ruled_out: Share of all images that are ruled out.
    """

    target: float
    threshold: float
    sensitivity: Figure
    specificity: Figure
    npv: Figure
    ruled_out: Figure


@dataclass(frozen=True, slots=True)
class Triage:
    """The figures of normal against abnormal (all other classes), by the score 1 - P(Normal).

    Attributes:
        normal: The name of the class.
        images: Number of abnormal images.
        auc: Area under the ROC curve.
        roc: None where undefined: `auc.undefined` says why.
        rules: One threshold per target sensitivity; empty where there is no ROC curve.
        histogram: Of 1 - P(Normal); positive is abnormal.
    """

    normal: str
    images: int
    auc: Figure
    roc: Curve | None
    rules: tuple[RuleOut, ...]
    histogram: Histogram


@dataclass(frozen=True, slots=True)
class PredictedShares:
    """What the model predicted for the images of one true class, in the classes of the model.

    Attributes:
        name: The true class.
        shares: Class of the model -> share of the images of which it is the most probable class.
    """

    name: str
    shares: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of scores against truth.

    Attributes:
        images: Images with a truth and scores.
        patients: Patients that were resampled; an image of an unknown patient counts as one.
        replicates: Number of resamples of the bootstrap.
        confusion: Counts by truth (rows) and most probable class (columns).
        accuracy: Wilson where every patient has one image, else by patient bootstrap.
        accuracy_of_images: Wilson, as if every image were of another patient.
        balanced_accuracy: Mean sensitivity over the classes that occur.
        macro_f1: Mean F1 over the classes that occur or are predicted.
        macro_auc: Mean area over the classes that have one.
        classes: In the order of the probabilities.
        calibration: Of the probabilities as they are.
        uncalibrated: Of the softmax of the logits; None without logits.
        temperature: Divisor of the logits, from the card; None where not stated.
        triage: None where no class is called Normal.
        predicted: For each true class, what the model predicted in its own classes.
        all_images: Headline figures with the images left out for a flag or as copies; None without.
    """

    images: int
    patients: int
    replicates: int
    confusion: tuple[CountTuple, ...]
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
    predicted: tuple[PredictedShares, ...] = ()
    all_images: "Headline | None" = None

    def to_frame(self) -> "pd.DataFrame":
        """Return every figure as a row of a DataFrame.

        Returns:
            The columns `name`, such as "accuracy", "all_images accuracy", "auc", "calibration ece"
            or "youden (these images) sensitivity"; `class`, null where the figure is of no single
            class; `value`, `low` and `high`, NaN where undefined; `n`, the images that the figure
            describes; `method` of the interval; and `undefined`, why there is no value or no
            interval.
        """
        import pandas as pd

        columns = ["name", "class", *(field.name for field in fields(Figure))]
        rows = [
            [" ".join(names), name, *(getattr(figure, column) for column in columns[2:])]
            for names, name, figure in _figures_in(self, (), None)
        ]
        frame = pd.DataFrame(rows, columns=columns)
        return frame.astype({"value": float, "low": float, "high": float})


@dataclass(frozen=True, slots=True)
class Headline:
    """The headline figures of an evaluation, without curves and tables.

    Attributes:
        images: Number of images analysed.
        patients: Number of their patients; an image of an unknown patient counts as one.
        side: "test" if only that side of the labels' split was analysed, else None.
        accuracy: Share of right predictions.
        balanced_accuracy: Mean sensitivity over the classes that occur.
        macro_f1: Mean F1 over the classes that occur or are predicted.
        macro_auc: Mean area over the classes that have one.
        auc: Class name -> area under the ROC curve of the class against all others.
        all_images: The same with the images left out for a flag or as copies; None if there are
            none.
    """

    images: int
    patients: int
    side: str | None
    accuracy: Figure
    balanced_accuracy: Figure
    macro_f1: Figure
    macro_auc: Figure
    auc: Mapping[str, Figure]
    all_images: "Headline | None" = None


@dataclass(frozen=True, slots=True)
class SubgroupFigures:
    """The few figures of a subgroup of images, such as those of one manufacturer.

    Attributes:
        images: Number of images in the subgroup.
        patients: Number of their patients; an image of an unknown patient counts as one.
        accuracy: Share of right predictions.
        balanced_accuracy: Mean sensitivity over the classes that occur in the subgroup.
        macro_auc: Mean area over the classes that have one in the subgroup, with DeLong's interval.
        sensitivity: One per class, in the order of the probabilities.
    """

    images: int
    patients: int
    accuracy: Figure
    balanced_accuracy: Figure
    macro_auc: Figure
    sensitivity: tuple[Figure, ...]


def _figures_in(
    part: object, names: tuple[str, ...], of: str | None
) -> Iterator[tuple[tuple[str, ...], str | None, Figure]]:
    """Walk through an evaluation: yield the names that lead to a figure, its class, the figure."""
    if isinstance(part, Figure):
        yield names, of, part
    elif isinstance(part, tuple):
        for item in part:
            if isinstance(item, ClassFigures):
                yield from _figures_in(item, (), item.name)
            elif isinstance(item, PredictedShares):
                yield from _figures_in(item.shares, (f"predicted if {item.name}",), of)
            elif isinstance(item, OperatingFigures):
                yield from _figures_in(item, (f"{item.name} ({item.chosen_on})",), of)
            elif isinstance(item, RuleOut):
                yield from _figures_in(item, (*names[:-1], f"sensitivity {item.target}"), of)
    elif isinstance(part, Mapping):
        for name, item in part.items():
            yield from _figures_in(item, names, name)
    elif is_dataclass(part):
        for field in fields(part):
            yield from _figures_in(getattr(part, field.name), (*names, field.name), of)

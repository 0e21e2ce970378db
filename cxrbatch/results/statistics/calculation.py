"""All figures of n images from their true classes and probabilities, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from scipy.stats import binomtest

from cxrbatch.results.figures import Evaluation, Figure, Headline, SubgroupFigures
from cxrbatch.results.statistics.curves import Contrast, Ranking, contrast, delong_area, mean_area
from cxrbatch.results.statistics.decisions import (
    Decisions,
    proportion_of_images,
    resampled,
)
from cxrbatch.results.statistics.intervals import (
    Classes,
    Estimate,
    Groups,
    Probabilities,
    Statistics,
    Values,
    Weights,
    bootstrap_by_group,
    confusion,
    mean_of_defined,
    numbered,
    one_vs_rest_auc,
    replicates_for,
)
from cxrbatch.results.statistics.ranked import OneVsRest, RankedAbnormal, RankedClass, area_figure
from cxrbatch.results.statistics.reliability import Reliability

_NORMAL = "normal"
_NO_AREA = "no class has images while another has some too"


def evaluate_scores(
    truth: Classes,
    probabilities: Probabilities,
    groups: Groups,
    *,
    classes: Sequence[str],
    logits: npt.NDArray[np.floating] | None = None,
    temperature: float | None = None,
    prevalence: Mapping[str, float] | None = None,
    thresholds: Mapping[str, Mapping[str, float]] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Calculate all figures of probabilities against the true classes.

    Args:
        truth: Shape (n,), class indices; with n = 0 every figure is undefined.
        probabilities: Shape (n, classes), as the table has them.
        groups: Shape (n,), the number of each image's patient.
        classes: Names of the classes, in the order of the columns of `probabilities`.
        logits: Shape (n, classes); their softmax gives the figures before calibration. None to
            leave these out.
        temperature: Only copied into the result.
        prevalence: Class name -> the prevalence, in (0, 1), for which the predictive values are
            stated too; names of no class are ignored.
        thresholds: Class name -> "youden", "sensitive", "specific" -> threshold, as the
            checkpoint's card has them from validation. Their rates are calculated beside those of
            the thresholds chosen on these images.
        seed: Seed of the bootstrap.

    Returns:
        The figures; shares, areas and means have a 95 % interval or say why they have none.

    Raises:
        ValueError: The shapes do not fit, a score is not finite, a true class is no class index, or
            a prevalence is not in (0, 1).
    """
    _check(truth, probabilities, groups, classes)
    if logits is not None:
        _check(truth, logits, groups, classes)
    if any(not 0.0 < value < 1.0 for value in (prevalence or {}).values()):
        raise ValueError("a prevalence lies between 0 and 1")
    groups = numbered(groups)
    decisions = Decisions(truth, probabilities, groups)
    ranked = [
        RankedClass(
            truth == index,
            probabilities[:, index],
            groups,
            name=name,
            prevalence=(prevalence or {}).get(name),
            given=(thresholds or {}).get(name, {}),
        )
        for index, name in enumerate(classes)
    ]
    abnormal = _abnormal(truth, probabilities, groups, classes)
    calibrations = [Reliability(truth, probabilities)]
    if logits is not None:
        calibrations.append(Reliability(truth, softmax(logits.astype(np.float64), axis=1)))
    scores = [part.scores.statistics for part in ranked]
    triage = [abnormal.scores.statistics] if abnormal else []
    parts = [decisions.statistics, *triage, *(c.statistics for c in calibrations)]
    estimates, macro, by_class = _estimates(parts, scores, groups, seed=seed)
    calibrated = [
        c.figures(e) for c, e in zip(calibrations, estimates[-len(calibrations) :], strict=True)
    ]
    counts = confusion(truth, decisions.predicted, classes=len(classes))
    return Evaluation(
        images=len(truth),
        patients=_count(groups),
        replicates=replicates_for(len(truth)),
        confusion=tuple(tuple(row) for row in counts.tolist()),
        accuracy=decisions.accuracy(estimates[0]),
        accuracy_of_images=proportion_of_images(int(counts.trace()), len(truth)),
        balanced_accuracy=decisions.balanced_accuracy(estimates[0]),
        macro_f1=decisions.macro_f1(estimates[0]),
        macro_auc=resampled(macro, len(truth), _NO_AREA),
        classes=tuple(
            part.figures(own, decisions.of_class(index, estimates[0]))
            for index, (part, own) in enumerate(zip(ranked, by_class, strict=True))
        ),
        calibration=calibrated[0],
        uncalibrated=calibrated[1] if logits is not None else None,
        temperature=temperature,
        triage=abnormal.figures(estimates[1]) if abnormal else None,
    )


def evaluate_subgroup(
    truth: Classes,
    probabilities: Probabilities,
    groups: Groups,
    *,
    classes: Sequence[str],
    seed: int = 0,
) -> SubgroupFigures:
    """Calculate accuracy, balanced accuracy, macro AUC and sensitivities of a subgroup of images.

    Args:
        truth: Shape (n,), class indices of the subgroup's images.
        probabilities: Shape (n, classes).
        groups: Shape (n,), the number of each image's patient.
        classes: Names of all classes.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: The shapes do not fit, a score is not finite, or a true class is no class index.
    """
    _check(truth, probabilities, groups, classes)
    groups = numbered(groups)
    decisions = Decisions(truth, probabilities, groups)
    found = bootstrap_by_group(decisions.statistics, groups, seed=seed)
    return SubgroupFigures(
        images=len(truth),
        patients=_count(groups),
        accuracy=decisions.accuracy(found),
        balanced_accuracy=decisions.balanced_accuracy(found),
        macro_auc=_macro_auc(truth, probabilities, groups),
        sensitivity=tuple(decisions.of_class(i, found)["sensitivity"] for i in range(len(classes))),
    )


def _estimates(
    parts: Sequence[Statistics], scores: Sequence[Statistics], groups: Groups, *, seed: int
) -> tuple[list[list[Estimate]], Estimate, list[list[Estimate]]]:
    """Resample everything with the same draws.

    Args:
        parts: Statistics to estimate.
        scores: Of each class; the first statistic is the AUC.
        groups: Shape (n,).
        seed: Of the bootstrap.

    Returns:
        The estimates of each part, of the macro AUC, and of each class.
    """
    widths: list[int] = []

    def statistics(weights: Weights) -> Values:
        found = [part(weights) for part in (*parts, *scores)]
        macro = mean_of_defined(np.stack([f[:, 0] for f in found[len(parts) :]], axis=1))
        widths[:] = [f.shape[1] for f in found]
        return np.concatenate([*found, macro[:, None]], axis=1)

    flat = bootstrap_by_group(statistics, groups, seed=seed)
    ends = np.cumsum(widths)
    split = [flat[end - width : end] for end, width in zip(ends, widths, strict=True)]
    return split[: len(parts)], flat[-1], split[len(parts) :]


def _abnormal(
    truth: Classes, probabilities: Probabilities, groups: Groups, classes: Sequence[str]
) -> RankedAbnormal | None:
    for index, name in enumerate(classes):
        if name.strip().casefold() == _NORMAL:
            return RankedAbnormal(truth != index, probabilities[:, index], groups, name=name)
    return None


def _macro_auc(truth: Classes, probabilities: Probabilities, groups: Groups) -> Figure:
    """The macro AUC with DeLong's interval, without resampling, as there are many subgroups."""
    values = one_vs_rest_auc(truth, probabilities)
    defined = [index for index, value in enumerate(values) if value is not None]
    value = float(np.mean([values[index] for index in defined])) if defined else None
    areas = [delong_area(truth == index, probabilities[:, index], groups) for index in defined]
    known = [area for area in areas if area is not None]
    whole = mean_area(known) if known and len(known) == len(areas) else None
    return area_figure(value, whole, groups, _NO_AREA)


def _count(groups: Groups) -> int:
    return int(groups.max(initial=-1)) + 1


def _check(
    truth: Classes,
    scores: npt.NDArray[np.floating],
    groups: Groups,
    classes: Sequence[str],
) -> None:
    if scores.shape != (len(truth), len(classes)) or len(groups) != len(truth):
        raise ValueError("truth, scores and groups are of different images or classes")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    if len(truth) and not 0 <= truth.min() <= truth.max() < len(classes):
        raise ValueError("a truth is no class index")


def headline_of(
    truth: Classes,
    probabilities: Probabilities,
    groups: Groups,
    *,
    classes: Sequence[str],
    side: str | None = None,
    seed: int = 0,
) -> Headline:
    """Calculate accuracy, balanced accuracy, macro F1, macro AUC and the AUC of each class.

    They equal those of `evaluate_scores` with the same seed; `all_images` of the result is None.

    Args:
        truth: Shape (n,), class indices.
        probabilities: Shape (n, classes).
        groups: Shape (n,), the number of each image's patient.
        classes: Names of the classes, in the order of the columns of `probabilities`.
        side: Only copied into the result.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: The shapes do not fit, a score is not finite, or a true class is no class index.
    """
    _check(truth, probabilities, groups, classes)
    groups = numbered(groups)
    decisions = Decisions(truth, probabilities, groups)
    ranked = [OneVsRest(truth == c, probabilities[:, c], groups) for c in range(len(classes))]
    scores = [part.statistics for part in ranked]
    (decided,), macro, by_class = _estimates([decisions.statistics], scores, groups, seed=seed)
    areas = [part.auc(own) for part, own in zip(ranked, by_class, strict=True)]
    return Headline(
        images=len(truth),
        patients=_count(groups),
        side=side,
        accuracy=decisions.accuracy(decided),
        balanced_accuracy=decisions.balanced_accuracy(decided),
        macro_f1=decisions.macro_f1(decided),
        macro_auc=resampled(macro, len(truth), _NO_AREA),
        auc=dict(zip(classes, areas, strict=True)),
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences of two models on the same images.

    A difference is the first model's value less the second's.

    Attributes:
        first_only: Number of images whose class only the first model predicts rightly.
        second_only: Number of images whose class only the second model predicts rightly.
        mcnemar_p: Two-sided and exact, as if each image had its own patient; 1 where both counts
            are 0.
        accuracy: Difference of the accuracies, with an interval by paired resampling of patients,
            as the next three.
        balanced_accuracy: Likewise.
        macro_auc: Likewise.
        auc: Likewise, of each class's area under the ROC curve.
        delong: Of each class, the paired DeLong interval and p; None where the difference has no
            variance, or fewer than two patients have images of the class, or other images.
    """

    first_only: int
    second_only: int
    mcnemar_p: float
    accuracy: Estimate
    balanced_accuracy: Estimate
    macro_auc: Estimate
    auc: tuple[Estimate, ...]
    delong: tuple[Contrast | None, ...]


def compare_scores(
    truth: Classes, first: Probabilities, second: Probabilities, groups: Groups, *, seed: int = 0
) -> Comparison:
    """Compare two models on the same n images; all differences are the first less the second.

    Args:
        truth: Shape (n,), class indices.
        first: Probabilities by the first model, shape (n, classes).
        second: Probabilities by the second model, shape (n, classes).
        groups: Shape (n,), the number of each image's patient.
        seed: Seed of the bootstrap.

    Source: McNemar, Psychometrika 1947; DeLong et al., Biometrics 1988.
    """
    groups, classes = numbered(groups), range(first.shape[1])
    both = (first, second)
    decisions = [Decisions(truth, p, groups) for p in both]
    rankings = [[Ranking(truth == c, p[:, c]) for c in classes] for p in both]

    def of_model(model: int, weights: Weights) -> Values:
        areas = np.stack([r.curves(weights).auc for r in rankings[model]], axis=1)
        decided = decisions[model].statistics(weights)[:, :2]
        return np.concatenate([decided, mean_of_defined(areas)[:, None], areas], axis=1)

    estimates = bootstrap_by_group(lambda w: of_model(0, w) - of_model(1, w), groups, seed=seed)
    right = [decision.predicted == truth for decision in decisions]
    alone = [int(np.count_nonzero(right[i] & ~right[1 - i])) for i in (0, 1)]
    pairs = [[delong_area(truth == c, p[:, c], groups) for p in both] for c in classes]
    p = float(binomtest(alone[0], sum(alone)).pvalue) if sum(alone) else 1.0
    accuracy, balanced_accuracy, macro_auc, *areas = estimates
    return Comparison(
        first_only=alone[0],
        second_only=alone[1],
        mcnemar_p=p,
        accuracy=accuracy,
        balanced_accuracy=balanced_accuracy,
        macro_auc=macro_auc,
        auc=tuple(areas),
        delong=tuple(contrast(a, b) if a and b else None for a, b in pairs),
    )

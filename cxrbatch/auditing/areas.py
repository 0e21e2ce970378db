"""Figures of scores against the truth, as an audit has them for treatments, facts and files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from cxrbatch.results.figures import Figure
from cxrbatch.results.statistics.calculation import evaluate_subgroup
from cxrbatch.results.statistics.curves import Ranking, delong_area
from cxrbatch.results.statistics.decisions import NO_NEGATIVE, NO_POSITIVE, resampled, undefined
from cxrbatch.results.statistics.intervals import (
    Classes,
    Groups,
    Probabilities,
    Values,
    Weights,
    bootstrap_by_group,
    mean_of_defined,
    numbered,
)
from cxrbatch.results.statistics.ranked import area_figure


@dataclass(frozen=True, slots=True)
class AreaFigures:
    """Areas under ROC curves and accuracies of some films' scores, with 95 % intervals.

    Attributes:
        films: Number of films.
        patients: Number of their patients.
        accuracy: Share of the films whose true class is the most probable one.
        balanced_accuracy: Mean sensitivity over the classes that occur.
        macro_auc: Mean area over the classes that have one, by DeLong over patients.
        auc: Class name -> area of the class against all others, likewise.
    """

    films: int
    patients: int
    accuracy: Figure
    balanced_accuracy: Figure
    macro_auc: Figure
    auc: Mapping[str, Figure]


def log_odds(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return log(p / (1 - p)) of the softmax p of logits: they rank films as p does.

    A network is often so sure of a treated film that p is 1 after rounding. Areas of such p are
    near 0.5 whatever the network sees, as all films tie.

    Args:
        logits: Shape (n, classes), at least two classes; NaN stays NaN.
    """
    exact = logits.astype(np.float64)
    others = [logsumexp(np.delete(exact, c, axis=1), axis=1) for c in range(exact.shape[1])]
    odds: npt.NDArray[np.float64] = exact - np.stack(others, axis=1)
    return odds


def area_figures(
    truth: Classes, scores: Probabilities, patients: Groups, *, classes: Sequence[str]
) -> AreaFigures:
    """Calculate areas and accuracies of n films.

    Args:
        truth: Shape (n,), class indices.
        scores: Shape (n, classes), finite: probabilities, or their `log_odds`.
        patients: Shape (n,), the number of each film's patient.
        classes: Names of the classes.
    """
    if not len(truth):
        return no_figures("no film is left", classes=classes)
    groups = numbered(patients)
    found = evaluate_subgroup(truth, scores, groups, classes=classes)
    return AreaFigures(
        films=found.images,
        patients=found.patients,
        accuracy=found.accuracy,
        balanced_accuracy=found.balanced_accuracy,
        macro_auc=found.macro_auc,
        auc={
            name: _area(truth == number, scores[:, number], groups)
            for number, name in enumerate(classes)
        },
    )


def no_figures(reason: str, *, classes: Sequence[str]) -> AreaFigures:
    """Return figures without a value, all for one reason."""
    nothing = undefined(0, reason)
    return AreaFigures(0, 0, nothing, nothing, nothing, dict.fromkeys(classes, nothing))


def _area(positive: npt.NDArray[np.bool_], score: Probabilities, groups: Groups) -> Figure:
    if positive.all() or not positive.any():
        return undefined(len(positive), NO_NEGATIVE if positive.any() else NO_POSITIVE)
    value = float(Ranking(positive, score).curves(np.ones((1, len(score)), np.int32)).auc[0])
    return area_figure(value, delong_area(positive, score, groups), groups, "")


@dataclass(frozen=True, slots=True)
class Question:
    """One question that a score answers for some films: is this film positive?

    Attributes:
        rows: Positions of the films.
        positive: Shape (rows,): the answer.
        score: Shape (rows,), higher for films that are more probably positive.
    """

    rows: npt.NDArray[np.int64]
    positive: npt.NDArray[np.bool_]
    score: Probabilities


def mean_area_figure(questions: Sequence[Question], patients: Groups, reason: str) -> Figure:
    """Average the areas under the ROC curves of several questions, with an interval by bootstrap.

    Args:
        questions: The questions; each may be about other films.
        patients: Shape (n,), the number of each film's patient, of all films.
        reason: Why there is no value if there are no questions, for a reader.
    """
    if not questions:
        return undefined(0, reason)
    asked = np.unique(np.concatenate([q.rows for q in questions]))
    rankings = [(np.searchsorted(asked, q.rows), Ranking(q.positive, q.score)) for q in questions]

    def statistics(weights: Weights) -> Values:
        areas = [ranking.curves(weights[:, rows]).auc for rows, ranking in rankings]
        return mean_of_defined(np.stack(areas, axis=1))[:, None]

    (estimate,) = bootstrap_by_group(statistics, numbered(patients[asked]))
    return resampled(estimate, len(asked), reason)


def lower_bound(figure: Figure) -> float | None:
    """Return the lower bound of an area; the value itself where it is 1, None without an interval.

    An area of exactly 1 has no interval, as no resample of the films has another.
    """
    if figure.low is not None or figure.value is None:
        return figure.low
    return figure.value if figure.value >= 1.0 else None

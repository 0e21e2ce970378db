"""One score against one question: curves, areas and thresholds, with intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import precision_recall_curve

from cxrbatch.results.figures import Curve, Figure
from cxrbatch.results.reported import (
    NO_IMAGES,
    NO_NEGATIVE,
    NO_POSITIVE,
    Chosen,
    area_figure,
    proportion,
    resampled,
    thinned,
)
from cxrbatch.results.statistics import delong
from cxrbatch.results.statistics.groups import Groups
from cxrbatch.results.statistics.intervals import Estimate, Weights
from cxrbatch.results.statistics.metrics import Probabilities, Values, ratio
from cxrbatch.results.statistics.operating import Roc
from cxrbatch.results.statistics.ranking import Ranking, ThresholdRates


class ThresholdFigures(NamedTuple):
    """What a threshold does; see `figures.OperatingFigures` and `figures.RuleOut`."""

    sensitivity: Figure
    specificity: Figure
    ppv: Figure
    npv: Figure
    below: Figure
    ppv_at_prevalence: Figure | None
    npv_at_prevalence: Figure | None


class OneVsRest:
    """Scores of n images, of which some are positive, to be computed under many weights.

    Args:
        positive: Shape (n,).
        score: Shape (n,).
        groups: Shape (n,), whose each image is.
        thresholds: An image is called positive where its score reaches one.
        prevalence: In (0, 1), for predictive values; None where none is stated.
    """

    def __init__(
        self,
        positive: Chosen,
        score: Probabilities,
        groups: Groups,
        *,
        thresholds: Sequence[float],
        prevalence: float | None,
    ) -> None:
        self._positive, self._score, self._groups = positive, score, groups
        self._thresholds, self._prevalence = thresholds, prevalence
        self._ranking = Ranking(positive, score)
        self._cuts = [int(np.count_nonzero(self._called(t))) for t in thresholds]

    def statistics(self, weights: Weights) -> Values:
        """AUC, average precision, then seven rates per threshold, shape (b, 2 + 7 thresholds)."""
        curves = self._ranking.curves(weights)
        columns = [curves.auc, curves.average_precision]
        for cut in self._cuts:
            rates = curves.at(cut)
            columns += [*rates, *_at_prevalence(rates, self._prevalence)]
        return np.stack(columns, axis=1)

    def auc(self, estimates: Sequence[Estimate]) -> Figure:
        """The area under the ROC curve, with DeLong's interval."""
        found = delong.area(self._positive, self._score, self._groups)
        return area_figure(estimates[0].value, found, self._groups, self._why_no_curve())

    def average_precision(self, estimates: Sequence[Estimate]) -> Figure:
        """The average precision, with the bootstrap's interval."""
        return resampled(estimates[1], len(self._positive), NO_POSITIVE)

    def precision_recall(self) -> Curve | None:
        """The curve for drawing; None where undefined."""
        if not self._positive.any():
            return None
        precision, recall, _ = precision_recall_curve(self._positive, self._score)
        return thinned(recall[::-1], precision[::-1])

    def threshold(self, number: int, estimates: Sequence[Estimate]) -> ThresholdFigures:
        """What the threshold of this number does."""
        own = estimates[2 + 7 * number : 9 + 7 * number]
        called, everyone = self._called(self._thresholds[number]), np.ones_like(self._positive)
        chosen = [
            (self._positive, NO_POSITIVE),
            (~self._positive, NO_NEGATIVE),
            (called, "no image reaches the threshold"),
            (~called, "every image reaches the threshold"),
            (everyone, NO_IMAGES),
        ]
        sensitivity, specificity, ppv, npv, below = (
            proportion(estimate, among, self._groups, reason)
            for estimate, (among, reason) in zip(own[:5], chosen, strict=True)
        )
        shares = sensitivity, specificity, ppv, npv, below
        if self._prevalence is None:
            return ThresholdFigures(*shares, None, None)
        n, reason = len(self._positive), "sensitivity and specificity leave it open"
        stated = resampled(own[5], n, reason), resampled(own[6], n, reason)
        return ThresholdFigures(*shares, *stated)

    def _called(self, threshold: float) -> Chosen:
        return np.asarray(self._score.astype(np.float64) >= threshold)

    def _why_no_curve(self) -> str:
        return NO_NEGATIVE if self._positive.any() else NO_POSITIVE


def drawn_roc(curve: Roc | None) -> Curve | None:
    """A ROC curve thinned for drawing."""
    return None if curve is None else thinned(1.0 - curve.specificity, curve.sensitivity)


def _at_prevalence(rates: ThresholdRates, prevalence: float | None) -> tuple[Values, Values]:
    """Predictive values by Bayes' rule; NaN without a prevalence."""
    if prevalence is None:
        missing = np.full(len(rates.sensitivity), np.nan)
        return missing, missing
    sick, well = prevalence, 1.0 - prevalence
    true, false = sick * rates.sensitivity, well * (1.0 - rates.specificity)
    spared, missed = well * rates.specificity, sick * (1.0 - rates.sensitivity)
    return ratio(true, true + false), ratio(spared, spared + missed)

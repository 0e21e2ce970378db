"""One score against one question: curves, areas and thresholds, with intervals."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import precision_recall_curve

from cxrbatch.results.figures import (
    NO_IMAGES,
    NO_NEGATIVE,
    NO_POSITIVE,
    Chosen,
    ClassFigures,
    Curve,
    Figure,
    OperatingFigures,
    RuleOut,
    Triage,
    area_figure,
    histogram,
    proportion,
    resampled,
    thinned,
)
from cxrbatch.results.statistics import delong
from cxrbatch.results.statistics.curves import Ranking, Roc, ThresholdRates, operating_points, roc
from cxrbatch.results.statistics.decisions import ClassDecisions
from cxrbatch.results.statistics.intervals import Estimate, Groups, Weights
from cxrbatch.results.statistics.metrics import Probabilities, Values, ratio


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


_TARGETS = (0.95, 0.98, 0.99)
_HERE, _VALIDATION = "these images", "validation"


class RankedClass:
    """The probability of one class for n images.

    Args:
        positive: Shape (n,), which images are of the class.
        probability: Shape (n,).
        groups: Shape (n,), whose each image is.
        name: Of the class.
        prevalence: In (0, 1), or None.
        given: Thresholds from validation by name.

    Attributes:
        scores: What is to be resampled.
    """

    def __init__(
        self,
        positive: Chosen,
        probability: Probabilities,
        groups: Groups,
        *,
        name: str,
        prevalence: float | None,
        given: Mapping[str, float],
    ) -> None:
        self._positive, self._probability = positive, probability
        self._name, self._prevalence = name, prevalence
        self._curve = drawn_roc(curve) if (curve := roc(positive, probability)) else None
        own = operating_points(curve) if curve else {}
        self._points = [(point, _HERE, chosen.threshold) for point, chosen in own.items()]
        self._points += [(point, _VALIDATION, threshold) for point, threshold in given.items()]
        self.scores = OneVsRest(
            positive,
            probability,
            groups,
            thresholds=[threshold for *_, threshold in self._points],
            prevalence=prevalence,
        )

    def figures(self, estimates: Sequence[Estimate], decisions: ClassDecisions) -> ClassFigures:
        """All figures of the class, from the estimates of `scores.statistics`."""
        points = []
        for number, (name, chosen_on, threshold) in enumerate(self._points):
            found = self.scores.threshold(number, estimates)
            rates = found.sensitivity, found.specificity, found.ppv, found.npv
            stated = found.ppv_at_prevalence, found.npv_at_prevalence
            points.append(OperatingFigures(name, chosen_on, threshold, *rates, *stated))
        return ClassFigures(
            name=self._name,
            images=int(np.count_nonzero(self._positive)),
            predicted=decisions.ppv.n,
            **decisions._asdict(),
            auc=self.scores.auc(estimates),
            average_precision=self.scores.average_precision(estimates),
            roc=self._curve,
            precision_recall=self.scores.precision_recall(),
            points=tuple(points),
            prevalence=self._prevalence,
            histogram=histogram(self._positive, self._probability),
        )


class RankedAbnormal:
    """1 - P(Normal) for n images.

    Args:
        abnormal: Shape (n,), which images are of another class.
        normal: Shape (n,), the probability of Normal.
        groups: Shape (n,), whose each image is.
        name: Of the class Normal, as it is spelled.

    Attributes:
        scores: What is to be resampled.
    """

    def __init__(
        self, abnormal: Chosen, normal: Probabilities, groups: Groups, *, name: str
    ) -> None:
        # In 64 bits, where 1 - p keeps apart what 32 bits have apart.
        self._abnormal, self._score = abnormal, 1.0 - normal.astype(np.float64)
        self._name = name
        self._curve = drawn_roc(curve) if (curve := roc(abnormal, self._score)) else None
        self._points = [curve.at_sensitivity(t) for t in _TARGETS] if curve else []
        thresholds = [point.threshold for point in self._points]
        self.scores = OneVsRest(
            abnormal, self._score, groups, thresholds=thresholds, prevalence=None
        )

    def figures(self, estimates: Sequence[Estimate]) -> Triage:
        """All figures, from the estimates of `scores.statistics`."""
        rules = []
        for number, (target, point) in enumerate(zip(_TARGETS, self._points, strict=False)):
            found = self.scores.threshold(number, estimates)
            rates = found.sensitivity, found.specificity, found.npv, found.below
            rules.append(RuleOut(target, point.threshold, *rates))
        return Triage(
            normal=self._name,
            images=int(np.count_nonzero(self._abnormal)),
            auc=self.scores.auc(estimates),
            roc=self._curve,
            rules=tuple(rules),
            histogram=histogram(self._abnormal, self._score),
        )

"""One class by its probability: areas, curves and operating points; and normal against all."""

from collections.abc import Mapping, Sequence

import numpy as np

from cxrbatch.results.figures import ClassFigures, OperatingFigures, RuleOut, Triage
from cxrbatch.results.reported import Chosen, histogram
from cxrbatch.results.statistics.decisions import ClassDecisions
from cxrbatch.results.statistics.groups import Groups
from cxrbatch.results.statistics.intervals import Estimate
from cxrbatch.results.statistics.metrics import Probabilities
from cxrbatch.results.statistics.one_vs_rest import OneVsRest, drawn_roc
from cxrbatch.results.statistics.operating import operating_points, roc

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

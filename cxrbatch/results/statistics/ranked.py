"""Figures of one score against one question: is the image of this class, is it abnormal?"""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.metrics import precision_recall_curve

from cxrbatch.results.figures import (
    ClassFigures,
    Curve,
    Figure,
    Histogram,
    OperatingFigures,
    RuleOut,
    Triage,
)
from cxrbatch.results.statistics.curves import (
    Area,
    Ranking,
    Roc,
    ThresholdRates,
    delong_area,
    delong_interval,
    operating_points,
    roc,
)
from cxrbatch.results.statistics.decisions import (
    NO_IMAGES,
    NO_NEGATIVE,
    NO_POSITIVE,
    Chosen,
    one_each,
    proportion,
    resampled,
    undefined,
)
from cxrbatch.results.statistics.intervals import (
    Estimate,
    Groups,
    Probabilities,
    Values,
    Weights,
    ratio,
)

DELONG, DELONG_OF_PATIENTS = "DeLong", "DeLong over patients"
_HISTOGRAM_BINS = 20
_MOST_POINTS = 300
_TARGETS = (0.95, 0.98, 0.99)
_THESE_IMAGES, _VALIDATION = "these images", "validation"
_RATES = len(ThresholdRates._fields) + 2


class OneVsRest:
    """Scores of n images, of which some are positive, to be calculated in many resamples.

    The methods that return figures take the estimates that `bootstrap_by_group` makes of
    `statistics`.
    """

    def __init__(
        self,
        positive: Chosen,
        score: Probabilities,
        groups: Groups,
        *,
        thresholds: Sequence[float] = (),
        prevalence: float | None = None,
    ) -> None:
        """Rank the images.

        Args:
            positive: Shape (n,).
            score: Shape (n,).
            groups: Shape (n,), the patient of each image.
            thresholds: An image is called positive where its score reaches a threshold.
            prevalence: In (0, 1), for predictive values; None where none is stated.
        """
        self._positive, self._score, self._groups = positive, score, groups
        self._thresholds, self._prevalence = thresholds, prevalence
        self._ranking = Ranking(positive, score)
        self._cuts = [int(np.count_nonzero(self._called(t))) for t in thresholds]

    def statistics(self, weights: Weights) -> Values:
        """Calculate AUC, average precision, then seven rates per threshold, of each resample.

        The rates are sensitivity, specificity, PPV, NPV, the share of images below the threshold,
        then PPV and NPV at the stated prevalence, NaN if there is none.

        Args:
            weights: Shape (b, n), how often each resample has each image.

        Returns:
            Shape (b, 2 + 7 * thresholds); NaN where undefined.
        """
        curves = self._ranking.curves(weights)
        columns = [curves.auc, curves.average_precision]
        for cut in self._cuts:
            rates = curves.at(cut)
            columns += [*rates, *_at_prevalence(rates, self._prevalence)]
        return np.stack(columns, axis=1)

    def auc(self, estimates: Sequence[Estimate]) -> Figure:
        """Return the area under the ROC curve as a figure, with DeLong's interval if it has one.

        Args:
            estimates: Those that `bootstrap_by_group` makes of `statistics`.
        """
        area = delong_area(self._positive, self._score, self._groups)
        reason = NO_NEGATIVE if self._positive.any() else NO_POSITIVE
        return area_figure(estimates[0].value, area, self._groups, reason)

    def average_precision(self, estimates: Sequence[Estimate]) -> Figure:
        """Return the average precision as a figure, with the bootstrap's interval if it has one.

        Args:
            estimates: Those that `bootstrap_by_group` makes of `statistics`.
        """
        return resampled(estimates[1], len(self._positive), NO_POSITIVE)

    def threshold(self, number: int, estimates: Sequence[Estimate]) -> dict[str, Figure]:
        """Return the rates at one of the thresholds as figures, with the intervals that they have.

        Args:
            number: Index of the threshold in those given to the class, from 0.
            estimates: Those that `bootstrap_by_group` makes of `statistics`.

        Returns:
            Figures by name: `sensitivity`, `specificity`, `ppv`, `npv`, `below` (the share of all
            images below the threshold), and `ppv_at_prevalence` and `npv_at_prevalence` where a
            prevalence was stated.
        """
        own = estimates[2 + _RATES * number : 2 + _RATES * (number + 1)]
        called, everyone = self._called(self._thresholds[number]), np.ones_like(self._positive)
        chosen = [
            (self._positive, NO_POSITIVE),
            (~self._positive, NO_NEGATIVE),
            (called, "no image reaches the threshold"),
            (~called, "every image reaches the threshold"),
            (everyone, NO_IMAGES),
        ]
        figures = {
            name: proportion(estimate, among, self._groups, reason)
            for name, estimate, (among, reason) in zip(
                ThresholdRates._fields, own[:5], chosen, strict=True
            )
        }
        if self._prevalence is not None:
            n, reason = len(self._positive), "sensitivity and specificity leave it open"
            for name, estimate in zip(("ppv", "npv"), own[5:], strict=True):
                figures[f"{name}_at_prevalence"] = resampled(estimate, n, reason)
        return figures

    def _called(self, threshold: float) -> Chosen:
        return np.asarray(self._score.astype(np.float64) >= threshold)


class RankedClass:
    """The probability of one class for n images, and thresholds of it.

    The thresholds are three operating points, chosen on these images, and those given; none are
    chosen where no image, or every image, is of the class.

    Attributes:
        scores: The probability and the thresholds, whose `statistics` are to be resampled.
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
        """Choose operating points on these images, and rank the images.

        Args:
            positive: Shape (n,), which images are of the class.
            probability: Shape (n,).
            groups: Shape (n,), the patient of each image.
            name: Of the class.
            prevalence: In (0, 1), or None.
            given: Thresholds that were chosen on validation, by name.
        """
        self._positive, self._probability = positive, probability
        self._name, self._prevalence = name, prevalence
        self._roc = roc(positive, probability)
        own = operating_points(self._roc) if self._roc else {}
        self._points = [(point, _THESE_IMAGES, chosen.threshold) for point, chosen in own.items()]
        self._points += [(point, _VALIDATION, threshold) for point, threshold in given.items()]
        thresholds = [threshold for *_, threshold in self._points]
        self.scores = OneVsRest(
            positive, probability, groups, thresholds=thresholds, prevalence=prevalence
        )

    def figures(
        self, estimates: Sequence[Estimate], decisions: Mapping[str, Figure]
    ) -> ClassFigures:
        """Return all figures of the class against all others, curves and histogram among them.

        Args:
            estimates: Those that `bootstrap_by_group` makes of `scores.statistics`.
            decisions: Figures of the most probable class, as `Decisions.of_class` returns them.
        """
        points = []
        for number, (name, chosen_on, threshold) in enumerate(self._points):
            rates = self.scores.threshold(number, estimates)
            del rates["below"]
            points.append(OperatingFigures(name, chosen_on, threshold, **rates))
        return ClassFigures(
            name=self._name,
            images=int(np.count_nonzero(self._positive)),
            predicted=decisions["ppv"].n,
            **decisions,
            auc=self.scores.auc(estimates),
            average_precision=self.scores.average_precision(estimates),
            roc=_drawn_roc(self._roc),
            precision_recall=self._precision_recall(),
            points=tuple(points),
            prevalence=self._prevalence,
            histogram=histogram(self._positive, self._probability),
        )

    def _precision_recall(self) -> Curve | None:
        if not self._positive.any():
            return None
        precision, recall, _ = precision_recall_curve(self._positive, self._probability)
        return thinned(recall[::-1], precision[::-1])


class RankedAbnormal:
    """The score 1 - P(Normal) for n images, and thresholds of it to rule images out.

    Attributes:
        scores: The score and the thresholds, whose `statistics` are to be resampled.
    """

    def __init__(
        self, abnormal: Chosen, normal: Probabilities, groups: Groups, *, name: str
    ) -> None:
        """Choose thresholds on these images, none if no or all are abnormal; rank the images.

        Args:
            abnormal: Shape (n,), which images are of another class.
            normal: Shape (n,), the probability of Normal.
            groups: Shape (n,), the patient of each image.
            name: Of the class Normal, as the model spells it.
        """
        # In 64 bits no two probabilities of 32 bits fall together.
        self._abnormal, self._score = abnormal, 1.0 - normal.astype(np.float64)
        self._name = name
        self._roc = roc(abnormal, self._score)
        self._points = [self._roc.at_sensitivity(t) for t in _TARGETS] if self._roc else []
        thresholds = [point.threshold for point in self._points]
        self.scores = OneVsRest(abnormal, self._score, groups, thresholds=thresholds)

    def figures(self, estimates: Sequence[Estimate]) -> Triage:
        """Return all figures of abnormal against normal images, by the score 1 - P(Normal).

        Args:
            estimates: Those that `bootstrap_by_group` makes of `scores.statistics`.
        """
        rules = []
        for number, (target, point) in enumerate(zip(_TARGETS, self._points, strict=False)):
            rates = self.scores.threshold(number, estimates)
            del rates["ppv"]
            rules.append(RuleOut(target, point.threshold, ruled_out=rates.pop("below"), **rates))
        return Triage(
            normal=self._name,
            images=int(np.count_nonzero(self._abnormal)),
            auc=self.scores.auc(estimates),
            roc=_drawn_roc(self._roc),
            rules=tuple(rules),
            histogram=histogram(self._abnormal, self._score),
        )


def _drawn_roc(curve: Roc | None) -> Curve | None:
    return None if curve is None else thinned(1.0 - curve.specificity, curve.sensitivity)


def _at_prevalence(rates: ThresholdRates, prevalence: float | None) -> tuple[Values, Values]:
    """PPV and NPV by Bayes' rule; NaN without a prevalence."""
    if prevalence is None:
        missing = np.full(len(rates.sensitivity), np.nan)
        return missing, missing
    sick, well = prevalence, 1.0 - prevalence
    true, false = sick * rates.sensitivity, well * (1.0 - rates.specificity)
    spared, missed = well * rates.specificity, sick * (1.0 - rates.sensitivity)
    return ratio(true, true + false), ratio(spared, spared + missed)


def area_figure(value: float | None, found: Area | None, groups: Groups, reason: str) -> Figure:
    """Return the figure of an area under a ROC curve, with DeLong's interval if it has one.

    Args:
        value: The area; None where undefined.
        found: The same with the patients' influences, whose squares add up to its variance; None
            where there are too few patients. Then, or with a variance of 0, the figure has no
            interval.
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
        positive: Shape (n,), whether each image is of the class; the images of the class and the
            others are counted apart.
        score: Shape (n,), in [0, 1].
    """
    edges = np.linspace(0.0, 1.0, _HISTOGRAM_BINS + 1)
    counts = [np.histogram(score[side], edges)[0] for side in (positive, ~positive)]
    first, second = (tuple(map(int, side)) for side in counts)
    return Histogram(tuple(edges.tolist()), first, second)


def thinned(x: Values, y: Values) -> Curve:
    """Choose at most about 300 of a curve's points, evenly spread over its length, for drawing.

    Length is the sum of |dx| + |dy|. The first and the last point are kept; none is interpolated.

    Args:
        x: Shape (points,), at least one point.
        y: Shape (points,).
    """
    along = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    wanted = np.searchsorted(along, np.linspace(0.0, along[-1], _MOST_POINTS))
    kept = np.unique(np.concatenate([[0], np.minimum(wanted, len(x) - 1), [len(x) - 1]]))
    return Curve(tuple(x[kept].tolist()), tuple(y[kept].tolist()))

"""Two models on the same images: differences with intervals, first - second."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from cxrbatch.results.statistics import delong
from cxrbatch.results.statistics.decisions import Decisions
from cxrbatch.results.statistics.groups import Groups, numbered
from cxrbatch.results.statistics.intervals import Estimate, Weights, bootstrap_by_group
from cxrbatch.results.statistics.metrics import Classes, Probabilities, Values, mean_of_defined
from cxrbatch.results.statistics.ranking import Ranking


@dataclass(frozen=True, slots=True)
class Comparison:
    """What sets two models apart; what is undefined is None.

    Attributes:
        first_only: Images that the first model alone gets right.
        second_only: Images that the second alone gets right.
        mcnemar_p: Two-sided and exact, as if every image were of another patient.
        accuracy: Difference, by paired resampling of patients, as the next two.
        balanced_accuracy: Likewise.
        macro_auc: Likewise.
        auc: Difference of each class's area, by paired resampling.
        delong: Of each class, the paired DeLong interval and p.
    """

    first_only: int
    second_only: int
    mcnemar_p: float
    accuracy: Estimate
    balanced_accuracy: Estimate
    macro_auc: Estimate
    auc: tuple[Estimate, ...]
    delong: tuple[delong.Contrast | None, ...]


def compare(
    truth: Classes, first: Probabilities, second: Probabilities, groups: Groups, *, seed: int = 0
) -> Comparison:
    """Compare the probabilities, each of shape (n, classes), that two models give n images.

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
    pairs = [[delong.area(truth == c, p[:, c], groups) for p in both] for c in classes]
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
        delong=tuple(delong.contrast(a, b) if a and b else None for a, b in pairs),
    )

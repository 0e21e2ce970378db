"""All figures of scores against truth, with intervals."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cxrbatch.results.figures import Evaluation, SubgroupFigures
from cxrbatch.results.groups import Groups
from cxrbatch.results.metrics import Classes, Probabilities


def evaluate(
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
    """Compare calibrated probabilities with the truth.

    Args:
        truth: Shape (n,), class indices; n may be 0, where all is undefined.
        probabilities: Shape (n, classes), as the table has them.
        groups: Shape (n,), see `groups.patient_groups`.
        classes: Their names.
        logits: Shape (n, classes); their softmax is what was not calibrated.
        temperature: Kept with the figures.
        prevalence: Class name -> the prevalence, in (0, 1), for which the predictive values are
            stated too.
        thresholds: Class name -> "youden", "sensitive", "specific" -> threshold, as the
            checkpoint's card has them from validation; shown beside those chosen on the images.
        seed: Of the bootstrap.

    Raises:
        ValueError: The shapes do not fit, a score is not finite, or a prevalence is not in (0, 1).
    """
    raise NotImplementedError


def evaluate_subgroup(
    truth: Classes,
    probabilities: Probabilities,
    groups: Groups,
    *,
    classes: Sequence[str],
    seed: int = 0,
) -> SubgroupFigures:
    """The few figures of some of the images; the arguments are as in `evaluate`.

    Raises:
        ValueError: As in `evaluate`.
    """
    raise NotImplementedError

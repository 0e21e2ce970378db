"""Shares of the classes that a model predicts, by true class; the two may be of different sets."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from cxrbatch.results.figures import PredictedShares
from cxrbatch.results.statistics.decisions import NO_POSITIVE, proportion
from cxrbatch.results.statistics.intervals import (
    Classes,
    Groups,
    Values,
    Weights,
    bootstrap_by_group,
    numbered,
    ratio,
)


def predicted_shares(
    truth: Classes,
    predicted: Classes,
    groups: Groups,
    *,
    classes: Sequence[str],
    predicted_classes: Sequence[str],
    seed: int = 0,
) -> tuple[PredictedShares, ...]:
    """Calculate for the images of each true class the share of each predicted class.

    The intervals are Wilson's where each patient has one image, else those of `proportion`.

    Args:
        truth: Shape (n,), indices into `classes`.
        predicted: Shape (n,), indices into `predicted_classes`.
        groups: Shape (n,), the number of each image's patient.
        classes: Names of the true classes.
        predicted_classes: Names of the classes that are predicted.
        seed: Seed of the bootstrap.
    """
    groups, width = numbered(groups), len(predicted_classes)
    cells = truth.astype(np.int32) * width + predicted.astype(np.int32)
    starts = np.arange(len(cells) + 1, dtype=np.int32)
    each = csr_array((np.ones(len(cells)), cells, starts), (len(cells), len(classes) * width))

    def statistics(weights: Weights) -> Values:
        counts = np.asarray((each.T @ weights.T.astype(np.float64)).T)
        counts = counts.reshape(-1, len(classes), width)
        totals = np.broadcast_to(counts.sum(axis=2, keepdims=True), counts.shape)
        return ratio(counts, totals).reshape(len(counts), -1)

    found = iter(bootstrap_by_group(statistics, groups, seed=seed))
    shares = []
    for number, name in enumerate(classes):
        own = truth == number
        figures = {c: proportion(next(found), own, groups, NO_POSITIVE) for c in predicted_classes}
        shares.append(PredictedShares(name, figures))
    return tuple(shares)

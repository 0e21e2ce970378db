"""Intervals by resampling patients: ten images of one person are not ten persons."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

REPLICATES = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """The bounds between which a statistic lies with the stated confidence."""

    low: float
    high: float


def bootstrap_by_group(
    statistics: Callable[[Rows], Sequence[float | None]],
    groups: Sequence[Hashable],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
    level: float = LEVEL,
) -> list[Interval | None]:
    """Resample whole groups with replacement and take percentiles of the statistics.

    Args:
        statistics: Gives statistics of the images whose rows it is given, a row as often as it
            was drawn; None where one is undefined.
        groups: For each image, whose it is: of one patient, one group.
        seed: Of the resampling.
        replicates: How often to resample.
        level: Confidence of the intervals.

    Returns:
        One interval per statistic; None where it was undefined in more than one replicate of ten.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; Field and
    Welsh, "Bootstrapping clustered data", JRSS B 2007.
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    of = np.array([numbers[group] for group in groups])
    order = np.argsort(of, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(of))[:-1])
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(replicates):
        drawn = rng.integers(0, len(members), len(members))
        rows = np.concatenate([members[group] for group in drawn])
        found.append([np.nan if value is None else value for value in statistics(rows)])
    tail = (1.0 - level) / 2.0
    return [_interval(values, tail) for values in np.array(found, dtype=np.float64).T]


def _interval(values: npt.NDArray[np.float64], tail: float) -> Interval | None:
    defined = values[~np.isnan(values)]
    if len(defined) < 0.9 * len(values):
        return None
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return Interval(float(low), float(high))

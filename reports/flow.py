"""From the files found to the images analysed: every step with its count, so that all adds up.

Source: Bossuyt et al., "STARD 2015", BMJ 2015, item 19.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxrbatch.reading.outcomes import Kind, Outcome
from cxrbatch.results.joining import UNKNOWN, Truth
from cxrbatch.results.labels import SPLITS
from cxrbatch.results.scores import Scores

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Step:
    """Images that do not go on, and why."""

    name: str
    meaning: str
    count: int


@dataclass(frozen=True, slots=True)
class Flow:
    """The counts of the flow diagram.

    Attributes:
        passed_over: Directory entries that are no files and have no row, by kind.
        files: Files found.
        rows: Files, or frames of them; all that follows adds up to it.
        excluded: Rows that are no radiographs, by outcome.
        failed: Rows that could not be read, by outcome.
        scored: Images with a score.
        unlabelled: Scored images without a truth.
        aside: Scored images with a truth on another side of a split, by side.
        analysed: Images that the figures are of.
        side: The side of the split that they are of, or None.
        not_held_out: Of the analysed images, how many the labels put on the side train or val: a
            model may have learned from them, or been chosen by them.
        labels: Labels given, or None.
        labels_without_row: Of those, how many name no row.
        labelled_unscored: Rows with a truth that have no score.
    """

    passed_over: Mapping[str, int]
    files: int
    rows: int
    excluded: tuple[Step, ...]
    failed: tuple[Step, ...]
    scored: int
    unlabelled: int
    aside: tuple[Step, ...]
    analysed: int
    side: str | None
    not_held_out: int
    labels: int | None
    labels_without_row: int
    labelled_unscored: int


def follow(
    scores: Scores, truth: Truth | None, *, rows: int, passed_over: Mapping[str, int]
) -> tuple[Flow, Positions]:
    """Count the steps, and give the positions, in `scores`, of the images to be analysed.

    Where a split has a side `test`, only that is analysed: the model has seen the others.
    """
    excluded, failed = (_steps(scores.outcomes, kind) for kind in (Kind.EXCLUDED, Kind.FAILED))
    scored = len(scores.rows)
    chosen = np.arange(scored)
    aside: tuple[Step, ...] = ()
    unlabelled, side, lost, seen = 0, None, 0, 0
    if truth is not None:
        known = truth.classes[scores.rows] != UNKNOWN
        splits = truth.splits[scores.rows]
        unlabelled = int(scored - known.sum())
        lost = int((truth.classes != UNKNOWN).sum() - known.sum())
        is_test = splits == SPLITS.index("test")
        if (known & is_test).any():
            side, aside = "test", _sides(splits[known & ~is_test])
            known &= is_test
        seen = int((known & (splits != UNKNOWN) & ~is_test).sum())
        chosen = np.flatnonzero(known)
    flow = Flow(
        passed_over=dict(passed_over),
        files=scores.files,
        rows=rows,
        excluded=excluded,
        failed=failed,
        scored=scored,
        unlabelled=unlabelled,
        aside=aside,
        analysed=len(chosen),
        side=side,
        not_held_out=seen,
        labels=None if truth is None else truth.labels,
        labels_without_row=0 if truth is None else truth.without_row,
        labelled_unscored=lost,
    )
    assert rows == scored + sum(step.count for step in (*excluded, *failed))
    assert scored == flow.analysed + unlabelled + sum(step.count for step in aside)
    return flow, chosen


def _steps(outcomes: Mapping[str, int], kind: Kind) -> tuple[Step, ...]:
    found = [
        Step(code.value, code.meaning, outcomes[code])
        for code in Outcome
        if code.kind is kind and outcomes.get(code)
    ]
    return tuple(sorted(found, key=lambda step: -step.count))


def _sides(splits: npt.NDArray[np.int16]) -> tuple[Step, ...]:
    names = {UNKNOWN: "no side of the split"} | dict(enumerate(SPLITS))
    counts = {name: int((splits == number).sum()) for number, name in names.items()}
    return tuple(
        Step(name, "not analysed, as the labels name a side test", n)
        for name, n in counts.items()
        if n
    )

"""Checks the scores of a table, joins them with the truth, and chooses the images to analyse."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrbatch.errors import TableError
from cxrbatch.files import shown
from cxrbatch.reading.outcomes import Outcome, OutcomeKind
from cxrbatch.results.frames import Results
from cxrbatch.results.labels import SPLITS
from cxrbatch.results.statistics.intervals import Groups
from cxrbatch.results.table import Table, too_large
from cxrbatch.results.truth import UNKNOWN, ClassNumbers, Truth, find_truth, patients_of

# Scores of a million rows fit into memory anywhere. More need a file that can hold them: a scored
# row has a hash of 16 bytes, and pictures differ.
_FEW_SCORED, _LEAST_BYTES = 1_000_000, 16
# Softmax in float32 over up to 256 classes is exact to some 1e-5.
_TOLERANCE = 1e-3

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TableScores:
    """The scored rows of a table.

    Attributes:
        rows: Shape (n,), the number of each in the table, rising.
        predicted: Shape (n,), class indices.
        probabilities: Shape (n, classes), float32.
        logits: Shape (n, classes), float32.
        files: Files of the whole table.
        outcomes: Rows of the whole table by outcome code.
    """

    rows: Positions
    predicted: ClassNumbers
    probabilities: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    files: int
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ExclusionStep:
    """Images that are left out at one step of the flow, and why."""

    name: str
    meaning: str
    count: int


@dataclass(frozen=True, slots=True)
class Flow:
    """Counts from the files found to the images analysed; they add up at each step.

    Source: Bossuyt et al., "STARD 2015", BMJ 2015, item 19.

    Attributes:
        passed_over: Directory entries that are no files and have no row, by kind.
        files: Files found.
        rows: Files, or frames of them; all that follows adds up to this.
        excluded: Rows that are no radiographs, by outcome.
        failed: Rows that could not be read, by outcome.
        scored: Images with a score.
        unlabelled: Scored images without a truth.
        aside: Scored images with a truth that are on another side of the split, by side.
        analysed: Images that the figures describe.
        side: The side of the split that they are on, or None.
        not_held_out: Analysed images that the labels put on the side train or val: a model may
            have learned from them, or been chosen by them.
        labels: Labels given, or None.
        labels_without_row: Labels that name no row.
        labelled_unscored: Rows with a truth and without a score.
    """

    passed_over: Mapping[str, int]
    files: int
    rows: int
    excluded: tuple[ExclusionStep, ...]
    failed: tuple[ExclusionStep, ...]
    scored: int
    unlabelled: int
    aside: tuple[ExclusionStep, ...]
    analysed: int
    side: str | None
    not_held_out: int
    labels: int | None
    labels_without_row: int
    labelled_unscored: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """The images of a table that figures describe.

    Attributes:
        results: The table.
        card: The checkpoint's card as the table has it; empty where it has none.
        scores: Its scored rows.
        truth: Of all rows; None where nothing is known.
        flow: The counts.
        chosen: Shape (n,), positions of the analysed images in `scores`.
    """

    results: Results
    card: Mapping[str, Any]
    scores: TableScores
    truth: Truth | None
    flow: Flow
    chosen: Positions

    @property
    def rows(self) -> Positions:
        """Row numbers of the analysed images, shape (n,)."""
        return self.scores.rows[self.chosen]

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Probabilities of the analysed images, shape (n, classes)."""
        return self.scores.probabilities[self.chosen]

    def true_classes(self) -> ClassNumbers:
        """True class of every scored image, shape (scored,); `UNKNOWN` where none is known."""
        if self.truth is None:
            return np.full(len(self.scores.rows), UNKNOWN, np.int16)
        return self.truth.classes[self.scores.rows]

    def patients(self) -> Groups:
        """Patient number of each analysed image, shape (n,); see `truth.patients_of`.

        Raises:
            TableError: The table is damaged.
        """
        assert self.truth is not None
        return patients_of(self.results, self.truth, self.rows)


def analyse(
    results: "str | Path | Table | pd.DataFrame",
    labels: "str | Path | pd.DataFrame | None" = None,
) -> Analysis:
    """Check the scores of a table, find the truth, and choose the images to analyse.

    These are the scored images with a truth; where labels name a split that has a side `test`,
    that side alone, as the model has seen the others. Without a truth they are all scored images.

    Args:
        results: A table's path, an open table, or what `load_results` returned.
        labels: A file of labels, or what `load_labels` returned; None to look in the table's
            column truth and in its class folders.

    Raises:
        TableError: The table cannot be used, or was edited after it was written.
        LabelError: The labels cannot be used.
    """
    opened = Results(results)
    scores = read_scores(opened)
    truth = find_truth(opened, Path(labels) if isinstance(labels, str) else labels)
    flow, chosen = _follow(opened, scores, truth)
    return Analysis(opened, card_of(opened), scores, truth, flow, chosen)


def read_scores(results: Results) -> TableScores:
    """Read and check the scores of a table.

    Raises:
        TableError: The table is damaged, or its rows contradict each other or its provenance.
    """
    classes = results.classes
    if len(classes) < 2:
        raise _edited(results, "it has fewer than two classes")
    read = results.read(["outcome", "frame", "prediction"])
    counts = read["outcome"].value_counts(sort=False, dropna=False)
    outcomes = {str(code): int(n) for code, n in counts.items() if n}
    files = int((read["frame"] == 0).sum())
    _check_counts(results, files, outcomes)
    is_scored = (read["outcome"] == Outcome.SCORED.value).to_numpy(bool)
    rows = np.flatnonzero(is_scored)
    if results.size is not None and len(rows) > _FEW_SCORED + results.size // _LEAST_BYTES:
        what = f"has {len(rows):,} scored rows in {results.size:,} bytes"
        raise too_large(results.name, what)
    if unknown := [name for name in read["prediction"].unique().dropna() if name not in classes]:
        raise _edited(results, f"the prediction {shown(str(unknown[0]))} is no class")
    predicted = pd.Index(classes).get_indexer(read["prediction"])
    if not np.array_equal(predicted >= 0, is_scored):
        raise _edited(results, "a scored row has no prediction, or another row has one")
    probabilities, logits = (_matrix(results, prefix, is_scored) for prefix in ("p", "logit"))
    scores = TableScores(
        rows, predicted[rows].astype(np.int16), probabilities, logits, files, outcomes
    )
    _check_probabilities(results, scores)
    return scores


def _matrix(
    results: Results, prefix: str, is_scored: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """One column at a time, so that little more than the matrix is in memory."""
    values = np.empty((int(is_scored.sum()), len(results.classes)), np.float32)
    for index, name in enumerate(results.classes):
        column = results.read([f"{prefix}_{name}"]).iloc[:, 0].to_numpy(np.float32)
        values[:, index] = column[is_scored]
        if not np.isfinite(values[:, index]).all():
            raise _edited(results, "a score is missing or not finite")
        if not np.isnan(column[~is_scored]).all():
            raise _edited(results, "a row that was not scored has a score")
    return values


def _check_counts(results: Results, files: int, outcomes: Mapping[str, int]) -> None:
    if unknown := sorted(code for code in outcomes if code not in set(Outcome)):
        raise _edited(results, f"the outcome {shown(unknown[0])} is unknown")
    stated = results.provenance
    passed = stated.get("passed_over", {})
    if not isinstance(passed, dict) or not all(type(n) is int and n >= 0 for n in passed.values()):
        raise _edited(results, "its counts of what was passed over are no counts")
    if results.size is None:
        # A DataFrame may be some of the rows.
        return
    actual = {"files": files, "rows": results.rows, "outcomes": dict(outcomes)}
    for name, value in actual.items():
        if name in stated and stated[name] != value:
            raise _edited(results, f"its count of {name} is not that of its rows")


def _check_probabilities(results: Results, scores: TableScores) -> None:
    p = scores.probabilities
    if not len(p):
        return
    if p.min() < 0 or p.max() > 1 + _TOLERANCE or np.abs(p.sum(axis=1) - 1).max() > _TOLERANCE:
        raise _edited(results, "the probabilities of a row do not add up to 1")
    of_predicted = np.take_along_axis(p, scores.predicted[:, None].astype(np.int64), axis=1)[:, 0]
    wrong = np.flatnonzero(of_predicted < p.max(axis=1))
    if len(wrong):
        row = int(scores.rows[wrong[0]]) + 1
        raise _edited(results, f"the prediction of row {row:,} is not its most probable class")


def card_of(results: Results) -> Mapping[str, Any]:
    """Return the checkpoint's card as the table has it; empty where it has none."""
    try:
        card = json.loads(results.provenance.get("card", ""))
    except (TypeError, ValueError, RecursionError):
        return {}
    return card if isinstance(card, dict) else {}


def model_name(card: Mapping[str, Any]) -> str:
    """Return the name in a checkpoint's card, or that there is none."""
    name = card.get("name")
    return name if isinstance(name, str) and name else "a model without a name"


def _follow(results: Results, scores: TableScores, truth: Truth | None) -> tuple[Flow, Positions]:
    """Count the steps, and choose the positions, in `scores`, of the images to analyse."""
    excluded, failed = (
        _steps(scores.outcomes, kind) for kind in (OutcomeKind.EXCLUDED, OutcomeKind.FAILED)
    )
    scored = len(scores.rows)
    chosen = np.arange(scored)
    aside: tuple[ExclusionStep, ...] = ()
    unlabelled, side, unscored, seen = 0, None, 0, 0
    if truth is not None:
        known = truth.classes[scores.rows] != UNKNOWN
        splits = truth.splits[scores.rows]
        unlabelled = int(scored - known.sum())
        unscored = int((truth.classes != UNKNOWN).sum() - known.sum())
        is_test = splits == SPLITS.index("test")
        if (known & is_test).any():
            side, aside = "test", _sides(splits[known & ~is_test])
            known &= is_test
        seen = int((known & (splits != UNKNOWN) & ~is_test).sum())
        chosen = np.flatnonzero(known)
    flow = Flow(
        passed_over=dict(results.provenance.get("passed_over", {})),
        files=scores.files,
        rows=results.rows,
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
        labelled_unscored=unscored,
    )
    assert flow.rows == scored + sum(step.count for step in (*excluded, *failed))
    assert scored == flow.analysed + unlabelled + sum(step.count for step in aside)
    return flow, chosen


def _steps(outcomes: Mapping[str, int], kind: OutcomeKind) -> tuple[ExclusionStep, ...]:
    found = [
        ExclusionStep(code.value, code.meaning, outcomes[code])
        for code in Outcome
        if code.kind is kind and outcomes.get(code)
    ]
    return tuple(sorted(found, key=lambda step: -step.count))


def _sides(splits: ClassNumbers) -> tuple[ExclusionStep, ...]:
    names = {UNKNOWN: "no side of the split"} | dict(enumerate(SPLITS))
    counts = {name: int((splits == number).sum()) for number, name in names.items()}
    return tuple(
        ExclusionStep(name, "not analysed, as the labels name a side test", n)
        for name, n in counts.items()
        if n
    )


def _edited(results: Results, what: str) -> TableError:
    return TableError(f"{results.name} was changed after it was written: {what}; score again")

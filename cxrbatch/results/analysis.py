"""Checks the scores of a table, joins them with the truth, and chooses the images to analyse."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrbatch.errors import TableError, UsageError, checked_path
from cxrbatch.files import shown
from cxrbatch.reading.outcomes import Outcome, OutcomeKind
from cxrbatch.results.counting import (
    ExclusionStep,
    ImageCounts,
    ImageFacts,
    Positions,
    count_images,
)
from cxrbatch.results.frames import Results
from cxrbatch.results.label_files import AS_USUAL, LabelOptions
from cxrbatch.results.merging import Task, make_task
from cxrbatch.results.statistics.intervals import Groups
from cxrbatch.results.table import Table, too_large
from cxrbatch.results.truth import UNKNOWN, ClassNumbers, Truth, find_truth, patients_of

# Scores of a million rows fit into memory anywhere. More need a file that can hold them: a scored
# row has a hash of 16 bytes, and pictures differ.
_FEW_SCORED, _LEAST_BYTES = 1_000_000, 16
# Softmax in float32 over up to 256 classes is exact to some 1e-5.
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class TableScores:
    """The scores of a results table, one entry per scored row; a row is a file or a frame of it.

    Attributes:
        rows: Shape (n,), numbers of the scored rows in the table, from 0, ascending.
        predicted: Shape (n,), int16, index of the predicted class of each scored row.
        probabilities: Shape (n, classes), float32; each row adds up to 1, within 0.001.
        logits: Shape (n, classes), float32.
        files: Number of files in the whole table, with or without a score.
        outcomes: Outcome code -> number of rows, of all rows of the table.
    """

    rows: Positions
    predicted: ClassNumbers
    probabilities: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    files: int
    outcomes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Flow(ImageCounts):
    """Counts from the files found to the images analysed; they add up at each step.

    Source: Bossuyt et al., "STARD 2015", BMJ 2015, item 19.

    Attributes:
        passed_over: Number of directory entries that are no files and have no row, by kind.
        files: Number of files found.
        rows: Number of files, or frames of them: excluded + failed + scored.
        excluded: Rows that are no radiographs, by outcome, the most frequent first.
        failed: Rows that could not be read, by outcome, the most frequent first.
        labels: Number of labels that the truth comes from; None without a truth.
        labels_without_row: Number of labels that name no row of the table.
        labelled_unscored: Number of rows with a true class and without a score.
    """

    passed_over: Mapping[str, int]
    files: int
    rows: int
    excluded: tuple[ExclusionStep, ...]
    failed: tuple[ExclusionStep, ...]
    labels: int | None
    labels_without_row: int
    labelled_unscored: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """The images of a results table that are compared with the truth, as `analyse` chose them.

    Attributes:
        results: The table.
        card: The checkpoint's card as the table has it; empty where it has none.
        task: The classes that the truth tells apart, which may be several of the model's.
        scores: The scored rows of the table, in the classes of the model.
        truth: True class (an index into `task.classes`), split and patient of every row, where
            known; None without a truth.
        flow: How many images were left out, and why.
        facts: Flags and identities of the scored images.
        chosen: Shape (n,), the analysed images as positions in the arrays of `scores`.
        all_images: Positions of the analysed images and of those that were left out for a flag or
            as copies.
    """

    results: Results
    card: Mapping[str, Any]
    task: Task
    scores: TableScores
    truth: Truth | None
    flow: Flow
    facts: ImageFacts
    chosen: Positions
    all_images: Positions

    @property
    def rows(self) -> Positions:
        """Row numbers, in the table, of the analysed images: shape (n,), from 0, ascending."""
        return self.scores.rows[self.chosen]

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Probabilities of the task's classes, shape (n, classes), float32, in row order."""
        return self.task.merge_probabilities(self.scores.probabilities[self.chosen])

    def true_classes(self) -> ClassNumbers:
        """Return the true class of every scored image, also of those that are not analysed.

        Returns:
            Shape (scored,), int16, indices into `task.classes`, in the order of `scores.rows`;
            `UNKNOWN` (-1) where no true class is known.
        """
        if self.truth is None:
            return np.full(len(self.scores.rows), UNKNOWN, np.int16)
        return self.truth.classes[self.scores.rows]

    def patients(self) -> Groups:
        """Return the number of the patient of each analysed image; `truth` must not be None.

        Returns:
            Shape (n,), int32, from 0 without gaps, in the order of `rows`. The patient is the one
            that the labels name, else that of the file's header; an image of an unknown patient
            has a number of its own.

        Raises:
            TableError: The table is damaged.
        """
        assert self.truth is not None
        return patients_of(self.results, self.truth, self.rows)


def analyse(
    results: "str | Path | Table | pd.DataFrame",
    labels: "str | Path | pd.DataFrame | None" = None,
    *,
    label_options: LabelOptions = AS_USUAL,
    keep_copies: bool = False,
    keep_flagged: bool = False,
    merge: bool = False,
) -> Analysis:
    """Check the scores of a table, find the true classes, and choose the images to analyse.

    The chosen images are the scored ones whose true class is known; without a truth (see
    `find_truth`) all scored ones. If any of them is on the side `test` of the labels' split, only
    those on that side are chosen, as the model may have learned from the others. Of these, images
    flagged as lateral or as no chest, and all but the first of equal images, are left out.

    Args:
        results: A table's path, an open table, or what `load_results` returned, or some of its
            rows.
        labels: A file of labels, or what `load_labels` returned; None to use the table's column
            truth, or else the names of the folders in its paths.
        label_options: How labels are read and joined.
        keep_copies: Whether all of several equal images are chosen.
        keep_flagged: Whether images flagged as lateral or as no chest are chosen.
        merge: Whether the map of `label_options` may give a text several classes, so that the
            probabilities of these are added up.

    Raises:
        TableError: The file is no results table or is damaged, or its scores fail `read_scores`.
        LabelError: The labels cannot be read or contradict each other, none fits a row, or one fits
            no class.
        UsageError: `results` or `labels` is of another type, or a path that no file has; or the map
            of `label_options` cannot be used, see `make_task`.
    """
    if labels is not None and not isinstance(labels, str | os.PathLike | pd.DataFrame):
        raise UsageError(
            f"labels is of the type {type(labels).__name__}; give a path, or a DataFrame with a "
            "column that names the images"
        )
    if labels is not None and not isinstance(labels, pd.DataFrame):
        labels = checked_path("labels", labels)
    opened = Results(results)
    task = make_task(opened.classes, label_options.class_map, merge=merge)
    scores = read_scores(opened)
    truth = find_truth(opened, labels, label_options, task)
    facts = ImageFacts.read(opened, scores.rows)
    counted = count_images(
        [facts],
        None if truth is None else truth.classes[scores.rows],
        None if truth is None else truth.splits[scores.rows],
        keep_copies=keep_copies,
        keep_flagged=keep_flagged,
    )
    return Analysis(
        results=opened,
        card=card_of(opened),
        task=task,
        scores=scores,
        truth=truth,
        flow=_flow(opened, scores, truth, counted.counts),
        facts=facts,
        chosen=counted.analysed,
        all_images=counted.all_images,
    )


def read_scores(results: Results) -> TableScores:
    """Read and check the scores of a table; raise if a run of the program cannot have written them.

    Raises:
        TableError: The table is damaged, has fewer than two classes, or has more scored rows than
            a file of its size can hold; a scored row lacks a prediction or a finite score, or
            another row has one; an outcome or a prediction is unknown; probabilities do not add up
            to 1 (by more than 0.001) or one is negative, or the prediction is not the most probable
            class; or the counts of files, rows and outcomes in the file's provenance, if there, are
            not those of its rows (not checked of a DataFrame).
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
    """Return the checkpoint's card, the JSON object that describes the model.

    The card is a text in the table's provenance; empty if there is none or it is no JSON object.
    """
    try:
        card = json.loads(results.provenance.get("card", ""))
    except (TypeError, ValueError, RecursionError):
        return {}
    return card if isinstance(card, dict) else {}


def model_name(card: Mapping[str, Any]) -> str:
    """Return the name in a checkpoint's card, or "a model without a name" where it has none."""
    name = card.get("name")
    return name if isinstance(name, str) and name else "a model without a name"


def _flow(results: Results, scores: TableScores, truth: Truth | None, counts: ImageCounts) -> Flow:
    """Add to the counts of scored images those of files, outcomes and labels."""
    excluded, failed = (
        _steps(scores.outcomes, kind) for kind in (OutcomeKind.EXCLUDED, OutcomeKind.FAILED)
    )
    labelled = 0 if truth is None else int((truth.classes != UNKNOWN).sum())
    return Flow(
        **{field.name: getattr(counts, field.name) for field in fields(counts)},
        passed_over=dict(results.provenance.get("passed_over", {})),
        files=scores.files,
        rows=results.rows,
        excluded=excluded,
        failed=failed,
        labels=None if truth is None else truth.labels,
        labels_without_row=0 if truth is None else truth.without_row,
        labelled_unscored=0 if truth is None else labelled - counts.scored + counts.unlabelled,
    )


def _steps(outcomes: Mapping[str, int], kind: OutcomeKind) -> tuple[ExclusionStep, ...]:
    found = [
        ExclusionStep(code.value, code.meaning, outcomes[code])
        for code in Outcome
        if code.kind is kind and outcomes.get(code)
    ]
    return tuple(sorted(found, key=lambda step: -step.count))


def _edited(results: Results, what: str) -> TableError:
    return TableError(f"{results.name} was changed after it was written: {what}; score again")

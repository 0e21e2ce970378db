"""The scores of a table, checked: a table that was edited after it was written is refused."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import TableError
from cxrbatch.paths import shown
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.results.table import Table, too_large

# Scores of a million rows fit into memory anywhere. More need a file that can hold them: a scored
# row has a hash of 16 bytes, and pictures differ.
_FEW_SCORED, _LEAST_BYTES = 1_000_000, 16
# Softmax in float32 over up to 256 classes is exact to some 1e-5.
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Scores:
    """The scored rows of a table.

    Attributes:
        rows: Shape (n,), the number of each in the table, rising.
        predicted: Shape (n,), class indices.
        probabilities: Shape (n, classes), float32.
        logits: Shape (n, classes), float32.
        files: Files of the whole table.
        outcomes: Rows of the whole table by outcome code.
    """

    rows: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int16]
    probabilities: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    files: int
    outcomes: Mapping[str, int]


def read_scores(table: Table) -> Scores:
    """Read and check the scores of a table.

    Raises:
        TableError: The table is damaged, or its rows contradict each other or what it says of them.
    """
    if len(table.classes) < 2:
        raise _edited(table, "it has fewer than two classes")
    found = table.read(["outcome", "frame", "prediction"])
    counts = pc.value_counts(found["outcome"])[: len(Outcome) + 1]
    outcomes = Counter({e["values"]: e["counts"] for e in counts.to_pylist()})
    files = int(pc.sum(pc.equal(found["frame"], 0), min_count=0).as_py())
    _check_counts(table, files, outcomes)
    is_scored = pc.equal(found["outcome"], Outcome.SCORED.value).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(is_scored)
    if len(rows) > _FEW_SCORED + table.size // _LEAST_BYTES:
        raise too_large(table.path, f"has {len(rows):,} scored rows in {table.size:,} bytes")
    codes = pc.dictionary_encode(found["prediction"]).combine_chunks()
    names = codes.dictionary.to_pylist()
    if unknown := [name for name in names if name not in table.classes]:
        raise _edited(table, f"the prediction {shown(str(unknown[0]))} is no class")
    predictions = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    if not np.array_equal(predictions >= 0, is_scored):
        raise _edited(table, "a scored row has no prediction, or another row has one")
    numbers = np.array([*map(table.classes.index, names), -1], np.int16)
    probabilities, logits = (_matrix(table, prefix, is_scored) for prefix in ("p", "logit"))
    scores = Scores(rows, numbers[predictions[rows]], probabilities, logits, files, dict(outcomes))
    _check_probabilities(table, scores)
    return scores


def _matrix(table: Table, prefix: str, is_scored: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """One column at a time, so that little more than the result is in memory."""
    values = np.empty((int(is_scored.sum()), len(table.classes)), np.float32)
    for index, name in enumerate(table.classes):
        column: pa.ChunkedArray = table.read([f"{prefix}_{name}"])[0]
        if not np.array_equal(column.is_valid().to_numpy(), is_scored):
            raise _edited(table, "a scored row lacks a score, or another row has one")
        values[:, index] = column.drop_null().to_numpy()
    return values


def _check_counts(table: Table, files: int, outcomes: Mapping[str, int]) -> None:
    if unknown := sorted(str(code) for code in outcomes if code not in set(Outcome)):
        raise _edited(table, f"the outcome {shown(unknown[0])} is unknown")
    told = table.provenance
    passed = told.get("passed_over", {})
    if not isinstance(passed, dict) or not all(type(n) is int and n >= 0 for n in passed.values()):
        raise _edited(table, "its counts of what was passed over are no counts")
    actual = {"files": files, "rows": table.rows, "outcomes": dict(outcomes)}
    for name, value in actual.items():
        if name in told and told[name] != value:
            raise _edited(table, f"its count of {name} is not that of its rows")


def _check_probabilities(table: Table, scores: Scores) -> None:
    p = scores.probabilities
    if not (np.isfinite(p).all() and np.isfinite(scores.logits).all()):
        raise _edited(table, "a score is not finite")
    if not len(p):
        return
    if p.min() < 0 or p.max() > 1 + _TOLERANCE or np.abs(p.sum(axis=1) - 1).max() > _TOLERANCE:
        raise _edited(table, "the probabilities of a row do not add up to 1")
    of_predicted = np.take_along_axis(p, scores.predicted[:, None].astype(np.int64), axis=1)[:, 0]
    wrong = np.flatnonzero(of_predicted < p.max(axis=1))
    if len(wrong):
        row = int(scores.rows[wrong[0]]) + 1
        raise _edited(table, f"the prediction of row {row:,} is not its most probable class")


def card_of(table: Table) -> Mapping[str, Any]:
    """The checkpoint's card as the table has it; empty where it has none."""
    try:
        card = json.loads(table.provenance.get("card", ""))
    except (TypeError, ValueError, RecursionError):
        return {}
    return card if isinstance(card, dict) else {}


def _edited(table: Table, what: str) -> TableError:
    return TableError(f"{table.path} was changed after it was written: {what}; score again")

"""The images that two tables have in common, with their truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import LabelError, TableError
from cxrbatch.reports.flow import Positions, follow
from cxrbatch.results.joining import find_truth, patients_of
from cxrbatch.results.paths import shown
from cxrbatch.results.scores import read_scores
from cxrbatch.results.statistics.groups import Groups
from cxrbatch.results.statistics.metrics import Classes, Probabilities
from cxrbatch.results.table import Table

_KEYS = (("path", "frame"), ("sop_instance_uid", "frame"), ("image_hash",))
# What decides which input an image becomes.
_WAY = ("recipe", "fast_decode")


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images that both tables have scores of, and whose truth is known.

    Attributes:
        key: The columns by which they were joined.
        classes: In the order of the first table.
        truth_source: Where the truth comes from.
        side: The side of a split that they are of, or None.
        not_held_out: Images analysed of the first table that are of a side train or val.
        truth: Shape (n,), class indices.
        groups: Shape (n,), whose each image is.
        rows: Of each table, shape (n,), row numbers.
        probabilities: Of each table, shape (n, classes).
        unpaired: Images analysed of the first table that the second has no score of; and scored
            images of the second table that are not among those analysed.
    """

    key: tuple[str, ...]
    classes: tuple[str, ...]
    truth_source: str
    side: str | None
    not_held_out: int
    truth: Classes
    groups: Groups
    rows: tuple[Positions, Positions]
    probabilities: tuple[Probabilities, Probabilities]
    unpaired: tuple[int, int]


def pair_up(first: Table, second: Table, labels: Path | None = None) -> Pairs:
    """Join two tables image by image.

    By path and frame; where no image has both in both, by SOP Instance UID; then by the hash of
    the network's input, which two recipes do not share. Under one recipe an image that has another
    hash in the second table is another picture. The truth is looked for as for a report,
    first by the first table.

    Raises:
        TableError: A table is damaged, they have other classes, or no image in common.
        LabelError: There is no truth, or it cannot be used.
    """
    if set(first.classes) != set(second.classes):
        names, others = (", ".join(map(shown, table.classes)) for table in (first, second))
        raise TableError(
            f"{first.path} has the classes {names}, {second.path} {others}; only models of the "
            "same classes can be compared"
        )
    scores = read_scores(first), read_scores(second)
    truth = find_truth(first, labels)
    if truth is None:
        raise LabelError(f"nothing tells the truth about the images of {first.path}; give --labels")
    flow, chosen = follow(scores[0], truth, rows=first.rows, passed_over={})
    if not len(chosen):
        raise LabelError(f"no scored image of {first.path} has a truth; give other --labels")
    kept = scores[0].rows[chosen], scores[1].rows
    key, places = _joined((first, second), kept)
    there = np.flatnonzero(places >= 0)
    own, other = chosen[there], places[there]
    order = [second.classes.index(name) for name in first.classes]
    rows = scores[0].rows[own], scores[1].rows[other]
    return Pairs(
        key=key,
        classes=first.classes,
        truth_source=truth.source,
        side=flow.side,
        not_held_out=flow.not_held_out,
        truth=truth.classes[rows[0]],
        groups=patients_of(first, truth, rows[0]),
        rows=rows,
        probabilities=(scores[0].probabilities[own], scores[1].probabilities[other][:, order]),
        unpaired=(len(chosen) - len(there), len(scores[1].rows) - len(np.unique(other))),
    )


def _joined(
    tables: tuple[Table, Table], rows: tuple[Positions, Positions]
) -> tuple[tuple[str, ...], Positions]:
    """For each row of the first its place among those of the second, or -1."""
    for key in _KEYS:
        names = [_names(table, of, key) for table, of in zip(tables, rows, strict=True)]
        found = pc.index_in(names[0], value_set=names[1], skip_nulls=True)
        places: npt.NDArray[np.int64] = found.fill_null(-1).to_numpy(zero_copy_only=False)
        places = np.where(_same_pictures(tables, rows, places), places, -1)
        if (places >= 0).any():
            return key, places.astype(np.int64)
    raise TableError(
        f"{tables[0].path} and {tables[1].path} have no image in common: neither by path, nor by "
        "SOP Instance UID, nor by image hash"
    )


def _same_pictures(
    tables: tuple[Table, Table], rows: tuple[Positions, Positions], places: Positions
) -> npt.NDArray[np.bool_]:
    """Whether what was joined has one hash; where inputs were made in two ways it tells nothing."""
    made = [[table.provenance.get(name) for name in _WAY] for table in tables]
    if made[0] != made[1]:
        return np.ones(len(places), np.bool_)
    first, second = (
        _names(table, of, ("image_hash",)) for table, of in zip(tables, rows, strict=True)
    )
    equal = pc.equal(first, second.take(pa.array(places, mask=places < 0)))
    return np.asarray(equal.fill_null(True).to_numpy(zero_copy_only=False))


def _names(table: Table, rows: Positions, key: Sequence[str]) -> pa.Array:
    """One text per row, null where a part of it is unknown."""
    columns = table.read(key).take(pa.array(rows))
    parts = [pc.cast(columns[name].combine_chunks(), pa.string()) for name in key]
    return pc.binary_join_element_wise(*parts, "\n")

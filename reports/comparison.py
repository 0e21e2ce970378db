"""All that a comparison of two tables says, as plain values: the second is held to the first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import LabelError, TableError
from cxrbatch.paths import shown
from cxrbatch.reports.flow import Positions, follow
from cxrbatch.reports.gallery import read_pictures
from cxrbatch.reports.options import Progress
from cxrbatch.reports.report import Shown, as_text
from cxrbatch.results import evaluation as comparison
from cxrbatch.results.evaluation import Comparison, evaluate
from cxrbatch.results.figures import Evaluation
from cxrbatch.results.joining import find_truth, patients_of
from cxrbatch.results.scores import card_of, read_scores
from cxrbatch.results.statistics.intervals import Estimate, Groups
from cxrbatch.results.statistics.metrics import Classes, Probabilities
from cxrbatch.results.table import Table, open_table

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


EACH = 4


@dataclass(frozen=True, slots=True)
class Flips:
    """Images that the two predict to be of different classes.

    Attributes:
        title: What they have in common.
        count: All of them.
        shown: The ones where both together were surest: under the first and under the second.
    """

    title: str
    count: int
    shown: tuple[tuple[Shown, Shown], ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """A comparison.

    Attributes:
        provenance: How each table was made.
        names: Of the models.
        pairs: The images.
        evaluations: Of each table on them.
        differences: Second - first.
        flips: By who is right.
    """

    provenance: tuple[Mapping[str, Any], Mapping[str, Any]]
    names: tuple[str, str]
    pairs: Pairs
    evaluations: tuple[Evaluation, Evaluation]
    differences: Comparison
    flips: tuple[Flips, ...]

    @property
    def loss(self) -> float | None:
        """By how much the second is worse in balanced accuracy or macro AUC, whichever is more.

        Negative where it is better in both; None where neither is defined.
        """
        values = self.differences.balanced_accuracy.value, self.differences.macro_auc.value
        defined = [-value for value in values if value is not None]
        return max(defined) if defined else None

    def figures(self) -> dict[str, Any]:
        """Give what JSON holds: all but the pictures."""
        told = ("checkpoint_sha256", "recipe_sha256", "device", "precision")
        return {
            "tables": [
                {"model": name, **{key: as_text(made.get(key)) for key in told}}
                for name, made in zip(self.names, self.provenance, strict=True)
            ],
            "classes": list(self.pairs.classes),
            "joined_by": list(self.pairs.key),
            "truth": self.pairs.truth_source,
            "side": self.pairs.side,
            "not_held_out": self.pairs.not_held_out,
            "images": len(self.pairs.truth),
            "unpaired": list(self.pairs.unpaired),
            "evaluations": [asdict(evaluation) for evaluation in self.evaluations],
            "differences": _plain(self.differences),
            "flips": {of.title: of.count for of in self.flips},
            "loss": self.loss,
        }


def make_comparison(
    first: Path,
    second: Path,
    *,
    labels: Path | None = None,
    archive: Path | None = None,
    show_paths: bool = False,
    workers: int = 1,
    progress: Progress,
) -> Compared:
    """Work a comparison out.

    Args:
        first: The table that the other is held to.
        second: The other one.
        labels: A file of labels; None to look in the first table and in its paths.
        archive: Where the archive is now; None for where each table says.
        show_paths: Whether paths may be told.
        workers: Processes that read images.
        progress: Told of each step.

    Raises:
        TableError: A table cannot be used, or they do not fit together.
        LabelError: The labels cannot be used, or there are none.
        CxrbatchError: No process can be started.
    """
    progress.step("reading the tables")
    tables = open_table(first), open_table(second)
    pairs = pair_up(*tables, labels)
    progress.step("evaluating each")
    one, other = pairs.probabilities
    evaluations = (
        evaluate(pairs.truth, one, pairs.groups, classes=pairs.classes),
        evaluate(pairs.truth, other, pairs.groups, classes=pairs.classes),
    )
    progress.step("comparing")
    differences = comparison.compare(pairs.truth, other, one, pairs.groups)
    progress.step("reading the pictures")
    flips = _flips(tables, pairs, archive, show_paths=show_paths, workers=workers)
    made = tables[0].provenance, tables[1].provenance
    names = _name(tables[0]), _name(tables[1])
    return Compared(made, names, pairs, evaluations, differences, flips)


def _name(table: Table) -> str:
    name = card_of(table).get("name")
    return name if isinstance(name, str) and name else "a model without a name"


def _flips(
    tables: tuple[Table, Table],
    pairs: Pairs,
    archive: Path | None,
    *,
    show_paths: bool,
    workers: int,
) -> tuple[Flips, ...]:
    predicted = [p.argmax(axis=1) for p in pairs.probabilities]
    right = [classes == pairs.truth for classes in predicted]
    flipped = predicted[0] != predicted[1]
    kinds = {
        "Only the second is right": flipped & right[1],
        "Only the first is right": flipped & right[0],
        "Both are wrong, in different ways": flipped & ~right[0] & ~right[1],
    }
    certainty = pairs.probabilities[0].max(axis=1) + pairs.probabilities[1].max(axis=1)
    chosen = {
        title: np.flatnonzero(of)[np.argsort(-certainty[of], kind="stable")[:EACH]]
        for title, of in kinds.items()
    }
    positions = np.unique(np.concatenate([*chosen.values()]))
    shown = [
        _shown(tables[i], pairs, i, positions, archive, show_paths=show_paths, workers=workers)
        for i in (0, 1)
    ]
    return tuple(
        Flips(title, int(of.sum()), tuple((shown[0][p], shown[1][p]) for p in chosen[title]))
        for title, of in kinds.items()
    )


def _shown(
    table: Table,
    pairs: Pairs,
    number: int,
    positions: Positions,
    archive: Path | None,
    *,
    show_paths: bool,
    workers: int,
) -> dict[int, Shown]:
    rows = pairs.rows[number][positions].tolist()
    probabilities = pairs.probabilities[number][positions]
    names = [pairs.classes[c] for c in probabilities.argmax(axis=1)]
    own = [table.classes.index(name) for name in names]
    pictures = read_pictures(table, rows, own, archive=archive, workers=workers)
    told = table.take(rows, ["path", "flags"]).to_pylist()
    return {
        position: Shown(
            row=row + 1,
            prediction=name,
            probability=float(sure.max()),
            truth=pairs.classes[pairs.truth[position]],
            flags=tuple(facts["flags"] or ()),
            path=facts["path"] if show_paths else None,
            picture=pictures[row],
        )
        for position, row, name, sure, facts in zip(
            positions.tolist(), rows, names, probabilities, told, strict=True
        )
    }


def _plain(found: Comparison) -> dict[str, Any]:
    def estimate(value: Estimate) -> dict[str, Any]:
        bounds = value.interval or (None, None)
        return {"value": value.value, "low": bounds[0], "high": bounds[1], "why": value.reason}

    return {
        "second_only_right": found.first_only,
        "first_only_right": found.second_only,
        "mcnemar_p": found.mcnemar_p,
        "accuracy": estimate(found.accuracy),
        "balanced_accuracy": estimate(found.balanced_accuracy),
        "macro_auc": estimate(found.macro_auc),
        "auc": [estimate(value) for value in found.auc],
        "delong": [
            None if c is None else {"low": c.interval.low, "high": c.interval.high, "p": c.p}
            for c in found.delong
        ],
    }

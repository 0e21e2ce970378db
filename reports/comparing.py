"""All that a comparison of two tables says, as plain values: the second is held to the first."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxrbatch.reports.flow import Positions
from cxrbatch.reports.pairing import Pairs, pair_up
from cxrbatch.reports.pictures import read_pictures
from cxrbatch.reports.progress import Progress
from cxrbatch.reports.report import Shown, as_text
from cxrbatch.results import comparison
from cxrbatch.results.comparison import Comparison
from cxrbatch.results.evaluation import evaluate
from cxrbatch.results.figures import Evaluation
from cxrbatch.results.scores import card_of
from cxrbatch.results.statistics.intervals import Estimate
from cxrbatch.results.table import Table, open_table

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

"""All that a report says, as plain values: the page shows them, and JSON holds the figures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import LabelError
from cxrbatch.reading.outcomes import Flag
from cxrbatch.reports.copies import Copies, find_copies
from cxrbatch.reports.flow import Flow, Positions, follow
from cxrbatch.reports.gallery import ClassChoices, Picture, choose, read_pictures
from cxrbatch.reports.options import Progress
from cxrbatch.reports.subgroups import Subgroups, by_facts
from cxrbatch.results.evaluation import evaluate
from cxrbatch.results.figures import Evaluation
from cxrbatch.results.joining import UNKNOWN, Truth, find_truth, patients_of
from cxrbatch.results.labels import class_numbers
from cxrbatch.results.scores import Scores, card_of, read_scores
from cxrbatch.results.table import Table, open_table
from cxrbatch.version import VERSION

_BINS = 20
_HOTTEST = 100.0


@dataclass(frozen=True, slots=True)
class Distribution:
    """What the scores look like, whatever the truth.

    Attributes:
        predicted: Class name -> scored images of which it is the most probable class.
        edges: Of bins of confidence, the largest probability.
        confidence: Scored images per bin.
        flags: Flag, its meaning, and the scored images that bear it.
    """

    predicted: Mapping[str, int]
    edges: tuple[float, ...]
    confidence: tuple[int, ...]
    flags: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """An image of the gallery.

    Attributes:
        row: Its row in the table, from 1.
        prediction: The most probable class.
        probability: Of that class.
        truth: The class that it is of, or None.
        flags: Flag codes.
        path: Path in the archive, where paths are shown; else None.
        picture: The image and its heat map.
    """

    row: int
    prediction: str
    probability: float
    truth: str | None
    flags: tuple[str, ...]
    path: str | None
    picture: Picture


@dataclass(frozen=True, slots=True)
class Report:
    """All of a report.

    Attributes:
        provenance: How the table was made.
        card: The checkpoint's card; empty where the table has none.
        classes: Names.
        truth_source: Where the truth comes from; None without a truth.
        flow: From files to images analysed.
        evaluation: None without a truth.
        subgroups: Empty without a truth.
        distribution: Of the scores.
        copies: Equal and nearly equal pictures.
        choices: The gallery, as positions that `shown` knows.
        shown: Position -> image.
        root: The archive's folder, where paths are shown; else None.
        paths: Row, from 1 -> path, for the rows that are listed, where paths are shown.
    """

    provenance: Mapping[str, Any]
    card: Mapping[str, Any]
    classes: tuple[str, ...]
    truth_source: str | None
    flow: Flow
    evaluation: Evaluation | None
    subgroups: tuple[Subgroups, ...]
    distribution: Distribution
    copies: Copies
    choices: tuple[ClassChoices, ...]
    shown: Mapping[int, Shown]
    root: str | None
    paths: Mapping[int, str]

    def figures(self) -> dict[str, Any]:
        """Give what JSON holds: all but the pictures."""
        gallery = [
            {"class": of.name, "kind": choice.title, "images": [self._told(p) for p in positions]}
            for of in self.choices
            for choice in of.choices
            for positions in [choice.positions]
        ]
        told = ("checkpoint_sha256", "recipe", "recipe_sha256", "device", "precision", "versions")
        # What was edited may hold numbers that JSON has no way to write.
        made = {name: self.provenance.get(name) for name in ("schema_version", *told)}
        return {
            "cxrbatch": VERSION,
            "table": {name: as_text(value) for name, value in made.items()},
            "model": as_text(self.card.get("name")),
            "architecture": as_text(self.card.get("architecture")),
            "limits": as_text(self.card.get("limits")),
            "classes": list(self.classes),
            "truth": self.truth_source,
            "flow": asdict(self.flow),
            "evaluation": None if self.evaluation is None else asdict(self.evaluation),
            "subgroups": [asdict(group) for group in self.subgroups],
            "distribution": asdict(self.distribution),
            "copies": asdict(self.copies),
            "gallery": gallery,
            **({"archive_root": self.root, "paths": self.paths} if self.root is not None else {}),
        }

    def _told(self, position: int) -> dict[str, Any]:
        shown = self.shown[position]
        names = ("row", "prediction", "probability", "flags")
        told = {name: getattr(shown, name) for name in names}
        told["not_shown"] = shown.picture.absence or None
        return {**told, "truth": shown.truth, **({"path": shown.path} if shown.path else {})}


def make_report(
    path: Path,
    *,
    labels: Path | None = None,
    archive: Path | None = None,
    prevalence: Mapping[str, float] | None = None,
    show_paths: bool = False,
    workers: int = 1,
    progress: Progress,
) -> Report:
    """Work a report out.

    Args:
        path: The results table.
        labels: A file of labels; None to look in the table and in its paths.
        archive: Where the archive is now; None for where it was.
        prevalence: Class name -> prevalence for which predictive values are stated.
        show_paths: Whether paths may be told.
        workers: Processes that read images.
        progress: Told of each step.

    Raises:
        TableError: The table cannot be used.
        LabelError: The labels cannot be used.
        CxrbatchError: No process can be started.
    """
    progress.step("reading the table")
    table = open_table(path)
    if prevalence:
        numbers = class_numbers(prevalence, table.classes)
        if len(set(numbers.values())) < len(numbers):
            raise LabelError("a class has two prevalences; give one")
        prevalence = {table.classes[numbers[name]]: share for name, share in prevalence.items()}
    scores = read_scores(table)
    progress.step("joining the truth")
    truth = find_truth(table, labels)
    flow, chosen = follow(
        scores, truth, rows=table.rows, passed_over=table.provenance.get("passed_over", {})
    )
    card = card_of(table)
    evaluation, subgroups = None, tuple[Subgroups, ...]()
    if truth is not None:
        progress.step("evaluating")
        evaluation, subgroups = _evaluated(table, scores, truth, chosen, card, prevalence, progress)
    progress.step("looking for copies")
    of_rows = np.full(len(scores.rows), UNKNOWN, np.int16)
    if truth is not None:
        of_rows = truth.classes[scores.rows]
    hashes = table.read(["image_hash", "dhash"]).take(scores.rows)
    copies = find_copies(
        hashes["image_hash"],
        hashes["dhash"],
        logits=scores.logits,
        rows=scores.rows,
        truth=of_rows,
        predicted=scores.predicted,
        classes=table.classes,
    )
    codes = pc.dictionary_encode(hashes["image_hash"]).combine_chunks().indices
    pictures = codes.fill_null(-1).to_numpy(zero_copy_only=False)
    choices = choose(
        scores.predicted[chosen],
        scores.probabilities[chosen],
        None if truth is None else of_rows[chosen],
        pictures[chosen],
        classes=table.classes,
    )
    progress.step("reading the pictures")
    shown = _shown(
        table, scores, of_rows, chosen, choices, archive, show_paths=show_paths, workers=workers
    )
    return Report(
        provenance=table.provenance,
        card=card,
        classes=table.classes,
        truth_source=None if truth is None else truth.source,
        flow=flow,
        evaluation=evaluation,
        subgroups=subgroups,
        distribution=_distribution(table, scores),
        copies=copies,
        choices=choices,
        shown=shown,
        root=str(table.provenance.get("archive_root", "")) if show_paths else None,
        paths=_paths_of_copies(table, copies) if show_paths else {},
    )


def _evaluated(
    table: Table,
    scores: Scores,
    truth: Truth,
    chosen: Positions,
    card: Mapping[str, Any],
    prevalence: Mapping[str, float] | None,
    progress: Progress,
) -> tuple[Evaluation, tuple[Subgroups, ...]]:
    rows = scores.rows[chosen]
    classes, probabilities = truth.classes[rows], scores.probabilities[chosen]
    groups = patients_of(table, truth, rows)
    temperature = card.get("temperature")
    evaluation = evaluate(
        classes,
        probabilities,
        groups,
        classes=table.classes,
        logits=scores.logits[chosen],
        temperature=float(temperature) if _is_share(temperature, of=_HOTTEST) else None,
        prevalence=prevalence,
        thresholds=_thresholds(card),
    )
    progress.step("evaluating subgroups")
    parts = by_facts(table, rows, classes, probabilities, groups, classes=table.classes)
    return evaluation, parts


def _thresholds(card: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The operating points of the card, which may hold anything."""
    found = card.get("operating_points")
    if not isinstance(found, dict):
        return {}
    return {
        name: {
            point: float(rates["threshold"])
            for point, rates in points.items()
            if isinstance(rates, dict) and _is_share(rates.get("threshold"))
        }
        for name, points in found.items()
        if isinstance(points, dict)
    }


def _is_share(value: object, *, of: float = 1.0) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value <= of


def as_text(value: object) -> object:
    """What a table says of its making, which may have been edited, as JSON can hold it."""
    if isinstance(value, dict):
        return {str(name): str(part) for name, part in value.items()}
    if isinstance(value, list):
        return [str(part) for part in value]
    return None if value is None else str(value)


def _distribution(table: Table, scores: Scores) -> Distribution:
    counts = np.bincount(scores.predicted, minlength=len(table.classes))
    confidence = scores.probabilities.max(axis=1, initial=0.0)
    bins, edges = np.histogram(confidence, bins=_BINS, range=(0.0, 1.0))
    flags = table.read(["flags"])["flags"].take(pa.array(scores.rows))
    found = {e["values"]: e["counts"] for e in pc.value_counts(pc.list_flatten(flags)).to_pylist()}
    return Distribution(
        predicted=dict(zip(table.classes, counts.tolist(), strict=True)),
        edges=tuple(edges.tolist()),
        confidence=tuple(bins.tolist()),
        flags=tuple((f.value, f.meaning, found[f.value]) for f in Flag if found.get(f.value)),
    )


def _shown(
    table: Table,
    scores: Scores,
    truth: npt.NDArray[np.int16],
    chosen: Positions,
    choices: tuple[ClassChoices, ...],
    archive: Path | None,
    *,
    show_paths: bool,
    workers: int,
) -> dict[int, Shown]:
    positions = sorted({p for of in choices for choice in of.choices for p in choice.positions})
    of_scores = chosen[positions] if positions else np.empty(0, np.int64)
    rows = scores.rows[of_scores].tolist()
    predicted = scores.predicted[of_scores].tolist()
    pictures = read_pictures(table, rows, predicted, archive=archive, workers=workers)
    told = table.take(rows, ["path", "flags"]).to_pylist()
    found = {}
    for place, (position, at) in enumerate(zip(positions, of_scores.tolist(), strict=True)):
        number = int(truth[at])
        found[position] = Shown(
            row=rows[place] + 1,
            prediction=table.classes[predicted[place]],
            probability=float(scores.probabilities[at, predicted[place]]),
            truth=None if number == UNKNOWN else table.classes[number],
            flags=tuple(told[place]["flags"] or ()),
            path=told[place]["path"] if show_paths else None,
            picture=pictures[rows[place]],
        )
    return found


def _paths_of_copies(table: Table, copies: Copies) -> dict[int, str]:
    listed = (*copies.listed, *copies.near_listed)
    rows = sorted({row - 1 for group in listed for row in group.rows})
    paths = table.take(rows, ["path"])["path"].to_pylist()
    return {row + 1: path for row, path in zip(rows, paths, strict=True)}

"""Matches images: equal and nearly equal ones in a table, and those that two tables share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrbatch.errors import LabelError, TableError
from cxrbatch.files import shown
from cxrbatch.results.analysis import (
    Analysis,
    TableScores,
    analyse,
    card_of,
    model_name,
    read_scores,
)
from cxrbatch.results.counting import (
    ImageCounts,
    ImageFacts,
    Positions,
    count_images,
    near_pairs,
)
from cxrbatch.results.frames import Results
from cxrbatch.results.label_files import AS_USUAL, LabelOptions
from cxrbatch.results.statistics.intervals import Classes, Groups, Probabilities
from cxrbatch.results.table import Table
from cxrbatch.results.truth import UNKNOWN, Truth, patients_of

MOST_LISTED = 20


@dataclass(frozen=True, slots=True)
class SameGroup:
    """A group of images that are equal, or a pair of images that are nearly equal.

    Attributes:
        rows: Row numbers of the images in the table, from 1; at most the first `MOST_LISTED`.
        images: Number of images.
        pictures: Number of different pictures among them: hashes of the network's input.
        labels: Names of their true classes, each once; empty where none is known.
        predictions: Names of their predicted classes, each once.
        bits: Bits of the difference hash in which the pair differs; 0 for equal images.
    """

    rows: tuple[int, ...]
    images: int
    pictures: int
    labels: tuple[str, ...]
    predictions: tuple[str, ...]
    bits: int


@dataclass(frozen=True, slots=True)
class Copies:
    """Equal and nearly equal images of an archive.

    Attributes:
        groups: Number of groups of equal images.
        images: Number of images in these groups.
        conflicts: Number of groups whose images have more than one true class.
        listed: At most `MOST_LISTED` groups, conflicts first, then the largest groups first.
        near_pairs: Number of pairs that are nearly equal; of equal images only the first is paired.
        near_conflicts: Number of these pairs whose images have two true classes.
        near_listed: At most `MOST_LISTED` pairs, conflicts first, then by rising `bits`.
        complete: Whether all near pairs were found; False where a limit ended the search early.
    """

    groups: int
    images: int
    conflicts: int
    listed: tuple[SameGroup, ...]
    near_pairs: int
    near_conflicts: int
    near_listed: tuple[SameGroup, ...]
    complete: bool


def find_copies(
    equal: Positions,
    pictures: Positions,
    hashes: npt.NDArray[np.uint64],
    *,
    logits: npt.NDArray[np.float32],
    rows: Positions,
    truth: Classes,
    predicted: Classes,
    classes: Sequence[str],
) -> Copies:
    """List groups of equal images, and find pairs of nearly equal ones, among n images.

    Args:
        equal: Shape (n,), equal numbers for equal images, as `equal_images` returns them.
        pictures: Shape (n,), equal numbers for equal hashes of the network's input; -1 where
            unknown.
        hashes: Shape (n,), 64-bit difference hashes.
        logits: Shape (n, classes).
        rows: Shape (n,), the images' row numbers in the table, from 0.
        truth: Shape (n,), class indices; `UNKNOWN` where no true class is known.
        predicted: Shape (n,), class indices.
        classes: Names of the classes.
    """
    images = pd.DataFrame(
        {"equal": equal, "picture": pictures, "row": rows, "predicted": predicted}
    )
    images["truth"] = pd.Series(truth).where(truth != UNKNOWN)
    by_group = images[images["equal"].duplicated(keep=False)].groupby("equal")
    groups = by_group["truth"].agg(["size", "nunique"])
    is_conflict = groups["nunique"] > 1
    first = np.lexsort((-groups["size"], ~is_conflict))[:MOST_LISTED]
    firsts = np.flatnonzero(~images["equal"].duplicated() & (images["picture"] >= 0))
    pairs, complete = near_pairs(hashes[firsts], logits[firsts])
    members = firsts[pairs]
    labels = truth[members]
    disagreeing = (labels != UNKNOWN).all(axis=1) & (labels[:, 0] != labels[:, 1])
    distance = np.bitwise_count(hashes[members[:, 0]] ^ hashes[members[:, 1]])
    near_first = np.lexsort((distance, ~disagreeing))[:MOST_LISTED]
    return Copies(
        groups=len(groups),
        images=int(groups["size"].sum()),
        conflicts=int(is_conflict.sum()),
        listed=tuple(_group(by_group.get_group(g), classes) for g in groups.index[first]),
        near_pairs=len(pairs),
        near_conflicts=int(disagreeing.sum()),
        near_listed=tuple(
            _group(images.loc[members[pair]], classes, bits=int(distance[pair]))
            for pair in near_first
        ),
        complete=complete,
    )


def _group(members: pd.DataFrame, classes: Sequence[str], *, bits: int = 0) -> SameGroup:
    labels, predictions = (
        tuple(classes[int(number)] for number in sorted(members[name].dropna().unique()))
        for name in ("truth", "predicted")
    )
    rows = tuple((members["row"].iloc[:MOST_LISTED] + 1).tolist())
    pictures = members["picture"].nunique()
    return SameGroup(rows, len(members), pictures, labels, predictions, bits)


_KEYS = (("path", "frame"), ("sop_instance_uid", "frame"), ("image_hash",))
# What decides which input an image becomes.
_INPUT_OPTIONS = ("recipe", "fast_decode")


@dataclass(frozen=True, slots=True)
class PairedScores:
    """Images with a truth, and their scores in two tables.

    Attributes:
        truth: Shape (n,), class indices.
        groups: Shape (n,), the number of each image's patient.
        rows: Of each table, shape (n,), row numbers from 0.
        probabilities: Of each table, shape (n, classes), both in the order of the first table's
            classes.
    """

    truth: Classes
    groups: Groups
    rows: tuple[Positions, Positions]
    probabilities: tuple[Probabilities, Probabilities]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Images that both tables have scores of, and those of them that are compared.

    Attributes:
        key: The columns by which they were joined.
        classes: In the order of the first table.
        names: Names of the two models.
        truth_source: Where the truth comes from.
        truth_notes: What was done with the labels beside joining them, a sentence each.
        truth_warnings: What to mend in the labels before the figures are believed, a line each.
        counts: Counts from images that both scored to images compared, by the rules of a report.
        unpaired: Scored images of each table that the other has not, or as another picture.
        compared: The images that are compared.
        all_images: These, and those left out for a flag or as copies.
    """

    key: tuple[str, ...]
    classes: tuple[str, ...]
    names: tuple[str, str]
    truth_source: str
    truth_notes: tuple[str, ...]
    truth_warnings: tuple[str, ...]
    counts: ImageCounts
    unpaired: tuple[int, int]
    compared: PairedScores
    all_images: PairedScores


def pair_up(
    first: Table,
    second: Table,
    labels: Path | None = None,
    *,
    label_options: LabelOptions = AS_USUAL,
    keep_copies: bool = False,
    keep_flagged: bool = False,
) -> Pairs:
    """Join two tables image by image, and choose the images to compare.

    The key is path and frame; where these pair no image with a truth, SOP Instance UID and frame;
    then the hash of the network's input, which two recipes do not share. Where both tables were
    made with one recipe and way of decoding, an image whose hash differs in the second table is
    another picture and is not paired. The truth is that of the rows of the first table. An image is
    flagged or a copy if it is so in one of the tables.

    Args:
        first: The table that the other is measured against.
        second: The other one.
        labels: A file of labels; None to use the first table's column truth, or its folders.
        label_options: How labels are read and joined.
        keep_copies: Whether all of several equal images are compared.
        keep_flagged: Whether images flagged as lateral or as no chest are compared.

    Raises:
        TableError: A table is damaged, or they have other classes or no image in common.
        LabelError: There is no truth, the labels cannot be used, or no image is left to compare.
    """
    _check_classes(first, second)
    analysis, other = analyse(first, labels, label_options=label_options), Results(second)
    truth, scores = _truth_of(analysis, first), read_scores(other)
    results, is_known = (analysis.results, other), analysis.true_classes() != UNKNOWN
    key, pairs = _joined(results, (analysis.scores.rows, scores.rows), is_known)
    rows = analysis.scores.rows[pairs[0]], scores.rows[pairs[1]]
    counted = count_images(
        [ImageFacts.read(of, own) for of, own in zip(results, rows, strict=True)],
        truth.classes[rows[0]],
        truth.splits[rows[0]],
        keep_copies=keep_copies,
        keep_flagged=keep_flagged,
    )
    if not len(counted.analysed):
        raise LabelError(
            "all images with a truth that both tables have are flagged as lateral or as no chest; "
            "--keep-flagged compares them"
        )
    compared, all_images = (
        _paired_scores(analysis, scores, other.classes, (pairs[0][chosen], pairs[1][chosen]))
        for chosen in (counted.analysed, counted.all_images)
    )
    return Pairs(
        key=key,
        classes=first.classes,
        names=(model_name(analysis.card), model_name(card_of(other))),
        truth_source=truth.source,
        truth_notes=truth.notes,
        truth_warnings=truth.warnings,
        counts=counted.counts,
        unpaired=(
            len(analysis.scores.rows) - len(pairs[0]),
            len(scores.rows) - len(np.unique(pairs[1])),
        ),
        compared=compared,
        all_images=all_images,
    )


def _check_classes(first: Table, second: Table) -> None:
    """Raise TableError if two tables do not have the same classes, in any order."""
    if set(first.classes) != set(second.classes):
        names, others = (", ".join(map(shown, table.classes)) for table in (first, second))
        raise TableError(
            f"{first.path} has the classes {names}, {second.path} {others}; only models of the "
            "same classes can be compared"
        )


def _truth_of(analysis: Analysis, table: Table) -> Truth:
    """Return the truth of a table's images; raise LabelError if no scored image has one."""
    if analysis.truth is None:
        raise LabelError(f"nothing tells the truth about the images of {table.path}; give --labels")
    if not (analysis.true_classes() != UNKNOWN).any():
        raise LabelError(f"no scored image of {table.path} has a truth; give other --labels")
    return analysis.truth


def _paired_scores(
    analysis: Analysis,
    other: TableScores,
    classes: Sequence[str],
    positions: tuple[Positions, Positions],
) -> PairedScores:
    """The scores of pairs at some positions of both tables; `classes` are those of the second."""
    scores, truth = analysis.scores, analysis.truth
    assert truth is not None
    rows = scores.rows[positions[0]], other.rows[positions[1]]
    order = [classes.index(name) for name in analysis.results.classes]
    return PairedScores(
        truth=truth.classes[rows[0]],
        groups=patients_of(analysis.results, truth, rows[0]),
        rows=rows,
        probabilities=(
            scores.probabilities[positions[0]],
            other.probabilities[positions[1]][:, order],
        ),
    )


def _joined(
    results: tuple[Results, Results],
    rows: tuple[Positions, Positions],
    wanted: npt.NDArray[np.bool_],
) -> tuple[tuple[str, ...], tuple[Positions, Positions]]:
    """The first key that joins a wanted row, and of each pair the positions in both `rows`."""
    for key in _KEYS:
        first, second = (_names(of, own, key) for of, own in zip(results, rows, strict=True))
        once = second[second.notna() & ~second.duplicated()]
        found = pd.Index(once).get_indexer(first)
        places = np.where(found >= 0, np.append(once.index, -1)[found], -1)
        places = np.where(_same_pictures(results, rows, places), places, -1)
        if (places[wanted] >= 0).any():
            return key, (np.flatnonzero(places >= 0), places[places >= 0].astype(np.int64))
    raise TableError(
        f"{results[0].name} and {results[1].name} have no image in common, of those with a truth: "
        "neither by path, nor by SOP Instance UID, nor by image hash"
    )


def _same_pictures(
    results: tuple[Results, Results], rows: tuple[Positions, Positions], places: Positions
) -> npt.NDArray[np.bool_]:
    """Whether joined images have one hash, or were made into inputs in two ways."""
    made = [[of.provenance.get(name) for name in _INPUT_OPTIONS] for of in results]
    if made[0] != made[1]:
        return np.ones(len(places), np.bool_)
    key = ("image_hash",)
    first, second = (_names(of, own, key) for of, own in zip(results, rows, strict=True))
    other = second.reindex(places).reset_index(drop=True)
    return np.asarray((first == other).fillna(True), np.bool_)


def _names(results: Results, rows: Positions, key: Sequence[str]) -> pd.Series:
    """One text per row, null where a part of it is unknown."""
    columns = results.read(key).iloc[rows].reset_index(drop=True)
    parts = [columns[name].astype("string") for name in key]
    return parts[0] if len(parts) == 1 else parts[0].str.cat(parts[1:], sep="\n")

"""Twins: pairs of files of one film, encoded in two ways, to which a network should say the same.

A network that tells collections apart by how their files were encoded gives twins other scores. No
twin is trained on, and none counts for the split.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrbatch.errors import LabelError
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.outcomes import reading_error
from cxrbatch.reading.sniffing import HEAD_BYTES, open_regular
from cxrbatch.results.label_rows import LabelTable, encodings_of, open_csv
from cxrbatch.results.statistics.intervals import Values, Weights, bootstrap_by_group, wilson
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.training.cache import prepare_inputs
from cxrbatch.training.dataset import ImageSubset
from cxrbatch.training.file_index import Finder, NotFoundError, find_by_path
from cxrbatch.training.model_evaluation import CardFigures, Logits, logits_to_probabilities

_COLUMNS = ("path", "twin")
_FORM = "give a CSV with the columns path and twin"

_Place = tuple[bytes, bytes | None, int]


@dataclass(frozen=True, slots=True)
class TwinFiles:
    """The pairs of a file of twins whose two files exist.

    Attributes:
        source: The file of twins.
        pairs: The two files of each pair, with absolute paths; no pair is there twice.
        missing: Number of rows without a pair: a file is missing, or both are one file.
    """

    source: Path
    pairs: tuple[tuple[ArchiveFile, ArchiveFile], ...]
    missing: int

    @property
    def files(self) -> list[ArchiveFile]:
        """The first files of all pairs, then the second ones."""
        return [pair[side] for side in (0, 1) for pair in self.pairs]

    @property
    def paths(self) -> list[Path]:
        """Paths of all that is read: the file of twins, and the files of its pairs."""
        return [self.source, *(Path(os.fsdecode(file.path)) for file in self.files)]

    def summary(self) -> str:
        """Return the number of pairs, and of rows without one, as a text for a message."""
        lost = f"; {self.missing:,} rows name a missing file, or one file twice"
        return f"{len(self.pairs):,} pairs in {self.source}{lost if self.missing else ''}"

    def seen_in(self, files: Sequence[ArchiveFile]) -> npt.NDArray[np.bool_]:
        """Return of each pair whether one of its files is among some others, shape (pairs,)."""
        known = {_place(file) for file in files}
        return np.array([any(_place(file) in known for file in pair) for pair in self.pairs], bool)


@dataclass(frozen=True, slots=True)
class TwinInputs:
    """Network inputs of twins that could be read.

    Attributes:
        first: The first image of each pair.
        second: The second one, in the same order.
        trained: Number of these pairs of which an image is a training image.
        missing: Rows of the file of twins without a pair of files.
        unreadable: Pairs of which a file has no image.
    """

    first: ImageSubset
    second: ImageSubset
    trained: int
    missing: int
    unreadable: int


def locate_twins(source: Path, roots: Sequence[Path]) -> TwinFiles:
    """Read a file of twins and find their files.

    Args:
        source: A CSV with the columns "path" and "twin"; other columns are not read. Paths are
            written as in labels, those of members of zips and tars too.
        roots: Folders that relative paths start from; if empty, the folder of `source`.

    Raises:
        LabelError: The file cannot be read, lacks a column, or none of its pairs has two files.
    """
    rows = _read(source)
    find = find_by_path([text for row in rows for text in row], roots or [source.parent])
    pairs: dict[frozenset[_Place], tuple[ArchiveFile, ArchiveFile]] = {}
    missing = 0
    for row in rows:
        found = [file for text in row for file in _files(find, text)]
        places = frozenset(map(_place, found))
        if len(places) == len(found) == 2:
            pairs.setdefault(places, (found[0], found[1]))
        else:
            missing += 1
    if not pairs:
        raise LabelError(
            f"{source} has {len(rows):,} pairs of twins, and no two files of a pair exist; "
            "give the folder of their paths as --root"
        )
    return TwinFiles(source, tuple(pairs.values()), missing)


def _files(find: Finder, text: str) -> list[ArchiveFile]:
    with suppress(NotFoundError):
        return [find(text)[0].located.file]
    return []


def _place(file: ArchiveFile) -> _Place:
    return os.path.realpath(file.path), file.member, file.offset


def _read(source: Path) -> list[tuple[str, str]]:
    try:
        with open_regular(source) as stream:
            head = stream.read(HEAD_BYTES)
        for encoding in encodings_of(head):
            with suppress(UnicodeDecodeError), open_regular(source) as stream:
                table = open_csv(stream, encoding, str(source), _count)
                return list(_rows(table, source))
    except LabelError:
        raise
    except Exception as error:
        raise LabelError(f"cannot read twins {source}: {reading_error(error).detail}") from None
    raise LabelError(f"{source} is no text; {_FORM}")


def _count(header: Sequence[str]) -> int:
    return sum(name.strip().casefold() in _COLUMNS for name in header)


def _rows(table: LabelTable, source: Path) -> Iterator[tuple[str, str]]:
    names = [name.strip().casefold() for name in table.header]
    if any(names.count(column) != 1 for column in _COLUMNS):
        raise LabelError(f"{source} has not one column path and one column twin; {_FORM}")
    places = [names.index(column) for column in _COLUMNS]
    for chunk in table.read(places):
        yield from chunk[places].itertuples(index=False, name=None)


def read_twins(
    twins: TwinFiles,
    *,
    recipe: Recipe,
    workers: int,
    folder: Path,
    train: Sequence[ArchiveFile],
    progress: Callable[[int], object],
) -> TwinInputs:
    """Decode the files of twins as `prepare_inputs` does; leave out pairs that lack an image.

    Args:
        twins: The pairs.
        recipe: How images become network inputs.
        workers: Processes that decode; 0 decodes in this process.
        folder: The folder of the cache.
        train: The files of the training images.
        progress: Called with 1 after each file.

    Raises:
        CxrbatchError: The cache cannot be read or written, or no process can be started.
    """
    inputs = prepare_inputs(
        twins.files, recipe=recipe, workers=workers, folder=folder, progress=progress
    )
    count = len(twins.pairs)
    rows = np.flatnonzero(inputs.readable[:count] & inputs.readable[count:])
    truth = np.zeros(len(rows), np.int64)
    return TwinInputs(
        ImageSubset(inputs.values, truth, rows),
        ImageSubset(inputs.values, truth, rows + count),
        trained=int(twins.seen_in(train)[rows].sum()),
        missing=twins.missing,
        unreadable=count - len(rows),
    )


def evaluate_twins(
    twins: TwinInputs,
    score: Callable[[ImageSubset], Logits],
    *,
    classes: Sequence[str],
    temperature: float,
) -> CardFigures:
    """Compare the calibrated probabilities of the two images of each pair.

    Args:
        twins: The pairs.
        score: Called with the first and with the second images; returns logits.
        classes: Class names in the order of the logits.
        temperature: The logits are divided by it before the softmax.

    Returns:
        "n" pairs, "of_training" (pairs with a training image), "missing", "unreadable". If n is not
        0, "mean_change": of each class the mean |difference| of its probability; "largest_change",
        the largest of these with its "class"; and "same_class", the share of pairs with one
        predicted class. Each is {"value": …, "interval": [low, high]} with a 95 % interval: BCa
        bootstrap over pairs, None where it has none, and Wilson's for the share.
    """
    found: CardFigures = {
        "n": len(twins.first),
        "of_training": twins.trained,
        "missing": twins.missing,
        "unreadable": twins.unreadable,
    }
    if len(twins.first) == 0:
        return found
    sides = [
        logits_to_probabilities(score(side), temperature=temperature)
        for side in (twins.first, twins.second)
    ]
    changes = dict(zip(classes, _mean_changes(np.abs(sides[0] - sides[1])), strict=True))
    largest = max(changes, key=lambda name: changes[name]["value"])
    same = int((sides[0].argmax(axis=1) == sides[1].argmax(axis=1)).sum())
    return {
        **found,
        "mean_change": changes,
        "largest_change": {"class": largest, **changes[largest]},
        "same_class": {"value": same / found["n"], "interval": list(wilson(same, found["n"]))},
    }


def _mean_changes(changes: npt.NDArray[np.float64]) -> list[CardFigures]:
    def means(weights: Weights) -> Values:
        summed: Values = weights @ changes / weights.sum(axis=1, keepdims=True)
        return summed

    return [
        {
            "value": estimate.value,
            "interval": None if estimate.interval is None else list(estimate.interval),
        }
        for estimate in bootstrap_by_group(means, np.arange(len(changes), dtype=np.int32))
    ]

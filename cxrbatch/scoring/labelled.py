"""Labelled images as a run reads them: what a change of the arithmetic is judged by."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrbatch.errors import LabelError
from cxrbatch.model.card import Card
from cxrbatch.results.class_folders import labels_from_folders
from cxrbatch.results.class_names import class_numbers
from cxrbatch.results.paths import shown, text_to_path
from cxrbatch.results.truth import LabelledFile, read_labels
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.rows import FileReader
from cxrbatch.scoring.settings import ScoringOptions
from cxrbatch.workers.pool import ReadingPool, Unheard
from cxrbatch.workers.scheduler import Unread

LEAST_OF_A_CLASS = 25
"""With fewer images one pair in another order would change an area by more than is allowed."""

_MOST_FILES = 2000


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images whose class is known.

    Attributes:
        inputs: Shape (n, size, size), uint8.
        classes: Shape (n,), class indices.
        unreadable: Files that gave no image.
    """

    inputs: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.int64]
    unreadable: int


def read_labelled(labels: Path, card: Card, options: ScoringOptions) -> LabelledImages:
    """Read labelled files, some hundreds at most of each class.

    Of a file of labels with splits only those of "val" count.

    Args:
        labels: Folder of class folders, or a CSV or Parquet file with paths relative to its folder.
        card: The model's.
        options: How files are read.

    Raises:
        LabelError: The labels cannot be used, or a class has fewer than `LEAST_OF_A_CLASS` images
            that can be read.
    """
    is_folder = labels.is_dir()
    files = labels_from_folders(labels) if is_folder else _of_val(read_labels(labels))
    numbers = class_numbers({file.label for file in files}, card.classes)
    base = labels if is_folder else labels.parent
    chosen = _some(files, numbers, classes=len(card.classes))
    entries = [Unread(i, _archived(base, file)) for i, file in enumerate(chosen)]
    reader = FileReader(b"", card.recipe, options.reading(card.recipe), b"")
    inputs: list[npt.NDArray[np.uint8]] = []
    classes: list[int] = []
    unreadable = 0
    with ReadingPool(
        reader, workers=options.workers, limits=options.limits, listener=Unheard()
    ) as pool:
        for file, loaded in zip(chosen, pool.load(entries), strict=True):
            inputs += list(loaded.inputs)
            classes += [numbers[file.label]] * len(loaded.inputs)
            unreadable += not len(loaded.inputs)
    _check(Counter(classes), card.classes, labels, unreadable=unreadable)
    return LabelledImages(np.stack(inputs), np.array(classes), unreadable)


def _of_val(files: Sequence[LabelledFile]) -> Sequence[LabelledFile]:
    """Those to choose by, where the labels say which: a model knows "train", and "test" is kept."""
    has_splits = any(file.split is not None for file in files)
    return [file for file in files if file.split == "val"] if has_splits else files


def _some(
    files: Sequence[LabelledFile], numbers: Mapping[str, int], *, classes: int
) -> list[LabelledFile]:
    """Choose up to as many of each class, without regard to their order."""
    most = max(_MOST_FILES // classes, LEAST_OF_A_CLASS)
    taken: Counter[int] = Counter()
    chosen = []
    for file in sorted(files, key=lambda file: hashlib.sha256(file.path.encode()).digest()):
        number = numbers[file.label]
        taken[number] += 1
        if taken[number] <= most:
            chosen.append(file)
    return chosen


def _archived(base: Path, file: LabelledFile) -> ArchiveFile:
    try:
        path = text_to_path(file.path)
    except ValueError:
        path = os.fsencode(file.path)  # as the person writes it
    return ArchiveFile(os.path.join(os.fsencode(base.absolute()), path), 0)


def _check(counts: Counter[int], classes: Sequence[str], labels: Path, *, unreadable: int) -> None:
    least = min(range(len(classes)), key=lambda number: counts[number])
    if counts[least] < LEAST_OF_A_CLASS:
        lost = f" ({unreadable} files could not be read)" if unreadable else ""
        raise LabelError(
            f"{counts[least]} calibration images of {shown(classes[least])} in {labels}{lost}; "
            f"at least {LEAST_OF_A_CLASS} of each class are needed"
        )

"""Finds the ranges of 8-bit arithmetic with labelled images, and refuses a loss of accuracy.

For each class the area under its ROC curve against all others is computed twice on the same
images, by PyTorch's scores in float32 and by those in 8 bits, and compared. Some of these images
also give the ranges. They are not left out of the comparison: ranges are extremes of activations,
in which no label has a part, and with fewer images the areas would be less exact.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cxrbatch.errors import CxrbatchError, LabelError
from cxrbatch.files import shown, text_to_path
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.fused import layers_of
from cxrbatch.model.inference import memory_explained, normalised
from cxrbatch.model.predictor import Predictor
from cxrbatch.model.preprocessing import image_hash
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.results.label_lists import read_labels
from cxrbatch.results.statistics.intervals import one_vs_rest_auc
from cxrbatch.results.truth import class_numbers, labels_from_folders
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.file_reader import FileReader
from cxrbatch.scoring.run import MOST_CHANGE, Quantisation, ScoringOptions
from cxrbatch.workers.pool import ReadingPool
from cxrbatch.workers.scheduler import PendingItem

LEAST_OF_A_CLASS = 25
"""With fewer images, one pair in another order would change an area by more than is allowed."""

_MOST_FILES = 2000


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Network inputs whose class is known.

    Attributes:
        inputs: Shape (n, size, size), uint8.
        classes: Shape (n,), the index of each image's class in the card's classes.
        unreadable: Number of files that gave no image.
    """

    inputs: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.int64]
    unreadable: int


def read_labelled(labels: Path, card: Card, options: ScoringOptions) -> LabelledImages:
    """Read images of known class as inputs of the network, to calibrate 8-bit arithmetic with.

    Of each class at most max(2000 // number of classes, 25) files are read, chosen
    by a hash of their paths. If the labels name splits, only files of the split "val" are read.

    Args:
        labels: Folder of class folders, or a file of labels as `read_labels` reads it, whose paths
            are relative to its folder.
        card: Card of the model: its classes and its recipe.
        options: Options of the run: workers, limits and how files are read.

    Returns:
        The inputs and classes of all frames of these files that may be scored.

    Raises:
        LabelError: The labels cannot be used, or a class has fewer than `LEAST_OF_A_CLASS` (25)
            images that can be read.
        CxrbatchError: No reading process can be started.
    """
    is_folder = labels.is_dir()
    files = labels_from_folders(labels) if is_folder else _of_val(read_labels(labels, card.classes))
    numbers = class_numbers({file.label for file in files}, card.classes)
    base = labels if is_folder else labels.parent
    _refuse_members(base, files)
    chosen = _some(files, numbers, classes=len(card.classes))
    entries = [PendingItem(i, _archived(base, file)) for i, file in enumerate(chosen)]
    reader = FileReader(b"", card.recipe, options.reading(card.recipe), b"")
    inputs: list[npt.NDArray[np.uint8]] = []
    classes: list[int] = []
    unreadable = 0
    with ReadingPool(
        reader,
        workers=options.workers,
        limits=options.limits,
        result_bytes=card.recipe.size**2,
    ) as pool:
        for file, loaded in zip(chosen, pool.map(entries), strict=True):
            inputs += list(loaded.inputs)
            classes += [numbers[file.label]] * len(loaded.inputs)
            unreadable += not len(loaded.inputs)
    _check_counts(Counter(classes), card.classes, labels, unreadable=unreadable)
    return LabelledImages(np.stack(inputs), np.array(classes), unreadable)


def _refuse_members(base: Path, files: Sequence[LabelledFile]) -> None:
    inside = [file for file in files if "!/" in file.path]
    if lost := sum(not os.path.exists(_archived(base, file).path) for file in inside):
        raise LabelError(
            f"calibration does not read members of zips and tars, which {lost:,} labels name by "
            "paths with !/; unpack them, or leave these rows out"
        )


def _of_val(files: Sequence[LabelledFile]) -> Sequence[LabelledFile]:
    """Keep the split "val" if there are splits: a model knows "train", and "test" stays unseen."""
    has_splits = any(file.split is not None for file in files)
    return [file for file in files if file.split == "val"] if has_splits else files


def _some(
    files: Sequence[LabelledFile], numbers: Mapping[str, int], *, classes: int
) -> list[LabelledFile]:
    """Choose up to the same number of each class, by the hash of their paths."""
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
        path = os.fsencode(file.path)  # as a person writes it
    return ArchiveFile(os.path.join(os.fsencode(base.absolute()), path), 0)


def _check_counts(
    counts: Counter[int], classes: Sequence[str], labels: Path, *, unreadable: int
) -> None:
    least = min(range(len(classes)), key=lambda number: counts[number])
    if counts[least] < LEAST_OF_A_CLASS:
        lost = f" ({unreadable} files could not be read)" if unreadable else ""
        raise LabelError(
            f"{counts[least]} calibration images of {shown(classes[least])} in {labels}{lost}; "
            f"at least {LEAST_OF_A_CLASS} of each class are needed"
        )


_FOR_RANGES = 128
_CPU = torch.device("cpu")


def quantise_network(checkpoint: Checkpoint, labels: Path, options: ScoringOptions) -> Quantisation:
    """Find the ranges that a network needs for 8-bit arithmetic, and what 8 bits cost in accuracy.

    The ranges are those of `activation_ranges` on at most 128 labelled images. Then all that
    `read_labelled` reads are scored in float32 by PyTorch and in 8 bits by OpenVINO, and for each
    class the areas under the two ROC curves are compared.

    Args:
        checkpoint: The network's checkpoint.
        labels: Folder of class folders, or a file of labels, as for `read_labelled`.
        options: Options of the run.

    Returns:
        The ranges, the areas by class and the number of images.

    Raises:
        LabelError: The labels cannot be used, or a class has too few images that can be read.
        CxrbatchError: An area changes by more than `MOST_CHANGE` (0.002), up or down; or memory or
            processes are lacking.
    """
    from cxrbatch.model.openvino import activation_ranges

    images = read_labelled(labels, checkpoint.card, options)
    hashes = [image_hash(prepared) for prepared in images.inputs]
    # By hash: whatever the order of the files, the same images give the same ranges.
    some = np.argsort(hashes)[:_FOR_RANGES]
    batches = _batches(images.inputs[some], options.batch_size)
    norm = checkpoint.card.normalisation
    with memory_explained(options.batch_size):
        ranges = activation_ranges(
            layers_of(checkpoint.tensors),
            (normalised(torch.from_numpy(b)[:, None], norm) for b in batches),
        )
    predictor = partial(Predictor, checkpoint, batch_size=options.batch_size, device=_CPU)
    before = predictor(precision="fp32")
    after = predictor(precision="int8", backend="openvino", ranges=ranges)
    classes = checkpoint.card.classes
    counts = np.bincount(images.classes, minlength=len(classes)).tolist()
    quantisation = Quantisation(
        ranges,
        images=dict(zip(classes, counts, strict=True)),
        unreadable=images.unreadable,
        sha256=_sha256(hashes, [classes[number] for number in images.classes]),
        auc_before=_areas(images, before, classes),
        auc_after=_areas(images, after, classes),
    )
    _check(quantisation)
    return quantisation


def _check(quantisation: Quantisation) -> None:
    name = quantisation.worst
    change = quantisation.auc_change[name]
    if abs(change) > MOST_CHANGE:
        raise CxrbatchError(
            f"int8 changes the AUC of {shown(name)} by {change:+.4f} on the calibration images, "
            f"more than {MOST_CHANGE}; use --precision bf16 or fp32, or calibrate with more images"
        )


def _areas(
    images: LabelledImages, predictor: Predictor, classes: Sequence[str]
) -> dict[str, float]:
    scores = predictor.score_all(_batches(images.inputs, predictor.batch_size))
    areas = one_vs_rest_auc(images.classes, np.concatenate([s.probabilities for s in scores]))
    # Each class has images, so each has an area.
    return {name: float(area or 0.0) for name, area in zip(classes, areas, strict=True)}


def _sha256(hashes: Sequence[str], labels: Sequence[str]) -> str:
    """Hash which images have which class, whatever their files and order."""
    pairs = sorted(zip(hashes, labels, strict=True))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _batches(inputs: npt.NDArray[np.uint8], size: int) -> Iterator[npt.NDArray[np.uint8]]:
    return (inputs[start : start + size] for start in range(0, len(inputs), size))

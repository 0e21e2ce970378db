"""Labelled files to one array of network inputs, through the same reader as scoring."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader, Dataset

from cxrbatch.errors import LabelError
from cxrbatch.model.card import check_classes
from cxrbatch.model.preprocessing import ModelInput, Recipe
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.reading.radiograph import ReadingOptions, read_radiographs
from cxrbatch.results.truth import SPLITS, LabelledFile, labels_from_folders, read_labels

_DECODED_AT_ONCE = 32
_SHOWN = 5

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the split.

    Attributes:
        inputs: Shape (n, size, size), uint8.
        truth: Shape (n,), class indices.
    """

    inputs: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A labelled file that gave no image to train on."""

    path: str
    outcome: Outcome


def collect(data: Path) -> tuple[Path, list[LabelledFile]]:
    """List the labelled files of a CSV file or a folder of class folders, with their root.

    Raises:
        LabelError: The labels cannot be used, or name a file that is not there.
    """
    if data.is_dir():
        return data, labels_from_folders(data)
    if not data.is_file():
        raise LabelError(f"{data} is neither a folder nor a CSV file")
    root, labelled = data.parent, read_labels(data)
    if missing := [item.path for item in labelled if not (root / item.path).is_file()]:
        shown = ", ".join(missing[:_SHOWN])
        raise LabelError(f"{len(missing)} labelled files are not below {root}: {shown}")
    return root, labelled


def order_classes(labelled: Sequence[LabelledFile], wanted: Sequence[str]) -> tuple[str, ...]:
    """Give the class names in the order of the logits.

    Args:
        labelled: All labelled files.
        wanted: The order asked for; empty for the alphabet's.

    Raises:
        LabelError: One class only, a spelling that differs by case or space, a label that is not
            in `wanted`, or a wanted class without an image.
    """
    found = {item.label for item in labelled}
    spellings: dict[str, str] = {}
    for name in sorted(found):
        folded = "".join(name.casefold().split())
        if folded in spellings:
            raise LabelError(f"one class in two spellings: {spellings[folded]!r} and {name!r}")
        spellings[folded] = name
    order = tuple(wanted) or tuple(sorted(found))
    if unknown := found ^ set(order):
        raise LabelError(f"class {sorted(unknown)[0]!r} is not both in --classes and in the data")
    if len(found) < 2:
        raise LabelError("the data has one class only; training needs at least two")
    try:
        check_classes(order)
    except ValueError as error:
        raise LabelError(str(error)) from None
    return order


def decode_sides(
    root: Path,
    labelled: Sequence[LabelledFile],
    *,
    classes: Sequence[str],
    recipe: Recipe,
    workers: int,
    progress: Progress,
) -> tuple[dict[str, Side], list[Unreadable]]:
    """Decode every labelled file once.

    Returns:
        The sides of the split by name, and the files that gave no image.
    """
    collected: dict[str, tuple[list[ModelInput], list[int]]] = {s: ([], []) for s in SPLITS}
    unreadable = []
    decoded = _decoded(root, labelled, recipe=recipe, workers=workers)
    for item, result in zip(labelled, decoded, strict=True):
        progress(1)
        if isinstance(result, Outcome):
            unreadable.append(Unreadable(item.path, result))
            continue
        inputs, truth = collected[str(item.split)]
        inputs.append(result)
        truth.append(classes.index(item.label))
    sides = {
        side: Side(
            np.stack(inputs) if inputs else np.empty((0, recipe.size, recipe.size), np.uint8),
            np.array(truth, dtype=np.int64),
        )
        for side, (inputs, truth) in collected.items()
    }
    return sides, unreadable


class _Files(Dataset[ModelInput | Outcome]):
    def __init__(self, paths: Sequence[Path], recipe: Recipe) -> None:
        self._paths = paths
        self._recipe = recipe
        self._options = ReadingOptions(no_voi=recipe.no_voi)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> ModelInput | Outcome:
        # A label belongs to a file; of a multi-frame file the first frame stands for it.
        reading = next(read_radiographs(os.fsencode(self._paths[index]), self._options))
        if reading.image is None:
            return reading.outcome
        return self._recipe.prepare(reading.image)


def _decoded(
    root: Path, labelled: Sequence[LabelledFile], *, recipe: Recipe, workers: int
) -> Iterator[ModelInput | Outcome]:
    files = _Files([root / item.path for item in labelled], recipe)
    loader: DataLoader[ModelInput | Outcome] = DataLoader(
        files, batch_size=_DECODED_AT_ONCE, num_workers=workers, collate_fn=list
    )
    for batch in loader:
        yield from batch

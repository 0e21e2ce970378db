"""Labelled files as arrays: the inputs of all of them, and the sides of the split."""

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.reading.radiograph import ReadingOptions
from cxrbatch.reading.readings import file_limit
from cxrbatch.results.labels import SPLITS, LabelledFile
from cxrbatch.scoring.patients import patient_secret
from cxrbatch.scoring.run import ScoringOptions
from cxrbatch.training.cache import InputReader, fill, in_order, store_place
from cxrbatch.training.labels import Labelled
from cxrbatch.training.store import Place, opened, remove_store

_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the split.

    Attributes:
        inputs: Shape (m, size, size), uint8; may be mapped from a file and is never copied whole.
        truth: Shape (n,), class indices.
        rows: Shape (n,), where in `inputs` each image lies; None where they lie in order, m = n.
    """

    inputs: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.truth)

    def images(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Copy the images at some positions, shape (k, size, size)."""
        return self.inputs[positions if self.rows is None else self.rows[positions]]

    def batches(self, size: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Give all images in order, up to `size` at a time."""
        for start in range(0, len(self), size):
            yield self.images(np.arange(start, min(start + size, len(self))))

    def sha256(self) -> str:
        """Hash of images and truth in their order."""
        digest = hashlib.sha256(f"{len(self)}x{self.inputs.shape[1:]}:".encode())
        digest.update(np.ascontiguousarray(self.truth).data)
        for images in self.batches(_ROWS_AT_ONCE):
            digest.update(np.ascontiguousarray(images).data)
        return digest.hexdigest()


Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A labelled file that gave no image to train on."""

    path: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Inputs:
    """What became of all labelled files, in their order.

    Attributes:
        values: Shape (n, size, size), uint8, memory-mapped; zeros where there is no image.
        readable: Shape (n,), bool: whether there is one.
        outcomes: Why not; `scored` where there is.
        patients: Keys of the patients whom the headers name; None where one names nobody.
    """

    values: npt.NDArray[np.uint8]
    readable: npt.NDArray[np.bool_]
    outcomes: tuple[Outcome, ...]
    patients: tuple[str | None, ...]

    def unreadable(self, files: Sequence[LabelledFile]) -> list[Unreadable]:
        """The files that gave no image.

        Args:
            files: Those that the inputs are of.
        """
        pairs = zip(files, self.outcomes, strict=True)
        return [Unreadable(f.path, code) for f, code in pairs if code is not Outcome.SCORED]


def prepare_inputs(
    labelled: Labelled, *, recipe: Recipe, workers: int, folder: Path, progress: Progress
) -> Inputs:
    """Decode every labelled file once, or not at all where the cache knows its bytes.

    Args:
        labelled: The files.
        recipe: How images become inputs.
        workers: Processes that decode.
        folder: The cache; made if it is not there.
        progress: Called with the number of files just done.

    Raises:
        CxrbatchError: The disk refuses, or no process can be started.
    """
    limits = ScoringOptions().limits
    # The file is held in memory beside its image.
    room = limits.memory + file_limit(ReadingOptions().max_pixels)
    place, secret = _place(folder, recipe)
    with opened(place) as store:
        rows, outcomes, patients = fill(
            store,
            labelled.located,
            reader=InputReader(recipe, place, store.count, store.opened_ns, secret),
            workers=workers,
            limits=replace(limits, memory=room),
            progress=progress,
        )
        values = in_order(store, rows)
    readable = np.array([code is Outcome.SCORED for code in outcomes], dtype=np.bool_)
    return Inputs(values, readable, tuple(outcomes), tuple(patients))


def sides_of(
    files: Sequence[LabelledFile], inputs: Inputs, *, classes: Sequence[str]
) -> dict[str, Side]:
    """Divide the inputs by the split; those without an image are left out.

    Args:
        files: Those that the inputs are of, each with its side.
        inputs: Of `prepare_inputs`.
        classes: Class names in the order of the logits.
    """
    truth = np.array([classes.index(file.label) for file in files], dtype=np.int64)
    split = np.array([file.split for file in files], dtype=object)
    sides = {}
    for name in SPLITS:
        rows = np.flatnonzero((split == name) & inputs.readable)
        sides[name] = Side(inputs.values, truth[rows], rows)
    return sides


def forget_inputs(folder: Path, recipe: Recipe) -> None:
    """Remove what `prepare_inputs` kept, and the folder if nothing else is in it.

    Raises:
        CxrbatchError: The disk refuses.
    """
    place, _ = _place(folder, recipe)
    remove_store(place)


def _place(folder: Path, recipe: Recipe) -> tuple[Place, bytes]:
    """Where inputs are kept, and the secret that turns patient ids into keys there."""
    kept = patient_secret()
    secret = kept or secrets.token_bytes(32)
    return store_place(folder, recipe, secret=secret, lasting=kept is not None), secret


Positions = npt.NDArray[np.int64]


def draw_epoch(
    truth: npt.NDArray[np.int64], *, count: int, generator: torch.Generator
) -> Positions:
    """Draw an epoch's images in their order.

    Each class is drawn equally often. In expectation that is the loss weighted by class, without
    the few huge steps that a rare class's weight would make. No image comes again before all
    others of its class have come.

    Args:
        truth: Shape (n,), class indices.
        count: Images to draw.
        generator: Source of all randomness, on the CPU.

    Returns:
        Shape (count,), positions in `truth`.
    """
    classes = np.unique(truth)
    shares = np.full(len(classes), count // len(classes))
    shares[_shuffled(np.arange(len(classes)), generator)[: count % len(classes)]] += 1
    drawn = [
        _rounds(np.flatnonzero(truth == c), int(share), generator)
        for c, share in zip(classes, shares, strict=True)
    ]
    return _shuffled(np.concatenate(drawn), generator)


def _rounds(members: Positions, count: int, generator: torch.Generator) -> Positions:
    rounds = [_shuffled(members, generator) for _ in range(-(-count // len(members)))]
    return np.concatenate([members[:0], *rounds])[:count]


def _shuffled(values: Positions, generator: torch.Generator) -> Positions:
    order: Positions = torch.randperm(len(values), generator=generator).numpy()
    return values[order]

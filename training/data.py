"""Labelled files as arrays: the inputs of all of them, and the sides of the split."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.reading.radiograph import ReadingOptions
from cxrbatch.reading.readings import file_limit
from cxrbatch.results.truth import SPLITS, LabelledFile
from cxrbatch.scoring.patients import patient_secret
from cxrbatch.scoring.settings import ScoringOptions
from cxrbatch.training.cache import InputReader, fill, in_order, store_place
from cxrbatch.training.labelled import Labelled
from cxrbatch.training.side import Side
from cxrbatch.training.store import Place, opened, remove_store

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

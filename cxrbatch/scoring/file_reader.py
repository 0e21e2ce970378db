"""One file to its rows and network inputs: what a worker does, and a web upload too."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cxrbatch.model.preprocessing import ModelInput, Recipe, difference_hash, image_hash
from cxrbatch.paths import path_to_text
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.reading.radiograph import (
    Reading,
    ReadingOptions,
    iterate_member,
    iterate_radiographs,
)
from cxrbatch.reading.readings import HeaderFacts
from cxrbatch.results.table import Row, facts_of
from cxrbatch.scoring.archive import ArchiveFile, modified_ns
from cxrbatch.scoring.patients import patient_key


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """Rows of one file, and the network inputs of those rows that may be scored.

    Attributes:
        rows: One for each frame.
        scorable: For each row, whether it has an input.
        inputs: Shape (number of true `scorable`, size, size), uint8.
    """

    rows: list[Row]
    scorable: list[bool]
    inputs: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class FileReader:
    """Makes rows of files; travels to the worker processes.

    Attributes:
        base: The folder that paths are relative to.
        recipe: How display images become inputs.
        options: What is read, and its limits.
        patient_secret: Key of the patient hash.
    """

    base: bytes
    recipe: Recipe
    options: ReadingOptions
    patient_secret: bytes = field(repr=False)

    def read(self, file: ArchiveFile) -> LoadedFile:
        """Read a file; its defects are in the outcome of its row, never an exception."""
        loaded = [self.row(file, reading) for reading in self.readings(file)]
        inputs = [prepared for _, prepared in loaded if prepared is not None]
        size = self.recipe.size
        return LoadedFile(
            [row for row, _ in loaded],
            [prepared is not None for _, prepared in loaded],
            np.stack(inputs) if inputs else np.empty((0, size, size), dtype=np.uint8),
        )

    def failed(self, file: ArchiveFile, outcome: Outcome, detail: str) -> LoadedFile:
        """Give the row of a file that could not be read in this process at all."""
        size = self.recipe.size
        row, _ = self.row(file, _failed(outcome, detail))
        return LoadedFile([row], [False], np.empty((0, size, size), dtype=np.uint8))

    def readings(self, file: ArchiveFile) -> Iterator[Reading]:
        """Read a file: one Reading, or one per frame, decoded as they are asked for."""
        location = os.path.join(self.base, file.path)
        if file.fault is not None:
            yield _failed(*file.fault)
        elif file.member is None:
            yield from iterate_radiographs(location, self.options)
        elif _has_changed(location, file):
            yield _failed(Outcome.UNREADABLE_FILE, "its archive has changed since it was listed")
        else:
            yield from iterate_member(location, file.member, file.offset, self.options)

    def row(self, file: ArchiveFile, reading: Reading) -> tuple[Row, ModelInput | None]:
        """Give the row of a Reading, and its input if it may be scored."""
        reading, prepared = self.recipe.prepare_reading(reading)
        row = Row(
            path=path_to_text(file.path, file.member),
            frame=reading.frame,
            file_size=file.size,
            file_modified_ns=file.modified_ns,
            format=reading.format,
            outcome=reading.outcome.value,
            detail=reading.detail,
            flags=tuple(flag.value for flag in reading.flags),
            image_hash=None if prepared is None else image_hash(prepared),
            dhash=None if prepared is None else difference_hash(prepared),
            patient_key=patient_key(reading.facts, self.patient_secret),
            # What goes on from here is written down; the id is not.
            facts=facts_of(reading.facts),
        )
        return row, prepared


def _has_changed(location: bytes, member: ArchiveFile) -> bool:
    """Whether a container is newer than the list of its members; one that is gone is told later."""
    try:
        return modified_ns(os.stat(location)) != member.modified_ns
    except OSError:
        return False


def _failed(outcome: Outcome, detail: str) -> Reading:
    return Reading(0, "other", outcome, detail, HeaderFacts(), (), None)

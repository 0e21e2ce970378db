"""Reads one file into table rows and network inputs, with the keys of its patient and study.

Worker processes run this module, so it imports no torch.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cxrbatch.files import path_to_text
from cxrbatch.model.preprocessing import ModelInput, Recipe, difference_hash, image_hash
from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.radiograph import (
    Reading,
    ReadingOptions,
    iterate_member,
    iterate_radiographs,
)
from cxrbatch.reading.readings import failed_reading
from cxrbatch.results.columns import Row, accession_key, facts_of, patient_key
from cxrbatch.scoring.archive import ArchiveFile, modified_ns


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """Table rows of one file, and the network inputs of those rows that may be scored.

    Attributes:
        rows: One for each frame; one without scores if the file cannot be read.
        scorable: For each row, whether it has an input.
        inputs: Shape (number of true `scorable`, size, size), uint8, in the order of the rows.
    """

    rows: list[Row]
    scorable: list[bool]
    inputs: npt.NDArray[np.uint8]

    @classmethod
    def stack(cls, rows: Sequence[tuple[Row, ModelInput | None]], *, size: int) -> "LoadedFile":
        """Make a LoadedFile of the rows of one file: stack their inputs into one array.

        Args:
            rows: Pairs of a row and its input, shape (size, size), uint8, or None if the row is not
                to be scored.
            size: Edge of the inputs in pixels; needed if no row has one.
        """
        inputs = [image for _, image in rows if image is not None]
        return cls(
            [row for row, _ in rows],
            [image is not None for _, image in rows],
            np.stack(inputs) if inputs else np.empty((0, size, size), dtype=np.uint8),
        )


@dataclass(frozen=True, slots=True)
class FileReader:
    """Reads files of an archive into table rows and network inputs.

    It is pickled and sent to the worker processes.

    Attributes:
        base: The folder that the files' paths are relative to.
        recipe: How display images become inputs.
        options: Which images are read, and up to which size.
        patient_secret: Key of the hashes that replace patient ids and accession numbers.
    """

    base: bytes
    recipe: Recipe
    options: ReadingOptions
    patient_secret: bytes = field(repr=False)

    def read(self, file: ArchiveFile) -> LoadedFile:
        """Read one file, or one member of a container, and decode all its frames.

        Args:
            file: The file; its path is relative to `base`.

        Returns:
            A row and, if it may be scored, an input for each frame. A file that cannot be read has
            one row, whose outcome says why: defects of a file raise no exception.
        """
        rows = [self.row(file, reading) for reading in self.readings(file)]
        return LoadedFile.stack(rows, size=self.recipe.size)

    def failed(self, file: ArchiveFile, outcome: Outcome, detail: str) -> LoadedFile:
        """Make the result of a file that cannot be read, as its worker process crashed or hung.

        Args:
            file: The file.
            outcome: Why it could not be read, such as `decoder_crashed`; the row's outcome.
            detail: One line for a person; the row's detail.

        Returns:
            One row without an input.
        """
        row = self.row(file, failed_reading("other", ReadingError(outcome, detail)))
        return LoadedFile.stack([row], size=self.recipe.size)

    def readings(self, file: ArchiveFile) -> Iterator[Reading]:
        """Read a file and yield a Reading (outcome, header facts, display image) for each frame.

        Each frame is decoded only when it is asked for. A file that cannot be read yields one
        Reading with the outcome that says why; so does a member of a container whose modification
        time is another than when its members were listed.

        Args:
            file: The file; its path is relative to `base`.
        """
        location = os.path.join(self.base, file.path)
        if file.fault is not None:
            yield failed_reading("other", ReadingError(*file.fault))
        elif file.member is None:
            yield from iterate_radiographs(location, self.options)
        elif _has_changed(location, file):
            detail = "its archive has changed since it was listed"
            yield failed_reading("other", ReadingError(Outcome.UNREADABLE_FILE, detail))
        else:
            yield from iterate_member(location, file.member, file.offset, self.options)

    def row(self, file: ArchiveFile, reading: Reading) -> tuple[Row, ModelInput | None]:
        """Make the table row of one frame, and the network input if the frame may be scored.

        Args:
            file: The file that the frame belongs to.
            reading: What was read of the frame.

        Returns:
            The row, and the input of shape (size, size), uint8; None instead of the input unless
            the row's outcome is `scored`.
        """
        reading, prepared = self.recipe.prepare_reading(reading)
        row = Row(
            path=path_to_text(file.path, file.member),
            frame=reading.frame,
            file_size=file.size,
            file_modified_ns=file.modified_ns,
            format=reading.format,
            outcome=reading.outcome.value,
            detail=reading.detail,
            image_hash=None if prepared is None else image_hash(prepared),
            dhash=None if prepared is None else f"{difference_hash(prepared):016x}",
            image_flags=tuple(flag.value for flag in reading.flags),
            # The row is written to disk, so it contains keys of patient and study, not their ids.
            patient_key=patient_key(reading.facts, self.patient_secret),
            accession_key=accession_key(reading.facts.accession_number, self.patient_secret),
            facts=facts_of(reading.facts),
        )
        return row, prepared


def _has_changed(location: bytes, member: ArchiveFile) -> bool:
    """Whether a container has another time than when its members were listed."""
    try:
        return modified_ns(os.stat(location)) != member.modified_ns
    except OSError:
        return False  # reading it reports the error

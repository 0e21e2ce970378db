"""Reads one file into table rows and network inputs, and the image of a row once more.

Worker processes run this module, so it imports no torch.
"""

import os
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cxrbatch.errors import UsageError
from cxrbatch.files import path_to_text, text_to_path, text_to_place
from cxrbatch.model.preprocessing import ModelInput, Recipe, difference_hash, image_hash
from cxrbatch.reading.containers.listing import members_named
from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.radiograph import (
    Reading,
    ReadingOptions,
    iterate_member,
    iterate_radiographs,
)
from cxrbatch.reading.readings import failed_reading
from cxrbatch.results.columns import Row, facts_of
from cxrbatch.results.patient_keys import accession_key, patient_key
from cxrbatch.scoring.archive import ArchiveFile, modified_ns

if TYPE_CHECKING:
    from cxrbatch.results.table import Table

UNKNOWN_ORIGIN = "the table does not say where its images are and how they were read"
MISSING = "not in the archive any more"
CHANGED = "changed since it was scored"


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """Table rows of one file, and the network inputs of those rows that may be scored.

    Attributes:
        rows: One for each frame; a single one if the file cannot be read.
        scorable: For each row, whether it has an input.
        inputs: Shape (number of true `scorable`, size, size), uint8, in the order of the rows.
    """

    rows: list[Row]
    scorable: list[bool]
    inputs: npt.NDArray[np.uint8]

    @classmethod
    def stack(cls, rows: Sequence[tuple[Row, ModelInput | None]], *, size: int) -> "LoadedFile":
        """Make a LoadedFile of the rows of one file.

        All rows are kept in their order. The array `inputs` has only the inputs that are not None;
        `scorable` tells which rows these belong to.

        Args:
            rows: Pairs of a row and its input, shape (size, size), uint8; None instead of the input
                if the row is not to be scored.
            size: Edge of the inputs in pixels, for an array of shape (0, size, size) if no row has
                an input.
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
        rows = [row for _, row in self.frames(file)]
        return LoadedFile.stack(rows, size=self.recipe.size)

    def failed(self, file: ArchiveFile, outcome: Outcome, detail: str) -> LoadedFile:
        """Make the result of a file that was not read, as when its worker process crashed or hung.

        Args:
            file: The file.
            outcome: Why it could not be read, such as `decoder_crashed`; the row's outcome.
            detail: One line for a person; the row's detail.

        Returns:
            One row without an input.
        """
        row = self._row(file, failed_reading("other", ReadingError(outcome, detail)))
        return LoadedFile.stack([row], size=self.recipe.size)

    def frames(self, file: ArchiveFile) -> Iterator[tuple[Reading, tuple[Row, ModelInput | None]]]:
        """Yield the frames of a file; each is decoded only when it is asked for.

        For a file that cannot be read one frame is yielded, whose outcome says why; so it is for a
        member of a container that was modified after its members were listed.

        Args:
            file: The file; its path is relative to `base`.

        Yields:
            For each frame what was read of it (outcome, header facts, display image), and its table
            row with its network input, shape (size, size), uint8; None instead of the input unless
            the row's outcome is `scored`.
        """
        for reading in self._readings(file):
            yield reading, self._row(file, reading)

    def _readings(self, file: ArchiveFile) -> Iterator[Reading]:
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

    def _row(self, file: ArchiveFile, reading: Reading) -> tuple[Row, ModelInput | None]:
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


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the images of a results table are, and how they were read when they were scored.

    Attributes:
        root: The archive's folder, absolute.
        recipe: How display images became inputs.
        options: How files were read; other modalities are rendered too.
        follow_links: Whether links were followed; if not, a path that a link leads out of the
            folder is not read.
    """

    root: bytes
    recipe: Recipe
    options: ReadingOptions
    follow_links: bool = False

    @classmethod
    def of(cls, table: "Table", *, root: bytes | None = None) -> "Origin | None":
        """Take the origin from a table's metadata.

        Args:
            table: The table.
            root: The archive's folder now; None for the one it was scored in.

        Returns:
            The origin; None if recipe or folder is missing, a value is invalid, or the folder is
            not absolute.
        """
        made = table.provenance
        try:
            recipe = Recipe.from_card(made["recipe"])
            options = ReadingOptions(
                render_all=True,
                max_pixels=int(made.get("max_pixels", ReadingOptions().max_pixels)),
                no_voi=recipe.no_voi,
                least_size=recipe.least_size if made.get("fast_decode") is True else None,
            )
            root = text_to_path(str(made["archive_root"])) if root is None else root
        except (KeyError, TypeError, ValueError, OverflowError, UsageError):
            return None
        if not os.path.isabs(root):
            return None
        return cls(root, recipe, options, follow_links=made.get("follow_links") is True)


def revisit(origin: Origin, path: str, frame: int, hashed: str) -> Reading | str:
    """Read the image of a table's row from the archive once more, and check that it is the same.

    Call it in a child process: files may be hostile.

    Args:
        origin: Where the table's images are.
        path: The row's `path`.
        frame: The row's `frame`.
        hashed: The row's `image_hash`.

    Returns:
        A Reading whose image has this hash. Or a text for a person: `CHANGED` if the frame is there
        but has no image or one of another hash; `MISSING` if the file or frame is not there or not
        found in its container, is an `unreadable_file`, or lies outside of the archive.
    """
    failure = MISSING
    for readings in _files(origin, path):
        reading = next(islice(readings, frame, None), None)
        if reading is None or reading.outcome is Outcome.UNREADABLE_FILE:
            continue
        image = reading.image
        if image is not None and image_hash(origin.recipe.prepare(image)) == hashed:
            return reading
        failure = CHANGED
    return failure


def _files(origin: Origin, path: str) -> Iterator[Iterator[Reading]]:
    """Yield the readings of each file that has the row's path, as members may share a name."""
    try:
        place, member = text_to_place(path)
    except ValueError:
        return
    if place.startswith(b"/") or b".." in place.split(b"/") or posixpath.normpath(place) != place:
        return
    location = os.path.join(origin.root, place)
    if not os.path.isfile(location):
        return
    if not origin.follow_links and not _is_within(location, origin.root):
        return
    if member is None:
        yield iterate_radiographs(location, origin.options)
        return
    with suppress(ReadingError, OSError):  # a container that is damaged or none
        for entry in members_named(location, member):
            if entry.kind == "file" and entry.fault is None:
                yield iterate_member(location, member, entry.offset, origin.options)


def _is_within(location: bytes, folder: bytes) -> bool:
    inside = os.path.join(os.path.realpath(folder), b"")
    return os.path.realpath(location).startswith(inside)

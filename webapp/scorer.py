"""Scores one upload at a time, by the functions and in the batch shape of a run."""

import json
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from cxrbatch.atomic import written_whole
from cxrbatch.errors import UsageError
from cxrbatch.model.checkpoint import bundled_checkpoint, read_card
from cxrbatch.reading.radiograph import ReadingOptions
from cxrbatch.results.table import ImageScores, Row
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.file_reader import FileReader, LoadedFile
from cxrbatch.webapp.children import Children, Queue
from cxrbatch.webapp.drawing import png
from cxrbatch.workers.worker import WorkerFault

MOST_FRAMES = 16
"""Frames of a file that are looked at."""

_LONGEST_SHOWN = 1600


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file, for a child process.

    Attributes:
        reader: Makes rows of it, as a run would.
        file: The file, where `reader` finds it.
    """

    reader: FileReader
    file: ArchiveFile


@dataclass(frozen=True, slots=True)
class ReadUpload:
    """What was made of it.

    Attributes:
        loaded: The rows of its first frames, with their inputs.
        picture: The first frame as PNG, made smaller; empty where it gave no image.
    """

    loaded: LoadedFile
    picture: bytes


def read_upload(upload: Upload) -> ReadUpload:
    """Read each frame once, to its row, its input and the first one's picture."""
    reader, file = upload.reader, upload.file
    pairs, picture = [], b""
    for reading in islice(reader.readings(file), MOST_FRAMES):
        pairs.append(reader.row(file, reading))
        if len(pairs) == 1 and reading.image is not None:
            picture = png(reading.image, longest=_LONGEST_SHOWN)
    inputs = [prepared for _, prepared in pairs if prepared is not None]
    size = reader.recipe.size
    loaded = LoadedFile(
        [row for row, _ in pairs],
        [prepared is not None for _, prepared in pairs],
        np.stack(inputs) if inputs else np.empty((0, size, size), np.uint8),
    )
    return ReadUpload(loaded, picture)


if TYPE_CHECKING:
    from cxrbatch.model.predictor import Predictor


@dataclass(frozen=True, slots=True)
class Scored:
    """An uploaded file with its scores.

    Attributes:
        rows: Its frames as rows of a table, each with its scores if it was scored.
        picture: The first frame as PNG; empty where it gave no image.
    """

    rows: list[tuple[Row, ImageScores | None]]
    picture: bytes


class UploadScorer:
    """Reads in child processes, scores in this one; loads torch and the weights at first use."""

    def __init__(self, checkpoint: Path | None, children: Children, queue: Queue) -> None:
        """Read the checkpoint's card.

        Args:
            checkpoint: What to score with; the bundled one by default.
            children: Read the files.
            queue: Whose turn it is.

        Raises:
            CheckpointError: It cannot be used.
        """
        self._path = checkpoint or bundled_checkpoint()
        self.card = read_card(self._path)
        self._children = children
        self._queue = queue
        self._lock = threading.Lock()
        self._predictor: Predictor | None = None

    def score(self, file: BinaryIO) -> Scored:
        """Read and score a file that need not have a name.

        Args:
            file: Open for reading in this process.

        Raises:
            Busy: Too many wait.
            CheckpointError: The weights do not fit the card.
        """
        # Through the descriptor: there is no name on disk that could stay behind.
        reader = FileReader(
            base=f"/proc/{os.getpid()}/fd".encode(),
            recipe=self.card.recipe,
            options=ReadingOptions(no_voi=self.card.recipe.no_voi),
            patient_secret=secrets.token_bytes(32),
        )
        number = file.fileno()
        named = ArchiveFile(str(number).encode(), os.fstat(number).st_size)
        with self._queue.turn():
            read = self._children.call(read_upload, Upload(reader, named))
            if isinstance(read, WorkerFault):
                read = ReadUpload(reader.failed(named, read.outcome, read.detail), b"")
            return Scored(self._scored(read), read.picture)

    def _scored(self, read: ReadUpload) -> list[tuple[Row, ImageScores | None]]:
        if not any(read.loaded.scorable):
            return [(row, None) for row in read.loaded.rows]
        from cxrbatch.scoring.dataset import score_batches

        with self._lock:
            scored = score_batches([read.loaded], self._ready())
            return [pair for pair in scored if isinstance(pair, tuple)]

    def _ready(self) -> "Predictor":
        if self._predictor is None:
            from cxrbatch.model.predictor import load_model

            self._predictor = load_model(self._path)
        return self._predictor


_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600


class NotKept(Exception):
    """The upload cannot be kept; the message is the system's."""


class Keeper:
    """Keeps uploads in a private folder."""

    def __init__(self, folder: Path) -> None:
        """Make the folder, or see that it can be written to and is private.

        Raises:
            UsageError: It cannot be used.
        """
        self._folder = folder
        try:
            folder.mkdir(_PRIVATE_FOLDER, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            mode = folder.stat().st_mode
        except OSError as error:
            raise UsageError(
                f"cannot keep uploads in {folder}: {error.strerror}; name another folder"
            ) from None
        if mode & 0o077:
            raise UsageError(f"others may look into {folder}: chmod 700 it, or name another folder")

    def keep(self, file: BinaryIO, form: str, told: Sequence[Any]) -> None:
        """Write an upload and what was told of it: both, or neither.

        Args:
            file: The upload.
            form: Its format, which ends its name.
            told: JSON values.

        Raises:
            NotKept: It cannot be written.
        """
        name = secrets.token_hex(16)
        content, row = (self._folder / f"{name}.{end}" for end in (form, "json"))
        try:
            with _written(content) as kept:
                file.seek(0)
                shutil.copyfileobj(file, kept)
            with _written(row) as kept:
                kept.write(json.dumps(told, indent=1).encode())
        except OSError as error:
            for path in (content, row):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            raise NotKept(error.strerror) from None


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    with written_whole(path) as file:
        os.fchmod(file.fileno(), _PRIVATE_FILE)
        yield file

"""Scores one upload at a time, by the functions and in the batch shape of a run."""

import os
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cxrbatch.model.checkpoint import bundled_checkpoint, read_card
from cxrbatch.reading.radiograph import ReadingOptions
from cxrbatch.results.table import ImageScores, Row
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.rows import FileReader
from cxrbatch.webapp.children import Children, Queue
from cxrbatch.webapp.uploaded import ReadUpload, Upload, read_upload
from cxrbatch.workers.isolation import Fault

if TYPE_CHECKING:
    from cxrbatch.model.inference import Scorer


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
        self._scorer: Scorer | None = None

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
            if isinstance(read, Fault):
                read = ReadUpload(reader.failed(named, read.outcome, read.detail), b"")
            return Scored(self._scored(read), read.picture)

    def _scored(self, read: ReadUpload) -> list[tuple[Row, ImageScores | None]]:
        if not any(read.loaded.scorable):
            return [(row, None) for row in read.loaded.rows]
        from cxrbatch.scoring.batching import score_batches

        with self._lock:
            scored = score_batches([read.loaded], self._ready())
            return [pair for pair in scored if isinstance(pair, tuple)]

    def _ready(self) -> "Scorer":
        if self._scorer is None:
            from cxrbatch.model.checkpoint import load_checkpoint
            from cxrbatch.model.inference import (
                DEFAULT_BATCH_SIZE,
                Scorer,
                choose_device,
                choose_precision,
            )

            device = choose_device("auto")
            self._scorer = Scorer(
                load_checkpoint(self._path),
                batch_size=DEFAULT_BATCH_SIZE,
                device=device,
                precision=choose_precision("auto", device),
            )
        return self._scorer

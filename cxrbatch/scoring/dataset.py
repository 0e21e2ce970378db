"""Files read by worker processes, as batches of a DataLoader, scored into rows and shards."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from cxrbatch.files import path_to_text
from cxrbatch.model.inference import BatchScores
from cxrbatch.model.predictor import Launched, Predictor
from cxrbatch.reading.outcomes import Outcome, OutcomeKind
from cxrbatch.results.columns import ImageScores, Row
from cxrbatch.scoring.archive import ArchiveFile, read_manifest
from cxrbatch.scoring.existing_tables import EarlierRows
from cxrbatch.scoring.file_reader import FileReader, LoadedFile
from cxrbatch.scoring.plan import FaultLog
from cxrbatch.scoring.run import Progress, ScoringOptions, Summary
from cxrbatch.scoring.table_writer import ScoredRow, write_shard
from cxrbatch.workers.forkserver_client import Forkserver
from cxrbatch.workers.pool import PoolListener, ReadingPool
from cxrbatch.workers.scheduler import PendingItem
from cxrbatch.workers.worker import WorkerFault

Loaded: TypeAlias = LoadedFile | pa.Table
"""The rows of a file with their network inputs; or its finished rows in an earlier table."""

Entry: TypeAlias = PendingItem[ArchiveFile] | Loaded
"""A file that is still to be read, or the rows of a file, which need no reading."""

Sample: TypeAlias = tuple[Row | pa.Table, npt.NDArray[np.uint8] | None]
"""A row and its input, shape (size, size), if it is to be scored; or finished rows."""


class RadiographDataset(IterableDataset[list[Sample]]):
    """Divides loaded files into batches for a PyTorch DataLoader, in the order of the files.

    A batch ends with its `batch_size`th input, and contains the rows without input in between. A
    row without input ends it at once if it has no input yet. The reading processes are those of
    `workers.pool`, which survive hostile files; those of a DataLoader do not.

    Args:
        loaded: Per file a `LoadedFile` (rows and inputs), or a `pa.Table` of its rows in an earlier
            table, which are finished: none is scored again.
        batch_size: Inputs per batch.
    """

    def __init__(self, loaded: Iterable[Loaded], *, batch_size: int) -> None:
        super().__init__()
        self._loaded = loaded
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[list[Sample]]:
        """Yield the batches as lists of samples; the last one may have fewer inputs."""
        samples: list[Sample] = []
        count = 0
        for loaded in self._loaded:
            if isinstance(loaded, pa.Table):
                samples.append((loaded, None))
                continue
            inputs = iter(loaded.inputs)
            for row, scorable in zip(loaded.rows, loaded.scorable, strict=True):
                samples.append((row, next(inputs) if scorable else None))
                count += scorable
                if count == self._batch_size or not count:
                    yield samples
                    samples, count = [], 0
        if samples:
            yield samples


@dataclass(slots=True)
class Batch:
    """Rows that are scored together: the network inputs of some rows, and rows without input.

    Attributes:
        rows: Each a `Row`, or a `pa.Table` of finished rows; in the order of the files.
        is_scored: For each of `rows`, whether it has an input.
        inputs: Shape (number of true `is_scored`, size, size), uint8; None if there is no input.
    """

    rows: list[Row | pa.Table]
    is_scored: list[bool]
    inputs: Tensor | None

    def pin_memory(self) -> "Batch":
        """Move `inputs`, if any, to page-locked memory, from which a GPU copies by itself.

        Returns:
            This batch.
        """
        if self.inputs is not None:
            self.inputs = self.inputs.pin_memory()
        return self


def collate(samples: Sequence[Sample]) -> Batch:
    """Make a `Batch` of samples: stack their inputs into one tensor.

    Args:
        samples: Pairs: a row and its input, shape (size, size), uint8, or None if it is not to be
            scored; or a table of finished rows, and None.

    Returns:
        The rows in their order; `inputs` is None if no sample has one.
    """
    inputs = [image for _, image in samples if image is not None]
    return Batch(
        [row for row, _ in samples],
        [image is not None for _, image in samples],
        torch.from_numpy(np.stack(inputs)) if inputs else None,
    )


def score_batches(loaded: Iterable[Loaded], predictor: Predictor) -> Iterator[ScoredRow | pa.Table]:
    """Score the network inputs of loaded files, and yield their rows with the scores.

    The inputs of several files are scored together. While the scores of one batch are awaited, up
    to `predictor.ahead` further batches are being computed.

    Args:
        loaded: Per file a `LoadedFile` (rows and inputs), or a `pa.Table` of its rows in an earlier
            table, which are finished: none is scored again.
        predictor: The network; its `batch_size` is the number of inputs per batch.

    Yields:
        In the order of `loaded`: for each row of a `LoadedFile` the pair (row, scores), with None
        as scores if the row has no input; each `pa.Table` unchanged.

    Raises:
        CxrbatchError: A score is not finite, or a batch does not fit into memory.
        CheckpointError: The first scores are not those of plain PyTorch.
    """
    loader = DataLoader(
        RadiographDataset(loaded, batch_size=predictor.batch_size),
        batch_size=None,  # the dataset yields whole batches
        collate_fn=collate,
        pin_memory=predictor.device.type == "cuda",
        generator=torch.Generator(),  # a DataLoader draws a seed: not from the caller's generator
    )
    launched: deque[_LaunchedBatch] = deque()
    for batch in loader:
        launched.append(_LaunchedBatch(batch, predictor))
        yield from _finished_rows(launched, ahead=predictor.ahead)
    yield from _finished_rows(launched, ahead=0)


class _LaunchedBatch:
    """A batch whose scores are being computed."""

    def __init__(self, batch: Batch, predictor: Predictor) -> None:
        self._batch = batch
        self._wait: Launched | None = None
        if batch.inputs is not None:
            self._wait = predictor.launch(batch.inputs.numpy())

    @property
    def is_computing(self) -> bool:
        return self._wait is not None

    def rows(self) -> Iterator[ScoredRow | pa.Table]:
        scores = _image_scores(self._wait()) if self._wait else iter(())
        for row, is_scored in zip(self._batch.rows, self._batch.is_scored, strict=True):
            if isinstance(row, Row):
                yield row, next(scores) if is_scored else None
            else:
                yield row


def _finished_rows(
    launched: deque[_LaunchedBatch], *, ahead: int
) -> Iterator[ScoredRow | pa.Table]:
    """Remove batches from the front, waiting for scores, until only `ahead` are computing."""
    computing = sum(batch.is_computing for batch in launched)
    while launched and (computing > ahead or not launched[0].is_computing):
        first = launched.popleft()
        computing -= first.is_computing
        yield from first.rows()


def _image_scores(batch: BatchScores) -> Iterator[ImageScores]:
    for i in range(len(batch.logits)):
        yield ImageScores(
            batch.logits[i],
            batch.probabilities[i],
            batch.heatmaps[i].tobytes(),
            float(batch.heatmap_scale[i]),
        )


_FAILED = {code.value: code for code in Outcome if code.kind is OutcomeKind.FAILED}


@dataclass(slots=True)
class ShardWriter:
    """Reads and scores files of an archive, and writes their rows to disk in shards.

    A shard is a file with the rows of many files. To be used as a context manager: it starts the
    worker processes, if any, which serve all calls of `write`, and ends them.

    Attributes:
        folder: Contains the manifest, the log of faults and the shards.
        run: Id of the run, `Plan.run_id`; written into each shard.
        schema: The table's columns.
        reader: Reads the files.
        predictor: Scores the inputs.
        earlier: Finds rows of unchanged files, which an update keeps; None without an update.
        options: The run's options.
        progress: Receives the progress.
        summary: Its counts `read` and `images` are increased.
        forkserver: Starts the worker processes; None starts a new one.
    """

    folder: Path
    run: str
    schema: pa.Schema
    reader: FileReader
    predictor: Predictor
    earlier: EarlierRows | None
    options: ScoringOptions
    progress: Progress
    summary: Summary
    forkserver: Forkserver | None = None
    _open: ExitStack = field(default_factory=ExitStack, init=False)
    _faults: FaultLog = field(init=False)
    _load: Callable[[Iterable[Entry]], Iterator[Loaded]] = field(init=False)

    def __enter__(self) -> "ShardWriter":
        """Open the log of faults and start the worker processes.

        Raises:
            OSError: The log of faults cannot be read or opened for writing.
            CxrbatchError: No process can be started.
        """
        with ExitStack() as stack:
            self._faults = stack.enter_context(closing(FaultLog(self.folder)))
            self._load = self._load_here
            if self.options.workers:
                self._load = stack.enter_context(self._pool()).map
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    def write(self, shards: Mapping[Path, range]) -> None:
        """Read and score the files of some shards, and write each shard to disk.

        Not read are files whose rows an update keeps, and files whose fault an earlier run
        logged: these get the outcome that was logged then.

        Args:
            shards: The path of each shard, and the numbers of its files in the manifest; the
                numbers ascend over all calls.

        Raises:
            OSError: The manifest cannot be read, or a shard cannot be written.
            TableError: The table with the rows to keep is damaged.
            CxrbatchError: `score_batches` raises it, or no worker process can be started.
        """
        # One stream over all shards: reading does not pause where one of them ends.
        loaded = self._load(self._entries(shards.values()))
        for path, numbers in shards.items():
            write_shard(
                path,
                score_batches(self._counted(loaded, numbers), self.predictor),
                classes=self.predictor.card.classes,
                schema=self.schema,
                run=self.run,
            )
            self.progress.shard_done(len(numbers))

    def _pool(self) -> ReadingPool[ArchiveFile, Loaded]:
        return ReadingPool(
            self.reader,
            workers=self.options.workers,
            limits=self.options.limits,
            result_bytes=self.reader.recipe.size**2,
            listener=_FaultRecorder(self._faults, self.progress),
            forkserver=self.forkserver,
        )

    def _load_here(self, entries: Iterable[Entry]) -> Iterator[Loaded]:
        """Read files in this process, where a decoder that crashes ends it."""
        for entry in entries:
            yield self.reader.read(entry.item) if isinstance(entry, PendingItem) else entry

    def _entries(self, shards: Iterable[range]) -> Iterator[Entry]:
        """Yield each file of some shards: to be read, or with the rows that it has already."""
        for numbers in shards:
            files = read_manifest(self.folder, start=numbers.start, stop=numbers.stop)
            for number, file in zip(numbers, files, strict=True):
                kept = self.earlier.take(file) if self.earlier else None
                if kept is not None:
                    yield kept
                elif fault := self._faults.get(number):
                    yield self.reader.failed(file, fault.outcome, fault.detail)
                else:
                    yield PendingItem(number, file)

    def _counted(self, loaded: Iterator[Loaded], numbers: range) -> Iterator[Loaded]:
        """Pass the files of one shard on; count them and report those that failed."""
        # `numbers` comes first: where it ends, no file of the next shard is taken.
        for number, file in zip(numbers, loaded, strict=False):
            yield file
            if isinstance(file, LoadedFile):
                self.summary.read += 1
                self.summary.images += sum(file.scorable)
                for row in file.rows:
                    if failure := _FAILED.get(row.outcome):
                        self.progress.failed(number, row.path, failure)
            self.progress.advance(1)


class _FaultRecorder(PoolListener[ArchiveFile]):
    """Logs files that ended their worker process, and reports retries."""

    def __init__(self, faults: FaultLog, progress: Progress) -> None:
        self._faults, self._progress = faults, progress

    def retried(self, pending: PendingItem[ArchiveFile]) -> None:
        file = pending.item
        self._progress.retried(pending.number, path_to_text(file.path, file.member))

    def lost(self, pending: PendingItem[ArchiveFile], fault: WorkerFault) -> None:
        if fault.lasting:
            self._faults.add(pending.number, fault)

    def fewer_workers(self) -> None:
        self._progress.fewer_workers()

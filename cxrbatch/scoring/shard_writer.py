"""Files read by worker processes, scored, and written to disk in shards."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import pyarrow as pa

from cxrbatch.files import path_to_text
from cxrbatch.model.predictor import Predictor
from cxrbatch.reading.outcomes import Outcome, OutcomeKind
from cxrbatch.scoring.archive import ArchiveFile, read_manifest
from cxrbatch.scoring.dataset import Loaded, score_batches
from cxrbatch.scoring.existing_tables import EarlierRows
from cxrbatch.scoring.file_reader import FileReader, LoadedFile
from cxrbatch.scoring.plan import FaultLog
from cxrbatch.scoring.run import Progress, ScoringOptions, Summary
from cxrbatch.scoring.table_writer import write_shard
from cxrbatch.workers.forkserver_client import Forkserver
from cxrbatch.workers.pool import PoolListener, ReadingPool
from cxrbatch.workers.scheduler import PendingItem
from cxrbatch.workers.worker import WorkerFault

Entry: TypeAlias = PendingItem[ArchiveFile] | Loaded
"""A file that is still to be read, or the rows of a file, which need no reading."""


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
                score_batches(
                    self._counted(loaded, numbers), self.predictor, gate=self.options.gate
                ),
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

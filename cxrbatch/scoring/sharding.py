"""The files of a run to shards on the disk, one after the other."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cxrbatch.model.inference import Scorer
from cxrbatch.reading.outcomes import Kind, Outcome
from cxrbatch.results.paths import path_to_text
from cxrbatch.scoring.batching import score_batches
from cxrbatch.scoring.earlier import EarlierRows
from cxrbatch.scoring.manifest import read_manifest
from cxrbatch.scoring.progress import Progress
from cxrbatch.scoring.rows import FileReader, LoadedFiles
from cxrbatch.scoring.runs import Culprits
from cxrbatch.scoring.settings import ScoringOptions, Summary
from cxrbatch.scoring.shards import write_shard
from cxrbatch.workers.forkserver_client import Nursery
from cxrbatch.workers.isolation import Fault
from cxrbatch.workers.pool import Portion, ReadingPool
from cxrbatch.workers.scheduler import Unread

_FAILED = {code.value: code for code in Outcome if code.kind is Kind.FAILED}


@dataclass(frozen=True, slots=True)
class Sharding:
    """Scores files of a manifest into shards.

    Attributes:
        folder: Where manifest, culprits and shards lie.
        run: What the shards belong to.
        schema: The table's columns.
        reader: Makes the rows.
        scorer: Makes the scores.
        earlier: Rows that still hold.
        options: The run's options.
        progress: Told how far the run is.
        summary: Counts what was read.
        nursery: Starts the processes that read; None starts one.
    """

    folder: Path
    run: str
    schema: pa.Schema
    reader: FileReader
    scorer: Scorer
    earlier: EarlierRows | None
    options: ScoringOptions
    progress: Progress
    summary: Summary
    nursery: Nursery | None = None

    @contextmanager
    def opened(self) -> Iterator[Callable[[Mapping[Path, range]], None]]:
        """Give what writes shards, with reading processes that stay from one call to the next.

        It is called with the path of each shard and the numbers of its files, which ascend over
        all calls, and raises OSError where a shard cannot be written and CxrbatchError where the
        scores are not finite.

        Raises:
            OSError: The culprits cannot be read.
            CxrbatchError: No process can be started.
        """
        with closing(Culprits(self.folder)) as culprits, self._pool(culprits) as pool:
            yield lambda left: self._write(left, culprits, pool)

    def _write(
        self, left: Mapping[Path, range], culprits: Culprits, pool: ReadingPool[LoadedFiles]
    ) -> None:
        # One stream over all shards: reading does not pause where one of them ends.
        portions = pool.load(self._entries(left.values(), culprits))
        for path, numbers in left.items():
            write_shard(
                path,
                score_batches(self._told(portions, numbers), self.scorer),
                classes=self.scorer.card.classes,
                schema=self.schema,
                run=self.run,
            )
            self.progress.shard_done(len(numbers))

    def _pool(self, culprits: Culprits) -> ReadingPool[LoadedFiles]:
        options = self.options
        listener = _Listener(culprits, self.progress)
        return ReadingPool(
            self.reader,
            workers=options.workers,
            limits=options.limits,
            listener=listener,
            nursery=self.nursery,
        )

    def _entries(self, left: Iterable[range], culprits: Culprits) -> Iterator[Unread | Portion]:
        """Each file of the shards that are left: to be read, or ready without."""
        for numbers in left:
            files = read_manifest(self.folder, start=numbers.start, stop=numbers.stop)
            for number, file in zip(numbers, files, strict=True):
                kept = self.earlier.take(file) if self.earlier else None
                if kept is not None:
                    yield kept
                elif fault := culprits.get(number):
                    yield self.reader.failed(file, fault.outcome, fault.detail)
                else:
                    yield Unread(number, file)

    def _told(self, portions: Iterator[Portion], numbers: range) -> Iterator[Portion]:
        # The numbers come first: where they end, no portion of the next shard is taken.
        for number, portion in zip(numbers, portions, strict=False):
            yield portion
            if isinstance(portion, LoadedFiles):
                self.summary.read += 1
                self.summary.images += sum(portion.scorable)
                for row in portion.rows:
                    if failure := _FAILED.get(row.outcome):
                        self.progress.failed(number, row.path, failure)
            self.progress.advance(1)


@dataclass(frozen=True, slots=True)
class _Listener:
    """Writes culprits down and tells of them."""

    culprits: Culprits
    progress: Progress

    def retried(self, unread: Unread) -> None:
        self.progress.retried(unread.number, path_to_text(unread.file.path, unread.file.member))

    def fewer_workers(self) -> None:
        self.progress.fewer_workers()

    def lost(self, unread: Unread, fault: Fault) -> None:
        if fault.lasting:
            self.culprits.add(unread.number, fault)

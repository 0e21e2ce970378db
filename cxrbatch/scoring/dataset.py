"""Loaded files to scored rows, in batches of one shape."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cxrbatch.model.inference import BatchScores
from cxrbatch.model.predictor import Predictor
from cxrbatch.paths import path_to_text
from cxrbatch.reading.outcomes import Outcome, OutcomeKind
from cxrbatch.results.table import ImageScores, Row
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.file_reader import FileReader, LoadedFile
from cxrbatch.scoring.manifest import read_manifest
from cxrbatch.scoring.run import Culprits, Progress, ScoringOptions, Summary
from cxrbatch.scoring.shards import ScoredRow, write_shard
from cxrbatch.scoring.update import EarlierRows
from cxrbatch.workers.forkserver_client import Forkserver
from cxrbatch.workers.pool import PoolListener, ReadingPool
from cxrbatch.workers.scheduler import PendingItem
from cxrbatch.workers.worker import WorkerFault

Portion: TypeAlias = LoadedFile | pa.Table
"""A file's rows with their inputs; or rows of an earlier table, which are finished."""

_Waiting = list[tuple[Row | pa.Table, npt.NDArray[np.uint8] | None]]


def score_batches(portions: Iterable[Portion], scorer: Predictor) -> Iterator[ScoredRow | pa.Table]:
    """Gather inputs to full batches, score them, and give the rows back in their order.

    Args:
        portions: Rows with their inputs; finished rows pass through.
        scorer: Scores up to its batch size at once.
    """
    waiting: _Waiting = []
    launched: deque[_Launched] = deque()
    ready = 0
    for portion in portions:
        if isinstance(portion, pa.Table):
            waiting.append((portion, None))
            continue
        inputs = iter(portion.inputs)
        for row, scorable in zip(portion.rows, portion.scorable, strict=True):
            waiting.append((row, next(inputs) if scorable else None))
            ready += scorable
            if ready == scorer.batch_size or not ready:
                launched.append(_Launched(waiting, scorer))
                waiting, ready = [], 0
                yield from _settled(launched, ahead=scorer.ahead)
    launched.append(_Launched(waiting, scorer))
    yield from _settled(launched, ahead=0)


class _Launched:
    """Some rows in their order, and the scores of theirs that are on their way."""

    def __init__(self, waiting: _Waiting, scorer: Predictor) -> None:
        inputs = [prepared for _, prepared in waiting if prepared is not None]
        self._rows = [(row, prepared is not None) for row, prepared in waiting]
        self._wait = scorer.launch(np.stack(inputs)) if inputs else None

    @property
    def is_on_its_way(self) -> bool:
        return self._wait is not None

    def rows(self) -> Iterator[ScoredRow | pa.Table]:
        scores = _image_scores(self._wait()) if self._wait else iter(())
        for row, scorable in self._rows:
            if isinstance(row, Row):
                yield row, next(scores) if scorable else None
            else:
                yield row


def _settled(launched: deque[_Launched], *, ahead: int) -> Iterator[ScoredRow | pa.Table]:
    """The rows of all but so many batches, and of what needs no scores in front of those."""
    on_their_way = sum(batch.is_on_its_way for batch in launched)
    while launched and (on_their_way > ahead or not launched[0].is_on_its_way):
        first = launched.popleft()
        on_their_way -= first.is_on_its_way
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
        forkserver: Starts the processes that read; None starts one.
    """

    folder: Path
    run: str
    schema: pa.Schema
    reader: FileReader
    scorer: Predictor
    earlier: EarlierRows | None
    options: ScoringOptions
    progress: Progress
    summary: Summary
    forkserver: Forkserver | None = None

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
        self,
        left: Mapping[Path, range],
        culprits: Culprits,
        pool: ReadingPool[ArchiveFile, Portion],
    ) -> None:
        # One stream over all shards: reading does not pause where one of them ends.
        portions = pool.map(self._entries(left.values(), culprits))
        for path, numbers in left.items():
            write_shard(
                path,
                score_batches(self._told(portions, numbers), self.scorer),
                classes=self.scorer.card.classes,
                schema=self.schema,
                run=self.run,
            )
            self.progress.shard_done(len(numbers))

    def _pool(self, culprits: Culprits) -> ReadingPool[ArchiveFile, Portion]:
        options = self.options
        listener = _Listener(culprits, self.progress)
        return ReadingPool(
            self.reader,
            workers=options.workers,
            limits=options.limits,
            result_bytes=self.reader.recipe.size**2,
            listener=listener,
            forkserver=self.forkserver,
        )

    def _entries(
        self, left: Iterable[range], culprits: Culprits
    ) -> Iterator[PendingItem[ArchiveFile] | Portion]:
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
                    yield PendingItem(number, file)

    def _told(self, portions: Iterator[Portion], numbers: range) -> Iterator[Portion]:
        # The numbers come first: where they end, no portion of the next shard is taken.
        for number, portion in zip(numbers, portions, strict=False):
            yield portion
            if isinstance(portion, LoadedFile):
                self.summary.read += 1
                self.summary.images += sum(portion.scorable)
                for row in portion.rows:
                    if failure := _FAILED.get(row.outcome):
                        self.progress.failed(number, row.path, failure)
            self.progress.advance(1)


@dataclass(frozen=True, slots=True)
class _Listener(PoolListener[ArchiveFile]):
    """Writes culprits down and tells of them."""

    culprits: Culprits
    progress: Progress

    def retried(self, pending: PendingItem[ArchiveFile]) -> None:
        file = pending.item
        self.progress.retried(pending.number, path_to_text(file.path, file.member))

    def fewer_workers(self) -> None:
        self.progress.fewer_workers()

    def lost(self, pending: PendingItem[ArchiveFile], fault: WorkerFault) -> None:
        if fault.lasting:
            self.culprits.add(pending.number, fault)

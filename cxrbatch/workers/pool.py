"""Files to loaded rows, in order, whatever the files do to the processes that read them."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from queue import LifoQueue
from threading import Lock, Thread
from types import TracebackType
from typing import Generic, Protocol, TypeAlias, TypeVar, cast

import pyarrow as pa

from cxrbatch.errors import CxrbatchError
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.file_reader import LoadedFiles
from cxrbatch.workers.forkserver_client import Nursery
from cxrbatch.workers.isolation import Fault, IsolatedProcess, Limits
from cxrbatch.workers.scheduler import CHUNK, Chunk, Dealer, Loaded, Unread

_LEAST_AHEAD = 2
_MOST_AHEAD = 64
_BYTES_AHEAD = 32 << 20
_MOST_ASIDE = 4

Loaded_co = TypeVar("Loaded_co", covariant=True)

Portion: TypeAlias = LoadedFiles | pa.Table
"""What a file of a table is after it was read: rows with inputs; or rows of an earlier table."""


class Reader(Protocol[Loaded_co]):
    """Makes of a file what is wanted of it; travels to the worker processes."""

    @property
    def recipe(self) -> Recipe:
        """How display images become inputs."""

    def load(self, files: list[ArchiveFile], /) -> Loaded_co:
        """Read files; whatever is wrong with one of them is in what it gives."""

    def failed(self, file: ArchiveFile, outcome: Outcome, detail: str, /) -> Loaded_co:
        """Stand in for a file that could not be read in this process at all."""


class FaultListener(Protocol):
    """Told by several threads what goes wrong."""

    def retried(self, unread: Unread) -> None:
        """The process that read this file was lost; it is tried once more."""

    def lost(self, unread: Unread, fault: Fault) -> None:
        """This file gets the row of a fault."""

    def fewer_workers(self) -> None:
        """Several reading processes were killed: fewer read at once from now on; told once."""


class Unheard:
    """Tells nobody: a row says what became of its file, or nobody asks."""

    def retried(self, unread: Unread) -> None:
        """Do nothing."""

    def lost(self, unread: Unread, fault: Fault) -> None:
        """Do nothing."""

    def fewer_workers(self) -> None:
        """Do nothing."""


class ReadingPool(Generic[Loaded]):
    """Processes that read files ahead of the one who scores them.

    Each thread keeps one child process busy and waits for it, so a lost child costs the others
    nothing. One whose file hangs steps aside, and another works in its place until the deadline
    has passed. Where processes are killed from outside, as the system does when memory is short,
    fewer work from the second time on. PyTorch's DataLoader is not used here: it forks the process
    that holds the model, and the death of one of its workers ends all of them.
    """

    def __init__(
        self,
        reader: Reader[Loaded],
        *,
        workers: int,
        limits: Limits,
        listener: FaultListener,
        nursery: Nursery | None = None,
    ) -> None:
        """Start the nursery; the threads begin with the `with`.

        Args:
            reader: Makes the rows, or what else is wanted of a file.
            workers: Processes; 0 reads in this one, where a crash of a decoder ends it.
            limits: What one file may use.
            listener: Told of what goes wrong.
            nursery: Starts the processes, and is closed in the end; by default a new one.
        """
        self._reader = reader
        self._workers = workers
        # Far ahead, so that one file that hangs does not keep the others waiting for its deadline.
        chunks = _BYTES_AHEAD // (CHUNK * reader.recipe.size**2)
        self._ahead = max(_LEAST_AHEAD * workers, min(chunks, _MOST_AHEAD))
        self._listener = listener
        if workers:
            self._nursery = nursery or Nursery()
            self._threads: list[Thread] = []
            self._killing = Lock()
            self._kills, self._all_work = 0, True
            self._dealer: Dealer[Loaded] = Dealer(workers)
            # The last one used comes first: the others start no child as long as none hangs.
            self._idle: LifoQueue[IsolatedProcess] = LifoQueue()
            for _ in range(workers + _MOST_ASIDE):
                self._idle.put(IsolatedProcess(self._nursery, limits, aside=self._dealer.aside))

    def __enter__(self) -> "ReadingPool[Loaded]":
        if self._workers:
            try:
                for _ in range(self._workers + _MOST_ASIDE):
                    # A daemon: a program that ends without an end of the pool does not wait for it.
                    thread = Thread(target=self._work, daemon=True)
                    thread.start()
                    self._threads.append(thread)
            except RuntimeError as error:  # the system's limit
                self._close()
                raise CxrbatchError(f"{error}; try fewer --workers") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._workers:
            self._close()

    def _close(self) -> None:
        self._dealer.close()
        # The children go first, as threads wait for them.
        self._nursery.close()
        for thread in self._threads:
            thread.join()
        while not self._idle.empty():
            self._idle.get().close()

    def load(self, entries: Iterable[Unread | Loaded | pa.Table]) -> Iterator[Loaded | pa.Table]:
        """Read what is unread, pass on what is ready; one portion for each entry, in order.

        Args:
            entries: Taken lazily, a little ahead of the portions.

        Raises:
            CxrbatchError: No process can be started.
            RuntimeError: The pool was ended.
        """
        iterator = iter(entries)
        if not self._workers:
            yield from map(self._load_here, iterator)
            return
        ahead: deque[Chunk[Loaded]] = deque()
        following = list(islice(iterator, CHUNK))
        while taken := following:
            following = list(islice(iterator, CHUNK))
            chunk: Chunk[Loaded] = Chunk(taken)
            ahead.append(chunk)
            self._dealer.add(chunk, last=not following)
            if len(ahead) > self._ahead:
                yield from ahead.popleft().portions()
        while ahead:
            yield from ahead.popleft().portions()

    def _load_here(self, entry: Unread | Loaded | pa.Table) -> Loaded | pa.Table:
        return self._reader.load([entry.file]) if isinstance(entry, Unread) else entry

    def _work(self) -> None:
        while self._works():
            pass

    def _works(self) -> bool:
        """Do one part of the work; in a frame of its own, or it is held while none is due."""
        if (taken := self._dealer.take()) is None:
            return False
        try:
            portions = self._loaded(taken.entries, places=self._dealer.places)
        except BaseException as error:
            self._dealer.fail(taken, error)
        else:
            self._dealer.put(taken, portions)
        return True

    def _loaded(
        self, entries: list[Unread | Loaded | pa.Table], *, places: int
    ) -> list[Loaded | pa.Table]:
        unread = [entry for entry in entries if isinstance(entry, Unread)]
        if not unread:
            return cast("list[Loaded | pa.Table]", entries)
        process = self._idle.get()
        kills = process.kills
        try:
            read = iter(self._read(process, unread))
            if process.kills > kills:
                self._work_less(places)
        finally:
            self._idle.put(process)
        return [next(read) if isinstance(entry, Unread) else entry for entry in entries]

    def _work_less(self, places: int) -> None:
        """Have fewer processes work after one was killed, unless it was the first.

        Args:
            places: How many might work when it began: what killed several of them counts once.
        """
        with self._killing:
            self._kills += 1
            if self._kills > 1 and self._dealer.halve(places) and self._all_work:
                self._all_work = False
                self._listener.fewer_workers()

    def _read(self, process: IsolatedProcess, unread: list[Unread]) -> list[Loaded]:
        files = [[entry.file] for entry in unread]
        results = process.map(
            self._reader.load, files, retried=lambda i: self._listener.retried(unread[i])
        )
        return [
            self._lost(entry, result) if isinstance(result, Fault) else result
            for entry, result in zip(unread, results, strict=True)
        ]

    def _lost(self, entry: Unread, fault: Fault) -> Loaded:
        self._listener.lost(entry, fault)
        return self._reader.failed(entry.file, fault.outcome, fault.detail)

"""Files to loaded rows, in order, whatever the files do to the processes that read them."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate, islice
from math import ceil
from queue import LifoQueue
from threading import Condition, Lock
from types import TracebackType
from typing import Generic, Protocol, TypeAlias, TypeVar, cast

import pyarrow as pa

from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.isolation import Fault, IsolatedProcess, Limits
from cxrbatch.scoring.nursery_client import Nursery
from cxrbatch.scoring.rows import LoadedFiles

_CHUNK = 16
# A process takes no more than this at once, unless it is one file: a film is worth a message of its
# own, and is not to lie with a process that another film keeps busy.
_CHUNK_BYTES = 8 << 20
_LEAST_AHEAD = 2
_MOST_AHEAD = 64
_BYTES_AHEAD = 32 << 20
_MOST_ASIDE = 4
# Of what is left in the end, a process takes its part of a half.
_SHARES = 2


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that is to be read, with its number in the manifest."""

    number: int
    file: ArchiveFile


Loaded = TypeVar("Loaded")
Loaded_co = TypeVar("Loaded_co", covariant=True)

Portion: TypeAlias = LoadedFiles | pa.Table
"""What a file of a table is after it was read: rows with inputs; or rows of an earlier table."""


class _Chunk(Generic[Loaded]):
    """Some entries, which are taken from the front, and where they come out of it.

    Attributes:
        waiting: Those that nobody has taken.
        portions: All that became of them, in their order.
    """

    def __init__(self, entries: "list[Unread | Loaded | pa.Table]") -> None:
        self.waiting = entries
        self.portions: Future[list[Loaded | pa.Table]] = Future()
        self._left = len(entries)
        self._parts: dict[int, list[Loaded | pa.Table]] = {}

    def take(self, most: int) -> "tuple[int, list[Unread | Loaded | pa.Table]]":
        """Take so many or, if they are large, fewer; the number says which they are."""
        place = -len(self.waiting)
        sizes = (e.file.size if isinstance(e, Unread) else 0 for e in self.waiting[:most])
        count = max(1, sum(total <= _CHUNK_BYTES for total in accumulate(sizes)))
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return place, taken

    def put(self, place: int, portions: "list[Loaded | pa.Table]") -> None:
        """Give what became of those that were taken there."""
        self._parts[place] = portions
        self._left -= len(portions)
        if not self._left:
            parts = (self._parts[place] for place in sorted(self._parts))
            self.portions.set_result([portion for part in parts for portion in part])


class _Places:
    """So many may work at once; who left and comes back goes before who begins.

    A semaphore would let in who happens to ask first: mostly the one that has just left.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._returning = 0
        self._changed = Condition()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Work at a place, and leave it in the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._free and not self._returning)
            self._free -= 1
        try:
            yield
        finally:
            self.leave()

    def leave(self) -> None:
        """Let others have a place that was taken."""
        with self._changed:
            self._free += 1
            self._changed.notify_all()

    def return_to(self) -> None:
        """Take a place again that was left."""
        with self._changed:
            self._returning += 1
            self._changed.wait_for(lambda: self._free)
            self._returning -= 1
            self._free -= 1
            self._changed.notify_all()


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


class Unheard:
    """Tells nobody: a row says what became of its file, or nobody asks."""

    def retried(self, unread: Unread) -> None:
        """Do nothing."""

    def lost(self, unread: Unread, fault: Fault) -> None:
        """Do nothing."""


class ReadingPool(Generic[Loaded]):
    """Processes that read files ahead of the one who scores them.

    Each thread keeps one child process busy and waits for it, so a lost child costs the others
    nothing. One whose file hangs steps aside, and another works in its place until the deadline
    has passed. PyTorch's DataLoader is not used here: it forks the process that holds the model,
    and the death of one of its workers ends all of them.
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
        """Start.

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
        chunks = _BYTES_AHEAD // (_CHUNK * reader.recipe.size**2)
        self._ahead = max(_LEAST_AHEAD * workers, min(chunks, _MOST_AHEAD))
        self._listener = listener
        if workers:
            self._nursery = nursery or Nursery()
            self._threads = ThreadPoolExecutor(workers + _MOST_ASIDE)
            self._places = _Places(workers)
            self._due: deque[_Chunk[Loaded]] = deque()
            self._dealing = Lock()
            self._all_are_due = False
            # The last one used comes first: the others start no child as long as none hangs.
            self._idle: LifoQueue[IsolatedProcess] = LifoQueue()
            for _ in range(workers + _MOST_ASIDE):
                self._idle.put(IsolatedProcess(self._nursery, limits, aside=self._aside))

    def __enter__(self) -> "ReadingPool[Loaded]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._workers:
            # The children go first, as threads wait for them.
            self._nursery.close()
            self._threads.shutdown(cancel_futures=True)
            while not self._idle.empty():
                self._idle.get().close()

    def load(self, entries: Iterable[Unread | Loaded | pa.Table]) -> Iterator[Loaded | pa.Table]:
        """Read what is unread, pass on what is ready; one portion for each entry, in order.

        Args:
            entries: Taken lazily, a little ahead of the portions.

        Raises:
            CxrbatchError: No process can be started.
        """
        iterator = iter(entries)
        if not self._workers:
            yield from map(self._load_here, iterator)
            return
        ahead: deque[_Chunk[Loaded]] = deque()
        following = list(islice(iterator, _CHUNK))
        while taken := following:
            following = list(islice(iterator, _CHUNK))
            chunk: _Chunk[Loaded] = _Chunk(taken)
            ahead.append(chunk)
            with self._dealing:
                self._due.append(chunk)
                self._all_are_due = not following
            self._threads.submit(self._load_next)
            if len(ahead) > self._ahead:
                yield from ahead.popleft().portions.result()
        while ahead:
            yield from ahead.popleft().portions.result()

    def _load_here(self, entry: Unread | Loaded | pa.Table) -> Loaded | pa.Table:
        return self._reader.load([entry.file]) if isinstance(entry, Unread) else entry

    def _load_next(self) -> None:
        with self._places.taken():
            # Chosen here and not before: who comes first to work is not who waited longest.
            chunk, place, entries = self._taken()
            try:
                portions = self._loaded(entries)
                with self._dealing:
                    chunk.put(place, portions)
            except BaseException as error:
                with self._dealing, suppress(InvalidStateError):
                    chunk.portions.set_exception(error)

    def _taken(self) -> tuple[_Chunk[Loaded], int, list[Unread | Loaded | pa.Table]]:
        """What is read next: of the last ones less and less, so that all processes end together.

        Source: Polychronopoulos and Kuck, "Guided Self-Scheduling", IEEE Transactions on Computers
        1987.
        """
        with self._dealing:
            chunk, most = self._due[0], _CHUNK
            if self._all_are_due and len(self._due) <= _SHARES * self._workers:
                left = sum(len(due.waiting) for due in self._due)
                most = ceil(left / (_SHARES * self._workers))
            place, entries = chunk.take(most)
            if chunk.waiting:
                self._threads.submit(self._load_next)
            else:
                self._due.popleft()
        return chunk, place, entries

    def _loaded(self, entries: list[Unread | Loaded | pa.Table]) -> list[Loaded | pa.Table]:
        unread = [entry for entry in entries if isinstance(entry, Unread)]
        if not unread:
            return cast("list[Loaded | pa.Table]", entries)
        process = self._idle.get()
        try:
            read = iter(self._read(process, unread))
        finally:
            self._idle.put(process)
        return [next(read) if isinstance(entry, Unread) else entry for entry in entries]

    def _read(self, process: IsolatedProcess, unread: list[Unread]) -> list[Loaded]:
        files = [[entry.file] for entry in unread]
        results = process.map(
            self._reader.load, files, retried=lambda i: self._listener.retried(unread[i])
        )
        return [
            self._lost(entry, result) if isinstance(result, Fault) else result
            for entry, result in zip(unread, results, strict=True)
        ]

    @contextmanager
    def _aside(self) -> Iterator[None]:
        self._places.leave()
        try:
            yield
        finally:
            self._places.return_to()

    def _lost(self, entry: Unread, fault: Fault) -> Loaded:
        self._listener.lost(entry, fault)
        return self._reader.failed(entry.file, fault.outcome, fault.detail)

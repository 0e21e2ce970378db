"""Reads items in worker processes and gives the results in the items' order."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from queue import LifoQueue
from threading import Lock, Thread
from types import TracebackType
from typing import Generic, Protocol, TypeVar, cast

from cxrbatch.errors import CxrbatchError
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.workers.forkserver_client import Forkserver
from cxrbatch.workers.scheduler import CHUNK, Chunk, Item, PendingItem, Result, Scheduler
from cxrbatch.workers.worker import WorkerFault, WorkerLimits, WorkerProcess

_LEAST_AHEAD = 2
_MOST_AHEAD = 64
_BYTES_AHEAD = 32 << 20
_SPARE_WORKERS = 4

Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Reader(Protocol[Item_contra, Result_co]):
    """Turns items (such as files) into results; is pickled and sent to the worker processes."""

    def read(self, item: Item_contra, /) -> Result_co:
        """Read one item and return its result; defects of the item are part of the result.

        It is called in a worker process: if it raises an exception, or its result cannot be
        pickled, the pool calls `failed`. Without workers it is called in the main process, and an
        exception ends `ReadingPool.map`.
        """

    def failed(self, item: Item_contra, outcome: Outcome, detail: str, /) -> Result_co:
        """Return the result for an item that could not be read; called in the main process.

        Args:
            item: The item, whose worker process was lost, or whose `read` gave no usable result.
            outcome: Why it could not be read, such as `decoder_crashed`.
            detail: One line for a person.
        """


class PoolListener(Generic[Item]):
    """Base class of objects to which a pool reports retries and failures, from several threads.

    Here each method does nothing; a subclass overrides those that it wants.
    """

    def retried(self, pending: PendingItem[Item]) -> None:
        """Do nothing; called when an item is tried again, as its worker process was lost at it."""

    def lost(self, pending: PendingItem[Item], fault: WorkerFault) -> None:
        """Do nothing; called when reading an item has failed for good, with the reason.

        The item's result is that of `Reader.failed`.
        """

    def fewer_workers(self) -> None:
        """Do nothing; called, once at most, when several worker processes were killed.

        From then on fewer of them read at once.
        """


class ReadingPool(Generic[Item, Result]):
    """Worker processes that read items ahead of the caller who consumes the results.

    To be used as a context manager: it starts threads, and at its end it ends all threads and
    processes. Each thread keeps one worker process busy and waits for it, so a crash costs the
    others nothing. A thread whose item hangs releases its slot, and a spare one works in its
    place until the item's deadline. Where processes are killed from outside, as the system does
    when memory is short, kills after the first halve the number that work at once, down to one. The
    worker processes of PyTorch's DataLoader are not used: they are forked from the process that
    holds the model, and the death of one ends all.
    """

    def __init__(
        self,
        reader: Reader[Item, Result],
        *,
        workers: int,
        limits: WorkerLimits,
        result_bytes: int,
        listener: PoolListener[Item] | None = None,
        forkserver: Forkserver | None = None,
    ) -> None:
        """Start the forkserver, if there are workers; entering the pool starts the threads.

        Args:
            reader: Reads the items.
            workers: How many read at once; 0 reads in this process, which a decoder's crash ends.
            limits: Time and memory that one item may use.
            result_bytes: Typical size of a result: bounds the number of results read ahead.
            listener: Receives retries and losses.
            forkserver: Starts the processes, and is closed with the pool; by default a new one.
                Not used without workers.
        """
        self._reader = reader
        self._workers = workers
        # Far ahead, so that an item that hangs does not keep the others waiting for its deadline.
        chunks = _BYTES_AHEAD // (CHUNK * result_bytes)
        self._chunks_ahead = max(_LEAST_AHEAD * workers, min(chunks, _MOST_AHEAD))
        self._listener = listener or PoolListener()
        if workers:
            self._forkserver = forkserver or Forkserver(preload=(type(reader).__module__,))
            self._threads: list[Thread] = []
            self._counting_kills = Lock()
            self._kills, self._all_work = 0, True
            self._scheduler: Scheduler[Item, Result] = Scheduler(workers)
            # The last one used comes first: spare ones start no process as long as nothing hangs.
            self._idle: LifoQueue[WorkerProcess] = LifoQueue()
            for _ in range(workers + _SPARE_WORKERS):
                self._idle.put(
                    WorkerProcess(
                        self._forkserver, limits, without_slot=self._scheduler.without_slot
                    )
                )

    def __enter__(self) -> "ReadingPool[Item, Result]":
        if self._workers:
            try:
                for _ in range(self._workers + _SPARE_WORKERS):
                    # A daemon: a program that never leaves the pool ends without waiting for it.
                    thread = Thread(target=self._work, daemon=True)
                    thread.start()
                    self._threads.append(thread)
            except RuntimeError as error:  # the system's limit of threads
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
        self._scheduler.close()
        # The processes end first, as threads wait for them.
        self._forkserver.close()
        for thread in self._threads:
            thread.join()
        while not self._idle.empty():
            self._idle.get().close()

    def map(self, entries: Iterable[PendingItem[Item] | Result]) -> Iterator[Result]:
        """Read pending items by `Reader.read`, and pass finished results through.

        Args:
            entries: Each a pending item, or a result that needs no reading; taken lazily, with
                workers up to about a thousand, or 32 a worker, ahead of the results.

        Yields:
            One result for each entry, in order; for an item that could not be read, that of
            `Reader.failed`.

        Raises:
            CxrbatchError: No process can be started.
            RuntimeError: The pool was closed before.
        """
        iterator = iter(entries)
        if not self._workers:
            for entry in iterator:
                yield self._reader.read(entry.item) if isinstance(entry, PendingItem) else entry
            return
        ahead: deque[Chunk[Item, Result]] = deque()
        following = list(islice(iterator, CHUNK))
        while taken := following:
            following = list(islice(iterator, CHUNK))
            chunk: Chunk[Item, Result] = Chunk(taken)
            ahead.append(chunk)
            self._scheduler.add(chunk, last=not following)
            if len(ahead) > self._chunks_ahead:
                yield from ahead.popleft().results()
        while ahead:
            yield from ahead.popleft().results()

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Work on one slice; a frame of its own, which keeps nothing alive while none is due."""
        if (taken := self._scheduler.take()) is None:
            return False
        try:
            results = self._results(taken.entries, slots=self._scheduler.slots)
        except BaseException as error:
            self._scheduler.fail(taken, error)
        else:
            self._scheduler.put(taken, results)
        return True

    def _results(self, entries: list[PendingItem[Item] | Result], *, slots: int) -> list[Result]:
        pending = [entry for entry in entries if isinstance(entry, PendingItem)]
        if not pending:
            return cast("list[Result]", entries)
        process = self._idle.get()
        kills = process.kills
        try:
            read = iter(self._read(process, pending))
            if process.kills > kills:
                self._count_kill(slots)
        finally:
            self._idle.put(process)
        return [next(read) if isinstance(entry, PendingItem) else entry for entry in entries]

    def _count_kill(self, slots: int) -> None:
        """Halve the number of threads that work at once, unless this was the first kill.

        Args:
            slots: Their number when the slice was begun: what killed several processes at once
                counts once.
        """
        with self._counting_kills:
            self._kills += 1
            if self._kills > 1 and self._scheduler.halve(slots) and self._all_work:
                self._all_work = False
                self._listener.fewer_workers()

    def _read(self, process: WorkerProcess, pending: list[PendingItem[Item]]) -> list[Result]:
        results = process.map(
            self._reader.read,
            [entry.item for entry in pending],
            retried=lambda index: self._listener.retried(pending[index]),
        )
        return [
            self._failed(entry, result) if isinstance(result, WorkerFault) else result
            for entry, result in zip(pending, results, strict=True)
        ]

    def _failed(self, pending: PendingItem[Item], fault: WorkerFault) -> Result:
        self._listener.lost(pending, fault)
        return self._reader.failed(pending.item, fault.outcome, fault.detail)

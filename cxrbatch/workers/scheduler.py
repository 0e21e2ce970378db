"""Deals pending items out to worker threads: in order, to a limited number of threads at once."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from math import ceil
from queue import SimpleQueue
from threading import Condition, Lock
from typing import Generic, Protocol, TypeVar

CHUNK = 16
"""Entries that a thread takes at once, at most."""

# A slice holds no more bytes than this, unless it is one item: a large image is worth a message of
# its own, and must not wait in a process that is busy with another large image.
_SLICE_BYTES = 8 << 20
# Near the end a thread takes one part in `_SHARES * slots` of what is left.
_SHARES = 2
_CLOSED = "the scheduler is closed: it gives out no more items"


class Sized(Protocol):
    """An item whose size is known before it is read."""

    @property
    def size(self) -> int:
        """Size in bytes."""


Item = TypeVar("Item", bound=Sized)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class PendingItem(Generic[Item]):
    """An item that is still to be read by a worker process.

    Attributes:
        number: The caller's number of the item.
        item: The item.
    """

    number: int
    item: Item


class Chunk(Generic[Item, Result]):
    """Consecutive entries of a pool's input, and their results in the same order.

    An entry is a `PendingItem`, or a result that needs no reading. Threads take slices of the chunk
    and put their results back; `results` waits until all are there.

    Attributes:
        waiting: Entries that no thread has taken yet.
    """

    def __init__(self, entries: list[PendingItem[Item] | Result]) -> None:
        self.waiting = entries
        self._missing = len(entries)
        self._results: dict[int, list[Result]] = {}
        # Not a Future: an exception that a signal raises in its waiter can leave a Future locked.
        self._end: SimpleQueue[list[Result] | BaseException] = SimpleQueue()

    def take(self, most: int) -> "Slice[Item, Result]":
        """Remove entries from the front of `waiting` and return them as a slice.

        Args:
            most: Number of entries, at least 1. Fewer are removed if their sizes add up to more
                than 8 MiB, but one at least.
        """
        start = -len(self.waiting)
        sizes = (e.item.size if isinstance(e, PendingItem) else 0 for e in self.waiting[:most])
        count = max(1, sum(total <= _SLICE_BYTES for total in accumulate(sizes)))
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return Slice(self, start, taken)

    def put(self, start: int, results: list[Result]) -> None:
        """Store the results of one slice; with the last of them the wait in `results` ends.

        Args:
            start: The slice's `start`.
            results: A result for each entry of the slice, in order.
        """
        self._results[start] = results
        self._missing -= len(results)
        if not self._missing:
            slices = (self._results[start] for start in sorted(self._results))
            self._end.put([result for part in slices for result in part])

    def fail(self, error: BaseException) -> None:
        """End the wait in `results`, which then raises `error`; only the first end counts."""
        self._end.put(error)

    def results(self) -> list[Result]:
        """Wait until each entry has a result, and return them in the entries' order; call it once.

        Raises:
            BaseException: The error that the chunk failed with.
        """
        end = self._end.get()
        if isinstance(end, BaseException):
            raise end
        return end


@dataclass(frozen=True, slots=True)
class Slice(Generic[Item, Result]):
    """Consecutive entries of a chunk that one thread has taken to work on.

    Attributes:
        chunk: The chunk.
        start: Position of the first entry, counted from the end of the chunk, negative.
        entries: Pending items, or results that need no reading.
    """

    chunk: Chunk[Item, Result]
    start: int
    entries: list[PendingItem[Item] | Result]


class Scheduler(Generic[Item, Result]):
    """Hands slices of chunks to threads; at most `slots` threads work at once.

    A thread that waits for a slow item may release its slot meanwhile. When it wants a slot again,
    it goes before threads that begin a slice. A semaphore would prefer whoever asks first: mostly
    the thread that has just left. A thread that has finished a slice takes the next one without
    waking another thread: waking all of them for each slice costs as much as reading two small
    images.

    Attributes:
        slots: Number of threads that may work at once.
    """

    def __init__(self, slots: int) -> None:
        self.slots = self._free = slots
        self._shares = _SHARES * slots
        self._returning = 0
        self._due: deque[Chunk[Item, Result]] = deque()
        self._all_are_due = self._closed = False
        # Entered by itself: a condition that is entered stays locked if a signal raises an
        # exception between its lock and its `with`.
        self._lock = Lock()
        self._may_begin, self._may_return = Condition(self._lock), Condition(self._lock)

    def add(self, chunk: Chunk[Item, Result], *, last: bool) -> None:
        """Append a chunk to the queue from which `take` hands out slices.

        Args:
            chunk: The chunk.
            last: Whether no other chunk follows soon. Then slices get smaller towards the end.

        Raises:
            RuntimeError: The scheduler was closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError(_CLOSED)
            self._due.append(chunk)
            self._all_are_due = last
            self._wake_beginner()

    def take(self) -> Slice[Item, Result] | None:
        """Wait for a free slot and an entry to work on; occupy the slot and return a slice.

        The slice is of the chunk that was added first. When the last chunk is added and few are
        left, slices get smaller and smaller, so that all threads end together. `put` or `fail` must
        follow.

        Returns:
            The slice to work on; None if the scheduler was closed.

        Source: Polychronopoulos and Kuck, "Guided Self-Scheduling", IEEE Transactions on Computers
        1987.
        """
        with self._lock:
            while True:
                self._may_begin.wait_for(lambda: self._closed or self._one_may_begin())
                if self._closed:
                    return None
                chunk = self._due[0]
                try:
                    taken = chunk.take(self._slice_length())
                except BaseException as error:
                    self._due.popleft()
                    chunk.fail(error)  # else the caller would wait for its results for ever
                    continue
                self._free -= 1
                if not chunk.waiting:
                    self._due.popleft()
                self._wake_beginner()
                return taken

    def put(self, taken: Slice[Item, Result], results: list[Result]) -> None:
        """Release the slot that `take` occupied, and store the results of the slice in its chunk.

        Args:
            taken: The slice.
            results: A result for each of its entries, in order.
        """
        with self._lock:
            self._release()
            try:
                taken.chunk.put(taken.start, results)
            except BaseException as error:
                taken.chunk.fail(error)  # else the caller would wait for its results for ever

    def fail(self, taken: Slice[Item, Result], error: BaseException) -> None:
        """Release the slot that `take` occupied, and fail the slice's whole chunk with `error`."""
        with self._lock:
            taken.chunk.fail(error)
            self._release()

    @contextmanager
    def without_slot(self) -> Iterator[None]:
        """In this context the calling thread has no slot, so that another thread may work.

        The slot that `take` occupied is released at the start; at the end the thread waits until it
        has a slot again, and goes before threads that wait in `take`.
        """
        with self._lock:
            self._release()
            self._wake_beginner()
        try:
            yield
        finally:
            with self._lock:
                self._returning += 1
                self._may_return.wait_for(lambda: self._free > 0)
                self._returning -= 1
                self._free -= 1
                self._wake_beginner()

    def halve(self, slots: int) -> bool:
        """Halve the number of slots, rounded down, unless it is 1 or was halved already.

        Args:
            slots: The number that the caller has seen. If there are fewer by now, another thread
                has halved it already and nothing changes.

        Returns:
            Whether the number changed.
        """
        with self._lock:
            if slots == 1 or slots > self.slots:
                return False
            self.slots = slots // 2
            self._free -= slots - self.slots
            return True

    def close(self) -> None:
        """Hand out no more slices: `take` returns None, and `add` raises RuntimeError.

        Chunks with entries that no thread has taken fail with a RuntimeError, which their `results`
        raises. Slices that were taken before may still be finished.
        """
        with self._lock:
            self._closed = True
            while self._due:
                self._due.popleft().fail(RuntimeError(_CLOSED))
            self._may_begin.notify_all()

    def _slice_length(self) -> int:
        if not self._all_are_due or len(self._due) > self._shares:
            return CHUNK
        return ceil(sum(len(due.waiting) for due in self._due) / self._shares)

    def _release(self) -> None:
        self._free += 1
        self._may_return.notify()

    def _one_may_begin(self) -> bool:
        return bool(self._free > 0 and self._due and not self._returning)

    def _wake_beginner(self) -> None:
        if self._one_may_begin():
            self._may_begin.notify()

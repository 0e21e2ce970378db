"""What is due, dealt out to those who read it: in order, to so many at once, none woken in vain."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from math import ceil
from queue import SimpleQueue
from threading import Condition, Lock
from typing import Generic, TypeVar

import pyarrow as pa

from cxrbatch.scoring.archive import ArchiveFile

CHUNK = 16
"""Entries that are taken at once, at most."""

# Nor are more bytes than this, unless it is one file: a film is worth a message of its own, and is
# not to lie with a process that another film keeps busy.
_CHUNK_BYTES = 8 << 20
# Of what is left in the end, a process takes its part of a half.
_SHARES = 2
_CLOSED = "nobody takes this any more: the dealer is closed"


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that is to be read, with its number in the manifest."""

    number: int
    file: ArchiveFile


Loaded = TypeVar("Loaded")


class Chunk(Generic[Loaded]):
    """Some entries, which are taken from the front, and where they come out of it.

    Attributes:
        waiting: Those that nobody has taken.
    """

    def __init__(self, entries: list[Unread | Loaded | pa.Table]) -> None:
        self.waiting = entries
        self._left = len(entries)
        self._parts: dict[int, list[Loaded | pa.Table]] = {}
        # Not a Future: one that is waited for can be left locked by an exception of a signal's.
        self._said: SimpleQueue[list[Loaded | pa.Table] | BaseException] = SimpleQueue()

    def take(self, most: int) -> "Taken[Loaded]":
        """Take so many or, if they are large, fewer."""
        place = -len(self.waiting)
        sizes = (e.file.size if isinstance(e, Unread) else 0 for e in self.waiting[:most])
        count = max(1, sum(total <= _CHUNK_BYTES for total in accumulate(sizes)))
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return Taken(self, place, taken)

    def put(self, place: int, portions: list[Loaded | pa.Table]) -> None:
        """Give what became of those that were taken there."""
        self._parts[place] = portions
        self._left -= len(portions)
        if not self._left:
            parts = (self._parts[place] for place in sorted(self._parts))
            self._said.put([portion for part in parts for portion in part])

    def fail(self, error: BaseException) -> None:
        """Say why nothing became of it; what was said first holds."""
        self._said.put(error)

    def portions(self) -> list[Loaded | pa.Table]:
        """Wait for all that became of them, in their order; to be asked once.

        Raises:
            BaseException: What it failed by.
        """
        said = self._said.get()
        if isinstance(said, BaseException):
            raise said
        return said


@dataclass(frozen=True, slots=True)
class Taken(Generic[Loaded]):
    """Entries that were taken out of a chunk, and which of it they are."""

    chunk: Chunk[Loaded]
    place: int
    entries: list[Unread | Loaded | pa.Table]


class Dealer(Generic[Loaded]):
    """Deals entries out to threads, so many of which may work at once.

    One that waits for a file may leave its place meanwhile; when it comes back it goes before those
    who begin. A semaphore would let in who happens to ask first: mostly the one that has just left.
    And whoever has done its part goes on with the next one without waking another: to wake all that
    wait, for each part, costs what reading two small images does.

    Attributes:
        places: Threads that may work at once.
    """

    def __init__(self, places: int) -> None:
        """Have nothing due.

        Args:
            places: Threads that may work at once.
        """
        self.places = self._free = places
        self._shares = _SHARES * places
        self._returning = 0
        self._due: deque[Chunk[Loaded]] = deque()
        self._all_are_due = self._closed = False
        # Taken by itself: a condition, entered, is left locked by an exception of a signal's that
        # comes between its lock and its `with`.
        self._lock = Lock()
        self._may_begin, self._may_return = Condition(self._lock), Condition(self._lock)

    def add(self, chunk: Chunk[Loaded], *, last: bool) -> None:
        """Have a chunk dealt out; after the last, none follows soon.

        Raises:
            RuntimeError: All is over.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError(_CLOSED)
            self._due.append(chunk)
            self._all_are_due = last
            self._let_begin()

    def take(self) -> Taken[Loaded] | None:
        """Wait for a place and for something to do there, and take both; None when all is over.

        Of the last chunks less and less is taken, so that all processes end together.

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
                    taken = chunk.take(self._most())
                except BaseException as error:
                    self._due.popleft()
                    chunk.fail(error)  # or it would be waited for
                    continue
                self._free -= 1
                if not chunk.waiting:
                    self._due.popleft()
                self._let_begin()
                return taken

    def put(self, taken: Taken[Loaded], portions: list[Loaded | pa.Table]) -> None:
        """Leave the place, and give what became of what was taken."""
        with self._lock:
            self._leave()
            try:
                taken.chunk.put(taken.place, portions)
            except BaseException as error:
                taken.chunk.fail(error)  # or it would be waited for

    def fail(self, taken: Taken[Loaded], error: BaseException) -> None:
        """Leave the place, and say why nothing became of it."""
        with self._lock:
            taken.chunk.fail(error)
            self._leave()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave the place to others for a while."""
        with self._lock:
            self._leave()
            self._let_begin()
        try:
            yield
        finally:
            with self._lock:
                self._returning += 1
                self._may_return.wait_for(lambda: self._free > 0)
                self._returning -= 1
                self._free -= 1
                self._let_begin()

    def halve(self, places: int) -> bool:
        """Let half as many threads work at once from now on, at least one.

        Args:
            places: Threads that may work, as the caller knows it: if fewer may by now, nothing
                changes.

        Returns:
            Whether it was changed.
        """
        with self._lock:
            if places == 1 or places > self.places:
                return False
            self.places = places // 2
            self._free -= places - self.places
            return True

    def close(self) -> None:
        """Deal out no more; what is due fails."""
        with self._lock:
            self._closed = True
            while self._due:
                self._due.popleft().fail(RuntimeError(_CLOSED))
            self._may_begin.notify_all()

    def _most(self) -> int:
        if not self._all_are_due or len(self._due) > self._shares:
            return CHUNK
        return ceil(sum(len(due.waiting) for due in self._due) / self._shares)

    def _leave(self) -> None:
        self._free += 1
        self._may_return.notify()

    def _one_may_begin(self) -> bool:
        return bool(self._free > 0 and self._due and not self._returning)

    def _let_begin(self) -> None:
        if self._one_may_begin():
            self._may_begin.notify()

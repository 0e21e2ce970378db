"""Files are read in child processes with limits, as in a run, and only so many at a time."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from cxrbatch.workers.forkserver_client import Forkserver, ForkserverClosed
from cxrbatch.workers.worker import WorkerFault, WorkerLimits, WorkerProcess

Item = TypeVar("Item")
Result = TypeVar("Result")


class Busy(Exception):
    """So many wait already that another would wait too long; the message says for what."""


class Queue:
    """Lets some work at a time, lets some more wait, and turns the others away."""

    def __init__(self, *, at_work: int, waiting: int) -> None:
        """Start empty.

        Args:
            at_work: How many work at a time.
            waiting: How many may wait for them.
        """
        self._places = threading.BoundedSemaphore(at_work + waiting)
        self._at_work = threading.BoundedSemaphore(at_work)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn.

        Raises:
            Busy: There is no place to wait.
        """
        if not self._places.acquire(blocking=False):
            raise Busy("Too many requests of this kind wait already")
        try:
            with self._at_work:
                yield
        finally:
            self._places.release()


class Children:
    """Calls functions on hostile files, each in a child process of its own that then ends.

    Attributes:
        is_closed: Whether the server is ending.
    """

    def __init__(self, limits: WorkerLimits) -> None:
        """Start nothing yet.

        Args:
            limits: What one file may use.
        """
        self._limits = limits
        self._lock = threading.Lock()
        self._forkserver: Forkserver | None = None
        self.is_closed = False

    def call(self, function: Callable[[Item], Result], item: Item) -> Result | WorkerFault:
        """Give the function's result, or why it has none.

        Raises:
            CxrbatchError: No process can be started.
            ForkserverClosed: `close` was called.
        """
        process = WorkerProcess(self._started(), self._limits)
        try:
            (result,) = process.map(function, [item])
        finally:
            process.close()
        return result

    def close(self) -> None:
        """End all children."""
        with self._lock:
            self.is_closed = True
            if self._forkserver is not None:
                self._forkserver.close()

    def _started(self) -> Forkserver:
        with self._lock:
            if self.is_closed:
                raise ForkserverClosed
            if self._forkserver is None:
                self._forkserver = Forkserver(preload=("cxrbatch.scoring.file_reader",))
            return self._forkserver

"""Reading processes work beside each other, or one of them alone."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Condition, Lock
from typing import TypeAlias

Aside: TypeAlias = Callable[[], AbstractContextManager[object]]
"""Makes a context in which a thread gives up its worker slot; at its end it has one again."""


class ReadingGate:
    """Counts the threads whose process reads, and lets one wait until no other does.

    Who waits here has no worker slot: another may need it for the reading that is waited for.
    """

    def __init__(self) -> None:
        """Let any number of threads read."""
        self._reading = self._alone = 0
        self._lock = Lock()
        self._changed = Condition(self._lock)

    @contextmanager
    def beside_others(self, aside: Aside) -> Iterator[None]:
        """Read in this context; wait before it while another reads alone, or is about to."""
        with self._lock:
            may_read = not self._alone
            self._reading += may_read
        if not may_read:
            with aside(), self._lock:
                self._changed.wait_for(lambda: not self._alone)
                self._reading += 1
        try:
            yield
        finally:
            self._leave(alone=0)

    @contextmanager
    def alone(self, aside: Aside) -> Iterator[None]:
        """Read in this context alone; wait before it until no other thread reads."""
        with aside(), self._lock:
            self._alone += 1
            self._changed.wait_for(lambda: not self._reading)
            self._reading += 1
        try:
            yield
        finally:
            self._leave(alone=1)

    def _leave(self, *, alone: int) -> None:
        with self._lock:
            self._reading -= 1
            self._alone -= alone
            self._changed.notify_all()

"""Ctrl-C and SIGTERM: an orderly end soon, and an end in any case."""

import os
import select
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any

from cxrbatch.errors import Interrupted

GRACE = 4.0
"""Seconds for an orderly end, which waits for one batch and for children that are killed."""

_ENDING = (signal.SIGINT, signal.SIGTERM)
_STOP = b"\0"


class Interruption:
    """While entered, the first signal raises `Interrupted` and a second one ends the process.

    What is left by an exception after a signal is left by `Interrupted`, whatever that exception.

    Python hands a signal to the main thread between two of its instructions, and a large batch or
    a slow disk may keep it from that. So a thread of its own hears of signals too, and ends the
    process where the main thread did not within `GRACE`.
    """

    def __init__(self, report: Callable[[], object]) -> None:
        """Install nothing yet.

        Args:
            report: Says how far the work is; called once, when it was interrupted.
        """
        self._report = report
        self._reporting = threading.Lock()
        self._armed = False
        self._first: int | None = None
        self._previous: Mapping[int, Any] = {}

    def __enter__(self) -> "Interruption":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._handle) for number in _ENDING}
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Where there was a signal, the process is about to end, and a second one still hastens it.
        if self._first is not None:
            if error is not None:
                try:
                    self.report()
                finally:
                    # Libraries put an error of their own in the place of one that passes them,
                    # and nobody may be there any more who reads a report.
                    raise Interrupted(self._first) from None
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.write(self._writer, _STOP)
        self._watcher.join()
        os.close(self._reader)
        os.close(self._writer)

    def arm(self) -> None:
        """From now on signals raise; before, they wait, as an import may lose an exception.

        Raises:
            Interrupted: A signal came already.
        """
        self._armed = True
        if self._first is not None:
            raise Interrupted(self._first)

    def report(self) -> None:
        """Say how far the work is, unless that was said."""
        if self._reporting.acquire(blocking=False):
            self._report()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_first, self._first = self._first is None, self._first or number
        if is_first and self._armed:
            raise Interrupted(number)

    def _watch(self) -> None:
        number = self._heard(None)
        if number is None:
            return
        # None too where the work was left without `Interrupted`, by a library's own handler.
        second = self._heard(GRACE)
        try:
            if second is None:
                self.report()
        finally:
            os._exit(128 + (second or number))

    def _heard(self, seconds: float | None) -> int | None:
        """Wait for a signal that ends the process; None where there is no more to wait for."""
        while select.select([self._reader], [], [], seconds)[0]:
            heard = os.read(self._reader, 1)
            if heard == _STOP:
                return None
            if heard[0] in _ENDING:
                return heard[0]
        return None

"""This process: its signals, standard streams, processor cores and freed memory."""

import os
import select
import signal
import sys
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
    """In this context the first SIGINT or SIGTERM raises `Interrupted`; a second ends the process.

    Before `arm` is called the first signal raises nothing yet. An exception that leaves the context
    after a signal is replaced by `Interrupted`.

    Python handles a signal in the main thread, between two of its instructions; a large batch or a
    slow disk may delay that. So another thread receives signals too, and ends the process if the
    main thread has not ended it within 4 seconds (`GRACE`).
    """

    def __init__(self, report: Callable[[], object]) -> None:
        """Store `report`; the handlers are installed when the context is entered.

        Args:
            report: Called at most once, after a signal, to write how much of the work is done; its
                result is ignored.
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
        # After a signal the handlers stay: a second signal ends the process at once.
        if self._first is not None:
            if error is not None:
                try:
                    self.report()
                finally:
                    # Also where a library replaced the exception, or the report had no reader.
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
        """Let the first signal raise `Interrupted` from now on; call it after all imports.

        A signal that came before raised nothing, as an import may swallow an exception.

        Raises:
            Interrupted: A signal has come already.
        """
        self._armed = True
        if self._first is not None:
            raise Interrupted(self._first)

    def report(self) -> None:
        """Call the function `report` that the constructor got, unless it was called before."""
        if self._reporting.acquire(blocking=False):
            self._report()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_first, self._first = self._first is None, self._first or number
        if is_first and self._armed:
            raise Interrupted(number)

    def _watch(self) -> None:
        number = self._next_signal(None)
        if number is None:
            return
        # None also where a library's handler ended the work without `Interrupted`.
        second = self._next_signal(GRACE)
        try:
            if second is None:
                self.report()
        finally:
            os._exit(128 + (second or number))

    def _next_signal(self, seconds: float | None) -> int | None:
        """Wait for SIGINT or SIGTERM; None after `seconds`, or when the context has ended."""
        while select.select([self._reader], [], [], seconds)[0]:
            received = os.read(self._reader, 1)
            if received == _STOP:
                return None
            if received[0] in _ENDING:
                return received[0]
        return None


def open_standard_streams() -> None:
    """Open the null device for each standard stream that was closed when Python started.

    Daemons and desktop launchers close them. The next files and sockets would then get the
    descriptors 0 to 2, and output of this process or of its children would be written into them.
    To be called before any file or socket is opened.

    Raises:
        OSError: There is no null device.

    Source: POSIX.1-2017, `open`: a new descriptor has the lowest number that is free.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)  # or it would be closed again in child processes
            stream = os.fdopen(
                descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False
            )
            setattr(sys, name, stream)


# From malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Set glibc's malloc to reuse freed blocks instead of returning them to the system.

    Activations are tens of megabytes. By default each is mapped anew, and the kernel clears it page
    by page, for every layer of every batch: a fifth of the forward pass on a CPU. Memory does not
    grow, as every batch asks for the same blocks. New threads share one arena: an arena of their
    own is returned to the system when it is empty, and holds no block above 64 MB. Without glibc
    nothing is set.
    """
    import ctypes  # not needed for --help

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)
        mallopt(_M_ARENA_MAX, 1)


MOST_WORKERS = 16


def available_cores() -> int:
    """Return the number of processor cores that this process may use, by its CPU affinity."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers() -> int:
    """Return the default number of reading processes: one per available core, but at most 16."""
    return min(available_cores(), MOST_WORKERS)

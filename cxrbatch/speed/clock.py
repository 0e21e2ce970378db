"""A run timed from when it is in full swing."""

import time

from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.progress import Progress


class RunClock:
    """Passes progress on, and times a run without the filling and draining of what is on its way.

    The clock starts when some files were taken. It stands still from when the last one is taken
    until its score is there, as the scores of others were on their way when it started: between,
    as many images are scored as are taken. Where no file is to be taken before, all counts.

    Attributes:
        before: Files that were taken before the clock started.
    """

    def __init__(self, progress: Progress, *, after: int) -> None:
        """Wait for the run.

        Args:
            progress: Told what the clock is told.
            after: Files that are taken before it starts.
        """
        self._progress = progress
        self._after = after
        self._started = self._last_taken = self._drained = 0.0
        self.before = 0

    @property
    def seconds(self) -> float:
        """From its start to now, when the run has ended."""
        draining = self._drained - self._last_taken if self._after else 0.0
        return time.perf_counter() - self._started - draining

    def found(self, files: int) -> None:
        """As of `Progress`."""
        self._progress.found(files)

    def start(self, files: int, *, done: int) -> None:
        """As of `Progress`."""
        self._progress.start(files, done=done)
        self._started = time.perf_counter()

    def advance(self, files: int) -> None:
        """As of `Progress`."""
        self._progress.advance(files)
        self._last_taken = time.perf_counter()
        if self.before < self._after:
            self.before += files
            self._started = self._last_taken

    def shard_done(self, files: int) -> None:
        """As of `Progress`."""
        self._progress.shard_done(files)
        self._drained = time.perf_counter()

    def failed(self, number: int, path: str, outcome: Outcome) -> None:
        """As of `Progress`."""
        self._progress.failed(number, path, outcome)

    def retried(self, number: int, path: str) -> None:
        """As of `Progress`."""
        self._progress.retried(number, path)

    def fewer_workers(self) -> None:
        """As of `Progress`."""
        self._progress.fewer_workers()

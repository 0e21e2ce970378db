"""Who is told of a run in the tests."""

from cxrbatch.reading.outcomes import Outcome


class Silent:
    """Progress that is kept for the tests to look at."""

    def __init__(self) -> None:
        self.files = 0
        self.done = 0

    def found(self, files: int) -> None:
        """Count nothing: `start` says it again."""

    def start(self, files: int, *, done: int) -> None:
        """Note the number of files."""
        self.files = files
        self.done = done

    def advance(self, files: int) -> None:
        """Add up the files that are done."""
        self.done += files

    def shard_done(self, files: int) -> None:
        """Count nothing: `advance` says it again."""

    def failed(self, number: int, path: str, outcome: Outcome) -> None:
        """Leave it to the table."""

    def retried(self, number: int, path: str) -> None:
        """Leave it to the table."""

    def fewer_workers(self) -> None:
        """Leave it to the table."""

"""What a run tells while it goes on."""

from typing import Protocol

from cxrbatch.reading.outcomes import Outcome


class Progress(Protocol):
    """Told how far a run is, by one thread or another."""

    def found(self, files: int) -> None:
        """The walk has found so many files."""

    def start(self, files: int, *, done: int) -> None:
        """Scoring begins; so many of the files are done, by a run that goes on here."""

    def advance(self, files: int) -> None:
        """So many more files are scored."""

    def shard_done(self, files: int) -> None:
        """So many more files are on the disk, for a run that goes on to find."""

    def failed(self, number: int, path: str, outcome: Outcome) -> None:
        """An image could not be read: the number of its file in the manifest, and its path."""

    def retried(self, number: int, path: str) -> None:
        """The process that read a file was lost; the file is tried once more."""

    def fewer_workers(self) -> None:
        """Several reading processes were killed: fewer read at once from now on; told once."""

"""How far a command's run is: a bar for a person, or a line of JSON per event for a log."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import click

from cxrbatch.process import Interruption
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.run import Progress, ProgressBar


class CommandBar(ProgressBar):
    """The bar of a command that a signal may interrupt.

    Attributes:
        interruption: Raises signals from the moment on when all modules are loaded.
    """

    interruption: Interruption | None = None

    def loaded(self) -> None:
        """Raise signals as exceptions from now on."""
        if self.interruption is not None:
            self.interruption.arm()

    def interrupted(self, command: str) -> None:
        """Write how many files are kept, and the command that continues the run."""
        self.close()
        if self.kept:
            click.echo(f"interrupted: {self.kept:,} of {self.files:,} files are kept", err=True)
            click.echo(f"go on with: {command}", err=True)
        else:
            click.echo("interrupted before the first files were kept", err=True)
            click.echo(f"start again with: {command}", err=True)

    def finished(self, *, rows: int, outcomes: Mapping[str, int]) -> None:
        """Write nothing: the summary follows."""


class EventLog(Progress):
    """Events on stderr, one JSON object per line, with the number of a file in the manifest.

    Attributes:
        interruption: Raises signals from the moment on when all modules are loaded.
    """

    interruption: Interruption | None = None

    def __init__(self, *, paths: bool) -> None:
        """Count no files yet.

        Args:
            paths: Write paths of files too, which may name patients.
        """
        self._paths = paths
        self._files = 0
        self._kept = 0

    def loaded(self) -> None:
        """Raise signals as exceptions from now on."""
        if self.interruption is not None:
            self.interruption.arm()

    def start(self, files: int, *, done: int) -> None:
        """Write how many files there are, and how many are done."""
        self._files, self._kept = files, done
        self._write("resumed" if done else "started", files=files, done=done)

    def shard_done(self, files: int) -> None:
        """Write that a shard is on the disk."""
        self._kept += files
        self._write("shard_done", files=self._files, done=self._kept)

    def failed(self, number: int, path: str, outcome: Outcome) -> None:
        """Write that a file could not be read."""
        self._write_of_file("file_failed", number, path, outcome=outcome.value)

    def retried(self, number: int, path: str) -> None:
        """Write that a file is read once more."""
        self._write_of_file("retry", number, path)

    def fewer_workers(self) -> None:
        """Write that fewer processes read from now on, as several were killed."""
        self._write("fewer_workers")

    def interrupted(self, command: str) -> None:
        """Write how many files are kept; the command that continues the run names files."""
        named = {"go_on_with": command} if self._paths else {}
        self._write("interrupted", files=self._files, done=self._kept, **named)

    def finished(self, *, rows: int, outcomes: Mapping[str, int]) -> None:
        """Write the counts of the table."""
        self._write("finished", rows=rows, outcomes=dict(sorted(outcomes.items())))

    def _write(self, event: str, **fields: object) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        click.echo(json.dumps({"time": time, "event": event, **fields}), err=True)

    def _write_of_file(self, event: str, number: int, path: str, **fields: object) -> None:
        named = {"path": path} if self._paths else {}
        self._write(event, file=number, **fields, **named)

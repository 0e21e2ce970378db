"""How far a command's run is: a bar for a person, or a line of JSON per event for a log."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime

import click

from cxrbatch.process import Interruption
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.run import Progress
from cxrbatch.scoring.score import ProgressBar


class CommandBar(ProgressBar):
    """The progress bar of a command that Ctrl-C or SIGTERM may interrupt.

    Attributes:
        interruption: The object that `loaded` arms, so that signals raise `Interrupted`; with None
            signals do what they did before.
    """

    interruption: Interruption | None = None

    def loaded(self) -> None:
        """Let Ctrl-C and SIGTERM raise `Interrupted` from now on, if `interruption` is set."""
        if self.interruption is not None:
            self.interruption.arm()

    def interrupted(self, command: str) -> None:
        """Remove the bar; write to stderr how many files' rows are on disk and how to continue.

        The run is not ended by this method. The lines are written where no bar was shown, too.

        Args:
            command: The command line that continues the run, or starts it anew if no row is on
                disk.
        """
        self.close()
        if self.kept:
            click.echo(f"interrupted: {self.kept:,} of {self.files:,} files are kept", err=True)
            click.echo(f"go on with: {command}", err=True)
        else:
            click.echo("interrupted before the first files were kept", err=True)
            click.echo(f"start again with: {command}", err=True)

    def finished(self, *, rows: int, outcomes: Mapping[str, int]) -> None:
        """Do nothing: the command prints its summary next."""


class EventLog(Progress):
    """Writes the events of a run to stderr, one JSON object per line.

    Each object has `time` (UTC, to a millisecond) and `event`, the name of the event. A file is
    named by its number in the manifest, the list of the archive's files.

    Attributes:
        interruption: The object that `loaded` arms, so that signals raise `Interrupted`; with None
            signals do what they did before.
    """

    interruption: Interruption | None = None

    def __init__(self, *, paths: bool) -> None:
        """Set all counts to 0.

        Args:
            paths: Write paths of files too, which may name patients.
        """
        self._paths = paths
        self._files = 0
        self._kept = 0

    def loaded(self) -> None:
        """Let Ctrl-C and SIGTERM raise `Interrupted` from now on; write nothing.

        Nothing happens if `interruption` is None.
        """
        if self.interruption is not None:
            self.interruption.arm()

    def start(self, files: int, *, done: int) -> None:
        """Write the event "started", or "resumed" if `done` is not 0.

        Args:
            files: Number of files of the run.
            done: Number of these that an earlier, unfinished run has scored already.
        """
        self._files, self._kept = files, done
        self._write("resumed" if done else "started", files=files, done=done)

    def shard_done(self, files: int) -> None:
        """Write the event "shard_done" with the number of files whose rows are on disk so far.

        Args:
            files: Number of files of the shard that was just written; added to that number.
        """
        self._kept += files
        self._write("shard_done", files=self._files, done=self._kept)

    def failed(self, number: int, path: str, outcome: Outcome) -> None:
        """Write the event "file_failed", with the outcome: an image of a file could not be read.

        Args:
            number: The file's number, from 0, in the manifest (the list of the archive's files).
            path: Its path; written only if the log was made with `paths`.
            outcome: Why it could not be read.
        """
        self._write_of_file("file_failed", number, path, outcome=outcome.value)

    def retried(self, number: int, path: str) -> None:
        """Write the event "retry": a file is read a second time, as its worker process was lost.

        Args:
            number: The file's number, from 0, in the manifest (the list of the archive's files).
            path: Its path; written only if the log was made with `paths`.
        """
        self._write_of_file("retry", number, path)

    def fewer_workers(self) -> None:
        """Write the event "fewer_workers": worker processes were killed; fewer read from now on."""
        self._write("fewer_workers")

    def interrupted(self, command: str) -> None:
        """Write the event "interrupted": how many files there are, and how many have rows on disk.

        Args:
            command: The command line that continues the run; it names files, so it is written only
                if the log was made with `paths`.
        """
        named = {"go_on_with": command} if self._paths else {}
        self._write("interrupted", files=self._files, done=self._kept, **named)

    def finished(self, *, rows: int, outcomes: Mapping[str, int]) -> None:
        """Write the event "finished" with the number of rows, in all and by outcome code.

        Args:
            rows: Number of rows of the table.
            outcomes: Rows per outcome code.
        """
        self._write("finished", rows=rows, outcomes=dict(sorted(outcomes.items())))

    def _write(self, event: str, **fields: object) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        click.echo(json.dumps({"time": time, "event": event, **fields}), err=True)

    def _write_of_file(self, event: str, number: int, path: str, **fields: object) -> None:
        named = {"path": path} if self._paths else {}
        self._write(event, file=number, **fields, **named)

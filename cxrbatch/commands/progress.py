"""How far a run is: a bar for a person, or a line of JSON per event for a log."""

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from tqdm import tqdm

    from cxrbatch.reading.outcomes import Outcome


class Bar:
    """Files found, then files done with rate and time left; on a terminal alone."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None
        self.files = 0
        self.kept = 0

    def found(self, files: int) -> None:
        """Show that the walk goes on."""
        if self._bar is None:
            self._open("looking for files", None, 0)
        if self._bar is not None:
            self._bar.update(files - self._bar.n)

    def start(self, files: int, *, done: int) -> None:
        """Say what is left where a run goes on, and show what follows."""
        self.close()
        self.files, self.kept = files, done
        if done:
            click.echo(
                f"going on with an unfinished run: {done:,} of {files:,} files are done, "
                f"{files - done:,} are left",
                err=True,
            )
        self._open("scoring", files, done)

    def advance(self, files: int) -> None:
        """Show more files as done."""
        if self._bar is not None:
            self._bar.update(files)

    def shard_done(self, files: int) -> None:
        """Count what a later run need not repeat."""
        self.kept += files

    def failed(self, number: int, path: str, outcome: "Outcome") -> None:
        """Leave it to the summary."""

    def retried(self, number: int, path: str) -> None:
        """Leave it to the summary."""

    def fewer_workers(self) -> None:
        """Say so, above the bar; called by another thread."""
        from tqdm import tqdm

        tqdm.write(
            "warning: reading processes were killed, most likely as memory is short: fewer read "
            "at once from now on; use fewer --workers or a machine with more memory",
            file=sys.stderr,
        )

    def interrupted(self, command: str) -> None:
        """Say what was kept, and how to go on."""
        self.close()
        if self.kept:
            click.echo(f"interrupted: {self.kept:,} of {self.files:,} files are kept", err=True)
            click.echo(f"go on with: {command}", err=True)
        else:
            click.echo("interrupted before the first files were kept", err=True)
            click.echo(f"start again with: {command}", err=True)

    def finished(self, *, rows: int, outcomes: Mapping[str, int]) -> None:
        """Leave it to the summary."""

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _open(self, what: str, total: int | None, done: int) -> None:
        from tqdm import tqdm

        # disable=None: no bar where stderr is not a terminal.
        self._bar = tqdm(
            desc=what, total=total, initial=done, unit=" files", disable=None, dynamic_ncols=True
        )


class EventLog:
    """Events on stderr, one JSON object per line, with the number of a file in the manifest."""

    def __init__(self, *, paths: bool) -> None:
        """Say nothing yet.

        Args:
            paths: Name files too, which may tell of patients.
        """
        self._paths = paths
        self.files = 0
        self.kept = 0

    def found(self, files: int) -> None:
        """Leave it to the start."""

    def start(self, files: int, *, done: int) -> None:
        """Tell how much is to be done."""
        self.files, self.kept = files, done
        self.tell("resumed" if done else "started", files=files, done=done)

    def advance(self, files: int) -> None:
        """Leave it to the shards."""

    def shard_done(self, files: int) -> None:
        """Tell that a shard is on the disk."""
        self.kept += files
        self.tell("shard_done", files=self.files, done=self.kept)

    def failed(self, number: int, path: str, outcome: "Outcome") -> None:
        """Tell that a file could not be read."""
        self._tell_of_file("file_failed", number, path, outcome=outcome.value)

    def retried(self, number: int, path: str) -> None:
        """Tell that a file is tried once more."""
        self._tell_of_file("retry", number, path)

    def fewer_workers(self) -> None:
        """Tell that fewer processes read from now on, as several were killed."""
        self.tell("fewer_workers")

    def interrupted(self, command: str) -> None:
        """Tell what was kept; the command that goes on names files."""
        named = {"go_on_with": command} if self._paths else {}
        self.tell("interrupted", files=self.files, done=self.kept, **named)

    def finished(self, *, rows: int, outcomes: Mapping[str, int]) -> None:
        """Tell what became of the archive."""
        self.tell("finished", rows=rows, outcomes=dict(sorted(outcomes.items())))

    def close(self) -> None:
        """Nothing is open."""

    def tell(self, event: str, **fields: object) -> None:
        """Write one event."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        click.echo(json.dumps({"time": time, "event": event, **fields}), err=True)

    def _tell_of_file(self, event: str, number: int, path: str, **fields: object) -> None:
        named = {"path": path} if self._paths else {}
        self.tell(event, file=number, **fields, **named)

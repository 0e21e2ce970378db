"""The bars of the command `audit`: the archive's first pass, then films in all passes."""

import sys
from typing import TYPE_CHECKING, NoReturn

import click

from cxrbatch.auditing.audit import AuditListener
from cxrbatch.process import Interruption
from cxrbatch.scoring.score import ProgressBar

if TYPE_CHECKING:
    from tqdm import tqdm


class FirstPassBar(ProgressBar):
    """The bar of the first pass, which arms the interruption of the command.

    Attributes:
        interruption: What `loaded` arms, so that signals raise `Interrupted`; None for nothing.
    """

    interruption: Interruption | None = None

    def loaded(self) -> None:
        """Let Ctrl-C and SIGTERM raise `Interrupted` from now on, if `interruption` is set."""
        if self.interruption is not None:
            self.interruption.arm()


class AuditBar(AuditListener):
    """Shows tqdm bars on stderr, if that is a terminal.

    Attributes:
        scoring: The bar of the first pass.
    """

    scoring: FirstPassBar

    def __init__(self) -> None:
        self.scoring = FirstPassBar()
        self._bar: tqdm[NoReturn] | None = None

    def begin(self, films: int) -> None:
        """Replace the bar of the first pass by one of so many films in all passes."""
        from tqdm import tqdm

        self.scoring.close()
        self._bar = tqdm(
            desc="auditing", total=films, unit=" films", disable=None, dynamic_ncols=True
        )

    def advance(self, films: int) -> None:
        """Move the bar on by so many films."""
        if self._bar is not None:
            self._bar.update(films)

    def close(self) -> None:
        """End the bars."""
        self.scoring.close()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def interrupted(self, command: str) -> None:
        """Remove the bars, and write to stderr how to go on.

        Args:
            command: The command line that continues the audit.
        """
        self.close()
        click.echo("interrupted: finished parts are kept", err=True)
        click.echo(f"go on with: {command}", err=True)
        sys.stderr.flush()

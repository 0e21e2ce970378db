"""What the commands that make pages have in common."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from cxrbatch import options as shared

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def json_option(command: Decorated) -> Decorated:
    """`--json`: passes `figures`, a Path or None."""
    return click.option(
        "--json", "figures", type=shared.FILE, metavar="FILE", help="Write the figures here too."
    )(command)


def labels_option(command: Decorated) -> Decorated:
    """`--labels`: passes `labels`, a Path or None."""
    return click.option(
        "--labels",
        type=shared.FILE,
        metavar="FILE",
        help="CSV or Parquet with the column label and one of path, sop_instance_uid, image_hash.  "
        "[default: the table's own column truth, or class-named folders]",
    )(command)


def archive_option(command: Decorated) -> Decorated:
    """`--archive`: passes `archive`, a Path or None."""
    return click.option(
        "--archive",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        metavar="DIR",
        help="Where the archive is now.  [default: where it was scored]",
    )(command)


def show_paths_option(command: Decorated) -> Decorated:
    """`--show-paths`: passes `show_paths`, a bool."""
    return click.option(
        "--show-paths", is_flag=True, help="Name files in the page, which may tell of persons."
    )(command)


class Steps:
    """Steps on stderr, for a terminal alone."""

    def __init__(self) -> None:
        """See whether someone looks."""
        self._shows = sys.stderr.isatty()

    def step(self, what: str) -> None:
        """Say what begins."""
        if self._shows:
            click.echo(f"{what} …", err=True)


class Progress(Protocol):
    """Told of each step as it begins."""

    def step(self, what: str) -> None:
        """Something begins, named as a person would."""

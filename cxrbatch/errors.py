"""The errors that a user can cause, in one tree.

    CxrbatchError            exit 1: the work could not be done
    ├── UsageError           exit 2: the command was wrong
    ├── CheckpointError      a file is no checkpoint, or does not fit its card
    ├── NotFiniteError       a model's scores are infinite or NaN
    ├── TableError           a results table cannot be written or read
    └── LabelError           labels that cannot be used

The message of each is one line for a person: what is wrong and what to do about it. The command
line prints it without a traceback; a program that uses the library catches `CxrbatchError`.
`Interrupted` stands beside them: a signal, which `except Exception` lets pass.
"""

import math
import numbers
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_OPTION = re.compile(r"(?<![\w-])(?:--(map TEXT=CLASS|[a-z][a-z-]+)|(-o))\b")
_ARGUMENTS = {
    "-o": "output",
    "map": "class_map",
    "map TEXT=CLASS": "class_map={TEXT: CLASS}",
    **{
        name: f"{name.replace('-', '_')}=True"
        for name in ("overwrite", "update", "resume", "drop-leaks", "flip")
    },
}


class CxrbatchError(Exception):
    """Base of the errors that input, call or system cause, and not the program."""

    exit_code = 1


class UsageError(CxrbatchError):
    """A command or call that is wrong, or contradicts itself or the state of the disk."""

    exit_code = 2


class CheckpointError(CxrbatchError):
    """A file that is no checkpoint, or whose weights do not fit its card."""


class NotFiniteError(CxrbatchError):
    """Scores of a model that are infinite or NaN."""


class TableError(CxrbatchError):
    """A table or another output that cannot be written, or a file that is no results table."""


class LabelError(CxrbatchError):
    """Labels, their files or folders, or a split of them that cannot be used."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM, raised in the main thread; `except Exception` lets it pass.

    Attributes:
        exit_code: 128 plus the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def naming_arguments() -> Iterator[None]:
    """In this context, replace option names by argument names in the text of a CxrbatchError.

    --batch-size becomes `batch_size`: the text is then right for a Python program that calls a
    public function. A command calls the functions inside the public one, whose texts name options.

    Raises:
        CxrbatchError: The error that left the context, with its text changed.
    """
    try:
        yield
    except CxrbatchError as error:
        error.args = (_OPTION.sub(_argument, str(error)),)
        raise


def plain_number(
    name: str,
    value: object,
    kind: type[int] | type[float],
    low: float,
    high: float = math.inf,
) -> int | float:
    """Return the number that a caller gave for an argument as a plain int or float.

    Args:
        name: Name of the argument, for the message.
        value: What the caller gave; numbers of NumPy are converted.
        kind: int for a whole number, float for any.
        low: The smallest number that is allowed.
        high: The largest that is allowed; by default there is no limit.

    Raises:
        UsageError: It is no number of that kind (True and False are none), NaN or out of the range.
    """
    family = numbers.Integral if kind is int else numbers.Real
    number: Any = value
    if isinstance(value, bool) or not isinstance(value, family) or not low <= number <= high:
        limits = f"from {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        whole = "a whole number" if kind is int else "a number"
        raise UsageError(f"{name} is {repr(value)[:60]}; give {whole} {limits}")
    return kind(number)


def checked_path(name: str, value: object) -> Path:
    """Return the path that a caller gave for an argument.

    Args:
        name: Name of the argument, for the message.
        value: What the caller gave.

    Raises:
        UsageError: It is neither a text nor a path object, or is a path that no file has: an empty
            one, or one with a NUL or with a surrogate that stands for no byte.
    """
    path = value.__fspath__() if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise UsageError(f"{name} is of the type {type(value).__name__}; give a text or a Path")
    if not path:
        raise UsageError(f"{name} is an empty path; name a file or a folder")
    try:
        is_possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_possible = False
    if not is_possible:
        raise UsageError(f"{name} has a character that no path has, such as NUL")
    return Path(path)


def _argument(option: re.Match[str]) -> str:
    name = option[1] or option[2]
    return _ARGUMENTS.get(name, name.replace("-", "_"))

"""Uploads on the disk, where the one who started the server asked for it.

Each is a file of its bytes under a random name, and beside it, as JSON, what a program was told of
it. What the client called it is in neither.
"""

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from cxrbatch.errors import UsageError
from cxrbatch.scoring.durable import written_whole

_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600


class NotKept(Exception):
    """The upload cannot be kept; the message is the system's."""


class Keeper:
    """Keeps uploads in a private folder."""

    def __init__(self, folder: Path) -> None:
        """Make the folder, or see that it can be written to and is private.

        Raises:
            UsageError: It cannot be used.
        """
        self._folder = folder
        try:
            folder.mkdir(_PRIVATE_FOLDER, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            mode = folder.stat().st_mode
        except OSError as error:
            raise UsageError(
                f"cannot keep uploads in {folder}: {error.strerror}; name another folder"
            ) from None
        if mode & 0o077:
            raise UsageError(f"others may look into {folder}: chmod 700 it, or name another folder")

    def keep(self, file: BinaryIO, form: str, told: Sequence[Any]) -> None:
        """Write an upload and what was told of it: both, or neither.

        Args:
            file: The upload.
            form: Its format, which ends its name.
            told: JSON values.

        Raises:
            NotKept: It cannot be written.
        """
        name = secrets.token_hex(16)
        content, row = (self._folder / f"{name}.{end}" for end in (form, "json"))
        try:
            with _written(content) as kept:
                file.seek(0)
                shutil.copyfileobj(file, kept)
            with _written(row) as kept:
                kept.write(json.dumps(told, indent=1).encode())
        except OSError as error:
            for path in (content, row):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            raise NotKept(error.strerror) from None


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    with written_whole(path) as file:
        os.fchmod(file.fileno(), _PRIVATE_FILE)
        yield file

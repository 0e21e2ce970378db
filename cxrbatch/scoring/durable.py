"""Files that are whole or not there, also after a power cut."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written_whole(path: Path, *, within: Path | None = None) -> Iterator[BinaryIO]:
    """Give a file to write that gets its name when the block ends, and none if it raises.

    Args:
        path: Its name.
        within: The folder of the same disk where it is kept until then; that of its name if None.

    Raises:
        OSError: It cannot be written.
    """
    partial = (within or path.parent) / f"{path.name}.tmp"
    try:
        # Never through a link that waits under its name.
        partial.unlink(missing_ok=True)
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def publish(partial: Path, path: Path) -> None:
    """Give a file that is on the disk its name, replacing what had it.

    Raises:
        OSError: It cannot be renamed.
    """
    os.replace(partial, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

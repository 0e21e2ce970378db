"""Files that are whole or not there, also after a power cut."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cxrbatch.errors import TableError, UsageError
from cxrbatch.paths import check_output, path_to_text


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


RUN_STATE = "run.json"
"""Its presence says that the folder holds a run that can go on."""

_LOCK = "lock"
_LOCK_BYTES = 4096


def partial_folder(output: Path) -> Path:
    """Where what is not whole yet is kept."""
    return output.with_name(f"{output.name}.partial")


@contextmanager
def claimed(output: Path) -> Iterator[Path]:
    """Hold the partial folder of an output; it stays only where a run in it can go on.

    The lock is the system's own on an open file: it ends with the process, however that ends.

    Raises:
        UsageError: Another run holds it, or nothing can have the output's name.
        TableError: The folder cannot be made.
    """
    check_output(output, overwrite=True)
    folder = partial_folder(output)
    with writing(output):
        lock = _locked(folder, output)
    try:
        yield folder
    finally:
        with suppress(OSError):
            if not (folder / RUN_STATE).exists():
                clear(folder)
                (folder / _LOCK).unlink()
                folder.rmdir()
        os.close(lock)


def clear(folder: Path) -> None:
    """Remove all of a run but its lock.

    Raises:
        OSError: It cannot be removed.
    """
    # Without its state the rest is no run any more, so that goes first.
    (folder / RUN_STATE).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.name != _LOCK:
            path.unlink()


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Turn what the system says against writing an output into one line with a remedy.

    Raises:
        TableError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "")
        reason = error.strerror or type(error).__name__
        raise TableError(f"cannot write {output}: {reason}{remedy}") from None


_FULL = "; free space or choose another -o, then run again to go on"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: "; choose a folder that you may write to",
    errno.EROFS: "; choose a folder that can be written",
    errno.ENOLCK: "; choose a file system that has locks",
    errno.EIO: "; check the disk, then run again to go on",
}


def _locked(folder: Path, output: Path) -> int:
    path = folder / _LOCK
    while True:
        folder.mkdir(exist_ok=True)
        if not path.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not the folder of a run; move it, or choose another -o")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # a run that ended took the folder away meanwhile
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise UsageError(
                f"{output} is being written by {holder}; wait for it, or choose another -o"
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        if _is_still(path, descriptor):
            break
        os.close(descriptor)
    _sign(descriptor)
    return descriptor


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the file that is locked is the one that others will find."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


def _sign(descriptor: int) -> None:
    holder = json.dumps({"process": os.getpid(), "host": socket.gethostname()})
    # For the message of others alone: a full disk is no reason to stop here.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, _LOCK_BYTES, 0))
        return f"process {int(holder['process'])} on {path_to_text(str(holder['host']).encode())}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"

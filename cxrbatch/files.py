"""Files on the disk: names as text, files that are whole or absent, locks, errors of the disk.

A POSIX name is bytes, and a table's text is UTF-8, so names are written reversibly: a byte that is
no UTF-8 becomes `\\xNN`, and a backslash becomes two, so that each name has one text and each such
text one name. Other characters stay as they are. A member of a container is written
`container!/member`; a `!` before a slash in a name becomes `\\x21`. A NUL, which only a member's
name can contain, becomes `\\x00`.
"""

import errno
import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cxrbatch.errors import CxrbatchError, TableError, UsageError

_SURROGATES = 0xDC00
_INSIDE = "!/"
_LONGEST_SHOWN, _MOST_LISTED = 200, 8
_PARQUET = b"PAR1"  # the first bytes of any Parquet file
_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2})")


def path_to_text(path: bytes, member: bytes | None = None) -> str:
    """Write a path, relative or absolute, as valid Unicode text, from which it can be restored.

    A byte that is no UTF-8, a NUL, and a `!` before a slash become a backslash, x and two
    hexadecimal digits; a backslash becomes two. A member of a container is written
    container!/member.

    Args:
        path: As the operating system gives it.
        member: Name of a member of the container at `path`, as the container spells it.
    """
    if member is not None:
        return f"{path_to_text(path)}{_INSIDE}{path_to_text(member)}"
    text = path.decode("utf-8", "surrogateescape").replace("\\", "\\\\")
    text = text.replace(_INSIDE, "\\x21/").replace("\0", "\\x00")
    return "".join(
        f"\\x{ord(c) - _SURROGATES:02x}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text
    )


def text_to_path(text: str) -> bytes:
    """Convert a text that `path_to_text` returned for a path without a member back to the path.

    Raises:
        ValueError: `path_to_text` returns no such text.
    """

    def unescape(match: re.Match[str]) -> str:
        code = match[1]
        if code == "\\":
            return code
        byte = int(code[1:], 16)
        return chr(byte if byte < 0x80 else _SURROGATES + byte)

    path = _ESCAPE.sub(unescape, text).encode("utf-8", "surrogateescape")
    if path_to_text(path) != text:
        raise ValueError("not a path written by path_to_text")
    return path


def text_to_place(text: str) -> tuple[bytes, bytes | None]:
    """Convert a text that `path_to_text` returned back to the path and the member.

    Returns:
        The path of a file or container; the name of a member, None if the text names none.

    Raises:
        ValueError: `path_to_text` returns no such text.
    """
    path, inside, member = text.partition(_INSIDE)
    return text_to_path(path), text_to_path(member) if inside else None


def shown(name: str) -> str:
    """Return a name quoted for a message, as `repr` does: unprintable characters are escaped.

    Of a name of more than 200 characters the first and the last 100 are kept, with "…" between.
    """
    if len(name) > _LONGEST_SHOWN:
        name = f"{name[: _LONGEST_SHOWN // 2]}…{name[-_LONGEST_SHOWN // 2 :]}"
    return repr(name)


def listed(names: Sequence[str]) -> str:
    """Return up to eight names as `shown` quotes them, divided by commas."""
    return ", ".join(map(shown, names[:_MOST_LISTED])) + (" …" if names[_MOST_LISTED:] else "")


def check_output(output: Path, *, overwrite: bool, source: Path | None = None) -> None:
    """Check that a file of this name may be written, before any work is done; nothing is created.

    Args:
        output: The file.
        overwrite: Whether an existing file may be replaced.
        source: The file or folder that is read. It is not replaced, nor is a file in it, unless
            that is a Parquet file, as of an earlier run.

    Raises:
        UsageError: `output` is a folder, a device, the source or such a file in it, exists and may
            not be replaced, or its folder is missing; or `output`.tmp is the source.
    """
    if output.is_dir():
        raise UsageError(f"{output} is a folder; name a file")
    if output.exists() and not output.is_file():
        raise UsageError(f"{output} is no regular file; name another")
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists; choose another name or give --overwrite")
    # The second path is its name until it is whole.
    for written in (output, output.with_name(f"{output.name}.tmp")):
        if source and source.is_file() and written.exists() and written.samefile(source):
            raise UsageError(f"{written} is the file that is to be read; choose another name")
    is_inside = source and source.is_dir() and output.resolve().is_relative_to(source.resolve())
    if is_inside and output.exists() and not _is_parquet(output):
        raise UsageError(f"{output} is a file of {source} and no table; choose another name")
    if not output.parent.is_dir():
        raise UsageError(f"the folder {output.parent} does not exist; make it first")


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_PARQUET)) == _PARQUET


RUN_STATE = "run.json"
"""A partial folder that contains this file holds a run that can be continued."""

_LOCK = "lock"
_LOCK_BYTES = 4096

RUN_AGAIN = "free space or choose another -o, then run again to go on"
"""Remedy for a full disk where the same command continues the work."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REMEDIES = {
    errno.EACCES: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that can be written",
    errno.ENOLCK: "choose a file system that has locks",
    errno.EIO: "check the disk, then run again to go on",
}


@contextmanager
def written_whole(path: Path, *, within: Path | None = None) -> Iterator[BinaryIO]:
    """Write a file whole or not at all: it gets its name when the context ends without an error.

    Until then it is a temporary file, which is removed if the context raises.

    Args:
        path: Its name; an existing file is replaced.
        within: Folder on the same disk that contains the temporary file; by default that of
            `path`.

    Yields:
        The temporary file, opened for writing bytes.

    Raises:
        OSError: It cannot be written, or its folder cannot be synchronised (after the renaming).
    """
    partial = (within or path.parent) / f"{path.name}.tmp"
    try:
        # An existing file is not opened: it may be a link to somewhere else.
        partial.unlink(missing_ok=True)
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Wait until the names of a folder's files, new ones too, are on the disk (fsync).

    Raises:
        OSError: The folder cannot be opened or synchronised.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_file(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file or folder for this process alone.

    The lock is the system's own: it ends when the descriptor is closed, also in forked processes.

    Args:
        descriptor: Of the file or folder.
        wait: Wait for another process that has the lock.

    Returns:
        Whether it is locked now; False only without `wait`.

    Raises:
        OSError: The file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextmanager
def disk_errors(
    action: str,
    *,
    full: str = RUN_AGAIN,
    other: str = "",
    error: type[CxrbatchError] = TableError,
) -> Iterator[None]:
    """Replace an OSError in this context by an error of one line with a remedy.

    Args:
        action: What failed, as in "cannot write r.parquet".
        full: The remedy where the disk is full or the quota is used up.
        other: The remedy for any other failure; empty for the usual one for that failure.
        error: The class of the error that is raised.

    Raises:
        CxrbatchError: An object of `error`, in place of an OSError.
    """
    try:
        yield
    except OSError as failure:
        reason = failure.strerror or type(failure).__name__
        remedy = full if failure.errno in _FULL else other or _REMEDIES.get(failure.errno or 0, "")
        raise error(f"{action}: {reason}{'; ' if remedy else ''}{remedy}") from None


def writing(output: Path) -> AbstractContextManager[None]:
    """Return a context that replaces an OSError by a TableError: "cannot write …", the reason."""
    return disk_errors(f"cannot write {output}")


def partial_folder(output: Path) -> Path:
    """Return the folder for the unfinished run of an output, beside it: `output`.partial."""
    return output.with_name(f"{output.name}.partial")


@contextmanager
def claimed(output: Path) -> Iterator[Path]:
    """In this context, this process alone may write an output: its partial folder is locked.

    The folder, `output`.partial, is made if it is missing. At the end it is removed, unless it
    contains the file `RUN_STATE` (run.json): then it is kept, and the run can be continued.

    Yields:
        The folder.

    Raises:
        UsageError: Another process has locked the folder, it contains files and not the lock of a
            run, or `output` is a folder or a device, or its own folder is missing.
        TableError: The folder cannot be made or locked.
    """
    check_output(output, overwrite=True)
    folder = partial_folder(output)
    with writing(output):
        lock = _lock_folder(folder, output)
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
    """Remove all files but the lock from the partial folder of a run, which ends the run.

    Raises:
        OSError: A file cannot be removed, or the folder contains a folder.
    """
    # The state goes first: without it the rest is not a run that could be continued.
    (folder / RUN_STATE).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.name != _LOCK:
            path.unlink()


def _lock_folder(folder: Path, output: Path) -> int:
    path = folder / _LOCK
    while True:
        folder.mkdir(exist_ok=True)
        if not path.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not the folder of a run; move it, or choose another -o")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # a run that ended has removed the folder meanwhile
        try:
            locked = lock_file(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        if not locked:
            owner = _read_owner(descriptor)
            os.close(descriptor)
            raise UsageError(
                f"{output} is being written by {owner}; wait for it, or choose another -o"
            )
        if _is_current(path, descriptor):
            _write_owner(descriptor)
            return descriptor
        os.close(descriptor)


def _is_current(path: Path, descriptor: int) -> bool:
    """Whether the locked file still has its name, so that other processes find it."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


def _write_owner(descriptor: int) -> None:
    owner = json.dumps({"process": os.getpid(), "host": socket.gethostname()})
    # Only the message of other processes needs it: a full disk does not matter here.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, owner.encode(), 0)


def _read_owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, _LOCK_BYTES, 0))
        return f"process {int(owner['process'])} on {path_to_text(str(owner['host']).encode())}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"

"""Containers, that is zip, tar and compressed tar: told by content, listed, read member by member.

Nothing is unpacked to disk, and no member's name ever meets the file system.
"""

import contextlib
import io
import os
import stat
import threading
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from cxrbatch.reading.members import Fault, Inflated, Member, OpenMember
from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.tarred import TAR_BLOCK, is_tar_header, open_tar_member, tar_members
from cxrbatch.reading.zip_directory import is_zip_start, is_zip_with_front
from cxrbatch.reading.zipped import last_zip, zip_members, zip_members_named

CONTAINER_SUFFIXES = (b".zip", b".tar", b".tar.gz", b".tgz")
"""Names under which a container is looked for; looking into every file would cost a walk dear."""

_GZIP_SIGNATURE = b"\x1f\x8b"
_HEAD_BYTES = 1 << 16
# A compressed tar is listed to its end before a member counts, so this much is held meanwhile.
_LONGEST_LIST = 128 << 20
_LISTED_BYTES = 256
_BUFFER = 1 << 16


def open_regular(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> BinaryIO:
    """Open without waiting: O_NONBLOCK, or a FIFO put there meanwhile would hang the reader.

    Raises:
        OSError: It cannot be opened.
        ReadingError: It is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ReadingError(Outcome.UNREADABLE_FILE, "not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise


def container_kind(head: bytes) -> str | None:
    """Name the kind of container that starts with these bytes: "zip", "tar", "tar.gz" or None."""
    if is_zip_start(head):
        return "zip"
    if is_tar_header(head[:TAR_BLOCK]):
        return "tar"
    if head.startswith(_GZIP_SIGNATURE):
        with contextlib.suppress(zlib.error):
            inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
            return "tar.gz" if is_tar_header(inflater.decompress(head, TAR_BLOCK)) else None
    return None


def is_container(path: bytes) -> bool:
    """Whether a file is a container, by its name and its content; False if it cannot be read."""
    if not path.lower().endswith(CONTAINER_SUFFIXES):
        return False
    try:
        with open_regular(path) as file:
            return _kind_of(file.read(_HEAD_BYTES), file, path) is not None
    except (OSError, ReadingError):
        return False


def _kind_of(head: bytes, file: BinaryIO, path: bytes) -> str | None:
    """The kind of container that an open file is; a zip may have anything in front of it."""
    kind = container_kind(head)
    if kind is None and path.lower().endswith(b".zip") and is_zip_with_front(file):
        return "zip"
    return kind


def list_members(path: bytes) -> Iterator[Member]:
    """List a container's members in its own order, which is the same on every machine.

    Raises:
        OSError: The container cannot be read.
        ReadingError: It is damaged, after the members that could be listed.
    """
    with open_regular(path) as file:
        head = file.read(_HEAD_BYTES)
        kind = _kind_of(head, file, path)
        if kind == "zip":
            yield from zip_members(file)
        elif kind == "tar":
            yield from tar_members(file)
        elif kind == "tar.gz":
            yield from _compressed_members(_inflating(file))
        else:
            raise ReadingError(Outcome.NOT_AN_IMAGE, "neither zip nor tar nor compressed tar")


def members_named(path: bytes, name: bytes) -> Iterator[Member]:
    """List the members of one name, as `list_members` does but faster where the kind allows it.

    Raises:
        OSError: The container cannot be read.
        ReadingError: It is damaged, after the members that could be found.
    """
    with open_regular(path) as file:
        if _kind_of(file.read(_HEAD_BYTES), file, path) == "zip":
            yield from zip_members_named(file, name)
            return
    yield from (member for member in list_members(path) if member.name == name)


@contextlib.contextmanager
def open_member(path: bytes, name: bytes, offset: int) -> Iterator[OpenMember]:
    """Open a member that `list_members` gave.

    Args:
        path: The container.
        name: The member's name.
        offset: The member's offset.

    Raises:
        OSError: The container cannot be read.
        ReadingError: The member cannot be read, or is no longer there.
    """
    if opened := last_zip.get(path):
        yield opened.open(name, offset)
        return
    with open_regular(path) as file:
        head = file.read(_HEAD_BYTES)
        kind = _kind_of(head, file, path)
        if kind == "zip":
            yield last_zip.keep(file).open(name, offset)
        elif kind == "tar":
            yield open_tar_member(file, name, offset, is_compressed=False)
        elif kind == "tar.gz":
            stream = _at_hand.stream(file)
            yield open_tar_member(stream, name, offset, is_compressed=True)
        else:
            raise ReadingError(Outcome.UNREADABLE_FILE, "the container is no longer there")


def _inflating(file: BinaryIO) -> BinaryIO:
    inflated = Inflated(file, is_gzip=True)
    return cast(BinaryIO, io.BufferedReader(inflated, _BUFFER))


def _compressed_members(stream: BinaryIO) -> Iterator[Member]:
    """List a compressed tar; its only checksum is at its end, and vouches for all or none."""
    listed: list[Member] = []
    failure: ReadingError | None = None
    fault: Fault | None = None
    try:
        length = 0
        for member in tar_members(stream):
            listed.append(member)
            length += _LISTED_BYTES + len(member.name)
            if length > _LONGEST_LIST:
                raise ReadingError(Outcome.TOO_LARGE, "too many members in a compressed tar")
    except ReadingError as error:
        failure = error
    try:
        stream.seek(1 << 62)
    except ReadingError as error:
        if error.outcome is Outcome.TOO_LARGE:
            raise  # a bomb's members are as many as it likes, and stand for nothing
        failure = failure or error
        fault = Fault(error.outcome, "the compressed tar that holds it is damaged")
    yield from (member._replace(fault=fault) for member in listed) if fault else listed
    if failure:
        raise failure


class _AtHand(threading.local):
    """The compressed tar that this thread read last, open where the last member ended.

    There is no way into the middle of one: without this each member would cost all before it.
    """

    def __init__(self) -> None:
        self._key: tuple[int, ...] = ()
        self._stream: BinaryIO | None = None

    def stream(self, file: BinaryIO) -> BinaryIO:
        """The inflated stream of an open container; it goes on where it was left."""
        state = os.fstat(file.fileno())
        # A child process must not share its parent's place in the file.
        key = (os.getpid(), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        if self._stream is None or key != self._key:
            own = os.fdopen(os.dup(file.fileno()), "rb")
            self._key, self._stream = key, _inflating(own)
        return self._stream


_at_hand = _AtHand()

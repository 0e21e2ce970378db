"""Containers: zip, tar, compressed tar and a file compressed alone, told apart by their content.

They are listed and read member by member; a file compressed alone is the one member of its own.

Nothing is unpacked to disk, and no member's name ever meets the file system.
"""

import contextlib
import io
import os
import stat
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import BinaryIO, NamedTuple, cast

from cxrbatch.reading.containers.compression import Codec, codec_of
from cxrbatch.reading.containers.hardlinks import follow_links
from cxrbatch.reading.containers.members import Fault, Held, Inflated, Member, OpenMember
from cxrbatch.reading.containers.tar import (
    TAR_BLOCK,
    content_place,
    is_tar_header,
    is_tar_start,
    link_place,
    open_tar_member,
    tar_members,
)
from cxrbatch.reading.containers.zip import last_zip, zip_members, zip_members_named
from cxrbatch.reading.containers.zip_directory import is_zip_start, is_zip_with_front
from cxrbatch.reading.outcomes import Outcome, ReadingError

_COMPRESSED_ALONE = (b".gz", b".bz2", b".xz")
_COMPRESSED_TARS = (b".tgz", b".tbz", b".tbz2", b".txz")
CONTAINER_SUFFIXES = (b".zip", b".tar", *_COMPRESSED_ALONE, *_COMPRESSED_TARS)
"""Names under which a container is looked for; looking into every file would cost a walk dear."""

_HEAD_BYTES = 1 << 16
_END = 1 << 62
# A compressed tar is listed to its end before a member counts, so this much is held meanwhile.
_LONGEST_LIST = 128 << 20
_LISTED_BYTES = 256
_BUFFER = 1 << 16
# Of a compressed tar the member that was read last is kept up to this, for its hard links.
_MOST_KEPT = 64 << 20


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
    """Name the kind of container that starts with these bytes.

    Returns:
        "zip", "tar", the name of a codec, be its content a tar or one file, or None.
    """
    if is_zip_start(head):
        return "zip"
    if is_tar_header(head[:TAR_BLOCK]):
        return "tar"
    codec = codec_of(head)
    return codec and codec.name


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
    """The kind of container that an open file is.

    A zip may have anything in front of it, a tar an empty one.
    """
    kind = container_kind(head)
    if kind is None and is_tar_start(head, file):
        return "tar"
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
            members = tar_members(file)
            yield from follow_links(members, earlier=lambda end: _until(end, tar_members(file)))
        elif codec := codec_of(head):
            compressed = _inflating(file, codec)
            if compressed.is_tar:
                yield from _compressed_members(compressed)
            else:
                yield Member(_name_inside(path), os.fstat(file.fileno()).st_size, offset=0)
        else:
            raise ReadingError(Outcome.NOT_AN_IMAGE, "neither zip nor tar nor compressed")


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
        elif codec := codec_of(head):
            compressed = _at_hand.inflating(file, codec)
            if compressed.is_tar:
                yield _at_hand.member(compressed.stream, name, offset)
            elif name == _name_inside(path):
                yield _open_single(compressed)
            else:
                raise ReadingError(Outcome.UNREADABLE_FILE, "the container has changed")
        else:
            raise ReadingError(Outcome.UNREADABLE_FILE, "the container is no longer there")


class _Compressed(NamedTuple):
    """A compressed file that is being inflated: `stream` is `inflated`, buffered."""

    inflated: Inflated
    stream: BinaryIO
    is_tar: bool


def _inflating(file: BinaryIO, codec: Codec) -> _Compressed:
    inflated = Inflated(file, codec)
    stream = cast(BinaryIO, io.BufferedReader(inflated, _BUFFER))
    is_tar = False
    with contextlib.suppress(ReadingError):  # met again by whoever reads the file
        is_tar = is_tar_start(stream.read(TAR_BLOCK), stream)
        stream.seek(0)
    return _Compressed(inflated, stream, is_tar)


def _name_inside(path: bytes) -> bytes:
    """Name of the file that is compressed alone: that of the container without its suffix."""
    stem, suffix = os.path.splitext(os.path.basename(path))
    if suffix.lower() in _COMPRESSED_TARS:
        return stem + b".tar"
    return stem if suffix.lower() in _COMPRESSED_ALONE else stem + suffix


def _open_single(compressed: _Compressed) -> OpenMember:
    inflated, stream = compressed.inflated, compressed.stream

    def deviation() -> str:
        return "other bytes follow the compressed data" if inflated.has_rest else ""

    def verify() -> None:
        stream.seek(_END)

    held = Held(cast(io.BufferedReader, stream), start=0, size=_END)
    return OpenMember(cast(BinaryIO, held), None, verify, deviation)


def _until(end: int, members: Iterable[Member]) -> Iterator[Member]:
    return takewhile(lambda member: member.offset < end, members)


def _compressed_members(compressed: _Compressed) -> Iterator[Member]:
    """List a compressed tar to its end, where its checksum is, and only then give the members.

    What a whole stream's checksum vouches for is given even if a later stream is damaged.
    """
    inflated, stream = compressed.inflated, compressed.stream
    listed, ends, failure = _listed(stream)
    try:
        stream.seek(_END)
    except ReadingError as error:
        if error.outcome is Outcome.TOO_LARGE:
            raise  # a bomb's members are as many as it likes, and stand for nothing
        failure = failure or error
        fault = Fault(error.outcome, "the compressed tar that holds it is damaged")
        first = bisect_right(ends, inflated.verified)
        listed[first:] = [member._replace(fault=fault) for member in listed[first:]]
    if inflated.has_rest:
        detail = "other bytes follow the compressed data; they are not read"
        failure = failure or ReadingError(Outcome.CORRUPT, detail)
    if any(member.target for member in listed):
        linked = follow_links(listed, earlier=lambda end: _until(end, listed))
        # A link comes with its file: there is no way back but from the start.
        yield from sorted(linked, key=content_place)
    else:
        yield from listed
    if failure:
        raise failure


def _listed(stream: BinaryIO) -> tuple[list[Member], "array[int]", ReadingError | None]:
    """The members of a tar, where the content of each one ends, and why there are no more."""
    listed: list[Member] = []
    ends = array("Q")
    length = 0
    try:
        for member in tar_members(stream):
            listed.append(member)
            ends.append(min(stream.tell() + member.size, _END))
            length += _LISTED_BYTES + len(member.name)
            if length > _LONGEST_LIST:
                raise ReadingError(Outcome.TOO_LARGE, "too many members in a compressed tar")
    except ReadingError as error:
        return listed, ends, error
    return listed, ends, None


class _AtHand(threading.local):
    """The compressed file that this thread read last, open where the last member ended.

    There is no way into the middle of one: without this each member would cost all before it.
    """

    def __init__(self) -> None:
        self._key: tuple[int, ...] = ()
        self._compressed: _Compressed | None = None
        self._last: tuple[int, OpenMember] | None = None

    def inflating(self, file: BinaryIO, codec: Codec) -> _Compressed:
        """The inflated content of an open container; it goes on where it was left."""
        state = os.fstat(file.fileno())
        # A child process must not share its parent's place in the file.
        key = (os.getpid(), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        if self._compressed is None or key != self._key:
            own = os.fdopen(os.dup(file.fileno()), "rb")
            self._last = None
            self._key, self._compressed = key, _inflating(own, codec)
        return self._compressed

    def member(self, stream: BinaryIO, name: bytes, offset: int) -> OpenMember:
        """Open a member of the tar that `inflating` gave, anew only if it is not the last one.

        A hard link is listed next to its file, and has its content.
        """
        place = link_place(name, offset)
        if self._last is None or self._last[0] != place:
            self._last = None
            member = open_tar_member(stream, name, offset, is_compressed=True)
            if member.size is None or member.size > _MOST_KEPT:
                return member
            self._last = place, member
        self._last[1].stream.seek(0)
        return self._last[1]


_at_hand = _AtHand()

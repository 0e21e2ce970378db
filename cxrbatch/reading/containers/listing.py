"""Recognises containers by their content, lists their members and opens them.

A container is a zip, a tar, a compressed tar, or a single compressed file: the last has one member.
"""

import contextlib
import io
import os
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO, cast

from cxrbatch.reading.containers import Member, MemberFault, OpenMember
from cxrbatch.reading.containers.compression import (
    COMPRESSIONS,
    CachedSlice,
    Compression,
    DecompressedFile,
    FileSlice,
)
from cxrbatch.reading.containers.tar import (
    TAR_BLOCK,
    content_offset,
    follow_links,
    is_tar_header,
    link_offset,
    open_tar_member,
    tar_members,
)
from cxrbatch.reading.containers.zip import OpenZip, zip_members, zip_members_named
from cxrbatch.reading.containers.zip_directory import is_zip_start, is_zip_with_front
from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.sniffing import (
    COMPRESSED_ALONE,
    COMPRESSED_TARS,
    has_container_suffix,
    open_regular,
)

_HEAD_BYTES = 1 << 16
# The largest record that tar programs pad a tar to; an empty tar is one of zeros.
_LONGEST_RECORD = 1 << 20
_END = 1 << 62
# Memory for the members of a compressed tar, of which none counts before the end is read.
_LONGEST_LIST = 128 << 20
_LISTED_BYTES = 256
_BUFFER = 1 << 16
# The member of a compressed tar that was read last is kept up to this size, for its hard links.
_MOST_KEPT = 64 << 20


def container_kind(head: bytes) -> str | None:
    """Name the kind of container that starts with these bytes.

    Args:
        head: The file's first 512 bytes or more, or all if it is shorter.

    Returns:
        "zip" or "tar"; "gzip", "bzip2" or "xz" for a compressed tar or a single compressed file;
        None for other bytes.
    """
    if is_zip_start(head):
        return "zip"
    if is_tar_header(head[:TAR_BLOCK]):
        return "tar"
    kinds = (kind for kind, form in COMPRESSIONS.items() if head.startswith(form.signature))
    return next(kinds, None)


def is_container(path: bytes) -> bool:
    """Whether a file is a container, by the suffix of its name and by its content.

    The suffix must be one of a container, but need not fit the content, unless it is a zip with
    other bytes in front. False if the file cannot be read.
    """
    if not has_container_suffix(path):
        return False
    try:
        with open_regular(path) as file:
            return _kind_of(file, path) is not None
    except (OSError, ReadingError):
        return False


def _kind_of(file: BinaryIO, path: bytes) -> str | None:
    """As `container_kind`, but a zip may have anything in front of it, and a tar an empty tar."""
    head = file.read(_HEAD_BYTES)
    kind = container_kind(head)
    if kind is None and _is_tar_start(head, file):
        return "tar"
    if kind is None and path.lower().endswith(b".zip") and is_zip_with_front(file):
        return "zip"
    return kind


def _is_tar_start(head: bytes, file: BinaryIO) -> bool:
    """Whether a file is a tar, also one that begins with an empty tar: zeros, then a header.

    Args:
        head: The file's first `TAR_BLOCK` bytes or more.
        file: The file; read from its start, and only if its head is all zeros.

    Raises:
        ReadingError: Reading a compressed file failed.
    """
    if not head or any(head[:TAR_BLOCK]):
        return is_tar_header(head[:TAR_BLOCK])
    if len(head.lstrip(b"\0")) < TAR_BLOCK:
        file.seek(0)
        head = file.read(_LONGEST_RECORD)
    zeros = len(head) - len(head.lstrip(b"\0"))
    at = zeros // TAR_BLOCK * TAR_BLOCK
    return is_tar_header(head[at : at + TAR_BLOCK])


def list_members(path: bytes) -> Iterator[Member]:
    """List a container's members in its own order; in a compressed tar, hard links by their file.

    Hard links in a tar are listed as the earlier files that they name. A single compressed file
    has one member, named after the container.

    Raises:
        OSError: The container cannot be read.
        ReadingError: It is damaged; the members that could be listed have been yielded. Or it
            inflates too far (`too_large`), or is no container (`not_an_image`).
    """
    with open_regular(path) as file:
        kind = _kind_of(file, path)
        if kind == "zip":
            yield from zip_members(file)
        elif kind == "tar":
            yield from follow_links(tar_members(file), relist=lambda: tar_members(file))
        elif kind:
            compressed = _OpenCompressed(file, COMPRESSIONS[kind], path)
            if compressed.is_tar:
                yield from _compressed_tar_members(compressed)
            else:
                size = os.fstat(file.fileno()).st_size
                yield Member(compressed.single_name, size, offset=0)
        else:
            raise ReadingError(Outcome.NOT_AN_IMAGE, "neither zip nor tar nor compressed")


def members_named(path: bytes, name: bytes) -> Iterator[Member]:
    """List the members whose name is `name`, which may be several.

    For a zip this is faster than `list_members`, unless no name has these very bytes.

    Raises:
        OSError: The container cannot be read.
        ReadingError: As raised by `list_members`; the members found before have been yielded.
    """
    with open_regular(path) as file:
        if _kind_of(file, path) == "zip":
            yield from zip_members_named(file, name)
            return
    yield from (member for member in list_members(path) if member.name == name)


@contextlib.contextmanager
def open_member(path: bytes, name: bytes, offset: int) -> Iterator[OpenMember]:
    """Open a member that `list_members` listed, for the time of a `with` block.

    The zip and the compressed file that a thread opened last stay open for its next member.

    Args:
        path: The container.
        name: The member's `name` in that listing.
        offset: The member's `offset` in that listing.

    Yields:
        The member, its stream at the start.

    Raises:
        OSError: The container cannot be read.
        ReadingError: The member cannot be read, or is no longer there.
    """
    if opened := _last_opened().find(path):
        yield opened.open(name, offset)
        return
    with open_regular(path) as file:
        kind = _kind_of(file, path)
        if kind is None:
            raise ReadingError(Outcome.UNREADABLE_FILE, "the container is no longer there")
        if kind == "tar":
            yield open_tar_member(file, name, offset, is_compressed=False)
            return
        state = os.fstat(file.fileno())
        own = FileSlice(_SelfClosingFile(os.dup(file.fileno())), start=0, size=state.st_size)
    buffered = io.BufferedReader(own)
    is_zip = kind == "zip"
    opened = OpenZip(buffered) if is_zip else _OpenCompressed(buffered, COMPRESSIONS[kind], path)
    _last_opened().keep(_file_key(path, state), opened)
    yield opened.open(name, offset)


class _OpenCompressed:
    """A compressed tar, or a single compressed file, whose members can be opened.

    Attributes:
        is_tar: Whether it is a compressed tar.
        inflated: The decompressed bytes.
        stream: `inflated`, buffered.
        single_name: Name of the only member if it is no tar.
    """

    def __init__(self, file: BinaryIO, compression: Compression, path: bytes) -> None:
        self.inflated = DecompressedFile(file, compression)
        self.stream = cast(BinaryIO, io.BufferedReader(self.inflated, _BUFFER))
        self.single_name = _single_name(path)
        self.is_tar = False
        self._last: tuple[int, OpenMember] | None = None
        with contextlib.suppress(ReadingError):  # raised again when the content is read
            self.is_tar = _is_tar_start(self.stream.read(TAR_BLOCK), self.stream)
            self.stream.seek(0)

    def open(self, name: bytes, offset: int) -> OpenMember:
        """Open a member; the one opened last is not read anew, for the hard links listed after it.

        Raises:
            ReadingError: The member cannot be read, or is no longer there.
        """
        if not self.is_tar:
            return self._open_single(name)
        place = link_offset(name, offset)
        if self._last is None or self._last[0] != place:
            self._last = None
            member = open_tar_member(self.stream, name, offset, is_compressed=True)
            if member.size is None or member.size > _MOST_KEPT:
                return member
            self._last = place, member
        self._last[1].stream.seek(0)
        return self._last[1]

    def _open_single(self, name: bytes) -> OpenMember:
        if name != self.single_name:
            raise ReadingError(Outcome.UNREADABLE_FILE, "the container has changed")
        inflated, stream = self.inflated, self.stream

        def verify() -> None:
            stream.seek(_END)

        def deviation() -> str:
            return "other bytes follow the compressed data" if inflated.has_rest else ""

        content = CachedSlice(stream, start=0, size=_END)
        return OpenMember(cast(BinaryIO, content), None, verify, deviation)


def _single_name(path: bytes) -> bytes:
    """Name of the file in a single compressed file: the container's name without its suffix."""
    stem, suffix = os.path.splitext(os.path.basename(path))
    if suffix.lower() in COMPRESSED_TARS:
        return stem + b".tar"
    return stem if suffix.lower() in COMPRESSED_ALONE else stem + suffix


class _SelfClosingFile(io.FileIO):
    """A file that closes without a warning when nothing refers to it any more."""

    def __del__(self) -> None:
        self.close()


class _LastOpened(threading.local):
    """The zip and the compressed file that this thread opened last, kept open.

    Members of a zip are many, and often small. There is no way into the middle of a compressed tar:
    if it were opened anew, each member would cost as much time as all those before it.
    """

    def __init__(self) -> None:
        self._opened: dict[type, tuple[tuple[object, ...], OpenZip | _OpenCompressed]] = {}

    def find(self, path: bytes) -> OpenZip | _OpenCompressed | None:
        """The container at a path, if it is still open and has not changed; else None."""
        if self._opened:
            with contextlib.suppress(OSError):
                key = _file_key(path, os.stat(path))
                for kept, opened in self._opened.values():
                    if kept == key:
                        return opened
        return None

    def keep(self, key: tuple[object, ...], opened: OpenZip | _OpenCompressed) -> None:
        """Keep a container in the place of the last one of its kind; `key` is its `_file_key`."""
        self._opened[type(opened)] = key, opened


def _file_key(path: bytes, state: os.stat_result) -> tuple[object, ...]:
    """What differs between two files, or two versions of one."""
    return path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


@cache
def _last_opened() -> _LastOpened:
    return _LastOpened()


def _compressed_tar_members(compressed: _OpenCompressed) -> Iterator[Member]:
    """List a compressed tar to its end, where its checksum is, and only then yield the members.

    If a stream is damaged, the members that earlier streams confirm are yielded as they are, the
    others with a fault.
    """
    inflated, stream = compressed.inflated, compressed.stream
    members, ends, failure = _listed(stream)
    try:
        stream.seek(_END)
    except ReadingError as error:
        if error.outcome is Outcome.TOO_LARGE:
            raise  # a bomb has as many members as it likes
        failure = failure or error
        fault = MemberFault(error.outcome, "the compressed tar that holds it is damaged")
        first = bisect_right(ends, inflated.verified)
        members[first:] = [member._replace(fault=fault) for member in members[first:]]
    if inflated.has_rest:
        detail = "other bytes follow the compressed data; they are not read"
        failure = failure or ReadingError(Outcome.CORRUPT, detail)
    if any(member.target for member in members):
        # A link is listed next to its file, as only the member that was read last is kept.
        members = sorted(follow_links(members, relist=lambda: members), key=content_offset)
    yield from members
    if failure:
        raise failure


def _listed(stream: BinaryIO) -> tuple[list[Member], "array[int]", ReadingError | None]:
    """Members of a tar, the offset where the content of each ends, and the error if any."""
    members: list[Member] = []
    ends = array("Q")
    length = 0
    try:
        for member in tar_members(stream):
            members.append(member)
            ends.append(min(stream.tell() + member.size, _END))
            length += _LISTED_BYTES + len(member.name)
            if length > _LONGEST_LIST:
                raise ReadingError(Outcome.TOO_LARGE, "too many members in a compressed tar")
    except ReadingError as error:
        return members, ends, error
    return members, ends, None

"""Members of a zip file: listed by its directory, and opened without unpacking the others.

What the directory says of a member is compared with what the file holds.

Source: PKWARE's APPNOTE.TXT 6.3.10, section 4.
"""

import contextlib
import io
import os
import re
import struct
import threading
import unicodedata
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

from cxrbatch.reading.containers.compression import DEFLATE
from cxrbatch.reading.containers.members import Held, Inflated, Member, OpenMember, Window
from cxrbatch.reading.containers.zip_directory import Directory, find_directory, has_zip_end
from cxrbatch.reading.containers.zip_entries import Entry, entries_named, read_entries, read_entry
from cxrbatch.reading.outcomes import Outcome, ReadingError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_STORED, _DEFLATED = 0, 8
# Those that programs of this century write (4.4.5).
_METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
_BLOCK = 1 << 20
_HASH_FAILS = "the checksum in the zip does not match"
# Letters beyond ASCII, and what programs write for letters that a code page lacks.
_FOREIGN = re.compile(rb"[\x80-\xff?_]+")
_ROOT = re.compile(rb"(?:\.?/)+")
# Normalising takes time that grows with the square of the accents in a row.
_LONGEST_NORMALISED = 1024
_HAS_DESCRIPTOR = 0x0008


def zip_members(file: BinaryIO) -> Iterator[Member]:
    """List the members in the order of the directory.

    Raises:
        ReadingError: `truncated` without a directory, `corrupt` where it contradicts itself or
            the file, or where bytes other than zeros follow the zip; the members before that
            place have been given.
    """
    directory = find_directory(file)
    count, claimed, at = 0, 0, directory.start
    first = directory.start - directory.front
    for entry in read_entries(file, directory):
        # More bytes than there are: members share them, so that a small file is read for ever.
        claimed += _LOCAL.size + entry.packed
        if claimed > directory.start:
            raise ReadingError(Outcome.CORRUPT, "the members of the zip overlap")
        yield _member(entry)
        first, at, count = min(first, entry.local), entry.end, count + 1
    if at != directory.end or count & 0xFFFF != directory.count:
        raise ReadingError(Outcome.CORRUPT, "the zip holds other members than its directory says")
    front = Window(file, start=0, size=first + directory.front)
    if has_zip_end(cast(BinaryIO, front)):
        raise ReadingError(Outcome.CORRUPT, "another zip lies in front of the zip; divide the file")
    file.seek(directory.behind)
    if file.read().strip(b"\0"):
        raise ReadingError(Outcome.CORRUPT, "other bytes follow the zip; they are not read")


def zip_members_named(file: BinaryIO, name: bytes) -> Iterator[Member]:
    """List the members of one name; a zip that has one is not listed for it.

    Raises:
        ReadingError: As `zip_members`.
    """
    is_found = False
    for entry in entries_named(file, find_directory(file), name):
        is_found = True
        yield _member(entry)
    if not is_found:
        yield from (member for member in zip_members(file) if member.name == name)


def _member(entry: Entry) -> Member:
    return Member(entry.name, entry.size, entry.offset, entry.kind)


class OpenZip:
    """A zip whose directory has been found."""

    def __init__(self, file: BinaryIO) -> None:
        """Find the directory.

        Raises:
            ReadingError: As `find_directory`.
        """
        self._file = file
        self._directory = find_directory(file)

    def open(self, name: bytes, offset: int) -> OpenMember:
        """Open the member whose directory entry is at `offset`.

        Raises:
            ReadingError: `unreadable_file` for an encrypted member, a compression that is not
                read, or a file that has changed; `corrupt` where entry and member contradict each
                other.
        """
        entry = read_entry(self._file, offset)
        if entry.name != name:
            raise ReadingError(Outcome.UNREADABLE_FILE, "the zip has changed since it was listed")
        if entry.flags & _ENCRYPTED:
            raise ReadingError(Outcome.UNREADABLE_FILE, "the member is encrypted; unpack the zip")
        if entry.method not in (_STORED, _DEFLATED):
            method = _METHODS.get(entry.method, f"method {entry.method}")
            detail = f"zip compression by {method} is not read; pack with deflate"
            raise ReadingError(Outcome.UNREADABLE_FILE, detail)
        start = _content(self._file, self._directory, entry)
        if self._directory.wraps:
            entry = _with_whole_sizes(self._file, self._directory, entry, start)
        if start + entry.packed > self._directory.start:
            raise ReadingError(Outcome.CORRUPT, "the member reaches into the zip's directory")
        window = Window(self._file, start=start, size=entry.packed)
        if entry.method == _STORED:
            return _open_stored(window, entry)
        return _open_deflated(window, entry)


class _LastZip(threading.local):
    """The zip that this thread read last, open: members are many, and often small."""

    def __init__(self) -> None:
        self._key: tuple[int, ...] = ()
        self._zip: OpenZip | None = None

    def get(self, path: bytes) -> OpenZip | None:
        """The zip at a path, if it is the last one and as it was."""
        if self._zip is None:
            return None
        try:
            is_same = self._key == _key(os.stat(path))
        except OSError:
            is_same = False
        return self._zip if is_same else None

    def keep(self, file: BinaryIO) -> OpenZip:
        """Open a zip and keep it in the place of the last one; `file` may be closed then."""
        own = io.BufferedReader(_Descriptor(os.dup(file.fileno())))
        opened = OpenZip(cast(BinaryIO, own))
        self._key, self._zip = _key(os.fstat(file.fileno())), opened
        return opened


last_zip = _LastZip()


def _key(state: os.stat_result) -> tuple[int, ...]:
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


class _Descriptor(io.RawIOBase):
    """A file that is closed when nothing refers to it any more.

    Its position is its own, also in a child process, which shares that of the descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill a buffer as far as the file goes."""
        count = os.preadv(self._descriptor, [buffer], self._position)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to an offset from the start, from here, or from the end."""
        end = os.fstat(self._descriptor).st_size if whence == io.SEEK_END else 0
        self._position = offset + (0, self._position, end)[whence]
        return self._position

    def close(self) -> None:
        """Close the descriptor."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _open_stored(window: Window, entry: Entry) -> OpenMember:
    if entry.packed != entry.size:
        raise ReadingError(Outcome.CORRUPT, "the zip gives a stored member two sizes")
    stream = io.BufferedReader(window)

    def verify() -> None:
        stream.seek(0)
        checksum = 0
        while block := stream.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
        if checksum != entry.checksum:
            raise ReadingError(Outcome.CORRUPT, _HASH_FAILS)

    return OpenMember(stream, entry.size, verify)


def _open_deflated(window: Window, entry: Entry) -> OpenMember:
    inflated = Inflated(cast(BinaryIO, window), DEFLATE)
    held = Held(inflated, start=0, size=entry.size)

    def verify() -> None:
        held.hold_all()
        if inflated.read(1):
            raise ReadingError(Outcome.CORRUPT, "the member is longer than it claims")
        if inflated.checksum != entry.checksum:
            raise ReadingError(Outcome.CORRUPT, _HASH_FAILS)

    return OpenMember(cast(BinaryIO, held), entry.size, verify)


def _content(file: BinaryIO, directory: Directory, entry: Entry) -> int:
    """Offset of a member's content, behind its local header (4.3.7)."""
    detail = "the member is not where the zip says"
    for place in directory.places(entry.local):
        file.seek(place)
        header = file.read(_LOCAL.size)
        if len(header) < _LOCAL.size or not header.startswith(b"PK\x03\x04"):
            continue
        _, _, flags, _, _, _, checksum, *_, name_length, extra_length = _LOCAL.unpack(header)
        is_same = flags & _HAS_DESCRIPTOR or checksum == entry.checksum
        if _is_one_name(file.read(name_length), entry.spelling) or (is_same and not name_length):
            return place + _LOCAL.size + int(name_length) + int(extra_length)
        detail = "the zip gives the member two names; pack it again"
    raise ReadingError(Outcome.CORRUPT, detail)


def _is_one_name(one: bytes, other: bytes) -> bool:
    """Whether names differ by code page, Unicode form, case, root and sign between folders at most.

    Programs write these as they like, once here and once there; other differences are a trick.
    """
    return one == other or _rough(one) == _rough(other)


def _rough(name: bytes) -> bytes:
    if len(name) <= _LONGEST_NORMALISED:
        with contextlib.suppress(UnicodeDecodeError):
            name = unicodedata.normalize("NFC", name.decode()).encode()
    name = name.replace(b"\\", b"/").rstrip(b"/").lower()
    root = _ROOT.match(name)
    return _FOREIGN.sub(b"?", name[root.end() :] if root else name)


def _with_whole_sizes(file: BinaryIO, directory: Directory, entry: Entry, start: int) -> Entry:
    """An entry of sizes modulo 2^32 with the sizes that it has.

    Behind a member's content lies its data descriptor, the next member or the directory.
    """
    follows = (b"PK\x07\x08", b"PK\x03\x04", b"PK\x01\x02", struct.pack("<L", entry.checksum))
    for end in directory.unwrapped(start + entry.packed):
        file.seek(end)
        if file.read(4) in follows:
            wraps = end - start - entry.packed
            return entry._replace(packed=entry.packed + wraps, size=entry.size + wraps)
    return entry

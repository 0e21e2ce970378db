"""Lists the members of a zip by its directory, and opens one without unpacking the others.

What the directory claims about a member is compared with what the file holds.

Source: PKWARE's APPNOTE.TXT 6.3.10, section 4.
"""

import contextlib
import io
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from cxrbatch.reading.containers import Member, OpenMember
from cxrbatch.reading.containers.compression import (
    DEFLATE,
    CachedSlice,
    DecompressedFile,
    FileSlice,
)
from cxrbatch.reading.containers.zip_directory import (
    ZipEntry,
    entries_named,
    find_directory,
    has_zip_end,
    read_entries,
    read_entry,
)
from cxrbatch.reading.outcomes import Outcome, ReadingError

_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_STORED, _DEFLATED = 0, 8
# Those that programs of this century write (4.4.5).
_METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
_BLOCK = 1 << 20
# Letters beyond ASCII, and what programs write for letters that a code page lacks.
_FOREIGN = re.compile(rb"[\x80-\xff?_]+")
_ROOT = re.compile(rb"(?:\.?/)+")
# Normalising takes time that grows with the square of the accents in a row.
_LONGEST_NORMALISED = 1024
_HAS_DESCRIPTOR = 0x0008


def zip_members(file: BinaryIO) -> Iterator[Member]:
    """List the members of a zip in the order of its directory.

    Raises:
        ReadingError: `truncated` without an end record; `corrupt` for a directory that is missing,
            damaged or miscounted, members that claim more bytes than lie in front of it, another
            zip in front, or bytes other than zeros behind. Members before that were yielded.
    """
    directory = find_directory(file)
    count, claimed, at = 0, 0, directory.start
    first = directory.start - directory.front
    for entry in read_entries(file, directory):
        # Members that claim more bytes than there are share them, so that a small file would be
        # read for ever.
        claimed += _LOCAL.size + entry.packed
        if claimed > directory.start:
            raise ReadingError(Outcome.CORRUPT, "the members of the zip overlap")
        yield Member(entry.name, entry.size, entry.offset, entry.kind)
        first, at, count = min(first, entry.local), entry.end, count + 1
    if at != directory.end or count & 0xFFFF != directory.count:
        raise ReadingError(Outcome.CORRUPT, "the zip holds other members than its directory says")
    front = FileSlice(file, start=0, size=first + directory.front)
    if has_zip_end(cast(BinaryIO, front)):
        raise ReadingError(Outcome.CORRUPT, "another zip lies in front of the zip; divide the file")
    file.seek(directory.file_end)
    if file.read().strip(b"\0"):
        raise ReadingError(Outcome.CORRUPT, "other bytes follow the zip; they are not read")


def zip_members_named(file: BinaryIO, name: bytes) -> Iterator[Member]:
    """List the members whose name is `name`, in the order of the directory.

    They are searched for by the bytes of the name. Only if that finds none are all members listed
    and compared, as the directory may have the name in an extra field.

    Raises:
        ReadingError: `truncated` without an end record, `corrupt` without a directory or inside an
            entry of that name. If all members are compared: as raised by `zip_members`.
    """
    is_found = False
    for entry in entries_named(file, find_directory(file), name):
        is_found = True
        yield Member(entry.name, entry.size, entry.offset, entry.kind)
    if not is_found:
        yield from (member for member in zip_members(file) if member.name == name)


class OpenZip:
    """A zip whose directory has been found, and whose members can be opened."""

    def __init__(self, file: BinaryIO) -> None:
        """Find the directory.

        Raises:
            ReadingError: `truncated` without an end record, `corrupt` if none leads to a directory.
        """
        self._file = file
        self._directory = find_directory(file)

    def open(self, name: bytes, offset: int) -> OpenMember:
        """Open the member whose directory entry is at `offset`, as `Member.offset` has it.

        Raises:
            ReadingError: `unreadable_file` for an encrypted member, a compression that is not
                read, or an entry that has not the name `name`, as the file has changed; `corrupt`
                if no entry is there, or if the member does not lie where and as it says.
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
        start = self._content_offset(entry)
        if self._directory.wraps:
            entry = self._with_whole_sizes(entry, start)
        if start + entry.packed > self._directory.start:
            raise ReadingError(Outcome.CORRUPT, "the member reaches into the zip's directory")
        content = FileSlice(self._file, start=start, size=entry.packed)
        return (_open_stored if entry.method == _STORED else _open_deflated)(content, entry)

    def _content_offset(self, entry: ZipEntry) -> int:
        """Offset of a member's content, after its local header (4.3.7)."""
        detail = "the member is not where the zip says"
        for offset in self._directory.header_offsets(entry.local):
            self._file.seek(offset)
            header = self._file.read(_LOCAL.size)
            if len(header) < _LOCAL.size or not header.startswith(b"PK\x03\x04"):
                continue
            _, _, flags, _, _, _, checksum, *_, name_length, extra_length = _LOCAL.unpack(header)
            name = self._file.read(name_length)
            is_same = flags & _HAS_DESCRIPTOR or checksum == entry.checksum
            if _are_alike(name, entry.spelling) or (is_same and not name_length):
                return offset + _LOCAL.size + int(name_length) + int(extra_length)
            detail = "the zip gives the member two names; pack it again"
        raise ReadingError(Outcome.CORRUPT, detail)

    def _with_whole_sizes(self, entry: ZipEntry, start: int) -> ZipEntry:
        """Restore sizes that are modulo 2^32.

        After a member's content lies its data descriptor, the next member or the directory.
        """
        follows = (b"PK\x07\x08", b"PK\x03\x04", b"PK\x01\x02", struct.pack("<L", entry.checksum))
        for end in self._directory.unwrapped(start + entry.packed):
            self._file.seek(end)
            if self._file.read(4) in follows:
                missing = end - start - entry.packed
                return entry._replace(packed=entry.packed + missing, size=entry.size + missing)
        return entry


def _open_stored(content: FileSlice, entry: ZipEntry) -> OpenMember:
    if entry.packed != entry.size:
        raise ReadingError(Outcome.CORRUPT, "the zip gives a stored member two sizes")
    stream = io.BufferedReader(content)

    def verify() -> None:
        stream.seek(0)
        checksum = 0
        while block := stream.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
        _check_checksum(checksum, entry)

    return OpenMember(stream, entry.size, verify)


def _open_deflated(content: FileSlice, entry: ZipEntry) -> OpenMember:
    inflated = DecompressedFile(cast(BinaryIO, content), DEFLATE)
    cached = CachedSlice(inflated, start=0, size=entry.size)

    def verify() -> None:
        cached.cache_all()
        if inflated.read(1):
            raise ReadingError(Outcome.CORRUPT, "the member is longer than it claims")
        _check_checksum(inflated.checksum, entry)

    return OpenMember(cast(BinaryIO, cached), entry.size, verify)


def _check_checksum(checksum: int, entry: ZipEntry) -> None:
    if checksum != entry.checksum:
        raise ReadingError(Outcome.CORRUPT, "the checksum in the zip does not match")


def _are_alike(one: bytes, other: bytes) -> bool:
    """Whether two names differ at most in ways in which programs spell one name.

    These are code page, Unicode form, case, a root in front and the sign between folders; any other
    difference is a trick.
    """
    return one == other or _simplified(one) == _simplified(other)


def _simplified(name: bytes) -> bytes:
    if len(name) <= _LONGEST_NORMALISED:
        with contextlib.suppress(UnicodeDecodeError):
            name = unicodedata.normalize("NFC", name.decode()).encode()
    name = name.replace(b"\\", b"/").rstrip(b"/").lower()
    root = _ROOT.match(name)
    return _FOREIGN.sub(b"?", name[root.end() :] if root else name)

"""Members of a zip file, by its central directory, read entry by entry and never held as a whole.

Names are bytes and sizes are claims; what the directory says is compared with what the file holds.

Source: PKWARE's APPNOTE.TXT 6.3.10, section 4.
"""

import io
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from cxrbatch.reading.members import Held, Inflated, Member, OpenMember, Window
from cxrbatch.reading.outcomes import Outcome, ReadingError

ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")

_LOCAL = struct.Struct("<4s5H3L2H")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_LONGEST_COMMENT = 0xFFFF
_IN_EXTRA = 0xFFFFFFFF
_ZIP64_EXTRA = 1
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_STORED, _DEFLATED = 0, 8
_BLOCK = 1 << 20
_HASH_FAILS = "the checksum in the zip does not match"


@dataclass(frozen=True, slots=True)
class _Directory:
    """Where the central directory lies.

    Attributes:
        start: Offset of its first entry.
        end: Offset behind its last one.
        count: Entries that it claims, as far as 16 bits tell.
        shift: Bytes in front of the zip: all offsets in it are that much too small.
    """

    start: int
    end: int
    count: int
    shift: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of the central directory; `offset` and `end` are its own place in the file."""

    name: bytes
    flags: int
    method: int
    checksum: int
    packed: int
    size: int
    mode: int
    local: int
    offset: int
    end: int

    @property
    def kind(self) -> str:
        """What it is, by the Unix mode where there is one."""
        form = stat.S_IFMT(self.mode)
        if form == stat.S_IFLNK:
            return "link"
        if form == stat.S_IFDIR or (self.name.endswith(b"/") and self.size == 0):
            return "folder"
        return "file" if form in (0, stat.S_IFREG) else "special"


def zip_members(file: BinaryIO) -> Iterator[Member]:
    """List the members in the order of the directory.

    Raises:
        ReadingError: `truncated` without a directory, `corrupt` where it contradicts itself or
            the file; the members before that place have been given.
    """
    directory = _find_directory(file)
    at, count, claimed = directory.start, 0, 0
    while at < directory.end:
        entry = _read_entry(file, at)
        # More bytes than there are: members share them, so that a small file is read for ever.
        claimed += _LOCAL.size + len(entry.name) + entry.packed
        if claimed > directory.start:
            raise ReadingError(Outcome.CORRUPT, "the members of the zip overlap")
        yield Member(entry.name, entry.size, entry.offset, entry.kind)
        at, count = entry.end, count + 1
    if at != directory.end or count & 0xFFFF != directory.count:
        raise ReadingError(Outcome.CORRUPT, "the zip holds other members than its directory says")


def open_zip_member(file: BinaryIO, name: bytes, offset: int) -> OpenMember:
    """Open the member whose directory entry is at `offset`.

    Raises:
        ReadingError: `unreadable_file` for an encrypted member, a compression that is not read,
            or a file that has changed; `corrupt` where entry and member contradict each other.
    """
    directory = _find_directory(file)
    entry = _read_entry(file, offset)
    if entry.name != name:
        raise ReadingError(Outcome.UNREADABLE_FILE, "the zip has changed since it was listed")
    if entry.flags & _ENCRYPTED:
        raise ReadingError(Outcome.UNREADABLE_FILE, "the member is encrypted; unpack the zip")
    if entry.method not in (_STORED, _DEFLATED):
        detail = f"zip compression method {entry.method} is not read; pack with deflate"
        raise ReadingError(Outcome.UNREADABLE_FILE, detail)
    start = _content(file, entry, shift=directory.shift)
    if start + entry.packed > directory.start:
        raise ReadingError(Outcome.CORRUPT, "the member reaches into the zip's directory")
    window = Window(file, start=start, size=entry.packed)
    if entry.method == _STORED:
        return _open_stored(window, entry)
    return _open_deflated(window, entry)


def _open_stored(window: Window, entry: _Entry) -> OpenMember:
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


def _open_deflated(window: Window, entry: _Entry) -> OpenMember:
    inflated = Inflated(cast(BinaryIO, window), is_gzip=False)
    held = Held(inflated, start=0, size=entry.size)

    def verify() -> None:
        held.hold_all()
        if inflated.read(1):
            raise ReadingError(Outcome.CORRUPT, "the member is longer than it claims")
        if inflated.checksum != entry.checksum:
            raise ReadingError(Outcome.CORRUPT, _HASH_FAILS)

    return OpenMember(cast(BinaryIO, held), entry.size, verify)


def _find_directory(file: BinaryIO) -> _Directory:
    """Find the end record and, by it, the directory in front of it (4.3.14 to 4.3.16)."""
    length = file.seek(0, io.SEEK_END)
    tail_start = file.seek(max(0, length - _END.size - _LONGEST_COMMENT))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise ReadingError(Outcome.TRUNCATED, "the zip ends before its directory does")
    _, disk, first_disk, _, count, size, offset, _ = _END.unpack_from(tail, at)
    end = tail_start + at
    found = _find_64(file, end)
    if found:
        count, size, offset, end = found
    elif disk or first_disk:
        raise ReadingError(Outcome.CORRUPT, "the zip is one part of several")
    start = end - size
    if start < 0 or start < offset:
        raise ReadingError(Outcome.CORRUPT, "the directory of the zip lies outside of it")
    return _Directory(start, end, count & 0xFFFF, start - offset)


def _find_64(file: BinaryIO, end: int) -> tuple[int, int, int, int] | None:
    """Count, size, offset and end of the directory out of a zip64 record, if there is one."""
    start = end - _LOCATOR_64.size - _END_64.size
    if start < 0:
        return None
    file.seek(start)
    record, locator = file.read(_END_64.size), file.read(_LOCATOR_64.size)
    if not locator.startswith(b"PK\x06\x07"):
        return None
    if not record.startswith(b"PK\x06\x06"):
        raise ReadingError(Outcome.CORRUPT, "the zip64 record of the zip is missing")
    *_, count, size, offset = _END_64.unpack(record)
    return count, size, offset, start


def _read_entry(file: BinaryIO, offset: int) -> _Entry:
    """Read an entry of the central directory (4.3.12)."""
    file.seek(offset)
    data = file.read(_ENTRY.size)
    if len(data) < _ENTRY.size or not data.startswith(b"PK\x01\x02"):
        raise ReadingError(Outcome.CORRUPT, "the directory of the zip is damaged")
    fields = _ENTRY.unpack(data)
    made_by, _, flags, method, _, _, checksum, packed, size = fields[1:10]
    name_length, extra_length, comment_length, _, _, attributes, local = fields[10:]
    name, extra = file.read(name_length), file.read(extra_length)
    size, packed, local = _widened(extra, [size, packed, local])
    return _Entry(
        name=name,
        flags=flags,
        method=method,
        checksum=checksum,
        packed=packed,
        size=size,
        # The host system is in the high byte; 3 is Unix.
        mode=attributes >> 16 if made_by >> 8 == 3 else 0,
        local=local,
        offset=offset,
        end=offset + _ENTRY.size + name_length + extra_length + comment_length,
    )


def _widened(extra: bytes, values: list[int]) -> list[int]:
    """Sizes and offset, from the zip64 extra field where 32 bits do not hold them (4.5.3)."""
    at = 0
    while _IN_EXTRA in values and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == _ZIP64_EXTRA:
            field = extra[at + 4 : at + 4 + length]
            wide = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
            return [next(wide, value) if value == _IN_EXTRA else value for value in values]
        at += 4 + length
    return values


def _content(file: BinaryIO, entry: _Entry, *, shift: int) -> int:
    """Offset of a member's content, behind its local header (4.3.7)."""
    start = entry.local + shift
    data = b""
    if start < 1 << 62:
        file.seek(start)
        data = file.read(_LOCAL.size)
    if len(data) < _LOCAL.size or not data.startswith(b"PK\x03\x04"):
        raise ReadingError(Outcome.CORRUPT, "the member is not where the zip says")
    *_, name_length, extra_length = _LOCAL.unpack(data)
    if file.read(name_length) != entry.name:
        raise ReadingError(Outcome.CORRUPT, "the zip gives the member two names")
    return start + _LOCAL.size + int(name_length) + int(extra_length)

"""Finds and reads the central directory of a zip: where it lies, and its entries.

Many programs that write zips bend the format a little. What is bent here is read where only one
reading is possible.

Source: PKWARE's APPNOTE.TXT 6.3.10, section 4.
"""

import io
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from cxrbatch.reading.outcomes import Outcome, ReadingError

# A zip starts with its first member or, if it has none, with its end record. The first volume of
# a split zip has a marker in front, and so has one that was to be split and fitted (8.5.3, 8.5.4).
_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08PK\x03\x04", b"PK00PK\x03\x04")

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4sxB2x2H4x3L3H4x2L")
_END_MARK = re.compile(rb"PK\x05\x06")
_LONGEST_FIELD = 0xFFFF
_BLOCK = 1 << 20
_USUAL_ENTRY = 512
# A directory may be made so that each of its bytes is compared with all of a name.
_LONGEST_SOUGHT = 1024

_OFFSETS_WRAP = 1 << 32
_LARGEST_WRAPPED = 1 << 44

_IN_EXTRA = 0xFFFFFFFF
_ZIP64, _UNICODE_PATH = b"\x01\x00", b"\x75\x70"
_UTF8 = 0x0800
# Host systems in the upper byte of "version made by" (4.4.2.2).
_UNIX = (3, 19)
_BACKSLASH_DIVIDES = (0, 6, 10, 11, 14)
_DOS_FOLDER = 0x10


@dataclass(frozen=True, slots=True)
class ZipDirectory:
    """Where the central directory of a zip lies.

    Attributes:
        start: Offset of its first entry.
        end: Offset after its last entry.
        count: Number of entries that it claims, modulo 2^16.
        shift: How much too small the offsets in the zip are: the bytes in front of the zip, plus a
            multiple of 2^32 if `wraps`.
        file_end: Offset after the end record and its comment, where the file should end.
        wraps: Whether the end record lies beyond 4 GiB and is no zip64 record, as the Archive
            Utility of macOS writes it: all sizes and offsets are modulo 2^32.
    """

    start: int
    end: int
    count: int
    shift: int
    file_end: int
    wraps: bool

    @property
    def front(self) -> int:
        """Bytes in front of the zip that its offsets do not count; modulo 2^32 if `wraps`."""
        return self.shift % _OFFSETS_WRAP if self.wraps else self.shift

    def header_offsets(self, claimed: int) -> Iterator[int]:
        """Yield the offsets at which a member's local header may lie, the likeliest first.

        Bytes in front of a zip may be counted by the members' offsets and not by the directory's.

        Args:
            claimed: Offset of the local header according to the entry.
        """
        for front in dict.fromkeys((self.front, 0)):
            yield from self.unwrapped(claimed + front)

    def unwrapped(self, offset: int) -> range:
        """Return the offsets that `offset` may stand for, none past the directory's start.

        It stands for itself; if `wraps`, also for itself plus multiples of 2^32, up to 2^44.
        """
        if self.wraps:
            return range(offset, min(self.start, _LARGEST_WRAPPED) + 1, _OFFSETS_WRAP)
        return range(offset, min(offset, self.start) + 1)


class ZipEntry(NamedTuple):
    """One entry of the central directory.

    Attributes:
        name: The member's name, its folders divided by slashes.
        spelling: The bytes that the directory has for the name.
        kind: "file", "folder", "link" or "special".
        flags: General purpose bit flag.
        method: Compression method.
        checksum: CRC-32 of the content.
        packed: Bytes of the content in the zip, as claimed.
        size: Bytes of the content, as claimed.
        local: Offset of the local header, as claimed.
        offset: Offset of this entry in the file.
        end: Offset after this entry.
    """

    name: bytes
    spelling: bytes
    kind: str
    flags: int
    method: int
    checksum: int
    packed: int
    size: int
    local: int
    offset: int
    end: int


def is_zip_start(head: bytes) -> bool:
    """Whether bytes begin as a zip does, perhaps with zeros in front."""
    return head.lstrip(b"\0").startswith(_SIGNATURES)


def has_zip_end(file: BinaryIO) -> bool:
    """Whether a file ends as a zip: with an end record whose comment ends where the file does."""
    return any(ends_file for _, ends_file in _end_records(_read_tail(file)[0]))


def is_zip_with_front(file: BinaryIO) -> bool:
    """Whether a file that does not start as a zip is one, sound or damaged.

    It is one if it ends with an end record and its comment, or if a record leads to a directory.
    """
    if has_zip_end(file):
        return True
    try:
        find_directory(file)
    except ReadingError:
        return False
    return True


def find_directory(file: BinaryIO) -> ZipDirectory:
    """Find the central directory by the end record after it (4.3.14 to 4.3.16).

    A comment may contain the signature of an end record, or a zip. So an end record counts only if
    it leads to a directory. Records whose comment ends with the file are preferred; of several, the
    one with the fewest bytes in front of its zip. Otherwise the last record in the file counts.

    Raises:
        ReadingError: `truncated` without an end record, `corrupt` if none leads to a directory.
    """
    tail, start = _read_tail(file)
    failure = ReadingError(Outcome.TRUNCATED, "the zip ends before its directory does")
    candidates: list[ZipDirectory] = []
    for at, ends_file in sorted(_end_records(tail), key=lambda record: (not record[1], -record[0])):
        if candidates and not ends_file:
            break
        try:
            candidates.append(_directory(file, _END.unpack_from(tail, at), start + at))
        except ReadingError as error:
            failure = error if failure.outcome is Outcome.TRUNCATED else failure
    if not candidates:
        raise failure
    return min(candidates, key=lambda directory: directory.front)


def _read_tail(file: BinaryIO) -> tuple[bytes, int]:
    """Read the bytes that may hold the end record; return them and their offset."""
    start = max(0, file.seek(0, io.SEEK_END) - _END.size - _LONGEST_FIELD)
    file.seek(start)
    return file.read(), start


def _end_records(tail: bytes) -> Iterator[tuple[int, bool]]:
    """Yield where an end record may start, and whether its comment ends with the file."""
    for match in _END_MARK.finditer(tail):
        end = match.start() + _END.size
        if end <= len(tail):
            *_, comment = _END.unpack_from(tail, match.start())
            yield match.start(), end + comment == len(tail)


def _directory(file: BinaryIO, record: tuple[int, ...], end: int) -> ZipDirectory:
    """Follow an end record, which lies at offset `end`, to its directory."""
    _, disk, first_disk, _, count, size, offset, comment = record
    file_end = end + _END.size + comment
    has_64 = False
    if (at := end - _LOCATOR_64.size - _END_64.size) >= 0:
        file.seek(at)
        wide, locator = file.read(_END_64.size), file.read(_LOCATOR_64.size)
        # Each alone may be the comment of the last entry.
        has_64 = locator.startswith(b"PK\x06\x07") and wide.startswith(b"PK\x06\x06")
    if has_64:
        *_, count, size, offset = _END_64.unpack(wide)
        end = at
    elif disk or first_disk:
        detail = "the zip is one part of several; join them, for example with zip -s 0"
        raise ReadingError(Outcome.CORRUPT, detail)
    start = end - size
    if start < 0 or start < offset:
        raise ReadingError(Outcome.CORRUPT, "the directory of the zip lies outside of it")
    file.seek(start)
    if size and not file.read(4).startswith(b"PK\x01\x02"):
        raise _damaged()
    wraps = not has_64 and end > _OFFSETS_WRAP
    return ZipDirectory(start, end, count & 0xFFFF, start - offset, file_end, wraps)


def read_entries(file: BinaryIO, directory: ZipDirectory) -> Iterator[ZipEntry]:
    """Read the entries of the directory in order, a block of 1 MiB at a time.

    Raises:
        ReadingError: `corrupt` at a damaged entry; those before it have been yielded.
    """
    block, start, at = b"", directory.start, directory.start
    while at < directory.end:
        entry = _parse_entry(block, at - start, at)
        if entry is None:
            file.seek(at)
            block, start = file.read(_BLOCK), at
            entry = _parse_entry(block, 0, at)
        if entry is None:
            raise _damaged()
        yield entry
        at = entry.end


def read_entry(file: BinaryIO, offset: int) -> ZipEntry:
    """Read the entry of the central directory at an offset in the file.

    Raises:
        ReadingError: `corrupt` if there is none.
    """
    for most in (_USUAL_ENTRY, _ENTRY.size + 2 * _LONGEST_FIELD):
        file.seek(offset)
        entry = _parse_entry(file.read(most), 0, offset)
        if entry is not None:
            return entry
    raise _damaged()


def entries_named(file: BinaryIO, directory: ZipDirectory, name: bytes) -> Iterator[ZipEntry]:
    """Find the entries whose name is `name`, in order, by a search for its bytes.

    Entries whose name stands in an extra field, and names longer than 1024 bytes, are not found.

    Raises:
        ReadingError: `corrupt` if the file ends inside an entry of that name.
    """
    if len(name) > _LONGEST_SOUGHT:
        return
    length = re.escape(struct.pack("<H", len(name)))
    spelling = re.escape(name).replace(b"/", rb"[/\\]")
    pattern = re.compile(rb"PK\x01\x02.{24}" + length + b".{16}" + spelling, re.DOTALL)
    block, at = b"", directory.start
    overlap = _ENTRY.size + len(name) - 1
    while at < directory.end:
        file.seek(at)
        kept = block[-overlap:]
        block = kept + file.read(min(_BLOCK, directory.end - at))
        if len(block) == len(kept):
            return
        start, at = at - len(kept), at + len(block) - len(kept)
        for match in pattern.finditer(block):
            entry = read_entry(file, start + match.start())
            if entry.name == name:
                yield entry


def _damaged() -> ReadingError:
    return ReadingError(Outcome.CORRUPT, "the directory of the zip is damaged")


def _parse_entry(data: bytes, at: int, offset: int) -> ZipEntry | None:
    """Parse the entry at `data[at]` (4.3.12); None if the data end inside it.

    Args:
        data: Bytes of the directory.
        at: Index of the entry in `data`.
        offset: Offset of the entry in the file.
    """
    if len(data) < at + _ENTRY.size:
        return None
    (
        signature, host, flags, method, checksum, packed, size,
        name_length, extra_length, comment_length, attributes, local,
    ) = _ENTRY.unpack_from(data, at)  # fmt: skip
    if signature != b"PK\x01\x02":
        raise _damaged()
    name_at = at + _ENTRY.size
    extra_at = name_at + name_length
    end = extra_at + extra_length
    if len(data) < end:
        return None
    name = spelling = data[name_at:extra_at]
    if extra_length:
        extra = data[extra_at:end]
        if _IN_EXTRA in (size, packed, local):
            # Sizes and offset that 32 bits do not hold (4.5.3).
            field = _extra_field(extra, _ZIP64)
            wide = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
            claims = (size, packed, local)
            size, packed, local = (next(wide, n) if n == _IN_EXTRA else n for n in claims)
        if _UNICODE_PATH in extra:
            # The name in UTF-8, if the field is of this very spelling (4.6.9).
            field = _extra_field(extra, _UNICODE_PATH)
            if len(field) > 5 and field[:5] == struct.pack("<BL", 1, zlib.crc32(spelling)):
                name = field[5:]
    if b"\\" in name and host in _BACKSLASH_DIVIDES:
        # .NET and old Windows programs divide folders by backslashes. But in a name of an unknown
        # code page that has slashes too, a backslash may be half of a character.
        is_text = name is not spelling or flags & _UTF8 or name.isascii()
        name = name.replace(b"\\", b"/") if is_text or b"/" not in name else name
    form = stat.S_IFMT(attributes >> 16) if host in _UNIX else 0
    kind = _kind(name, size=size, form=form, attributes=attributes)
    after = offset + (end - at) + comment_length
    return ZipEntry(
        name, spelling, kind, flags, method, checksum, packed, size, local, offset, after
    )


def _extra_field(extra: bytes, kind: bytes) -> bytes:
    """Content of the first extra field of a kind (4.5.1); empty if there is none."""
    at = 0
    while at + 4 <= len(extra):
        end = at + 4 + int.from_bytes(extra[at + 2 : at + 4], "little")
        if extra.startswith(kind, at):
            return extra[at + 4 : end]
        at = end
    return b""


def _kind(name: bytes, *, size: int, form: int, attributes: int) -> str:
    """Kind of a member by its Unix mode or its DOS attributes.

    What has content is a file to unpack, also if it came from a pipe.
    """
    is_folder = form == stat.S_IFDIR or (not form and attributes & _DOS_FOLDER)
    if size == 0 and (is_folder or name.endswith(b"/")):
        return "folder"
    if form == stat.S_IFLNK:
        return "link"
    return "file" if size or form in (0, stat.S_IFREG) else "special"

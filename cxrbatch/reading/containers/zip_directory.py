"""The central directory of a zip file: where it lies, by the end record behind it.

Every second program that writes zips bends the format a little; what is bent here is read where
only one reading is possible.

Source: PKWARE's APPNOTE.TXT 6.3.10, section 4.
"""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cxrbatch.reading.outcomes import Outcome, ReadingError

# A zip starts with its first member or, if it has none, with its end record. The first volume of
# a split zip has a marker in front, and so has one that was to be split and fitted (8.5.3, 8.5.4).
_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08PK\x03\x04", b"PK00PK\x03\x04")

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_END_MARK = re.compile(rb"PK\x05\x06")
_LONGEST_COMMENT = 0xFFFF

_OFFSETS_WRAP = 1 << 32
_LARGEST_WRAPPED = 1 << 44


@dataclass(frozen=True, slots=True)
class Directory:
    """Where the central directory lies.

    Attributes:
        start: Offset of its first entry.
        end: Offset behind its last entry.
        count: Number of entries that it claims, modulo 2^16.
        shift: How much too small the offsets in the zip are: bytes in front of the zip, or a
            multiple of 2^32 if `wraps`.
        behind: Offset behind the end record and its comment, where the file should end.
        wraps: Whether the zip is larger than 4 GiB and has no zip64 record, as of the Archive
            Utility of macOS: all sizes and offsets are modulo 2^32.
    """

    start: int
    end: int
    count: int
    shift: int
    behind: int
    wraps: bool

    @property
    def front(self) -> int:
        """Bytes in front of the zip that its offsets do not count."""
        return self.shift % _OFFSETS_WRAP if self.wraps else self.shift

    def places(self, local: int) -> Iterator[int]:
        """Offsets at which the local header of an entry may lie, the likeliest first.

        Bytes in front of a zip may be counted by the members' offsets and not by the directory's.
        """
        for front in dict.fromkeys((self.front, 0)):
            yield from self.unwrapped(local + front)

    def unwrapped(self, offset: int) -> range:
        """Offsets up to the directory that an offset may stand for: one, or more if `wraps`."""
        if self.wraps:
            return range(offset, min(self.start, _LARGEST_WRAPPED) + 1, _OFFSETS_WRAP)
        return range(offset, min(offset, self.start) + 1)


def is_zip_start(head: bytes) -> bool:
    """Whether a file that starts with these bytes is a zip, maybe with zeros in front."""
    return head.lstrip(b"\0").startswith(_SIGNATURES)


def has_zip_end(file: BinaryIO) -> bool:
    """Whether a file ends as a zip does: with an end record whose comment ends with the file."""
    tail, _ = _tail(file)
    return any(is_last for _, is_last in _end_records(tail))


def is_zip_with_front(file: BinaryIO) -> bool:
    """Whether a file that does not start as a zip is one, by its end; it may be a damaged one."""
    if has_zip_end(file):
        return True
    try:
        find_directory(file)
    except ReadingError:
        return False
    return True


def find_directory(file: BinaryIO) -> Directory:
    """Find the end record and, by it, the directory in front of it (4.3.14 to 4.3.16).

    A comment may hold the signature of an end record, or a zip. So an end record must lead to a
    directory, and one whose comment ends with the file is preferred: of several, that with the
    fewest bytes in front of the zip. Otherwise the last one counts.

    Raises:
        ReadingError: `truncated` without an end record, `corrupt` if none leads to a directory.
    """
    tail, start = _tail(file)
    failure = ReadingError(Outcome.TRUNCATED, "the zip ends before its directory does")
    found: list[Directory] = []
    for at, is_last in sorted(_end_records(tail), key=lambda record: (not record[1], -record[0])):
        if found and not is_last:
            break
        try:
            found.append(_directory(file, _END.unpack_from(tail, at), start + at))
        except ReadingError as error:
            failure = error if failure.outcome is Outcome.TRUNCATED else failure
    if not found:
        raise failure
    return min(found, key=lambda directory: directory.front)


def directory_damaged() -> ReadingError:
    """The error of a directory that cannot be read, or not from some place on."""
    return ReadingError(Outcome.CORRUPT, "the directory of the zip is damaged")


def _tail(file: BinaryIO) -> tuple[bytes, int]:
    """The bytes that may hold the end record, and their offset."""
    start = max(0, file.seek(0, io.SEEK_END) - _END.size - _LONGEST_COMMENT)
    file.seek(start)
    return file.read(), start


def _end_records(tail: bytes) -> Iterator[tuple[int, bool]]:
    """Where end records may start, and whether their comment ends with the file."""
    for match in _END_MARK.finditer(tail):
        end = match.start() + _END.size
        if end <= len(tail):
            *_, comment = _END.unpack_from(tail, match.start())
            yield match.start(), end + comment == len(tail)


def _directory(file: BinaryIO, record: tuple[int, ...], end: int) -> Directory:
    """The directory that an end record at `end` leads to."""
    _, disk, first_disk, _, count, size, offset, comment = record
    behind = end + _END.size + comment
    wide = _find_64(file, end)
    if wide:
        count, size, offset, end = wide
    elif disk or first_disk:
        detail = "the zip is one part of several; join them, for example with zip -s 0"
        raise ReadingError(Outcome.CORRUPT, detail)
    start = end - size
    if start < 0 or start < offset:
        raise ReadingError(Outcome.CORRUPT, "the directory of the zip lies outside of it")
    file.seek(start)
    if size and not file.read(4).startswith(b"PK\x01\x02"):
        raise directory_damaged()
    wraps = not wide and end > _OFFSETS_WRAP
    return Directory(start, end, count & 0xFFFF, start - offset, behind, wraps)


def _find_64(file: BinaryIO, end: int) -> tuple[int, int, int, int] | None:
    """Count, size, offset and end of the directory out of a zip64 record, if there is one."""
    start = end - _LOCATOR_64.size - _END_64.size
    if start < 0:
        return None
    file.seek(start)
    record, locator = file.read(_END_64.size), file.read(_LOCATOR_64.size)
    # The comment of the last entry may look like one of the two.
    if not locator.startswith(b"PK\x06\x07") or not record.startswith(b"PK\x06\x06"):
        return None
    *_, count, size, offset = _END_64.unpack(record)
    return count, size, offset, start

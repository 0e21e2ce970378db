"""Entries of a zip's central directory: read one after the other, or sought by name.

Names are bytes and sizes are claims.

Source: PKWARE's APPNOTE.TXT 6.3.10, section 4.
"""

import re
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from cxrbatch.reading.containers.zip_directory import Directory, directory_damaged

_ENTRY = struct.Struct("<4sxB2x2H4x3L3H4x2L")
_LONGEST_FIELD = 0xFFFF
_BLOCK = 1 << 20
_USUAL_ENTRY = 512
# A directory may be made so that each of its bytes is compared with all of a name.
_LONGEST_SOUGHT = 1024

_IN_EXTRA = 0xFFFFFFFF
_ZIP64, _UNICODE_PATH = b"\x01\x00", b"\x75\x70"
_UTF8 = 0x0800
# Host systems in the upper byte of "version made by" (4.4.2.2).
_UNIX = (3, 19)
_BACKSLASH_DIVIDES = (0, 6, 10, 11, 14)
_DOS_FOLDER = 0x10


class Entry(NamedTuple):
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
        end: Offset behind this entry.
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


def read_entries(file: BinaryIO, directory: Directory) -> Iterator[Entry]:
    """Read the entries in order, a block of many at a time.

    Raises:
        ReadingError: `corrupt` at a damaged entry; those before it have been yielded.
    """
    block, start, at = b"", directory.start, directory.start
    while at < directory.end:
        entry = _parsed(block, at - start, at)
        if entry is None:
            file.seek(at)
            block, start = file.read(_BLOCK), at
            entry = _parsed(block, 0, at)
        if entry is None:
            raise directory_damaged()
        yield entry
        at = entry.end


def read_entry(file: BinaryIO, offset: int) -> Entry:
    """Read the entry at an offset.

    Raises:
        ReadingError: `corrupt` if there is none.
    """
    for most in (_USUAL_ENTRY, _ENTRY.size + 2 * _LONGEST_FIELD):
        file.seek(offset)
        entry = _parsed(file.read(most), 0, offset)
        if entry is not None:
            return entry
    raise directory_damaged()


def entries_named(file: BinaryIO, directory: Directory, name: bytes) -> Iterator[Entry]:
    """Find the entries that spell a name, in order, without reading the others.

    Entries whose name stands in an extra field, or is a long one, are not found.

    Raises:
        ReadingError: `corrupt` at a damaged entry.
    """
    if len(name) > _LONGEST_SOUGHT:
        return
    length = re.escape(struct.pack("<H", len(name)))
    spelling = re.escape(name).replace(b"/", rb"[/\\]")
    entry = re.compile(rb"PK\x01\x02.{24}" + length + b".{16}" + spelling, re.DOTALL)
    block, start, behind = b"", directory.start, directory.start
    overlap = _ENTRY.size + len(name) - 1
    while behind < directory.end:
        file.seek(behind)
        kept = block[-overlap:]
        block = kept + file.read(min(_BLOCK, directory.end - behind))
        if len(block) == len(kept):
            return
        start, behind = behind - len(kept), behind + len(block) - len(kept)
        for match in entry.finditer(block):
            found = read_entry(file, start + match.start())
            if found.name == name:
                yield found


def _parsed(data: bytes, at: int, offset: int) -> Entry | None:
    """The entry at `data[at]` (4.3.12); None if the data end inside of it."""
    if len(data) < at + _ENTRY.size:
        return None
    (
        signature, host, flags, method, checksum, packed, size,
        name_length, extra_length, comment_length, attributes, local,
    ) = _ENTRY.unpack_from(data, at)  # fmt: skip
    if signature != b"PK\x01\x02":
        raise directory_damaged()
    name_at = at + _ENTRY.size
    extra_at = name_at + name_length
    end = extra_at + extra_length
    if len(data) < end:
        return None
    name = spelling = data[name_at:extra_at]
    if extra_length:
        extra = data[extra_at:end]
        if _IN_EXTRA in (size, packed, local):
            size, packed, local = _widened(_field(extra, _ZIP64), [size, packed, local])
        if _UNICODE_PATH in extra:
            name = _unicode_path(_field(extra, _UNICODE_PATH), spelling)
    if b"\\" in name and host in _BACKSLASH_DIVIDES:
        name = _with_slashes(name, is_text=name is not spelling or bool(flags & _UTF8))
    form = stat.S_IFMT(attributes >> 16) if host in _UNIX else 0
    kind = _kind(name, size=size, form=form, attributes=attributes)
    behind = offset + (end - at) + comment_length
    return Entry(name, spelling, kind, flags, method, checksum, packed, size, local, offset, behind)


def _field(extra: bytes, kind: bytes) -> bytes:
    """Content of the first extra field of a kind (4.5.1); empty if there is none."""
    at = 0
    while at + 4 <= len(extra):
        end = at + 4 + int.from_bytes(extra[at + 2 : at + 4], "little")
        if extra.startswith(kind, at):
            return extra[at + 4 : end]
        at = end
    return b""


def _widened(field: bytes, values: list[int]) -> list[int]:
    """Sizes and offset, from the zip64 extra field where 32 bits do not hold them (4.5.3)."""
    wide = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
    return [next(wide, value) if value == _IN_EXTRA else value for value in values]


def _unicode_path(field: bytes, spelling: bytes) -> bytes:
    """The name in UTF-8, from an extra field that is of this very spelling (4.6.9)."""
    if len(field) > 5 and field[:5] == struct.pack("<BL", 1, zlib.crc32(spelling)):
        return field[5:]
    return spelling


def _with_slashes(name: bytes, *, is_text: bool) -> bytes:
    """A name whose folders are divided by backslashes, as .NET and old Windows programs do.

    In a name of an unknown code page that has slashes too, a backslash may be half a character.
    """
    if b"/" in name and not is_text and not name.isascii():
        return name
    return name.replace(b"\\", b"/")


def _kind(name: bytes, *, size: int, form: int, attributes: int) -> str:
    """What an entry is, by its Unix mode or its DOS attributes.

    What has content is a file to unpack, also if it came from a pipe.
    """
    is_folder = form == stat.S_IFDIR or (not form and attributes & _DOS_FOLDER)
    if size == 0 and (is_folder or name.endswith(b"/")):
        return "folder"
    if form == stat.S_IFLNK:
        return "link"
    return "file" if size or form in (0, stat.S_IFREG) else "special"

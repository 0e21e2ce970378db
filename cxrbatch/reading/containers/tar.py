"""Lists and opens the members of a tar: Unix V7, ustar, GNU and pax, hard links included.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; for the types L, K,
M and S and for base-256 numbers the GNU tar manual, appendix D; tar(5) of Unix V7.
"""

import io
import posixpath
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, cast

from cxrbatch.reading.containers import Member, MemberFault, OpenMember
from cxrbatch.reading.containers.compression import CachedSlice, FileSlice, skip_hole
from cxrbatch.reading.outcomes import Outcome, ReadingError

TAR_BLOCK = 512

_KINDS = {
    **dict.fromkeys((b"1", b"2"), "link"),
    **dict.fromkeys((b"3", b"4", b"6", b"V"), "special"),
    **dict.fromkeys((b"5", b"D"), "folder"),
}
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")
_HARD_LINK = b"1"
# Types in headers without magic, where NUL is that of a file; GNU tar writes M and V without magic.
_OLD_TYPES = b"\x0001234567MV"
_EXTENSIONS = (b"L", b"K", b"x", b"X", b"g")
_OBSTACLES = {
    b"S": "a sparse member; pack without --sparse",
    b"M": "the end of a member that begins in another volume; join the volumes",
}
_NO_END = "the tar ends without its end mark"
_ENDLESS = "a header in the tar is longer than any"
_DAMAGED = "a header in the tar is damaged"
_MOST_EXTENSIONS = 16
_LONGEST_EXTENSION = 1 << 20
# Beyond this no seek can go; the largest file that a system holds is 2^63 bytes.
_FARTHEST = 1 << 62
_HOLES_LOOKED_FOR = 1 << 20
# A hard link's offset is that of its file, with a checksum of the file's name above these bits.
_OFFSET_BITS = 64
# Memory for the names of a tar that has hard links, and what a name takes beside its bytes.
_MOST_INDEX_BYTES = 128 << 20
_INDEXED_BYTES = 256
_TOO_MANY = MemberFault(
    Outcome.UNREADABLE_FILE,
    "a hard link in a tar of too many members; pack with --hard-dereference",
)


class _Entry(NamedTuple):
    """A member with what its headers say.

    `obstacle` says why the content cannot be read, or is empty. `content` is the offset of the
    content in the tar, `end` that of the next header.
    """

    member: Member
    obstacle: str
    content: int
    end: int


@dataclass(slots=True)
class _Extension:
    """Values in extension headers that replace those of the member's own header; None if absent."""

    name: bytes | None = None
    target: bytes | None = None
    size: int | None = None
    is_sparse: bool = False


def is_tar_header(block: bytes) -> bool:
    """Whether 512 bytes are a tar header, of ustar or older, by checksum and known fields."""
    if len(block) < TAR_BLOCK or not _has_checksum(block):
        return False
    if block[257:262] == b"ustar":
        return True
    # Without magic: a name, a known type, and numbers where they belong.
    numbers = [block[100:108], block[108:116], block[116:124], block[124:136], block[136:148]]
    digits = [field.strip(b" \0") for field in numbers]
    is_numeric = any(digits) and not b"".join(digits).strip(b"01234567")
    return is_numeric and block[0] != 0 and block[156] in _OLD_TYPES


def tar_members(file: BinaryIO) -> Iterator[Member]:
    """List the members of a tar in their order, also those of further tars that follow it.

    Args:
        file: The tar, decompressed; read forwards only.

    Yields:
        Each member; hard links as links, with their `target`.

    Raises:
        ReadingError: `truncated` without an end mark, `corrupt` at a damaged header or at bytes
            after the end mark that are no tar, `too_large` at a header over 1 MiB; the members
            before that place have been yielded.
    """
    offset = 0
    while entry := _read_entry(file, offset):
        yield entry.member
        offset = entry.end


def follow_links(
    members: Iterable[Member], *, relist: Callable[[], Iterable[Member]]
) -> Iterator[Member]:
    """Replace hard links to earlier files by files with the same content.

    Args:
        members: The members of a tar, in their order.
        relist: Lists the tar once more. Called at the first hard link, as most tars have none and
            their names need not be kept.

    Yields:
        Each member in order; a hard link to no known earlier file stays a link or, in a tar of too
        many names, becomes a file with a fault.
    """
    files: _FileIndex | None = None
    for member in members:
        if member.target:
            files = files or _FileIndex(relist(), end=member.offset)
            member = files.resolve(member)
        if files is not None:
            files.add(member)
        yield member


class _FileIndex:
    """The files of a tar by the path that each is unpacked to, up to a limit of memory."""

    def __init__(self, members: Iterable[Member], *, end: int) -> None:
        self._files: dict[bytes, Member] = {}
        self._bytes = 0
        for member in members:
            if member.offset >= end:
                break
            self.add(member)

    def add(self, member: Member) -> None:
        # Of two files of one name the later one counts, as when a tar is unpacked.
        if member.kind == "file" and self._bytes <= _MOST_INDEX_BYTES:
            self._bytes += _INDEXED_BYTES + len(member.name)
            self._files[_unpacked_path(member.name)] = member

    def resolve(self, link: Member) -> Member:
        file = self._files.get(_unpacked_path(link.target))
        if file:
            return file._replace(name=link.name, offset=link_offset(file.name, file.offset))
        is_full = self._bytes > _MOST_INDEX_BYTES
        return link._replace(kind="file", fault=_TOO_MANY) if is_full else link


def _unpacked_path(name: bytes) -> bytes:
    return posixpath.normpath(name.lstrip(b"/"))


def link_offset(name: bytes, offset: int) -> int:
    """Make the offset that stands for a hard link, of the name and the offset of its file.

    It is the file's offset, with a checksum of the name above its 64 bits; an offset that has the
    checksum already is returned unchanged.
    """
    is_marked = offset >> _OFFSET_BITS
    return offset if is_marked else (zlib.crc32(name) + 1) << _OFFSET_BITS | offset


def content_offset(member: Member) -> int:
    """Offset of a member's header: its own or, for a resolved hard link, that of its file."""
    return member.offset & ((1 << _OFFSET_BITS) - 1)


def open_tar_member(file: BinaryIO, name: bytes, offset: int, *, is_compressed: bool) -> OpenMember:
    """Open the member whose first header is at `offset`, or the file that it is a hard link to.

    A tar has no checksum of content; that of a compressed tar is verified when it is listed.

    Args:
        file: The tar, decompressed.
        name: The member's name.
        offset: The member's offset.
        is_compressed: Whether `file` decompresses, so that its length is not known.

    Raises:
        ReadingError: `unreadable_file` for a sparse member, the end of a divided one, or another
            name there; what `tar_members` raises; `truncated` if a plain tar ends inside it.
    """
    mark, start = divmod(offset, 1 << _OFFSET_BITS)
    entry = _read_entry(file, start)
    found = entry and (link_offset(entry.member.name, start) if mark else entry.member.name)
    if entry is None or found != (offset if mark else name):
        raise ReadingError(Outcome.UNREADABLE_FILE, "the tar has changed since it was listed")
    if entry.obstacle:
        raise ReadingError(Outcome.UNREADABLE_FILE, entry.obstacle)
    size = entry.member.size
    if is_compressed:
        cached = CachedSlice(file, start=entry.content, size=size)
        return OpenMember(cast(BinaryIO, cached), size, cached.cache_all)
    if entry.content + size > file.seek(0, io.SEEK_END):
        raise ReadingError(Outcome.TRUNCATED, "the tar ends inside the member")
    content = FileSlice(file, start=entry.content, size=size)
    return OpenMember(io.BufferedReader(content), size, verify=lambda: None)


def _read_entry(file: BinaryIO, offset: int) -> _Entry | None:
    """Read all headers of the member at `offset`, or after zeros there; None if none follow."""
    if offset > _FARTHEST:
        raise ReadingError(Outcome.TRUNCATED, _NO_END)
    file.seek(offset)
    block = _read_blocks(file, TAR_BLOCK)
    if not block[0] and not any(block):
        offset, block = _after_end_mark(file, offset + TAR_BLOCK)
        if not block:
            return None
    extension = _Extension()
    for _ in range(_MOST_EXTENSIONS):
        if not _has_checksum(block):
            raise ReadingError(Outcome.CORRUPT, _DAMAGED)
        if block[156:157] not in _EXTENSIONS:
            return _entry(file, offset, block, extension)
        _extend(extension, file, block)
        block = _read_blocks(file, TAR_BLOCK)
    raise ReadingError(Outcome.CORRUPT, "a member of the tar has headers without end")


def _after_end_mark(file: BinaryIO, offset: int) -> tuple[int, bytes]:
    """Pass over zeros (end mark, padding) to the first header of another tar.

    Returns:
        Its offset and the block; the block is empty where the file ends.
    """
    while block := file.read(TAR_BLOCK):
        if block.strip(b"\0"):
            if is_tar_header(block):
                return offset, block
            detail = "bytes that are no tar follow the end of the tar; they are not read"
            raise ReadingError(Outcome.CORRUPT, detail)
        offset += TAR_BLOCK
        if offset % _HOLES_LOOKED_FOR == 0:
            offset = skip_hole(file, offset) // TAR_BLOCK * TAR_BLOCK
            file.seek(offset)
    return offset, b""


def _entry(file: BinaryIO, offset: int, block: bytes, extension: _Extension) -> _Entry:
    form = block[156:157]
    size = _number(block[124:136]) if extension.size is None else extension.size
    name = _header_name(block) if extension.name is None else extension.name
    target = b""
    if form == _HARD_LINK:
        target = _until_nul(block[157:257]) if extension.target is None else extension.target
    blocks, has_map = 0, form == b"S" and block[482]
    while has_map:  # further blocks in which an old GNU sparse member lists its holes
        blocks, has_map = blocks + 1, _read_blocks(file, TAR_BLOCK)[504]
        if blocks * TAR_BLOCK > _LONGEST_EXTENSION:
            raise ReadingError(Outcome.TOO_LARGE, _ENDLESS)
    obstacle = _OBSTACLES.get(b"S" if extension.is_sparse else form, "")
    kind = _KINDS.get(form, "file")
    if form == b"\0" and name.endswith(b"/"):
        kind = "folder"  # before POSIX there was no type for it
    content = file.tell()
    end = content + _padded(0 if form in _WITHOUT_CONTENT else size)
    return _Entry(Member(name, size, offset, kind, None, target), obstacle, content, end)


def _extend(extension: _Extension, file: BinaryIO, block: bytes) -> None:
    """Read an extension header: a long name, or pax records of the form "length key=value\\n"."""
    form, size = block[156:157], _number(block[124:136])
    if size > _LONGEST_EXTENSION:
        raise ReadingError(Outcome.TOO_LARGE, _ENDLESS)
    data = _read_blocks(file, _padded(size))[:size]
    if form == b"L":
        extension.name = _until_nul(data)
    elif form == b"K":
        extension.target = _until_nul(data)
    elif form in (b"x", b"X"):
        at = 0
        while at < size:
            space = data.find(b" ", at, at + 20)
            end = at + _decimal(data[at : max(space, at)])
            if not space < end <= size or data[end - 1 : end] != b"\n":
                raise ReadingError(Outcome.CORRUPT, _DAMAGED)
            key, _, value = data[space + 1 : end - 1].partition(b"=")
            if key in (b"path", b"GNU.sparse.name"):
                extension.name = value
            elif key == b"linkpath":
                extension.target = value
            elif key == b"size":
                extension.size = _decimal(value)
            extension.is_sparse |= key.startswith(b"GNU.sparse.")
            at = end


def _read_blocks(file: BinaryIO, size: int) -> bytes:
    blocks = file.read(size)
    if len(blocks) < size:
        raise ReadingError(Outcome.TRUNCATED, _NO_END)
    return blocks


def _has_checksum(block: bytes) -> bool:
    """Whether the sum of a header's bytes, its own field taken as spaces, is as it says."""
    digits = block[148:156].strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        return False
    claimed = int(digits, 8) - sum(b" " * 8)
    # Adler-32's lower half is one more than the sum, modulo 65,521 (RFC 1950), to which 256 bytes
    # never add up. It takes a sixth of the time of `sum`.
    total = (zlib.adler32(block[:256]) & 0xFFFF) + (zlib.adler32(block[256:]) & 0xFFFF) - 2
    if claimed == total - sum(block[148:156]):
        return True
    # Some systems have summed signed characters.
    others = block[:148] + block[156:]
    return claimed == sum(others) - 256 * sum(byte > 127 for byte in others)


def _number(field: bytes) -> int:
    """An octal or, with the high bit set, a base-256 number that is not negative."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise ReadingError(Outcome.CORRUPT, "a size in the tar is negative")
        return int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise ReadingError(Outcome.CORRUPT, "a size in the tar is no number")
    return int(digits or b"0", 8)


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 20:
        raise ReadingError(Outcome.CORRUPT, _DAMAGED)
    return int(digits)


def _header_name(block: bytes) -> bytes:
    name, prefix = _until_nul(block[:100]), _until_nul(block[345:500])
    # In GNU's own format other fields are where POSIX has the prefix.
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _padded(size: int) -> int:
    return -(-size // TAR_BLOCK) * TAR_BLOCK

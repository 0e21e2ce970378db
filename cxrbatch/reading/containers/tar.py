"""Members of a tar file, header by header: Unix V7, ustar, GNU and pax; no claim is trusted.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; for the types L, K,
M and S and for base-256 numbers the GNU tar manual, appendix D; tar(5) of Unix V7.
"""

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, cast

from cxrbatch.reading.containers.members import (
    Held,
    Member,
    OpenMember,
    Window,
    next_data,
    nothing_to_verify,
)
from cxrbatch.reading.outcomes import Outcome, ReadingError

TAR_BLOCK = 512

_KINDS = {
    **dict.fromkeys((b"1", b"2"), "link"),
    **dict.fromkeys((b"3", b"4", b"6", b"V"), "special"),
    **dict.fromkeys((b"5", b"D"), "folder"),
}
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")
_HARD_LINK = b"1"
# Of headers without magic, NUL being that of a file; GNU tar writes M and V without magic too.
_OLD_TYPES = b"\x0001234567MV"
_EXTENSIONS = (b"L", b"K", b"x", b"X", b"g")
_OBSTACLES = {
    b"S": "a sparse member; pack without --sparse",
    b"M": "the end of a member that begins in another volume; join the volumes",
}
_MOST_EXTENSIONS = 16
_LONGEST_EXTENSION = 1 << 20
# The largest record that tar programs pad a tar to; an empty tar is one of zeros.
_LONGEST_RECORD = 1 << 20
# Beyond this no seek can go; the largest file that a system holds is 2^63 bytes.
_FARTHEST = 1 << 62
_HOLES_LOOKED_FOR = 1 << 20
# A hard link is opened where its target is: above these bits is a checksum of the target's name.
_PLACE_BITS = 64


class _Entry(NamedTuple):
    """A member's headers, read.

    `offset`, `content` and `end` are offsets in the tar, `end` that of the next header; `target` is
    the name that a hard link gives, `obstacle` why the content cannot be read, if so.
    """

    name: bytes
    kind: str
    size: int
    target: bytes
    obstacle: str
    offset: int
    content: int
    end: int


@dataclass(slots=True)
class _Extension:
    """What the headers in front of a member say of it, where they do."""

    name: bytes | None = None
    target: bytes | None = None
    size: int | None = None
    is_sparse: bool = False


def is_tar_header(block: bytes) -> bool:
    """Whether a file that starts with these bytes is a tar, be it older than ustar."""
    if len(block) < TAR_BLOCK or not _has_checksum(block):
        return False
    return block[257:262] == b"ustar" or _is_old_header(block)


def is_tar_start(head: bytes, file: BinaryIO) -> bool:
    """Whether a file is a tar, be it an empty one with another behind it: zeros, then a header.

    Args:
        head: The file's first `TAR_BLOCK` bytes or more.
        file: The file; read, from its start, only where its head is zeros to the end.

    Raises:
        ReadingError: As for reading the file.
    """
    if not head or any(head[:TAR_BLOCK]):
        return is_tar_header(head[:TAR_BLOCK])
    if len(head.lstrip(b"\0")) < TAR_BLOCK:
        file.seek(0)
        head = file.read(_LONGEST_RECORD)
    zeros = len(head) - len(head.lstrip(b"\0"))
    at = zeros // TAR_BLOCK * TAR_BLOCK
    return is_tar_header(head[at : at + TAR_BLOCK])


def _is_old_header(block: bytes) -> bool:
    """Whether a block without magic has a name, a known type, and numbers where they belong."""
    numbers = [block[100:108], block[108:116], block[116:124], block[124:136], block[136:148]]
    digits = [field.strip(b" \0") for field in numbers]
    is_numeric = any(digits) and not b"".join(digits).strip(b"01234567")
    return is_numeric and block[0] != 0 and block[156] in _OLD_TYPES


def tar_members(file: BinaryIO) -> Iterator[Member]:
    """List the members in their order, those of tars that follow each other too.

    Args:
        file: The tar, inflated; read forwards only.

    Raises:
        ReadingError: `truncated` without an end mark, `corrupt` at a damaged header or at bytes
            behind the end mark that are no tar, `too_large` at an endless header; the members
            before that place have been given.
    """
    offset = 0
    while entry := _read_entry(file, offset):
        yield Member(entry.name, entry.size, entry.offset, entry.kind, None, entry.target)
        offset = entry.end


def link_place(name: bytes, offset: int) -> int:
    """Offset of a hard link to a file: the file's, with a checksum of the file's name.

    Args:
        name: The file's.
        offset: The file's; or that of a link, which it is given back for.
    """
    is_link = offset >> _PLACE_BITS
    return offset if is_link else (zlib.crc32(name) + 1) << _PLACE_BITS | offset


def content_place(member: Member) -> int:
    """Offset of the headers whose content the member has."""
    return member.offset & ((1 << _PLACE_BITS) - 1)


def open_tar_member(file: BinaryIO, name: bytes, offset: int, *, is_compressed: bool) -> OpenMember:
    """Open the member whose first header is at `offset`, or the file that it links to.

    A tar has no checksum of content: that of a compressed tar is checked when it is listed.

    Raises:
        ReadingError: `unreadable_file` for a sparse or divided member or a file that has
            changed, `truncated` if the content goes beyond the end.
    """
    check, place = divmod(offset, 1 << _PLACE_BITS)
    entry = _read_entry(file, place)
    is_same = entry and (link_place(entry.name, place) == offset if check else entry.name == name)
    if entry is None or not is_same:
        raise ReadingError(Outcome.UNREADABLE_FILE, "the tar has changed since it was listed")
    if entry.obstacle:
        raise ReadingError(Outcome.UNREADABLE_FILE, entry.obstacle)
    if is_compressed:
        held = Held(cast(io.BufferedReader, file), start=entry.content, size=entry.size)
        return OpenMember(cast(BinaryIO, held), entry.size, held.hold_all)
    if entry.content + entry.size > file.seek(0, io.SEEK_END):
        raise ReadingError(Outcome.TRUNCATED, "the tar ends inside the member")
    window = Window(file, start=entry.content, size=entry.size)
    return OpenMember(io.BufferedReader(window), entry.size, nothing_to_verify)


def _read_entry(file: BinaryIO, offset: int) -> _Entry | None:
    """Read all headers of the member at `offset`, or behind zeros there; None if none follow."""
    if offset > _FARTHEST:
        raise _end_is_missing()
    file.seek(offset)
    block = _read_block(file)
    if not block[0] and not any(block):
        offset, block = _behind_end_mark(file, offset + TAR_BLOCK)
        if not block:
            return None
    extension = _Extension()
    for _ in range(_MOST_EXTENSIONS):
        if not _has_checksum(block):
            raise ReadingError(Outcome.CORRUPT, "a header in the tar is damaged")
        if block[156:157] not in _EXTENSIONS:
            return _entry(file, offset, block, extension)
        _extend(extension, file, block)
        block = _read_block(file)
    raise ReadingError(Outcome.CORRUPT, "a member of the tar has headers without end")


def _behind_end_mark(file: BinaryIO, offset: int) -> tuple[int, bytes]:
    """Pass over the end mark and padding, both zeros, to the first header of another tar.

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
            offset = next_data(file, offset) // TAR_BLOCK * TAR_BLOCK
            file.seek(offset)
    return offset, b""


def _entry(file: BinaryIO, offset: int, block: bytes, extension: _Extension) -> _Entry:
    form = block[156:157]
    size = _number(block[124:136]) if extension.size is None else extension.size
    name = _header_name(block) if extension.name is None else extension.name
    target = b""
    if form == _HARD_LINK:
        target = _until_nul(block[157:257]) if extension.target is None else extension.target
    if form == b"S":
        _skip_sparse_map(file, block)
    obstacle = _OBSTACLES.get(b"S" if extension.is_sparse else form, "")
    kind = _KINDS.get(form, "file")
    if form == b"\0" and name.endswith(b"/"):
        kind = "folder"  # before POSIX there was no type for it
    content = file.tell()
    stored = 0 if form in _WITHOUT_CONTENT else size
    return _Entry(name, kind, size, target, obstacle, offset, content, content + _padded(stored))


def _extend(extension: _Extension, file: BinaryIO, block: bytes) -> None:
    """Read what comes in front of a member: its long name, or its pax records."""
    form, size = block[156:157], _number(block[124:136])
    if size > _LONGEST_EXTENSION:
        raise ReadingError(Outcome.TOO_LARGE, "a header in the tar is longer than any")
    data = file.read(_padded(size))
    if len(data) < _padded(size):
        raise _end_is_missing()
    if form == b"L":
        extension.name = _until_nul(data[:size])
    elif form == b"K":
        extension.target = _until_nul(data[:size])
    elif form in (b"x", b"X"):
        for key, value in _pax_records(data[:size]):
            if key in (b"path", b"GNU.sparse.name"):
                extension.name = value
            elif key == b"linkpath":
                extension.target = value
            elif key == b"size":
                extension.size = _decimal(value)
            extension.is_sparse |= key.startswith(b"GNU.sparse.")


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Records of the form "length key=value\\n"."""
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        end = at + _decimal(data[at : max(space, at)])
        if not space < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ReadingError(Outcome.CORRUPT, "a header in the tar is damaged")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        yield key, value
        at = end


def _skip_sparse_map(file: BinaryIO, block: bytes) -> None:
    """Go behind the blocks in which an old GNU sparse member lists its holes."""
    more, blocks = block[482], 0
    while more:
        more, blocks = _read_block(file)[504], blocks + 1
        if blocks * TAR_BLOCK > _LONGEST_EXTENSION:
            raise ReadingError(Outcome.TOO_LARGE, "a header in the tar is longer than any")


def _read_block(file: BinaryIO) -> bytes:
    block = file.read(TAR_BLOCK)
    if len(block) < TAR_BLOCK:
        raise _end_is_missing()
    return block


def _end_is_missing() -> ReadingError:
    return ReadingError(Outcome.TRUNCATED, "the tar ends without its end mark")


def _has_checksum(block: bytes) -> bool:
    """Whether the sum over the header, its own field taken as spaces, is as it says."""
    digits = block[148:156].strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        return False
    claimed = int(digits, 8) - sum(b" " * 8)
    if claimed == _sum(block) - sum(block[148:156]):
        return True
    # Some systems have summed signed characters.
    others = block[:148] + block[156:]
    return claimed == sum(others) - 256 * sum(byte > 127 for byte in others)


def _sum(block: bytes) -> int:
    """The sum of up to 512 bytes, in a sixth of the time that Python takes to add them up.

    Adler-32's lower half is one more than the sum, modulo 65,521 (RFC 1950); 256 bytes add up to
    less than that.
    """
    return (zlib.adler32(block[:256]) & 0xFFFF) + (zlib.adler32(block[256:]) & 0xFFFF) - 2


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
        raise ReadingError(Outcome.CORRUPT, "a header in the tar is damaged")
    return int(digits)


def _header_name(block: bytes) -> bytes:
    name, prefix = _until_nul(block[:100]), _until_nul(block[345:500])
    # In GNU's own format other fields are where POSIX has the prefix.
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _padded(size: int) -> int:
    return -(-size // TAR_BLOCK) * TAR_BLOCK

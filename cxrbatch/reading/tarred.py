"""Members of a tar file, header by header: ustar, GNU and pax; no header's claim is trusted.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; for the types L, K
and S and for base-256 numbers the GNU tar manual, appendix D.
"""

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, cast

from cxrbatch.reading.members import Held, Member, OpenMember, Window
from cxrbatch.reading.outcomes import Outcome, ReadingError

TAR_BLOCK = 512

_KINDS = {
    **dict.fromkeys((b"1", b"2"), "link"),
    **dict.fromkeys((b"3", b"4", b"6", b"V"), "special"),
    **dict.fromkeys((b"5", b"D"), "folder"),
}
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")
_EXTENSIONS = (b"L", b"K", b"x", b"X", b"g")
_MOST_EXTENSIONS = 16
_LONGEST_EXTENSION = 1 << 20
# Beyond this no seek can go; the largest file that a system holds is 2^63 bytes.
_FARTHEST = 1 << 62


class _Entry(NamedTuple):
    """A member's headers, read; `content` and `end` are offsets, `end` that of the next header."""

    name: bytes
    kind: str
    size: int
    is_sparse: bool
    content: int
    end: int


@dataclass(slots=True)
class _Extension:
    """What the headers in front of a member say of it, where they do."""

    name: bytes | None = None
    size: int | None = None
    is_sparse: bool = False


def is_tar_header(block: bytes) -> bool:
    """Whether a file that starts with these bytes is a tar, ustar or newer."""
    return block[257:262] == b"ustar" and len(block) >= TAR_BLOCK and _has_checksum(block)


def tar_members(file: BinaryIO) -> Iterator[Member]:
    """List the members in their order.

    Args:
        file: The tar, inflated; read forwards only.

    Raises:
        ReadingError: `truncated` without an end mark, `corrupt` at a damaged header, `too_large`
            at an endless one; the members before that place have been given.
    """
    offset = 0
    while entry := _read_entry(file, offset):
        yield Member(entry.name, entry.size, offset, entry.kind)
        offset = entry.end


def open_tar_member(file: BinaryIO, name: bytes, offset: int, *, is_compressed: bool) -> OpenMember:
    """Open the member whose first header is at `offset`.

    A tar has no checksum of content: that of a compressed tar is checked when it is listed.

    Raises:
        ReadingError: `unreadable_file` for a sparse member or a file that has changed,
            `truncated` if the content goes beyond the end.
    """
    entry = _read_entry(file, offset)
    if entry is None or entry.name != name:
        raise ReadingError(Outcome.UNREADABLE_FILE, "the tar has changed since it was listed")
    if entry.is_sparse:
        raise ReadingError(Outcome.UNREADABLE_FILE, "a sparse member; pack without --sparse")
    if is_compressed:
        held = Held(cast(io.BufferedReader, file), start=entry.content, size=entry.size)
        return OpenMember(cast(BinaryIO, held), entry.size, held.hold_all)
    if entry.content + entry.size > file.seek(0, io.SEEK_END):
        raise ReadingError(Outcome.TRUNCATED, "the tar ends inside the member")
    window = Window(file, start=entry.content, size=entry.size)
    return OpenMember(io.BufferedReader(window), entry.size, _nothing_to_verify)


def _nothing_to_verify() -> None:
    pass


def _read_entry(file: BinaryIO, offset: int) -> _Entry | None:
    """Read all headers of the member at `offset`; None at the end mark, a block of zeros."""
    if offset > _FARTHEST:
        raise _end_is_missing()
    file.seek(offset)
    extension = _Extension()
    for number in range(_MOST_EXTENSIONS):
        block = _read_block(file)
        if number == 0 and not any(block):
            return None
        if not _has_checksum(block):
            raise ReadingError(Outcome.CORRUPT, "a header in the tar is damaged")
        if block[156:157] not in _EXTENSIONS:
            return _entry(file, block, extension)
        _extend(extension, file, block)
    raise ReadingError(Outcome.CORRUPT, "a member of the tar has headers without end")


def _entry(file: BinaryIO, block: bytes, extension: _Extension) -> _Entry:
    form = block[156:157]
    size = _number(block[124:136]) if extension.size is None else extension.size
    name = _header_name(block) if extension.name is None else extension.name
    is_sparse = extension.is_sparse
    if form == b"S":
        is_sparse = True
        _skip_sparse_map(file, block)
    kind = _KINDS.get(form, "file")
    if form == b"\0" and name.endswith(b"/"):
        kind = "folder"  # before POSIX there was no type for it
    content = file.tell()
    stored = 0 if form in _WITHOUT_CONTENT else size
    return _Entry(name, kind, size, is_sparse, content, content + _padded(stored))


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
    elif form in (b"x", b"X"):
        for key, value in _pax_records(data[:size]):
            if key in (b"path", b"GNU.sparse.name"):
                extension.name = value
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

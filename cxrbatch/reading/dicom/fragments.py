"""Fragments of encapsulated pixel data, and which of them make up each frame.

Source: DICOM PS3.5 annex A.4.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cxrbatch.reading.codecs.codestreams import END, starts_codestream
from cxrbatch.reading.dicom.header import PixelElement
from cxrbatch.reading.outcomes import Outcome, ReadingError

_UNDEFINED = 0xFFFFFFFF
_ITEM = 0xFFFEE000
_DELIMITER = 0xFFFEE0DD
# More fragments than this belong to no radiograph, and a list of them would be the bomb.
_MOST_FRAGMENTS = 50_000
# Trailing padding and digital signatures may lie behind (PS3.10 section 7.2).
_ALLOWED_BEHIND = (b"\xfc\xff\xfc\xff", b"\xfa\xff\xfa\xff")
# An RLE frame starts with the number of its segments and the first one's offset (PS3.5 annex G.5).
_MOST_SEGMENTS, _RLE_HEADER_BYTES = 15, 64


@dataclass(frozen=True, slots=True)
class Fragment:
    """Offset of a fragment's value in the file, and from the first fragment; and its length."""

    offset: int
    relative: int
    length: int


@dataclass(frozen=True, slots=True)
class FragmentList:
    """All fragments of a file.

    Attributes:
        fragments: Without the basic offset table.
        offsets: The basic offset table; empty where there is none.
        failure: Why the list has no delimiter, or None.
        deviations: As of `Header`.
    """

    fragments: list[Fragment]
    offsets: tuple[int, ...]
    failure: ReadingError | None
    deviations: tuple[str, ...]


def list_fragments(
    stream: BinaryIO, pixels: PixelElement, *, size: int | None, frames: int
) -> FragmentList:
    """Find the offset table and all fragments.

    Args:
        stream: The file.
        pixels: Where its pixel data lie.
        size: Bytes in the file, or None.
        frames: Number of Frames.

    Raises:
        ReadingError: `truncated` if the file ends inside a fragment, `corrupt`, `too_large`.
    """
    end = None if pixels.length == _UNDEFINED else pixels.offset + pixels.length
    table: bytes | None = None
    fragments: list[Fragment] = []
    failure: ReadingError | None = None
    first, position = 0, pixels.offset
    while end is None or position < end:
        stream.seek(position)
        head = stream.read(8)
        if len(head) < 8:
            failure = ReadingError(Outcome.TRUNCATED, "the file ends behind its last fragment")
            break
        group, element, length = struct.unpack("<HHI", head)
        tag = group << 16 | element
        if tag == _DELIMITER:
            position += 8
            break
        if tag != _ITEM or length == _UNDEFINED:
            detail = "compressed pixel data that are not in fragments"
            failure = ReadingError(Outcome.CORRUPT, detail)
            break
        start = position + 8
        if size is not None and start + length > size:
            raise ReadingError(Outcome.TRUNCATED, "the file ends inside the pixel data")
        if table is None:
            table = stream.read(length if length <= 8 * _MOST_FRAGMENTS else 0)
            first = start + length
            if length > 8 * _MOST_FRAGMENTS or not _is_table(table, frames):
                table, first = b"", position
        if position >= first:
            fragments.append(Fragment(start, position - first, length))
        if len(fragments) > _MOST_FRAGMENTS:
            raise ReadingError(Outcome.TOO_LARGE, "more fragments than any radiograph has")
        position = start + length
    words = len(table or b"") // 4
    offsets = struct.unpack(f"<{words}I", (table or b"")[: 4 * words])
    deviations = []
    if end is not None:
        deviations.append("the compressed pixel data have a defined length")
    if failure is not None:
        deviations.append("the fragments of the pixel data have no delimiter")
    elif size is not None and position < size:
        stream.seek(position)
        if stream.read(4) not in _ALLOWED_BEHIND:
            deviations.append("what lies behind the pixel data was not read")
    return FragmentList(fragments, offsets, failure, tuple(deviations))


def _is_table(item: bytes, frames: int) -> bool:
    """Whether the first item is an offset table and not a frame whose table is missing.

    The first offset is 0; where it is wrong, the number of offsets is right.
    """
    if not any(item[:4]):
        return True
    if len(item) != 4 * frames or starts_codestream(item):
        return False
    segments, offset = struct.unpack_from("<II", item.ljust(8, b"\0"))
    return not (1 <= segments <= _MOST_SEGMENTS and offset == _RLE_HEADER_BYTES)


def group_fragments(
    fragments: list[Fragment],
    offsets: tuple[int, ...],
    frames: int,
    *,
    read: Callable[[Fragment, int, int], bytes],
) -> list[list[Fragment]]:
    """Fragments by frame.

    All belong to the only frame; or one to each; or a frame begins where a codestream does, where
    the offset table says, or behind an end marker, whichever makes as many as there are.

    Args:
        fragments: In the order of the file.
        offsets: Of the frames from the first fragment; empty where there is no table.
        frames: Number of Frames.
        read: Gives so many bytes of a fragment, from an offset in it.

    Raises:
        ReadingError: `truncated` if there are too few, `corrupt` if no way fits.
    """
    if len(fragments) > frames:
        fragments = [part for part in fragments if part.length]
    if len(fragments) < frames:
        raise ReadingError(Outcome.TRUNCATED, "there are fewer fragments than frames")
    if frames == 1:
        return [fragments]
    if len(fragments) == frames:
        return [[part] for part in fragments]
    for starts in _possible_starts(fragments, offsets, read):
        if sum(starts) == frames and starts[0]:
            return _split(fragments, starts)
    raise ReadingError(Outcome.CORRUPT, "fragments do not add up to the frames claimed")


def _possible_starts(
    fragments: list[Fragment],
    offsets: tuple[int, ...],
    read: Callable[[Fragment, int, int], bytes],
) -> Iterator[list[bool]]:
    """Which fragments start a frame, in several ways of telling."""
    yield [starts_codestream(read(part, 0, 16)) for part in fragments]
    yield [part.relative in set(offsets) for part in fragments]
    ends = [_ends_frame(read(part, max(0, part.length - 16), 16)) for part in fragments]
    yield [True, *ends[:-1]]


def _ends_frame(tail: bytes) -> bool:
    return END in tail and tail.rstrip(b"\0\xff").endswith(b"\xd9")


def _split(fragments: list[Fragment], starts: list[bool]) -> list[list[Fragment]]:
    groups: list[list[Fragment]] = []
    for part, is_start in zip(fragments, starts, strict=True):
        if is_start:
            groups.append([])
        groups[-1].append(part)
    return groups

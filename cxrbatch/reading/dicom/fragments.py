"""Reads the frames of encapsulated (compressed) pixel data out of their fragments.

Source: DICOM PS3.5 annex A.4.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from cxrbatch.reading.codecs.codestreams import END, codestream_end, starts_codestream
from cxrbatch.reading.codecs.decoders import CODESTREAMS, DecodedFrame, FrameShape, decode_frame
from cxrbatch.reading.dicom.element_reader import ITEM, SEQUENCE_END, UNDEFINED
from cxrbatch.reading.dicom.header import DicomHeader, PixelElement
from cxrbatch.reading.dicom.pixel_data import PACKED
from cxrbatch.reading.dicom.values import raw_bytes
from cxrbatch.reading.outcomes import Outcome, ReadingError

# More fragments than this belong to no radiograph, and a list of them would be the bomb.
_MOST_FRAGMENTS = 50_000
# Trailing padding and digital signatures may lie behind (PS3.10 section 7.2).
_ALLOWED_BEHIND = (b"\xfc\xff\xfc\xff", b"\xfa\xff\xfa\xff")
# An RLE frame starts with the number of its segments and the first one's offset (PS3.5 annex G.5).
_MOST_SEGMENTS, _RLE_HEADER_BYTES = 15, 64
_EXTENDED_OFFSETS = 0x7FE00001


@dataclass(frozen=True, slots=True)
class _Fragment:
    """Offset of a fragment's value in the file, and from the first fragment; and its length."""

    offset: int
    relative: int
    length: int


@dataclass(frozen=True, slots=True)
class _FragmentList:
    """All fragments of a file.

    Attributes:
        fragments: Without the basic offset table.
        offsets: The basic offset table; empty where there is none.
        failure: Why the list has no delimiter, or None.
        deviations: As of `DicomHeader`.
    """

    fragments: list[_Fragment]
    offsets: tuple[int, ...]
    failure: ReadingError | None
    deviations: tuple[str, ...]


class EncapsulatedFrames:
    """The frames of compressed pixel data.

    Args:
        header: Of the image.
        pixels: Where its pixel data lie.
        shape: Size and layout of every frame.
        count: Number of frames.

    Attributes:
        deviations: As of `DicomHeader`.

    Raises:
        ReadingError: `truncated` if fragments are missing, `corrupt` if they cannot be grouped
            by frame, `too_large`.
    """

    def __init__(
        self, header: DicomHeader, pixels: PixelElement, shape: FrameShape, count: int
    ) -> None:
        self._stream = header.stream
        self._shape = shape
        self._transfer_syntax = header.transfer_syntax
        listed = _list_fragments(header.stream, pixels, size=header.size, count=count)
        # Extended Offset Table (PS3.3 C.7.6.3.1.8).
        extended = _unpack_numbers(raw_bytes(header.dataset, _EXTENDED_OFFSETS) or b"", "Q")
        offsets = listed.offsets or extended
        self._frames = self._group(listed.fragments, offsets, count)
        self.deviations = listed.deviations
        if shape.bits_allocated == 12:
            self.deviations += (PACKED,)
        if offsets and offsets != tuple(parts[0].relative for parts in self._frames):
            self.deviations += ("the offset table does not fit the frames",)
        if listed.failure is not None and not self._are_whole(listed.fragments):
            raise listed.failure

    def frame(self, number: int) -> DecodedFrame:
        """Decode the cells of one frame, counted from 0."""
        data = self._data(number)
        return decode_frame(data, shape=self._shape, transfer_syntax=self._transfer_syntax)

    def _data(self, number: int) -> bytes:
        return b"".join(self._read(part, 0, part.length) for part in self._frames[number])

    def _read(self, fragment: _Fragment, start: int, count: int) -> bytes:
        self._stream.seek(fragment.offset + start)
        return self._stream.read(min(count, fragment.length - start))

    def _are_whole(self, fragments: list[_Fragment]) -> bool:
        """Whether all frames are certain to be there although no delimiter follows them.

        Each begins and ends as a codestream, and there are as many as claimed. RLE has no such
        end: the file may have been cut between two fragments.
        """
        if self._transfer_syntax not in CODESTREAMS:
            return False
        starts = sum(starts_codestream(self._read(part, 0, 16)) for part in fragments)
        try:
            for number in range(len(self._frames)):
                codestream_end(self._data(number))
        except ReadingError:
            return False
        return starts == len(self._frames)

    def _group(
        self, fragments: list[_Fragment], offsets: tuple[int, ...], count: int
    ) -> list[list[_Fragment]]:
        """Fragments by frame.

        All belong to the only frame; or one to each; or a frame begins where a codestream does,
        where the offset table says, or behind an end marker, whichever gives the number of frames.
        """
        if len(fragments) > count:
            fragments = [part for part in fragments if part.length]
        if len(fragments) < count:
            raise ReadingError(Outcome.TRUNCATED, "there are fewer fragments than frames")
        if count == 1:
            return [fragments]
        if len(fragments) == count:
            return [[part] for part in fragments]
        for starts in self._possible_starts(fragments, offsets):
            if sum(starts) == count and starts[0]:
                firsts = [i for i, is_first in enumerate(starts) if is_first]
                ends = [*firsts[1:], len(fragments)]
                return [fragments[i:end] for i, end in zip(firsts, ends, strict=True)]
        raise ReadingError(Outcome.CORRUPT, "fragments do not add up to the frames claimed")

    def _possible_starts(
        self, fragments: list[_Fragment], offsets: tuple[int, ...]
    ) -> Iterator[list[bool]]:
        """Which fragments start a frame, by each of three signs."""
        yield [starts_codestream(self._read(part, 0, 16)) for part in fragments]
        yield [part.relative in set(offsets) for part in fragments]
        tails = [self._read(part, max(0, part.length - 16), 16) for part in fragments]
        yield [True, *map(_ends_frame, tails[:-1])]


def _ends_frame(tail: bytes) -> bool:
    return END in tail and tail.rstrip(b"\0\xff").endswith(b"\xd9")


def _list_fragments(
    stream: BinaryIO, pixels: PixelElement, *, size: int | None, count: int
) -> _FragmentList:
    """Find the offset table and all fragments.

    Args:
        stream: The file.
        pixels: Where its pixel data lie.
        size: Bytes in the file, or None.
        count: Number of frames.

    Raises:
        ReadingError: `truncated` if the file ends inside a fragment, `too_large`.
    """
    end = None if pixels.length == UNDEFINED else pixels.offset + pixels.length
    table: bytes | None = None
    fragments: list[_Fragment] = []
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
        if tag == SEQUENCE_END:
            position += 8
            break
        if tag != ITEM or length == UNDEFINED:
            detail = "compressed pixel data that are not in fragments"
            failure = ReadingError(Outcome.CORRUPT, detail)
            break
        start = position + 8
        if size is not None and start + length > size:
            raise ReadingError(Outcome.TRUNCATED, "the file ends inside the pixel data")
        if table is None:
            table = stream.read(length if length <= 8 * _MOST_FRAGMENTS else 0)
            first = start + length
            if length > 8 * _MOST_FRAGMENTS or not _is_offset_table(table, count):
                table, first = b"", position
        if position >= first:
            fragments.append(_Fragment(start, position - first, length))
        if len(fragments) > _MOST_FRAGMENTS:
            raise ReadingError(Outcome.TOO_LARGE, "more fragments than any radiograph has")
        position = start + length
    deviations = []
    if end is not None:
        deviations.append("the compressed pixel data have a defined length")
    if failure is not None:
        deviations.append("the fragments of the pixel data have no delimiter")
    elif size is not None and position < size:
        stream.seek(position)
        if stream.read(4) not in _ALLOWED_BEHIND:
            deviations.append("what lies behind the pixel data was not read")
    offsets = _unpack_numbers(table or b"", "I")
    return _FragmentList(fragments, offsets, failure, tuple(deviations))


def _unpack_numbers(data: bytes, form: str) -> tuple[int, ...]:
    """Unsigned numbers in little endian, of 32 ("I") or 64 bits ("Q"); a rest is left out."""
    return struct.unpack_from(f"<{len(data) // struct.calcsize(f'<{form}')}{form}", data)


def _is_offset_table(item: bytes, count: int) -> bool:
    """Whether the first item is an offset table and not a frame whose table is missing.

    The first offset is 0; where it is wrong, the number of offsets is right.
    """
    if not any(item[:4]):
        return True
    if len(item) != 4 * count or starts_codestream(item):
        return False
    segments, offset = struct.unpack_from("<II", item.ljust(8, b"\0"))
    return not (1 <= segments <= _MOST_SEGMENTS and offset == _RLE_HEADER_BYTES)

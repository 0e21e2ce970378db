"""Reads the frames of pixel data one at a time: uncompressed by offset, compressed by fragments.

What the header claims is compared with what the file holds before anything is read, so that a
claim of gigabytes costs nothing.

Source: DICOM PS3.5 section 8 (uncompressed) and annex A.4 (encapsulated).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cxrbatch.reading.codecs.codestreams import END, codestream_end, starts_codestream
from cxrbatch.reading.codecs.decoders import (
    CODESTREAMS,
    DecodedFrame,
    FrameShape,
    Samples,
    decode_frame,
)
from cxrbatch.reading.containers.compression import InflatedStream
from cxrbatch.reading.dicom.element_reader import ITEM, SEQUENCE_END, UNDEFINED
from cxrbatch.reading.dicom.header import DicomHeader, PixelElement
from cxrbatch.reading.dicom.values import raw_bytes
from cxrbatch.reading.outcomes import Outcome, ReadingError

_PACKED = "bits allocated are 12"
# More fragments than this belong to no radiograph, and a list of them would be the bomb.
_MOST_FRAGMENTS = 50_000
# Trailing padding and digital signatures may lie behind (PS3.10 section 7.2).
_ALLOWED_BEHIND = (b"\xfc\xff\xfc\xff", b"\xfa\xff\xfa\xff")
# An RLE frame starts with the number of its segments and the first one's offset (PS3.5 annex G.5).
_MOST_SEGMENTS, _RLE_HEADER_BYTES = 15, 64
_EXTENDED_OFFSETS = 0x7FE00001


class NativeFrames:
    """Reads the frames of uncompressed pixel data, one at a time.

    Args:
        header: Of the image.
        pixels: Where its pixel data lie.
        shape: Size and layout of every frame.
        count: Number of frames.

    Attributes:
        deviations: How the pixel data break the standard, as in `DicomHeader`.

    Raises:
        ReadingError: `truncated` if pixel data or file are too short for the frames, `corrupt` for
            pixel data without a length, `unsupported_image` for 12-bit cells that are stored in 16.
    """

    def __init__(
        self, header: DicomHeader, pixels: PixelElement, shape: FrameShape, count: int
    ) -> None:
        self._stream = header.stream
        self._pixels = pixels
        self._shape = shape
        self._order = "<" if header.is_little_endian else ">"
        # Two pixels share one pair of chroma samples (PS3.3 C.7.6.3.1.2).
        self._is_422 = shape.photometric == "YBR_FULL_422"
        samples = 2 if self._is_422 else shape.samples
        self._bits = shape.rows * shape.columns * samples * shape.bits_allocated
        self._needed = needed = (count * self._bits + 7) // 8
        self.deviations: tuple[str, ...] = (_PACKED,) if shape.bits_allocated == 12 else ()
        if pixels.length == UNDEFINED:
            raise ReadingError(Outcome.CORRUPT, "uncompressed pixel data without a length")
        if pixels.length % 2:
            self.deviations += ("the pixel data have an odd length",)
        if shape.bits_allocated == 12 and 3 * pixels.length >= 4 * needed:
            detail = "bits allocated are 12, and the pixel data are of 16"
            raise ReadingError(Outcome.UNSUPPORTED_IMAGE, detail)
        if pixels.length < needed:
            raise ReadingError(Outcome.TRUNCATED, "the pixel data are shorter than the image")
        if header.size is not None and pixels.offset + needed > header.size:
            raise ReadingError(Outcome.TRUNCATED, "the file ends inside the pixel data")
        if isinstance(header.stream, InflatedStream):
            header.stream.limit = pixels.offset + needed

    def frame(self, number: int) -> DecodedFrame:
        """Read one frame, counted from 0: its cells as stored, and their colour space.

        The chroma of YBR_FULL_422 is repeated for both pixels, so that each has three samples.

        Raises:
            ReadingError: `truncated` if the file ends inside it, `corrupt` if inflating fails.
        """
        shape, cells = self._shape, self._cells(number)
        rows, columns, photometric = shape.rows, shape.columns, shape.photometric
        if self._is_422:
            return DecodedFrame(_widen_422(cells.reshape(rows, columns // 2, 4)), "YBR_FULL")
        if shape.samples == 1:
            return DecodedFrame(cells.reshape(rows, columns), photometric)
        if shape.planar:
            planes = cells.reshape(shape.samples, rows, columns)
            return DecodedFrame(np.moveaxis(planes, 0, -1), photometric)
        return DecodedFrame(cells.reshape(rows, columns, shape.samples), photometric)

    def _cells(self, number: int) -> Samples:
        start, end = number * self._bits, (number + 1) * self._bits
        allocated = self._shape.bits_allocated
        if allocated == 1:
            # Frames of single bits follow each other within a byte (PS3.5 section 8.1.1).
            packed = self._read(start // 8, (end + 7) // 8)
            bits = np.unpackbits(packed, bitorder="little")
            return bits[start % 8 : start % 8 + self._bits]
        if allocated == 12:
            # So do packed cells, two in three bytes; the first of a frame may lie in the middle.
            odd = start // 12 % 2
            pairs = self._read_bytes((start // 12 - odd) // 2 * 3, (end + 7) // 8)
            return _unpack(pairs)[odd : odd + self._bits // 12]
        if allocated > 8:
            cells = self._read(start // 8, end // 8).view(f"{self._order}u{allocated // 8}")
            return cells.astype(cells.dtype.newbyteorder("="), copy=False)
        return self._read_bytes(start // 8, end // 8)

    def _read_bytes(self, start: int, end: int) -> NDArray[np.uint8]:
        """Bytes of the value, in the order of little endian."""
        if self._order == "<" or self._pixels.vr != "OW":
            return self._read(start, end)
        # Bytes travel in 16-bit words, whose halves are swapped (PS3.5 section 8.1.2).
        first, last = start // 2 * 2, (end + 1) // 2 * 2
        swapped = self._read(first, last).view(">u2").astype("<u2").view(np.uint8)
        return swapped[start - first : end - first]

    def _read(self, start: int, end: int) -> NDArray[np.uint8]:
        """Bytes of the value as they lie in the file."""
        self._stream.seek(self._pixels.offset + start)
        data = self._stream.read(end - start)
        # An odd last byte may lack its pad byte.
        if len(data) < min(end, self._pixels.length) - start:
            raise ReadingError(Outcome.TRUNCATED, "the file ends inside the pixel data")
        if isinstance(self._stream, InflatedStream) and end >= self._needed:
            self._stream.finish()
        return np.frombuffer(data.ljust(end - start, b"\0"), np.uint8)


def _unpack(pairs: NDArray[np.uint8]) -> Samples:
    """Cells of 12 bits, the lowest bit first, of which two follow each other in three bytes."""
    odd = -len(pairs) % 3
    low, middle, high = np.pad(pairs, (0, odd)).astype(np.uint16).reshape(-1, 3).T
    return np.stack([low | (middle & 0xF) << 8, middle >> 4 | high << 4], -1).reshape(-1)


def _widen_422(pairs: Samples) -> Samples:
    """Y Y Cb Cr for two pixels, shape (rows, columns / 2, 4), to Y Cb Cr for each."""
    rows, half, _ = pairs.shape
    wide = np.empty((rows, half, 2, 3), pairs.dtype)
    wide[..., 0] = pairs[..., :2]
    wide[..., 1] = pairs[..., 2:3]
    wide[..., 2] = pairs[..., 3:4]
    return wide.reshape(rows, 2 * half, 3)


@dataclass(frozen=True, slots=True)
class _Fragment:
    """Offset of a fragment's value in the file, and from the first fragment; and its length."""

    offset: int
    relative: int
    length: int


@dataclass(frozen=True, slots=True)
class _FragmentList:
    """All fragments of a file but the basic offset table, whose numbers are `offsets`, if any.

    `failure` says why the list has no delimiter, or is None; `deviations` as in `DicomHeader`.
    """

    fragments: list[_Fragment]
    offsets: tuple[int, ...]
    failure: ReadingError | None
    deviations: tuple[str, ...]


class EncapsulatedFrames:
    """Reads the frames of compressed pixel data, one at a time.

    Args:
        header: Of the image.
        pixels: Where its pixel data lie.
        shape: Size and layout of every frame.
        count: Number of frames.

    Attributes:
        deviations: How the pixel data break the standard, as in `DicomHeader`.

    Raises:
        ReadingError: `truncated` if fragments are missing, `corrupt` if something else follows or
            they cannot be grouped by frame, `too_large` for more than 50,000 fragments.
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
            self.deviations += (_PACKED,)
        if offsets and offsets != tuple(parts[0].relative for parts in self._frames):
            self.deviations += ("the offset table does not fit the frames",)
        if listed.failure is not None and not self._are_whole(listed.fragments):
            raise listed.failure

    def frame(self, number: int) -> DecodedFrame:
        """Decode frame `number`, from 0; ReadingError: `truncated`, `corrupt`, unsupported bits."""
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
        firsts = set(offsets)
        yield [part.relative in firsts for part in fragments]
        tails = [self._read(part, max(0, part.length - 16), 16) for part in fragments]
        yield [True, *map(_ends_frame, tails[:-1])]


def _ends_frame(tail: bytes) -> bool:
    return END in tail and tail.rstrip(b"\0\xff").endswith(b"\xd9")


def _list_fragments(
    stream: BinaryIO, pixels: PixelElement, *, size: int | None, count: int
) -> _FragmentList:
    """Find the fragments of `count` frames; raises `truncated` inside a fragment, `too_large`."""
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

"""Frames out of pixel data, one at a time: uncompressed by offset, compressed by fragments.

What the header claims is compared with what the file holds before anything is read, so that a
claim of gigabytes costs nothing.

Source: DICOM PS3.5 section 8 (uncompressed) and annex A.4 (encapsulated).
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cxrbatch.reading.decoding import DecodedFrame, FrameShape, Samples, decode_frame
from cxrbatch.reading.elements import raw_bytes
from cxrbatch.reading.header import Header, PixelElement
from cxrbatch.reading.inflation import InflatedStream
from cxrbatch.reading.outcomes import Outcome, ReadingError

_UNDEFINED = 0xFFFFFFFF
_ITEM = 0xFFFEE000
_DELIMITER = 0xFFFEE0DD
# More fragments than this belong to no radiograph, and a list of them would be the bomb.
_MOST_FRAGMENTS = 50_000
_END_MARKER = b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class _Fragment:
    """Offset of a fragment's value in the file, and from the first fragment; and its length."""

    offset: int
    relative: int
    length: int


class NativeFrames:
    """Uncompressed frames.

    Raises:
        ReadingError: `truncated` if the file is shorter than its header claims.
    """

    def __init__(
        self, header: Header, pixels: PixelElement, shape: FrameShape, frames: int
    ) -> None:
        self._stream = header.stream
        self._pixels = pixels
        self._shape = shape
        self._order = "<" if header.is_little_endian else ">"
        # Two pixels share one pair of chroma samples (PS3.3 C.7.6.3.1.2).
        self._is_422 = shape.photometric == "YBR_FULL_422"
        samples = 2 if self._is_422 else shape.samples
        self._bits = shape.rows * shape.columns * samples * shape.bits_allocated
        self._needed = needed = (frames * self._bits + 7) // 8
        if pixels.length == _UNDEFINED:
            raise ReadingError(Outcome.CORRUPT, "uncompressed pixel data without a length")
        if pixels.length < needed:
            raise ReadingError(Outcome.TRUNCATED, "the pixel data are shorter than the image")
        if header.size is not None and pixels.offset + needed > header.size:
            raise ReadingError(Outcome.TRUNCATED, "the file ends inside the pixel data")
        if isinstance(header.stream, InflatedStream):
            header.stream.limit = pixels.offset + needed

    def frame(self, number: int) -> DecodedFrame:
        """Cells of one frame, 0-based."""
        cells = self._cells(number)
        if self._is_422:
            return DecodedFrame(_widen_422(cells, self._shape), "YBR_FULL")
        if self._shape.samples > 1 and self._shape.planar:
            planes = cells.reshape(self._shape.samples, self._shape.rows, self._shape.columns)
            return DecodedFrame(np.moveaxis(planes, 0, -1), self._shape.photometric)
        return DecodedFrame(cells.reshape(self._shape.shape), self._shape.photometric)

    def _cells(self, number: int) -> Samples:
        start, end = number * self._bits, (number + 1) * self._bits
        if self._shape.bits_allocated == 1:
            # Frames of single bits follow each other within a byte (PS3.5 section 8.1.1).
            packed = self._read(start // 8, (end + 7) // 8)
            bits = np.unpackbits(packed, bitorder="little")
            return bits[start % 8 : start % 8 + self._bits]
        if self._shape.bits_allocated > 8:
            width = self._shape.bits_allocated // 8
            cells = self._read(start // 8, end // 8).view(f"{self._order}u{width}")
            return cells.astype(cells.dtype.newbyteorder("="), copy=False)
        if self._order == ">" and self._pixels.vr == "OW":
            # Bytes travel in 16-bit words, whose halves are swapped (PS3.5 section 8.1.2).
            first, last = start // 8 // 2 * 2, (end // 8 + 1) // 2 * 2
            swapped = self._read(first, last).view(">u2").astype("<u2").view(np.uint8)
            return swapped[start // 8 - first :][: self._bits // 8]
        return self._read(start // 8, end // 8)

    def _read(self, start: int, end: int) -> NDArray[np.uint8]:
        """Bytes of the pixel data's value."""
        self._stream.seek(self._pixels.offset + start)
        data = self._stream.read(end - start)
        # An odd last byte may lack its pad byte.
        if len(data) < min(end, self._pixels.length) - start:
            raise ReadingError(Outcome.TRUNCATED, "the file ends inside the pixel data")
        if isinstance(self._stream, InflatedStream) and end >= self._needed:
            self._stream.finish()
        return np.frombuffer(data.ljust(end - start, b"\0"), np.uint8)


def _widen_422(cells: Samples, shape: FrameShape) -> Samples:
    """Y Y Cb Cr for two pixels to Y Cb Cr for each."""
    pairs = cells.reshape(shape.rows, shape.columns // 2, 4)
    wide = np.empty((shape.rows, shape.columns // 2, 2, 3), cells.dtype)
    wide[..., 0] = pairs[..., :2]
    wide[..., 1] = pairs[..., 2:3]
    wide[..., 2] = pairs[..., 3:4]
    return wide.reshape(shape.rows, shape.columns, 3)


class EncapsulatedFrames:
    """Compressed frames.

    Raises:
        ReadingError: `truncated` if fragments are missing, `corrupt` if they cannot be told
            apart into frames.
    """

    def __init__(
        self, header: Header, pixels: PixelElement, shape: FrameShape, frames: int
    ) -> None:
        self._stream = header.stream
        self._shape = shape
        self._transfer_syntax = header.transfer_syntax
        table, fragments = _list_fragments(header.stream, pixels, size=header.size)
        offsets = table or _extended_offsets(header)
        self._frames = self._group(fragments, offsets, frames)

    def frame(self, number: int) -> DecodedFrame:
        """Cells of one frame, 0-based."""
        data = b"".join(self._read(part, part.length) for part in self._frames[number])
        return decode_frame(data, shape=self._shape, transfer_syntax=self._transfer_syntax)

    def _read(self, fragment: _Fragment, length: int) -> bytes:
        self._stream.seek(fragment.offset + fragment.length - length)
        return self._stream.read(length)

    def _group(
        self, fragments: list[_Fragment], offsets: tuple[int, ...], frames: int
    ) -> list[list[_Fragment]]:
        """Fragments by frame: all to the only one, one each, by offset table, by end marker."""
        if len(fragments) < frames:
            raise ReadingError(Outcome.TRUNCATED, "there are fewer fragments than frames")
        if frames == 1:
            return [fragments]
        if len(fragments) == frames:
            return [[part] for part in fragments]
        if len(offsets) == frames and set(offsets) <= {part.relative for part in fragments}:
            starts = set(offsets)
            groups = _split(fragments, [part.relative in starts for part in fragments])
        else:
            # A fragment starts a frame if the one before it ended one.
            ends = [self._ends_frame(part) for part in fragments]
            groups = _split(fragments, [True, *ends[:-1]])
        if len(groups) != frames:
            raise ReadingError(Outcome.CORRUPT, "fragments do not add up to the frames claimed")
        return groups

    def _ends_frame(self, fragment: _Fragment) -> bool:
        tail = self._read(fragment, min(16, fragment.length))
        return _END_MARKER in tail and tail.rstrip(b"\0\xff").endswith(b"\xd9")


def _split(fragments: list[_Fragment], starts: list[bool]) -> list[list[_Fragment]]:
    groups: list[list[_Fragment]] = []
    for part, is_start in zip(fragments, starts, strict=True):
        if is_start or not groups:
            groups.append([])
        groups[-1].append(part)
    return groups


def _list_fragments(
    stream: BinaryIO, pixels: PixelElement, *, size: int | None
) -> tuple[tuple[int, ...], list[_Fragment]]:
    """The basic offset table, empty where there is none, and where each fragment lies."""
    stream.seek(pixels.offset)
    end = None if pixels.length == _UNDEFINED else pixels.offset + pixels.length
    table: bytes | None = None
    fragments: list[_Fragment] = []
    first = 0
    while True:
        position = stream.tell()
        head = stream.read(8)
        if end is not None and position >= end:
            break
        if len(head) < 8:
            raise ReadingError(Outcome.TRUNCATED, "the file ends behind its last fragment")
        group, element, length = struct.unpack("<HHI", head)
        tag = group << 16 | element
        if tag == _DELIMITER:
            break
        if tag != _ITEM or length == _UNDEFINED:
            raise ReadingError(Outcome.CORRUPT, "compressed pixel data that are not in fragments")
        if size is not None and position + 8 + length > size:
            raise ReadingError(Outcome.TRUNCATED, "the file ends inside the pixel data")
        if table is None:
            table = stream.read(length if length <= 8 * _MOST_FRAGMENTS else 0)
            first = position + 8 + length
            if any(table[:4]) or length > 8 * _MOST_FRAGMENTS:
                # A table's first offset is 0: this is a frame, and the table is missing.
                table, first = b"", position
        if position >= first:
            fragments.append(_Fragment(position + 8, position - first, length))
        if len(fragments) > _MOST_FRAGMENTS:
            raise ReadingError(Outcome.TOO_LARGE, "more fragments than any radiograph has")
        stream.seek(position + 8 + length)
    words = len(table or b"") // 4
    return struct.unpack(f"<{words}I", (table or b"")[: 4 * words]), fragments


def _extended_offsets(header: Header) -> tuple[int, ...]:
    """Extended Offset Table (7FE0,0001), PS3.3 C.7.6.3.1.8."""
    data = raw_bytes(header.dataset, 0x7FE00001) or b""
    count = len(data) // 8
    return struct.unpack(f"<{count}Q", data[: 8 * count])

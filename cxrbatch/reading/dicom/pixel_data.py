"""Frames out of pixel data, one at a time: uncompressed by offset, compressed by fragments.

What the header claims is compared with what the file holds before anything is read, so that a
claim of gigabytes costs nothing.

Source: DICOM PS3.5 section 8 (uncompressed) and annex A.4 (encapsulated).
"""

import struct

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cxrbatch.reading.codecs.codestreams import codestream_end, starts_codestream
from cxrbatch.reading.codecs.decoders import (
    CODESTREAMS,
    DecodedFrame,
    FrameShape,
    Samples,
    decode_frame,
)
from cxrbatch.reading.containers.compression import InflatedStream
from cxrbatch.reading.dicom.colour import COLOUR_SPACES, GREYSCALES, read_photometric
from cxrbatch.reading.dicom.elements import integer, raw_bytes
from cxrbatch.reading.dicom.fragments import Fragment, group_fragments, list_fragments
from cxrbatch.reading.dicom.header import Header, PixelElement
from cxrbatch.reading.display import StoredLayout
from cxrbatch.reading.facts import HeaderFacts
from cxrbatch.reading.outcomes import Outcome, ReadingError

_UNDEFINED = 0xFFFFFFFF
_TWELVE = "bits allocated are 12"


class NativeFrames:
    """Uncompressed frames.

    Attributes:
        deviations: As of `Header`.

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
        self.deviations: tuple[str, ...] = (_TWELVE,) if shape.bits_allocated == 12 else ()
        if pixels.length % 2 and pixels.length != _UNDEFINED:
            self.deviations += ("the pixel data have an odd length",)
        if pixels.length == _UNDEFINED:
            raise ReadingError(Outcome.CORRUPT, "uncompressed pixel data without a length")
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
        if self._shape.bits_allocated == 12:
            # So do packed cells, two in three bytes; the first of a frame may lie in the middle.
            odd = start // 12 % 2
            pairs = self._read_bytes((start // 12 - odd) // 2 * 3, (end + 7) // 8)
            return _unpacked(pairs)[odd : odd + self._bits // 12]
        if self._shape.bits_allocated > 8:
            width = self._shape.bits_allocated // 8
            cells = self._read(start // 8, end // 8).view(f"{self._order}u{width}")
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
        """Bytes of the pixel data's value."""
        self._stream.seek(self._pixels.offset + start)
        data = self._stream.read(end - start)
        # An odd last byte may lack its pad byte.
        if len(data) < min(end, self._pixels.length) - start:
            raise ReadingError(Outcome.TRUNCATED, "the file ends inside the pixel data")
        if isinstance(self._stream, InflatedStream) and end >= self._needed:
            self._stream.finish()
        return np.frombuffer(data.ljust(end - start, b"\0"), np.uint8)


def _unpacked(pairs: NDArray[np.uint8]) -> Samples:
    """Cells of 12 bits, the lowest bit first, of which two follow each other in three bytes."""
    odd = -len(pairs) % 3
    low, middle, high = np.pad(pairs, (0, odd)).astype(np.uint16).reshape(-1, 3).T
    return np.stack([low | (middle & 0xF) << 8, middle >> 4 | high << 4], -1).reshape(-1)


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

    Attributes:
        deviations: As of `Header`.

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
        found = list_fragments(header.stream, pixels, size=header.size, frames=frames)
        offsets = found.offsets or _extended_offsets(header)
        self._frames = group_fragments(found.fragments, offsets, frames, read=self._read)
        self.deviations = found.deviations
        if shape.bits_allocated == 12:
            self.deviations += (_TWELVE,)
        if offsets and offsets != tuple(parts[0].relative for parts in self._frames):
            self.deviations += ("the offset table does not fit the frames",)
        if found.failure is not None and not self._are_whole(found.fragments):
            raise found.failure

    def frame(self, number: int) -> DecodedFrame:
        """Cells of one frame, 0-based."""
        data = self._data(number)
        return decode_frame(data, shape=self._shape, transfer_syntax=self._transfer_syntax)

    def _data(self, number: int) -> bytes:
        return b"".join(self._read(part, 0, part.length) for part in self._frames[number])

    def _read(self, fragment: Fragment, start: int, count: int) -> bytes:
        self._stream.seek(fragment.offset + start)
        return self._stream.read(min(count, fragment.length - start))

    def _are_whole(self, fragments: list[Fragment]) -> bool:
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


def _extended_offsets(header: Header) -> tuple[int, ...]:
    """Extended Offset Table (7FE0,0001), PS3.3 C.7.6.3.1.8."""
    data = raw_bytes(header.dataset, 0x7FE00001) or b""
    count = len(data) // 8
    return struct.unpack(f"<{count}Q", data[: 8 * count])


def frame_count(dataset: Dataset) -> int:
    """Number of Frames (0028,0008); 1 where it is absent or says nothing usable."""
    return max(1, integer(dataset, 0x00280008) or 1)


def read_shape(dataset: Dataset, facts: HeaderFacts) -> tuple[FrameShape, StoredLayout]:
    """Read the size and sample layout of every frame.

    Raises:
        ReadingError: `corrupt` or `unsupported_image`, with what is wrong or missing.
    """
    if not facts.rows or not facts.columns or facts.rows < 0 or facts.columns < 0:
        raise ReadingError(Outcome.CORRUPT, "the header gives no rows or no columns")
    photometric = facts.photometric
    if photometric is None:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, read_photometric(dataset)[1])
    if photometric not in GREYSCALES and photometric not in COLOUR_SPACES:
        detail = f"photometric interpretation {photometric}"
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, detail)
    is_mono = photometric in GREYSCALES or photometric == "PALETTE COLOR"
    samples = integer(dataset, 0x00280002) or (1 if is_mono else 3)
    if samples != (1 if is_mono else 3):
        raise ReadingError(
            Outcome.UNSUPPORTED_IMAGE, "samples per pixel do not fit the photometric interpretation"
        )
    if photometric == "YBR_FULL_422" and facts.columns % 2:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "YBR_FULL_422 with an odd width")
    allocated = integer(dataset, 0x00280100)
    if allocated not in (1, 8, 12, 16, 32):
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "bits allocated that are not read")
    stored = integer(dataset, 0x00280101) or allocated
    high = integer(dataset, 0x00280102)
    high = stored - 1 if high is None else high
    if not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise ReadingError(Outcome.CORRUPT, "bits stored do not fit into bits allocated")
    is_signed = integer(dataset, 0x00280103) == 1
    shape = FrameShape(
        rows=facts.rows,
        columns=facts.columns,
        samples=samples,
        bits_allocated=allocated,
        bits_stored=stored,
        photometric=photometric,
        planar=integer(dataset, 0x00280006) == 1,
        is_signed=is_signed,
    )
    return shape, StoredLayout(bits_stored=stored, high_bit=high, is_signed=is_signed)

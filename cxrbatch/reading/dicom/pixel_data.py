"""Reads the size and layout of frames, and the frames of uncompressed pixel data one at a time.

What the header claims is compared with what the file holds before anything is read, so that a
claim of gigabytes costs nothing.

Source: DICOM PS3.5 section 8.
"""

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cxrbatch.reading.codecs.decoders import DecodedFrame, FrameShape, Samples
from cxrbatch.reading.containers.compression import InflatedStream
from cxrbatch.reading.dicom.description import COLOUR_SPACES, GREYSCALES, Description
from cxrbatch.reading.dicom.element_reader import UNDEFINED
from cxrbatch.reading.dicom.header import DicomHeader, PixelElement
from cxrbatch.reading.dicom.values import integer
from cxrbatch.reading.display import StoredLayout
from cxrbatch.reading.outcomes import Outcome, ReadingError

PACKED = "bits allocated are 12"


class NativeFrames:
    """The frames of uncompressed pixel data.

    Args:
        header: Of the image.
        pixels: Where its pixel data lie.
        shape: Size and layout of every frame.
        count: Number of frames.

    Attributes:
        deviations: As of `DicomHeader`.

    Raises:
        ReadingError: `truncated` if the file is shorter than its header claims.
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
        self.deviations: tuple[str, ...] = (PACKED,) if shape.bits_allocated == 12 else ()
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
        """Read the cells of one frame, counted from 0."""
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


def frame_count(dataset: Dataset) -> int:
    """Return Number of Frames (0028,0008); 1 where it is absent or no positive number."""
    return max(1, integer(dataset, 0x00280008) or 1)


def read_shape(dataset: Dataset, description: Description) -> tuple[FrameShape, StoredLayout]:
    """Read the size of every frame, and which bits of its cells hold the value.

    Args:
        dataset: The header.
        description: What `describe` returned for it.

    Raises:
        ReadingError: `corrupt` or `unsupported_image`, with what is wrong or missing.
    """
    facts = description.facts
    if not facts.rows or not facts.columns or facts.rows < 0 or facts.columns < 0:
        raise ReadingError(Outcome.CORRUPT, "the header gives no rows or no columns")
    photometric = facts.photometric
    if photometric is None:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, description.photometric_problem)
    if photometric not in GREYSCALES and photometric not in COLOUR_SPACES:
        detail = f"photometric interpretation {photometric}"
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, detail)
    samples = 1 if photometric in GREYSCALES or photometric == "PALETTE COLOR" else 3
    if (integer(dataset, 0x00280002) or samples) != samples:
        detail = "samples per pixel do not fit the photometric interpretation"
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, detail)
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

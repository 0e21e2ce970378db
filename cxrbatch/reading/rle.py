"""RLE Lossless: PackBits by byte planes, never writing more than the image holds.

Source: DICOM PS3.5 annex G.
"""

import contextlib
import struct

import numpy as np
from numpy.typing import NDArray

from cxrbatch.reading.outcomes import Outcome, ReadingError

_HEADER_BYTES = 64
# Two bytes replicate one value 128 times; nothing expands further.
_EXPANSION = 64


def decode_rle(frame: bytes, *, pixels: int, samples: int, width: int) -> NDArray[np.uint8]:
    """Undo the compression of one frame.

    Args:
        frame: RLE header and segments.
        pixels: Rows times columns.
        samples: Samples per pixel.
        width: Bytes per sample.

    Returns:
        Shape (samples, pixels, width), uint8, low byte first.

    Raises:
        ReadingError: `truncated` if a segment gives too few bytes, `corrupt` if there are too
            few or too many segments.
    """
    if len(frame) < _HEADER_BYTES:
        raise ReadingError(Outcome.TRUNCATED, "the RLE header is incomplete")
    count, *offsets = struct.unpack("<16I", frame[:_HEADER_BYTES])
    if count != samples * width:
        raise ReadingError(Outcome.CORRUPT, "the number of RLE segments does not fit the image")
    if len(frame) * _EXPANSION < pixels * samples * width:
        raise ReadingError(Outcome.TRUNCATED, "the RLE frame is too short for the image")
    planes = np.empty((samples, pixels, width), np.uint8)
    ends = [*offsets[1:count], len(frame)]
    for number, (start, end) in enumerate(zip(offsets[:count], ends, strict=True)):
        # Segments run from the high byte to the low byte of each sample.
        plane = planes[number // width, :, width - 1 - number % width]
        plane[:] = np.frombuffer(_unpack(frame[start:end], pixels), np.uint8)
    return planes


def _unpack(segment: bytes, size: int) -> bytearray:
    """Undo PackBits until `size` bytes are there; only replication needs to watch the size."""
    plain = bytearray()
    extend = plain.extend
    position = 0
    # The end of the segment is met as an IndexError: a test in each turn would cost a quarter.
    with contextlib.suppress(IndexError):
        while True:
            control = segment[position]
            if control < 128:
                extend(segment[position + 1 : position + 2 + control])
                position += control + 2
            elif control > 128:
                extend(segment[position + 1 : position + 2] * (257 - control))
                position += 2
                if len(plain) >= size:
                    break
            else:
                position += 1
    if len(plain) < size:
        raise ReadingError(Outcome.TRUNCATED, "an RLE segment ends before its image does")
    return plain[:size]

"""What compressed frames say about themselves, read before a decoder sees them.

A decoder sizes its memory by the codestream, the caller by the DICOM header; the two must agree
before either is believed. A codestream that lacks its end marker was cut off, and not every
decoder tells.

Source: ITU-T T.81 annex B (JPEG), T.87 annex C (JPEG-LS), T.800 annex A (JPEG 2000).
"""

import struct
from dataclasses import dataclass

from cxrbatch.reading.outcomes import Outcome, ReadingError

_JPEG_START = b"\xff\xd8"
_J2K_START = b"\xff\x4f\xff\x51"
_JP2_START = b"\x00\x00\x00\x0cjP  "
_END = b"\xff\xd9"
# Frame headers: all SOFn but the three codes in their range that are something else, and
# JPEG-LS's own.
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})


@dataclass(frozen=True, slots=True)
class Codestream:
    """Size of the image in a codestream.

    Attributes:
        rows: Height.
        columns: Width.
        samples: Components.
        precision: Bits per component, the largest of all.
    """

    rows: int
    columns: int
    samples: int
    precision: int


def inspect_codestream(frame: bytes) -> Codestream:
    """Read the size out of a JPEG, JPEG-LS or JPEG 2000 codestream.

    Raises:
        ReadingError: `truncated` if the end marker is missing, `corrupt` if it is no codestream.
    """
    if not frame[-64:].rstrip(b"\0\xff").endswith(b"\xd9") or _END not in frame[-64:]:
        raise ReadingError(Outcome.TRUNCATED, "the compressed frame has no end marker")
    try:
        if frame.startswith(_JPEG_START):
            return _inspect_jpeg(frame)
        start = frame.index(_J2K_START) if frame.startswith(_JP2_START) else 0
        if frame.startswith(_J2K_START, start):
            return _inspect_j2k(frame, start)
    except (struct.error, IndexError, ValueError):
        pass
    raise ReadingError(Outcome.CORRUPT, "the compressed frame has no readable header")


def _inspect_jpeg(frame: bytes) -> Codestream:
    position = 2
    while True:
        if frame[position] != 0xFF:
            raise ValueError("no marker")
        marker = frame[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        elif marker in _FRAME_HEADERS:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, position + 4)
            return Codestream(rows, columns, samples, precision)
        else:
            position += 2 + struct.unpack_from(">H", frame, position + 2)[0]


def _inspect_j2k(frame: bytes, start: int) -> Codestream:
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    samples = struct.unpack_from(">H", frame, start + 40)[0]
    depths = [frame[start + 42 + 3 * number] & 0x7F for number in range(samples)]
    return Codestream(bottom - top, right - left, samples, max(depths) + 1)

"""What a JPEG says about itself, and where in it the scans lie.

Source: ITU-T T.81 annex B.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbatch.reading.codecs.codestreams import FRAME_HEADERS, SCAN, jpeg_markers
from cxrbatch.reading.codecs.lossless_jpeg import holds_last_row
from cxrbatch.reading.outcomes import Outcome, ReadingError

HEADER = b"Exif\0\0"
_ORIENTATION = 0x0112
_SHORT = 3
UPRIGHT = 1


def orientation(segment: bytes) -> int:
    """The orientation in an APP1 segment or eXIf chunk, 1 to 8; damaged EXIF is as none, 1."""
    tiff = segment.removeprefix(HEADER)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return UPRIGHT
    try:
        start = struct.unpack_from(order + "I", tiff, 4)[0]
        count = struct.unpack_from(order + "H", tiff, start)[0]
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and 1 <= value <= 8 else UPRIGHT
    except struct.error:
        pass
    return UPRIGHT


def lies_on_its_side(turn: int) -> bool:
    """Whether an orientation lets rows and columns change places."""
    return turn >= 5


def upright(values: NDArray[Any], turn: int) -> NDArray[Any]:
    """Undo an orientation.

    Args:
        values: Shape (rows, columns[, channels]).
        turn: 1 to 8; from 5 on rows and columns change places.
    """
    if lies_on_its_side(turn):
        values = np.swapaxes(values, 0, 1)
    # What is left is to mirror: rows, columns or both.
    flip_rows = turn in (3, 4, 7, 8)
    flip_columns = turn in (2, 3, 6, 7)
    return values[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


_APP1 = 0xE1
_RESTART = re.compile(rb"\xff+[\xd0-\xd7]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What stands in front of the first scan.

    Attributes:
        process: Code of the frame header: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, ...
        precision: Bits per sample.
        rows: Height as stored.
        columns: Width as stored.
        samples: Components.
        turn: EXIF orientation, 1 to 8.
    """

    process: int
    precision: int
    rows: int
    columns: int
    samples: int
    turn: int


def read_jpeg_header(frame: bytes) -> JpegHeader:
    """Read up to the first scan; `frame` may end anywhere behind it.

    Raises:
        ReadingError: `truncated` or `corrupt`.
    """
    turn = None
    found: tuple[int, int, int, int, int] | None = None
    try:
        for code, position in jpeg_markers(frame):
            if code == _APP1 and turn is None:
                length = struct.unpack_from(">H", frame, position + 2)[0]
                body = frame[position + 4 : position + 2 + length]
                turn = orientation(body) if body.startswith(HEADER) else None
            elif code in FRAME_HEADERS and found is None:
                found = (code, *struct.unpack_from(">BHHB", frame, position + 4))
            elif code == SCAN:
                break
    except (EOFError, struct.error):
        raise ReadingError(Outcome.TRUNCATED, "the JPEG ends before its image does") from None
    except ValueError:
        found = None
    if found is None:
        raise ReadingError(Outcome.CORRUPT, "the JPEG has no scan behind its header")
    return JpegHeader(*found, turn=turn or 1)


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan of a JPEG: how many components it codes, and where its data start and end."""

    components: int
    start: int
    end: int


def list_scans(frame: bytes) -> list[Scan]:
    """The scans up to the end marker.

    Raises:
        ReadingError: `truncated` without an end marker, `corrupt` where a marker is missing.
    """
    try:
        return list(_scans(frame))
    except (EOFError, struct.error):
        raise ReadingError(Outcome.TRUNCATED, "the JPEG has no end marker") from None
    except ValueError:
        raise ReadingError(Outcome.CORRUPT, "the JPEG has no marker behind a segment") from None


def _scans(frame: bytes) -> Iterator[Scan]:
    start = components = 0
    for code, position in jpeg_markers(frame):
        if start:
            yield Scan(components, start, position)
        start = 0
        if code == SCAN:
            length, components = struct.unpack_from(">HB", frame, position + 2)
            start = position + 2 + length


def padded(frame: bytes, scans: list[Scan], padding: bytes) -> bytes:
    """A JPEG with more bytes in front of each marker that ends or divides a scan.

    A decoder that waits for a restart marker passes over all else, so that it is offered each;
    outside a scan they mean nothing (T.81 B.1.1.2).
    """
    restarts = b"".join(bytes((0xFF, code)) + padding for code in range(0xD0, 0xD8))
    parts = []
    last = 0
    for scan in scans:
        # Fill bytes belong to the marker: between them the padding would become one.
        data = frame[scan.start : scan.end].rstrip(b"\xff")
        divided = _RESTART.sub(padding + rb"\g<0>", data)
        parts += [frame[last : scan.start], divided, padding, restarts]
        last = scan.start + len(data)
    return b"".join((*parts, frame[last:]))


# What a decoder makes of these differs from what it makes of zeros, and if by a rare chance one
# does not, the other does: libjpeg's own word on 2,900 shortened files was met but once less.
_OTHER_BYTES = (b"\xaa" * 32, bytes(range(0xFE, 0, -0x22)) * 4)


def ran_out(
    frame: bytes, decoded: NDArray[Any], *, decode: Callable[[bytes], NDArray[Any]]
) -> bool:
    """Whether the decoder ran out of data.

    Args:
        frame: A JPEG whose markers were checked and which has an end marker.
        decoded: What `decode` made of it, shape (rows, columns[, samples]).
        decode: A decoder of the libjpeg family; its own refusals pass through.

    Raises:
        ReadingError: `truncated` without an end marker, `corrupt` where markers are missing.
    """
    if holds_last_row(frame, decoded):
        return False
    scans = list_scans(frame)
    return any(
        not np.array_equal(decode(padded(frame, scans, other)), decoded) for other in _OTHER_BYTES
    )

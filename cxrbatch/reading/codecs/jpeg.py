"""What a JPEG says about itself, and where in it the scans lie.

Source: ITU-T T.81 annex B.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cxrbatch.reading.codecs.codestreams import FRAME_HEADERS, SCAN, jpeg_markers
from cxrbatch.reading.codecs.exif import HEADER, orientation
from cxrbatch.reading.outcomes import Outcome, ReadingError

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

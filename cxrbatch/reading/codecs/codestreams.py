"""What compressed frames say about themselves, read before a decoder sees them.

A decoder sizes its memory by the codestream, the caller by the DICOM header; the two must agree
before either is believed. A codestream that lacks its end marker was cut off, and not every
decoder tells.

Source: ITU-T T.81 annex B (JPEG), T.87 annex C (JPEG-LS), T.800 annex A (JPEG 2000).
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cxrbatch.reading.outcomes import Outcome, ReadingError

_JPEG_START = b"\xff\xd8"
_J2K_START = b"\xff\x4f\xff\x51"
_JP2_START = b"\x00\x00\x00\x0cjP  "
END = b"\xff\xd9"
# Frame headers: all SOFn but the three codes in their range that are something else, and
# JPEG-LS's own.
FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
SCAN = 0xDA
END_OF_IMAGE = 0xD9
_ADOBE = 0xEE
# JPEG-LS puts a 0 bit behind a byte of ones, so that any byte below 0x80 follows as data.
_JPEG_LS = 0xF7
_JPEG_LS_SCAN_END = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]", re.DOTALL)
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
# What ends the entropy-coded data of a scan; restart markers are part of them.
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_MOST_SEGMENTS = 10_000
_TILE_PART = 0xFF90
_START_OF_DATA = 0xFF93
_CODING_STYLE = 0xFF52
_CODING_STYLE_OF_COMPONENT = 0xFF53
# In the style of code-blocks: they are of high throughput.
_HIGH_THROUGHPUT = 0x40
# 65,535 tiles, each in at most 255 parts, are more than any radiograph has.
_MOST_TILE_PARTS = 100_000
_MOST_STRAY_BYTES = 4096
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})


@dataclass(frozen=True, slots=True)
class Codestream:
    """Size of the image in a codestream.

    Attributes:
        rows: Height.
        columns: Width.
        samples: Components.
        precision: Bits per component, the largest of all.
        is_adobe: Whether Adobe's marker tells the colour space of a JPEG.
        is_signed: Whether the first component is signed; only for JPEG 2000.
        levels: Resolution levels below the full one that JPEG 2000 has in all components, and whose
            sides are halves; 0 for high-throughput JPEG 2000.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    is_adobe: bool = False
    is_signed: bool = False
    levels: int = 0


def inspect_codestream(frame: bytes) -> Codestream:
    """Read the size out of a JPEG, JPEG-LS or JPEG 2000 codestream.

    Raises:
        ReadingError: `truncated` if a tile is missing, `corrupt` if it is no codestream.
    """
    try:
        if frame.startswith(_JPEG_START):
            return _inspect_jpeg(frame)
        start = _j2k_start(frame)
        if start is not None:
            return _inspect_j2k(frame, start)
    except (struct.error, IndexError, ValueError, EOFError, ZeroDivisionError):
        pass
    raise ReadingError(Outcome.CORRUPT, "the compressed frame has no readable header")


def starts_codestream(data: bytes) -> bool:
    """Whether the bytes are the first ones of a JPEG, JPEG-LS or JPEG 2000 codestream."""
    return data.startswith((_JPEG_START + b"\xff", _J2K_START, _JP2_START))


def codestream_end(frame: bytes) -> int:
    """Find the end of the image in a JPEG, JPEG-LS or JPEG 2000 codestream.

    It is found by going from marker to marker: the same two bytes occur in comments, in thumbnails
    and in what may lie behind.

    Returns:
        Offset behind the end marker.

    Raises:
        ReadingError: `truncated` without an end marker, `corrupt` if it is no codestream.
    """
    try:
        if frame.startswith(_JPEG_START):
            return max(position for _, position in jpeg_markers(frame)) + len(END)
        start = _j2k_start(frame)
        if start is not None:
            return _j2k_end(frame, start)
    except (struct.error, EOFError):
        raise _endless() from None
    except (IndexError, ValueError):
        pass
    if not _has_end_marker(frame):
        raise _endless()
    raise ReadingError(Outcome.CORRUPT, "the compressed frame has no readable header")


def _has_end_marker(frame: bytes) -> bool:
    """Whether the last bytes but for padding are an end marker."""
    return END in frame[-64:] and frame[-64:].rstrip(b"\0\xff").endswith(b"\xd9")


def _endless() -> ReadingError:
    return ReadingError(Outcome.TRUNCATED, "the compressed frame has no end marker")


def jpeg_markers(frame: bytes) -> Iterator[tuple[int, int]]:
    """Give the code and position of each marker up to the end marker, in bounded time.

    Decoders look for the next marker byte by byte, so that megabytes of nothing between two of
    them cost minutes. Real files have a few stray bytes there at most. Restart markers inside a
    scan are not given.

    Raises:
        ValueError: Too many stray bytes or segments.
        EOFError: The frame ends before its end marker; struct.error where inside a length.
    """
    position = len(_JPEG_START)
    code = 0
    scan_end = _SCAN_END
    for _ in range(_MOST_SEGMENTS):
        if code == SCAN:
            marker = scan_end.search(frame, position)
        else:
            marker = _MARKER.search(frame, position, position + _MOST_STRAY_BYTES)
        if marker is None:
            if code == SCAN or position + 1 >= len(frame):
                raise EOFError("the frame ends before its end marker")
            raise ValueError("no marker")
        code, position = marker[0][-1], marker.end() - 2
        yield code, position
        if code == END_OF_IMAGE:
            return
        if code == _JPEG_LS:
            scan_end = _JPEG_LS_SCAN_END
        length = 0 if code in _WITHOUT_LENGTH else struct.unpack_from(">H", frame, position + 2)[0]
        position += 2 + length
    raise ValueError("too many segments")


def _inspect_jpeg(frame: bytes) -> Codestream:
    size: tuple[int, ...] | None = None
    is_adobe = False
    for code, position in jpeg_markers(frame):
        if code in FRAME_HEADERS and size is None:
            size = struct.unpack_from(">BHHB", frame, position + 4)
        is_adobe |= code == _ADOBE and frame.startswith(b"Adobe", position + 4)
        if code == SCAN:
            break
    if size is None:
        raise ValueError("no frame header before the first scan")
    precision, rows, columns, samples = size
    return Codestream(rows, columns, samples, precision, is_adobe)


def _inspect_j2k(frame: bytes, start: int) -> Codestream:
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    samples = struct.unpack_from(">H", frame, start + 40)[0]
    depths = [frame[start + 42 + 3 * number] & 0x7F for number in range(samples)]
    width, height, tiles_left, tiles_top = struct.unpack_from(">4I", frame, start + 24)
    tiles = -(-(right - tiles_left) // width) * -(-(bottom - tiles_top) // height)
    levels, position = _main_header(frame, start + 2)
    if len(_tiles(frame, position)[0]) < tiles:
        raise ReadingError(Outcome.TRUNCATED, "the compressed frame lacks a part of its image")
    return Codestream(
        bottom - top,
        right - left,
        samples,
        max(depths) + 1,
        is_signed=frame[start + 42] > 0x7F,
        # What lies off the origin has sides that are rounded by where it begins and ends.
        levels=0 if left or top else levels,
    )


def _main_header(frame: bytes, position: int) -> tuple[int, int]:
    """Levels, as of `Codestream`, and where the first tile-part lies (T.800 A.6.1).

    Raises:
        struct.error: The codestream ends before its first tile-part.
    """
    levels = 0
    marker, length = struct.unpack_from(">HH", frame, position)
    while marker != _TILE_PART:
        if marker == _CODING_STYLE:
            style = frame[position + 12]
            levels = 0 if style & _HIGH_THROUGHPUT else frame[position + 9]
        elif marker == _CODING_STYLE_OF_COMPONENT:
            levels = 0
        position += 2 + length
        marker, length = struct.unpack_from(">HH", frame, position)
    return levels, position


def _tiles(frame: bytes, position: int) -> tuple[set[int], int]:
    """Numbers of the tiles that have a tile-part (T.800 A.4.2), and where the parts end.

    The last one may not tell its length: then it is its own offset.
    """
    found: set[int] = set()
    for _ in range(_MOST_TILE_PARTS):
        if not frame.startswith(_TILE_PART.to_bytes(2, "big"), position):
            break
        tile, length = struct.unpack_from(">HI", frame, position + 4)
        found.add(tile)
        if length == 0:
            break
        position += length
    return found, position


def _j2k_start(frame: bytes) -> int | None:
    """Offset of the codestream, which may lie in a file of its own format; None if there is none.

    Raises:
        ValueError: Such a file without a codestream.
    """
    start = frame.index(_J2K_START) if frame.startswith(_JP2_START) else 0
    return start if frame.startswith(_J2K_START, start) else None


def _j2k_end(frame: bytes, start: int) -> int:
    """As of `codestream_end`.

    Raises:
        struct.error: The codestream ends inside a header.
        EOFError: It has no end marker.
    """
    position = _tiles(frame, _main_header(frame, start + 2)[1])[1]
    if frame.startswith(_TILE_PART.to_bytes(2, "big"), position):
        # Behind the header of a tile-part no two bytes are as a marker but markers.
        marker, length = _TILE_PART, 10
        while marker != _START_OF_DATA:
            position += 2 + length
            marker, length = struct.unpack_from(">HH", frame, position)
        position = frame.find(END, position)
    if position >= 0 and frame.startswith(END, position):
        return position + len(END)
    if _has_end_marker(frame):
        # Lengths of tile-parts are wrong: what then is there, the decoder knows.
        return len(frame)
    raise EOFError("the codestream has no end marker")

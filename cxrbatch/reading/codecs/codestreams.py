"""Reads what JPEG, JPEG-LS and JPEG 2000 codestreams claim about themselves.

A decoder sizes its memory by the codestream, the caller by the DICOM header; the two must agree
before either is believed. A codestream without its end marker was cut off, and not every decoder
reports that.

Source: ITU-T T.81 annex B (JPEG), T.87 annex C (JPEG-LS), T.800 annex A (JPEG 2000).
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cxrbatch.reading.outcomes import Outcome, ReadingError

_JPEG_START = b"\xff\xd8"
J2K_START = b"\xff\x4f\xff\x51"
_JP2_START = b"\x00\x00\x00\x0cjP  "
END = b"\xff\xd9"
# Frame headers: all SOFn but the three codes in their range that are something else, and
# JPEG-LS's own.
_JPEG_LS = 0xF7
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {_JPEG_LS}
SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_APP1 = 0xE1
_ADOBE = 0xEE
EXIF_START = b"Exif\0\0"
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
# What ends the entropy-coded data of a scan; restart markers are part of them.
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
# JPEG-LS puts a 0 bit after a byte of ones, so that any byte below 0x80 follows as data.
_JPEG_LS_SCAN_END = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]", re.DOTALL)
_MOST_SEGMENTS = 10_000
_MOST_STRAY_BYTES = 4096
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_TILE_PART = 0xFF90
_START_OF_DATA = 0xFF93
_CODING_STYLE = 0xFF52
_CODING_STYLE_OF_COMPONENT = 0xFF53
# In the style of code-blocks: they are of high throughput.
_HIGH_THROUGHPUT = 0x40
# 65,535 tiles, each in at most 255 parts, are more than any radiograph has.
_MOST_TILE_PARTS = 100_000


@dataclass(frozen=True, slots=True)
class Codestream:
    """Size of the image in a codestream.

    Attributes:
        rows: Height in pixels.
        columns: Width in pixels.
        samples: Number of components.
        precision: Bits per component, the largest of all.
        is_adobe: Whether a JPEG has Adobe's marker, which names its colour space.
        is_signed: Whether the first component is signed; only for JPEG 2000.
        levels: How often JPEG 2000 can halve the sides, by its main header; 0 for high-throughput
            JPEG 2000, an image off the origin, or components with a coding style of their own.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    is_adobe: bool = False
    is_signed: bool = False
    levels: int = 0


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What a JPEG claims before its first scan.

    Attributes:
        process: Code of the frame header: 0xC0 baseline, 0xC1 extended, 0xC2 progressive, ...
        precision: Bits per sample.
        rows: Height as stored, in pixels.
        columns: Width as stored, in pixels.
        samples: Number of components.
        is_adobe: Whether Adobe's marker names the colour space.
        exif: The first APP1 segment that holds EXIF data; empty without one.
    """

    process: int
    precision: int
    rows: int
    columns: int
    samples: int
    is_adobe: bool
    exif: bytes


@dataclass(frozen=True, slots=True)
class JpegScan:
    """One scan of a JPEG.

    Attributes:
        components: Number of components that it codes.
        start: Offset of its entropy-coded data in the frame.
        end: Offset of the marker after the data.
    """

    components: int
    start: int
    end: int


def inspect_codestream(frame: bytes) -> Codestream:
    """Read rows, columns, samples and bits out of a JPEG, JPEG-LS or JPEG 2000 codestream.

    The codestream may lie in a JP2 file. Nothing is decoded.

    Raises:
        ReadingError: `truncated` if a tile of a JPEG 2000 is not found, `corrupt` if a header is
            missing or cut off, be it that of a tile.
    """
    try:
        if frame.startswith(_JPEG_START):
            header = _jpeg_header(frame)
            size = header.rows, header.columns, header.samples, header.precision
            return Codestream(*size, is_adobe=header.is_adobe)
        start = _j2k_start(frame)
        if start is not None:
            return _inspect_j2k(frame, start)
    except (struct.error, IndexError, ValueError, EOFError, ZeroDivisionError):
        pass
    raise ReadingError(Outcome.CORRUPT, "the compressed frame has no readable header")


def starts_codestream(data: bytes) -> bool:
    """Whether bytes begin as a JPEG, JPEG-LS or JPEG 2000 codestream or a JP2 file does."""
    return data.startswith((_JPEG_START + b"\xff", J2K_START, _JP2_START))


def codestream_end(frame: bytes) -> int:
    """Find the end of the image in a JPEG, JPEG-LS or JPEG 2000 codestream.

    The search goes from marker to marker: the two bytes of the end marker occur in comments, in
    thumbnails and in what may follow the image, too.

    Returns:
        Offset after the end marker; the frame's length if those in a JPEG 2000 are wrong.

    Raises:
        ReadingError: `truncated` if it is cut off or does not end in an end marker, else `corrupt`.
    """
    try:
        if frame.startswith(_JPEG_START):
            return max(position for _, position in jpeg_markers(frame)) + len(END)
        start = _j2k_start(frame)
        if start is not None:
            return _j2k_end(frame, start)
    except (struct.error, EOFError):
        has_end = False
    except (IndexError, ValueError):
        has_end = _has_end_marker(frame)
    else:
        has_end = _has_end_marker(frame)
    if not has_end:
        raise ReadingError(Outcome.TRUNCATED, "the compressed frame has no end marker")
    raise ReadingError(Outcome.CORRUPT, "the compressed frame has no readable header")


def _has_end_marker(frame: bytes) -> bool:
    """Whether the last bytes but for padding are an end marker."""
    return END in frame[-64:] and frame[-64:].rstrip(b"\0\xff").endswith(b"\xd9")


def jpeg_markers(frame: bytes) -> Iterator[tuple[int, int]]:
    """Walk the markers of a JPEG up to the end marker, in bounded time.

    Decoders look for the next marker byte by byte, so that megabytes of nothing between two of
    them cost minutes. Real files have a few stray bytes there at most.

    Yields:
        Code (second byte) and offset (of the byte 0xFF) of each marker behind the start marker,
        the end marker too, but not of restart markers inside a scan.

    Raises:
        ValueError: The next marker is not within 4096 bytes, also where the frame ends after stray
            bytes; or there are over 10,000 markers.
        EOFError: The frame ends inside or right after a segment, or inside a scan.
        struct.error: The frame ends inside the length of a segment.
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
        if code == _END_OF_IMAGE:
            return
        if code == _JPEG_LS:
            scan_end = _JPEG_LS_SCAN_END
        length = 0 if code in _WITHOUT_LENGTH else struct.unpack_from(">H", frame, position + 2)[0]
        position += 2 + length
    raise ValueError("too many segments")


def read_jpeg_header(frame: bytes) -> JpegHeader:
    """Read what a JPEG claims in front of its first scan; `frame` may end anywhere after that.

    Raises:
        ReadingError: `truncated` if it is cut off before its first scan, `corrupt` if a marker or
            the frame header is missing.
    """
    try:
        return _jpeg_header(frame)
    except (EOFError, struct.error):
        raise ReadingError(Outcome.TRUNCATED, "the JPEG ends before its image does") from None
    except ValueError:
        raise ReadingError(Outcome.CORRUPT, "the JPEG has no scan behind its header") from None


def _jpeg_header(frame: bytes) -> JpegHeader:
    """As `read_jpeg_header`; raises what `jpeg_markers` raises, ValueError without frame header."""
    size: tuple[int, int, int, int, int] | None = None
    exif, is_adobe = b"", False
    for code, position in jpeg_markers(frame):
        if code in _FRAME_HEADERS and size is None:
            size = (code, *struct.unpack_from(">BHHB", frame, position + 4))
        elif code == _APP1 and not exif and frame.startswith(EXIF_START, position + 4):
            length = struct.unpack_from(">H", frame, position + 2)[0]
            exif = frame[position + 4 : position + 2 + length]
        is_adobe |= code == _ADOBE and frame.startswith(b"Adobe", position + 4)
        if code == SCAN:
            break
    if size is None:
        raise ValueError("no frame header before the first scan")
    return JpegHeader(*size, is_adobe=is_adobe, exif=exif)


def list_scans(frame: bytes) -> list[JpegScan]:
    """List the scans of a JPEG in their order, up to its end marker.

    Raises:
        ReadingError: `truncated` without an end marker, `corrupt` where a marker is missing.
    """
    scans = []
    start = components = 0
    try:
        for code, position in jpeg_markers(frame):
            if start:
                scans.append(JpegScan(components, start, position))
            start = 0
            if code == SCAN:
                length, components = struct.unpack_from(">HB", frame, position + 2)
                start = position + 2 + length
    except (EOFError, struct.error):
        raise ReadingError(Outcome.TRUNCATED, "the JPEG has no end marker") from None
    except ValueError:
        raise ReadingError(Outcome.CORRUPT, "the JPEG has no marker behind a segment") from None
    return scans


def _inspect_j2k(frame: bytes, start: int) -> Codestream:
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    samples = struct.unpack_from(">H", frame, start + 40)[0]
    depths = [frame[start + 42 + 3 * number] & 0x7F for number in range(samples)]
    width, height, tiles_left, tiles_top = struct.unpack_from(">4I", frame, start + 24)
    tiles = -(-(right - tiles_left) // width) * -(-(bottom - tiles_top) // height)
    levels, position = _read_main_header(frame, start + 2)
    if len(_tiles(frame, position)[0]) < tiles:
        raise ReadingError(Outcome.TRUNCATED, "the compressed frame lacks a part of its image")
    return Codestream(
        bottom - top,
        right - left,
        samples,
        max(depths) + 1,
        is_signed=frame[start + 42] > 0x7F,
        # The sides of an image off the origin are not rounded as `halvings` assumes.
        levels=0 if left or top else levels,
    )


def _read_main_header(frame: bytes, position: int) -> tuple[int, int]:
    """Read the levels, as in `Codestream`, and the first tile-part's position (T.800 A.6.1).

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
    """Numbers of the tiles that have a tile-part (T.800 A.4.2), and the offset after the parts.

    If the last part does not give its length, the offset is that of its start.
    """
    tiles: set[int] = set()
    for _ in range(_MOST_TILE_PARTS):
        if not frame.startswith(_TILE_PART.to_bytes(2, "big"), position):
            break
        tile, length = struct.unpack_from(">HI", frame, position + 4)
        tiles.add(tile)
        if length == 0:
            break
        position += length
    return tiles, position


def _j2k_start(frame: bytes) -> int | None:
    """Offset of a JPEG 2000 codestream, which may lie in a JP2 file; None if there is none.

    Raises:
        ValueError: A JP2 file without a codestream.
    """
    start = frame.index(J2K_START) if frame.startswith(_JP2_START) else 0
    return start if frame.startswith(J2K_START, start) else None


def _j2k_end(frame: bytes, start: int) -> int:
    """As `codestream_end`; raises EOFError without an end marker, struct.error inside a header."""
    position = _tiles(frame, _read_main_header(frame, start + 2)[1])[1]
    if frame.startswith(_TILE_PART.to_bytes(2, "big"), position):
        # After the header of a tile-part only markers look like markers.
        marker, length = _TILE_PART, 10
        while marker != _START_OF_DATA:
            position += 2 + length
            marker, length = struct.unpack_from(">HH", frame, position)
        position = frame.find(END, position)
    if position >= 0 and frame.startswith(END, position):
        return position + len(END)
    if _has_end_marker(frame):
        # Lengths of tile-parts are wrong: the decoder finds out what is there.
        return len(frame)
    raise EOFError("the codestream has no end marker")

"""PNG with 16 bits a channel and more than one channel.

Pillow keeps the high byte of such samples only, which is an error of up to 1/256. The format is
small enough to undo here: inflate, undo the row filters, put interlaced passes in place.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from cxrbatch.reading.outcomes import Outcome, ReadingError

# First row, first column, row step, column step of Adam7's passes (PNG specification, 8.2).
_ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)
_SEQUENTIAL = ((0, 0, 1, 1),)


def decode_deep_png(
    packed: bytes, *, rows: int, columns: int, channels: int, interlaced: bool
) -> NDArray[np.uint16]:
    """Samples at full depth.

    Args:
        packed: The bodies of all IDAT chunks, joined.
        rows: Height, at least 1.
        columns: Width, at least 1.
        channels: 2, 3 or 4 samples of 16 bits a pixel.
        interlaced: Whether the image is stored in Adam7's passes.

    Returns:
        Shape (rows, columns, channels), uint16.

    Raises:
        ReadingError: `truncated` or `corrupt`.
    """
    values = np.empty((rows, columns, channels), np.uint16)
    passes = [values[r::dr, c::dc] for r, c, dr, dc in (_ADAM7 if interlaced else _SEQUENTIAL)]
    passes = [part for part in passes if part.size]
    total = sum(part.shape[0] * (1 + part[0].size * 2) for part in passes)
    raw = np.frombuffer(_inflate(packed, total), np.uint8)
    offset = 0
    for part in passes:
        stride = 1 + part[0].size * 2
        lines = raw[offset : offset + stride * len(part)].reshape(len(part), stride)
        offset += lines.size
        plain = _unfilter(lines[:, 1:].reshape(*part.shape[:2], -1), filters=lines[:, 0])
        part[...] = plain.view(">u2")
    return values


def _inflate(packed: bytes, total: int) -> bytes:
    try:
        raw = zlib.decompressobj().decompress(packed, total)
    except zlib.error:
        raise ReadingError(Outcome.CORRUPT, "the PNG data cannot be inflated") from None
    if len(raw) < total:
        raise ReadingError(Outcome.TRUNCATED, "the PNG ends before its image does")
    return raw


def _unfilter(lines: NDArray[np.uint8], *, filters: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo the five row filters (PNG specification, section 9.2).

    A byte depends on its left, upper and upper-left neighbours, so all bytes of one
    anti-diagonal can be undone at once, whatever filter each of their rows has.

    Args:
        lines: Shape (rows, columns, bytes per pixel).
        filters: Shape (rows,), 0 to 4.
    """
    if filters.max() > 4:
        raise ReadingError(Outcome.CORRUPT, "the PNG names an unknown row filter")
    rows, columns, _ = lines.shape
    plain = np.zeros((rows + 1, columns + 1, lines.shape[2]), np.int16)
    kind = filters[:, None]
    for diagonal in range(rows + columns - 1):
        row = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        column = diagonal - row
        left, up = plain[row + 1, column], plain[row, column + 1]
        guesses = (0 * up, left, up, (left + up) >> 1, _paeth(left, up, plain[row, column]))
        predicted: NDArray[np.int16] = np.choose(kind[row], guesses)
        plain[row + 1, column + 1] = (lines[row, column] + predicted) & 0xFF
    return np.ascontiguousarray(plain[1:, 1:].astype(np.uint8))


def _paeth(
    left: NDArray[np.int16], up: NDArray[np.int16], corner: NDArray[np.int16]
) -> NDArray[np.int16]:
    """Whichever neighbour is nearest to left + up - corner."""
    by_left, by_up = np.abs(up - corner), np.abs(left - corner)
    by_corner = np.abs(left + up - 2 * corner)
    nearest = np.where(by_up <= by_corner, up, corner)
    return np.where((by_left <= by_up) & (by_left <= by_corner), left, nearest)

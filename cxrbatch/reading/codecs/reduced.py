"""Smaller decodes, where a codec offers them: to a half, a quarter or an eighth of each side.

JPEG leaves out the higher frequencies of its blocks of 8 x 8 samples, JPEG 2000 its finest
resolution levels. Whatever a decoder does not give at once and without a word is decoded by other
means and in full, so that a file has the outcome that it has in full.

Source: ITU-T T.81 annex A.3 (JPEG), T.800 annex B.5 (JPEG 2000).
"""

import io
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ImageFile

from cxrbatch.reading.codecs.codestreams import Codestream
from cxrbatch.reading.codecs.jpeg import list_scans, read_jpeg_header
from cxrbatch.reading.grey import GreyImage
from cxrbatch.reading.outcomes import ReadingError

_MOST_HALVINGS = 3
# Baseline, extended and progressive, by Huffman codes: all that libjpeg warns of when they run out.
_HUFFMAN = (0xC0, 0xC1, 0xC2)
_J2K_START = b"\xff\x4f"
_J2K_BITS = 16
# The mean of fewer bits, rounded to a whole number, would lose much of what is seen.
_LEAST_BITS = 8


def halvings(rows: int, columns: int, *, least_size: int | None) -> int:
    """How often both sides may be halved without falling below a size; never where it is None."""
    if least_size is None:
        return 0
    times = range(_MOST_HALVINGS + 1)
    return max((n for n in times if min(rows, columns) >> n >= least_size), default=0)


def faultless_jpeg(
    frame: bytes, *, rows: int, columns: int, halvings: int = 0
) -> NDArray[np.uint8] | None:
    """Decode a grey JPEG of 8 bits in which libjpeg finds no fault.

    It warns when it runs out of data, and of what else is not as it should be; then there is
    nothing to be had here. To decode without hearing the warnings, and to find out by decoding
    again whether the data lasted, takes four times as long.

    Args:
        frame: With a size that was checked.
        rows: Height of the frame.
        columns: Width of the frame.
        halvings: How often each side is halved, rounded up.

    Returns:
        The samples; None where the frame is to be decoded by other means.
    """
    try:
        list_scans(frame)
        header = read_jpeg_header(frame)
        if header.process not in _HUFFMAN or (header.samples, header.precision) != (1, 8):
            return None
        size = _halved(rows, halvings), _halved(columns, halvings)
        samples: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            frame, "GRAY", min_height=size[0], min_width=size[1]
        )
    except (ReadingError, ValueError):
        return None
    return samples[..., 0] if samples.shape == (*size, 1) else None


def reduced_j2k(frame: bytes, found: Codestream, *, halvings: int) -> NDArray[Any] | None:
    """Decode a JPEG 2000 codestream of one component at a smaller resolution level.

    Args:
        frame: The codestream.
        found: What it says about itself.
        halvings: How often each side is halved, rounded up; fewer times where there are not so
            many levels.

    Returns:
        The samples, in a type as wide and as signed as the codestream's own; None where the frame
        is to be decoded in full.
    """
    levels = min(halvings, found.levels)
    if not levels or not frame.startswith(_J2K_START):
        return None
    if not _LEAST_BITS <= found.precision <= _J2K_BITS:
        return None
    size = _halved(found.columns, levels), _halved(found.rows, levels)
    try:
        with _SmallerLevel(frame, size, levels) as image:
            values = np.asarray(image)
    except (OSError, ValueError):
        return None
    # Pillow moves samples up to the top of 16 bits, and signed ones to where none is negative.
    values = values >> (_J2K_BITS - found.precision)
    if found.is_signed:
        values = (values - (1 << (found.precision - 1))).astype(np.int16)
    return values.astype(f"{values.dtype.kind}1") if found.precision == 8 else values


def _halved(length: int, times: int) -> int:
    return -(-length >> times)


class _SmallerLevel(ImageFile.ImageFile):
    """A codestream for Pillow's decoder, without its plug-in.

    That one takes a side of 9 halved twice to have 2 pixels, and fails on the 3 that come.
    """

    format = "JPEG2000"

    def __init__(self, frame: bytes, size: tuple[int, int], levels: int) -> None:
        self._taken = size, levels, len(frame)
        super().__init__(io.BytesIO(frame))

    def _open(self) -> None:
        self._size, levels, length = self._taken
        self._mode = "I;16"
        args = ("j2k", levels, 0, -1, length)
        self.tile = [ImageFile._Tile("jpeg2k", (0, 0, *self._size), 0, args)]


def aspect_in_full(image: GreyImage, *, rows: int, columns: int) -> float:
    """Height of a pixel over its width, where they are those of the image in full.

    Args:
        image: The image as decoded, whose `pixel_aspect` is that of the image in full.
        rows: Height in full.
        columns: Width in full.
    """
    height, width = image.shape
    # Halves are rounded up, on either side by itself.
    return image.pixel_aspect * (rows / height) / (columns / width)

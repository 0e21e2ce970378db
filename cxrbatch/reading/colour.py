"""Turns colour images into grey ones.

Source: ITU-R BT.601, the weights of YCbCr in JPEG and of YBR_FULL in DICOM; DICOM PS3.3
C.7.6.3.1.2 (photometric interpretations) and C.7.9 (palettes).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbatch.reading.display import (
    Cells,
    GreyImage,
    GreyValues,
    StoredLayout,
    every_value,
    stored_values,
)
from cxrbatch.reading.outcomes import Outcome, ReadingError

_LUMINANCE = (0.299, 0.587, 0.114)
# Channels this close are a grey image with rounding noise, not a coloured one.
_GREY_TOLERANCE = 3 / 255
# Opcodes of the segments of a palette table.
_DISCRETE, _LINEAR = range(2)
# An image of at most so many pixels is held in floating point.
_SMALL_IMAGE = 1 << 17


@dataclass(frozen=True, slots=True)
class Palette:
    """The red, green and blue lookup tables of a PALETTE COLOR image, all of one length.

    Attributes:
        entries: Shape (entries, 3), float64: red, green and blue, each in [0, 1].
        first: The stored value that the first entry belongs to. Lower values take the first
            entry too, values after the last entry take the last.
    """

    entries: GreyValues
    first: int


def grey_of(values: NDArray[Any]) -> tuple[GreyImage, bool]:
    """Turn grey or RGB samples into a grey image: the luminance by ITU-R BT.601.

    Args:
        values: Shape (rows, columns) or (rows, columns, 3), red, green, blue; unsigned integers
            over the full range of their type, or floats in [0, 1].

    Returns:
        The grey image, and whether the channels of any pixel differ by more than 3/255 of the full
        range, which is more than rounding. Where all channels are equal, one of them is the grey
        image, so that a grey image stored as RGB equals its twin.
    """
    if values.ndim == 2:
        return _scaled(values), False
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return _scaled(red), False
    scale = _full_scale(values)
    spread = (values.max(axis=2) - values.min(axis=2)).max() / scale
    grey = np.multiply(red, np.float32(_LUMINANCE[0] / scale), dtype=np.float32)
    grey += np.multiply(green, np.float32(_LUMINANCE[1] / scale), dtype=np.float32)
    grey += np.multiply(blue, np.float32(_LUMINANCE[2] / scale), dtype=np.float32)
    return GreyImage(np.clip(grey, 0, 1, out=grey)), bool(spread > _GREY_TOLERANCE)


def _scaled(values: NDArray[Any]) -> GreyImage:
    scale = _full_scale(values)
    # Division is faster than looking up, but makes a large image four times as large.
    if values.dtype.itemsize > 2 or values.size <= _SMALL_IMAGE:
        # In two steps, as numpy converts little by little where it divides as well.
        grey = values.astype(np.float32)
        return GreyImage(np.divide(grey, scale, out=grey))
    return GreyImage(values, np.divide(every_value(values), scale, dtype=np.float32))


def _full_scale(values: NDArray[Any]) -> np.float32:
    return np.float32(np.iinfo(values.dtype).max if values.dtype.kind in "bui" else 1)


def render_colour(
    cells: Cells, photometric: str, *, layout: StoredLayout, palette: Palette | None
) -> tuple[GreyImage, bool]:
    """Turn the pixel cells of a frame in colour into its luminance.

    Args:
        cells: Shape (rows, columns, 3), or (rows, columns) with a palette; unsigned, as stored.
        photometric: Their colour space, as Photometric Interpretation names it: "RGB", "YBR_FULL",
            "YBR_FULL_422" (already widened to three samples a pixel) or "PALETTE COLOR".
        layout: Which bits of a cell hold the value.
        palette: The palette of PALETTE COLOR; not used for other colour spaces.

    Returns:
        The grey image, and whether its colours differ visibly from grey, as `grey_of` decides.

    Raises:
        ReadingError: `unsupported_image` for another colour space, a missing palette, cells of
            another shape, or palette indices of over 16 bits.
    """
    if photometric == "PALETTE COLOR":
        return _render_palette(cells, layout, palette)
    if cells.ndim != 3 or cells.shape[2] != 3:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "colour needs three samples per pixel")
    if photometric == "RGB" and layout.bits_stored == 8 * cells.dtype.itemsize:
        return grey_of(cells)
    scaled = (stored_values(cells, layout) / layout.highest).astype(np.float32)
    if photometric == "RGB":
        return grey_of(scaled)
    if photometric in ("YBR_FULL", "YBR_FULL_422"):
        zero = np.float32((1 << (layout.bits_stored - 1)) / layout.highest)
        return grey_of(_rgb_of(scaled, zero))
    raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "a colour space that is not read")


def _rgb_of(ybr: NDArray[np.float32], zero: np.float32) -> NDArray[np.float32]:
    """YBR_FULL to RGB (PS3.3 C.7.6.3.1.2), clipped, since both are stored in the same range."""
    y, cb, cr = ybr[..., 0], ybr[..., 1] - zero, ybr[..., 2] - zero
    rgb = np.empty_like(ybr)
    rgb[..., 0] = y + np.float32(1.402) * cr
    rgb[..., 1] = y - np.float32(0.344136) * cb - np.float32(0.714136) * cr
    rgb[..., 2] = y + np.float32(1.772) * cb
    return np.clip(rgb, 0, 1, out=rgb)


def _render_palette(
    cells: Cells, layout: StoredLayout, palette: Palette | None
) -> tuple[GreyImage, bool]:
    if palette is None or cells.ndim != 2 or cells.dtype.itemsize > 2:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "a palette image without a valid palette")
    grey, is_colour = grey_of(palette.entries[np.newaxis].astype(np.float32))
    index = stored_values(every_value(cells), layout) - palette.first
    levels = grey.whole()[0][np.clip(index, 0, len(palette.entries) - 1)]
    return GreyImage(cells, levels), is_colour


def expand_segments(codes: list[int], *, count: int) -> GreyValues | None:
    """Expand the segments of a palette table into its entries (PS3.3 C.7.9.2).

    A discrete segment lists entries, a linear one gives the end of a straight line from the last
    entry. Indirect segments, a copy of earlier ones, are refused: writers do not use them.

    Args:
        codes: Opcodes, lengths and values, one number each. Codes after the last entry are ignored.
        count: Entries that the descriptor announces.

    Returns:
        The entries, shape (count,), float64. None if the segments give fewer or more entries than
        `count`, if the first segment is linear, or for an indirect segment or unknown opcode.
    """
    entries: list[float] = []
    position = 0
    try:
        while position < len(codes) and len(entries) < count:
            kind, length, value = codes[position], codes[position + 1], codes[position + 2]
            if len(entries) + length > count or kind not in (_DISCRETE, _LINEAR):
                return None
            if kind == _DISCRETE:
                entries += codes[position + 2 : position + 2 + length]
                position += 2 + length
            else:
                start, rise = entries[-1], value - entries[-1]
                entries += [round(start + rise * n / length) for n in range(1, length + 1)]
                position += 3
    except IndexError:
        return None
    return np.array(entries, np.float64) if len(entries) == count else None

"""Colour DICOM frames to luminance.

Source: DICOM PS3.3 C.7.6.3.1.2 (photometric interpretations).
"""

import numpy as np
from numpy.typing import NDArray

from cxrbatch.reading.decoding import DecodedFrame
from cxrbatch.reading.display import StoredLayout, stored_values
from cxrbatch.reading.grey import GreyImage, grey_of
from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.palette import Palette

COLOUR_SPACES = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "PALETTE COLOR")


def render_colour(
    decoded: DecodedFrame, *, layout: StoredLayout, palette: Palette | None
) -> tuple[GreyImage, bool]:
    """Luminance of one frame, and whether its channels really differ.

    Args:
        decoded: Cells of shape (rows, columns, 3), or (rows, columns) with a palette.
        layout: Where the value lies in its cell.
        palette: For PALETTE COLOR.

    Raises:
        ReadingError: `unsupported_image` for other colour spaces.
    """
    if decoded.photometric == "PALETTE COLOR":
        return _render_palette(decoded, layout, palette)
    cells = decoded.cells
    if cells.ndim != 3 or cells.shape[2] != 3:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "colour needs three samples per pixel")
    is_full = layout.bits_stored == 8 * cells.dtype.itemsize
    if decoded.photometric == "RGB" and is_full:
        return grey_of(cells)
    scaled = (stored_values(cells, layout) / layout.highest).astype(np.float32)
    if decoded.photometric == "RGB":
        return grey_of(scaled)
    if decoded.photometric in ("YBR_FULL", "YBR_FULL_422"):
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
    decoded: DecodedFrame, layout: StoredLayout, palette: Palette | None
) -> tuple[GreyImage, bool]:
    if palette is None or decoded.cells.ndim != 2 or decoded.cells.dtype.itemsize > 2:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "a palette image without a valid palette")
    grey, is_colour = grey_of(palette.entries[np.newaxis].astype(np.float32))
    domain = np.arange(1 << (8 * decoded.cells.dtype.itemsize), dtype=decoded.cells.dtype)
    index = np.clip(stored_values(domain, layout) - palette.first, 0, len(palette.entries) - 1)
    return GreyImage(decoded.cells, grey.whole()[0][index]), is_colour

"""Colour DICOM frames to luminance.

Source: DICOM PS3.3 C.7.6.3.1.2 (photometric interpretations).
"""

import re

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cxrbatch.reading.codecs.decoders import DecodedFrame
from cxrbatch.reading.dicom.elements import decodings, raw_bytes, unknown
from cxrbatch.reading.dicom.palette import Palette
from cxrbatch.reading.display import StoredLayout, stored_values
from cxrbatch.reading.grey import GreyImage, grey_of
from cxrbatch.reading.outcomes import Outcome, ReadingError

GREYSCALES = ("MONOCHROME1", "MONOCHROME2")
COLOUR_SPACES = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "PALETTE COLOR")
# PS3.3 C.7.6.3.1.2: those that are not read, some of them retired.
_OTHER_SPACES = ("HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "XYB")
_PHOTOMETRICS = {
    re.sub("[ _]", "", name): name for name in (*GREYSCALES, *COLOUR_SPACES, *_OTHER_SPACES)
}


def read_photometric(dataset: Dataset) -> tuple[str | None, str]:
    """Photometric Interpretation (0028,0004) as the standard spells it.

    Case, blanks, underscores and other punctuation do not count, as in DCMTK.

    Returns:
        The name, None where there is none that the standard knows; and what is wrong with the
        element, empty if nothing is.
    """
    written = next(decodings(dataset, 0x00280004), "")
    if not written:
        return None, "the header has no Photometric Interpretation (0028,0004)"
    spellings = {re.sub("[^A-Z0-9]", "", part.upper()) for part in written.split("\\")} - {""}
    name = _PHOTOMETRICS.get(spellings.pop()) if len(spellings) == 1 else None
    if name is None:
        return None, unknown("photometric interpretation", written)
    if name != written:
        return name, f"photometric interpretation {name} is misspelt"
    # A space is to fill it up (PS3.5 section 6.2).
    is_filled_up = (raw_bytes(dataset, 0x00280004) or b"").endswith(b"\0")
    return name, "photometric interpretation is filled up with a NUL" if is_filled_up else ""


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

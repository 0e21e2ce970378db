"""Colour DICOM frames to luminance.

Source: DICOM PS3.3 C.7.6.3.1.2 (photometric interpretations).
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cxrbatch.reading.codecs.decoders import DecodedFrame
from cxrbatch.reading.dicom.elements import decodings, raw_bytes, unknown, words
from cxrbatch.reading.dicom.transforms import lut_entries
from cxrbatch.reading.display import StoredLayout, Values, stored_values
from cxrbatch.reading.grey import GreyImage, grey_of
from cxrbatch.reading.outcomes import Outcome, ReadingError

_DESCRIPTOR = 0x00281101
_DATA = 0x00281201
_SEGMENTED_DATA = 0x00281221
_DISCRETE, _LINEAR = range(2)


@dataclass(frozen=True, slots=True)
class Palette:
    """Three tables of one length.

    Attributes:
        entries: Shape (entries, 3), red, green, blue in [0, 1].
        first: The stored value that the first entry belongs to.
    """

    entries: Values
    first: int


def read_palette(dataset: Dataset, *, is_signed: bool, little: bool) -> Palette | None:
    """Read the three tables; None if any of them is missing or invalid.

    Args:
        dataset: The image's header.
        is_signed: Whether stored values are signed, and the first mapped value with them.
        little: Byte order.
    """
    tables = []
    descriptor: tuple[int, ...] = ()
    for channel in range(3):
        descriptor = words(dataset, _DESCRIPTOR + channel, little=little)
        if len(descriptor) != 3 or descriptor[2] not in (8, 16):
            return None
        table = _read_table(dataset, channel, descriptor, little=little)
        if table is None:
            return None
        # Of 16 bits the upper 8 count, as in DCMTK: writers put 8-bit palettes there, with zeros
        # or with copies below them.
        tables.append(np.floor(table / 256 if descriptor[2] == 16 else table) / 255)
    if len({len(table) for table in tables}) != 1:
        return None
    first = descriptor[1]
    return Palette(
        entries=np.stack(tables, axis=1),
        first=first - (1 << 16) if is_signed and first >= 1 << 15 else first,
    )


def _read_table(
    dataset: Dataset, channel: int, descriptor: tuple[int, ...], *, little: bool
) -> Values | None:
    count, bits = descriptor[0] or 1 << 16, descriptor[2]
    data = raw_bytes(dataset, _DATA + channel)
    if data is not None:
        return lut_entries(data, count=count, bits=bits, little=little)
    segmented = raw_bytes(dataset, _SEGMENTED_DATA + channel)
    if segmented is None:
        return None
    order = "<" if little else ">"
    codes = np.frombuffer(segmented[: len(segmented) // 2 * 2], f"{order}u2")
    if bits == 8:
        codes = codes.astype("<u2").view(np.uint8).astype(np.uint16)
    return expand_segments(codes.astype(np.int64).tolist(), count=count)


def expand_segments(codes: list[int], *, count: int) -> Values | None:
    """Expand discrete and linear segments to `count` entries; None if they do not give that many.

    Indirect segments, a copy of earlier ones, are refused: writers do not use them.

    Args:
        codes: Opcodes, lengths and values, one number each.
        count: Entries that the descriptor announces.
    """
    entries: list[float] = []
    position = 0
    try:
        while position < len(codes) and len(entries) < count:
            position = _expand_one(codes, position, entries, count)
    except (IndexError, ValueError):
        return None
    return np.array(entries, np.float64) if len(entries) == count else None


def _expand_one(codes: list[int], position: int, entries: list[float], count: int) -> int:
    """Append one discrete or linear segment; returns where the next one starts."""
    kind, length = codes[position], codes[position + 1]
    if len(entries) + length > count:
        raise ValueError("more entries than announced")
    if kind == _DISCRETE:
        entries += codes[position + 2 : position + 2 + length]
        return position + 2 + length
    if kind != _LINEAR:
        raise ValueError("unknown segment")
    start, end = entries[-1], codes[position + 2]
    entries += [round(start + (end - start) * step / length) for step in range(1, length + 1)]
    return position + 3


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

"""Palette Color Lookup Tables, plain and segmented.

Source: DICOM PS3.3 C.7.6.3.1.5 and 6 (plain), C.7.9.2 (segmented).
"""

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from cxrbatch.reading.dicom.elements import raw_bytes, words
from cxrbatch.reading.dicom.transforms import lut_entries
from cxrbatch.reading.display import Values

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

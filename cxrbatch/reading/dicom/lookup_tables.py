"""Reads lookup tables: modality and VOI LUTs, and the palettes of PALETTE COLOR.

Source: DICOM PS3.3 C.11.1.1 and C.11.2.1.1 (LUTs), C.7.6.3.1.5, C.7.6.3.1.6 and C.7.9 (palettes).
"""

import numpy as np
from pydicom.dataset import Dataset

from cxrbatch.reading.colour import Palette
from cxrbatch.reading.dicom.values import raw_bytes, words_of
from cxrbatch.reading.display import GreyValues, LookupTable

_LUT_DESCRIPTOR, _LUT_DATA = 0x00283002, 0x00283006
# Of the red table; those of green and blue follow it.
_PALETTE_DESCRIPTOR, _PALETTE_DATA, _SEGMENTED_DATA = 0x00281101, 0x00281201, 0x00281221
_DISCRETE, _LINEAR = range(2)


def read_lut(item: Dataset | None, *, is_signed: bool, little: bool) -> LookupTable | None:
    """Read a modality or VOI LUT from the item of its sequence.

    The raw bytes are read: value representations of these elements depend on other elements and
    are often wrong.

    Args:
        item: The first item of the sequence, or None.
        is_signed: Whether the values that are looked up can be negative.
        little: Whether the data set is in little endian; an item with an order of its own, as in
            UN, keeps to it.

    Returns:
        The table; None without an item, without LUT Descriptor (0028,3002) of three words or LUT
        Data (0028,3006), for entries of other than 1 to 16 bits, or for too few of them.
    """
    if item is None:
        return None
    own = item.original_encoding[1]
    little = little if own is None else own
    descriptor = words_of(item, _LUT_DESCRIPTOR, little=little)
    data = raw_bytes(item, _LUT_DATA)
    if len(descriptor) != 3 or data is None:
        return None
    count, first, bits = descriptor[0] or 1 << 16, descriptor[1], descriptor[2]
    if not 1 <= bits <= 16:
        return None
    element = item.get_item(_LUT_DESCRIPTOR)
    if is_signed or (element is not None and element.VR == "SS"):
        first = signed_word(first)
    entries = _entries(data, count=count, bits=bits, little=little)
    return None if entries is None else LookupTable(entries, first, bits)


def signed_word(word: int) -> int:
    """Return the signed number with the bits of an unsigned 16-bit word: 65535 becomes -1."""
    return word - (1 << 16) if word >= 1 << 15 else word


def _entries(data: bytes, *, count: int, bits: int, little: bool) -> GreyValues | None:
    """Entries of a table, one to a word, or two to a word where 8 bits are packed."""
    order = "<" if little else ">"
    if len(data) >= 2 * count:
        entries = np.frombuffer(data, f"{order}u2", count)
    elif bits <= 8 and len(data) >= count:
        even = data[: len(data) // 2 * 2] + data[len(data) // 2 * 2 :].ljust(len(data) % 2 * 2)
        packed = np.frombuffer(even, f"{order}u2").astype("<u2")
        entries = packed.view(np.uint8)[:count].astype(np.uint16)
    else:
        return None
    capped: GreyValues = np.minimum(entries, (1 << bits) - 1).astype(np.float64)
    return capped


def read_palette(dataset: Dataset, *, is_signed: bool, little: bool) -> Palette | None:
    """Read the red, green and blue tables of a PALETTE COLOR image.

    Args:
        dataset: The image's header.
        is_signed: Whether stored values, and so the value of the first entry, are signed.
        little: Whether the header is in little endian.

    Returns:
        The palette; None if any of the tables is missing or invalid, or if their lengths differ.
    """
    tables = []
    first = 0
    for channel in range(3):
        descriptor = words_of(dataset, _PALETTE_DESCRIPTOR + channel, little=little)
        if len(descriptor) != 3 or descriptor[2] not in (8, 16):
            return None
        count, first, bits = descriptor[0] or 1 << 16, descriptor[1], descriptor[2]
        table = _palette_table(dataset, channel, count=count, bits=bits, little=little)
        if table is None:
            return None
        # Of 16 bits the upper 8 count, as in DCMTK: writers put 8-bit palettes there, with zeros
        # or with copies below them.
        tables.append(np.floor(table / 256 if bits == 16 else table) / 255)
    if len({len(table) for table in tables}) != 1:
        return None
    return Palette(np.stack(tables, axis=1), signed_word(first) if is_signed else first)


def _palette_table(
    dataset: Dataset, channel: int, *, count: int, bits: int, little: bool
) -> GreyValues | None:
    data = raw_bytes(dataset, _PALETTE_DATA + channel)
    if data is not None:
        return _entries(data, count=count, bits=bits, little=little)
    segmented = raw_bytes(dataset, _SEGMENTED_DATA + channel)
    if segmented is None:
        return None
    codes = np.frombuffer(segmented[: len(segmented) // 2 * 2], "<u2" if little else ">u2")
    if bits == 8:
        codes = codes.astype("<u2").view(np.uint8).astype(np.uint16)
    return expand_segments(codes.astype(np.int64).tolist(), count=count)


def expand_segments(codes: list[int], *, count: int) -> GreyValues | None:
    """Expand the segments of a palette table into its entries (PS3.3 C.7.9.2).

    A discrete segment lists entries, a linear one gives the end of a straight line from the last
    entry. Indirect segments, a copy of earlier ones, are refused: writers do not use them.

    Args:
        codes: Opcodes, lengths and values, one number each.
        count: Entries that the descriptor announces.

    Returns:
        The entries, shape (count,); None if the segments do not give `count` of them.
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

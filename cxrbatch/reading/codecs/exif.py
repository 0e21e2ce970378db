"""How a JPEG or PNG must be turned to stand upright, as its EXIF says.

Source: EXIF 2.32, section 4.6 (TIFF structure) and tag 0x0112.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER = b"Exif\0\0"
_ORIENTATION = 0x0112
_SHORT = 3
UPRIGHT = 1


def orientation(segment: bytes) -> int:
    """The orientation in an APP1 segment or eXIf chunk, 1 to 8; damaged EXIF is as none, 1."""
    tiff = segment.removeprefix(HEADER)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return UPRIGHT
    try:
        start = struct.unpack_from(order + "I", tiff, 4)[0]
        count = struct.unpack_from(order + "H", tiff, start)[0]
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return value if kind == _SHORT and 1 <= value <= 8 else UPRIGHT
    except struct.error:
        pass
    return UPRIGHT


def lies_on_its_side(turn: int) -> bool:
    """Whether an orientation lets rows and columns change places."""
    return turn >= 5


def upright(values: NDArray[Any], turn: int) -> NDArray[Any]:
    """Undo an orientation.

    Args:
        values: Shape (rows, columns[, channels]).
        turn: 1 to 8; from 5 on rows and columns change places.
    """
    if lies_on_its_side(turn):
        values = np.swapaxes(values, 0, 1)
    # What is left is to mirror: rows, columns or both.
    flip_rows = turn in (3, 4, 7, 8)
    flip_columns = turn in (2, 3, 6, 7)
    return values[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]

"""Colour to grey: one rule for every format."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Display = NDArray[np.float32]

# ITU-R BT.601, the weights of YCbCr in JPEG and of YBR_FULL in DICOM (PS3.3 C.7.6.3.1.2).
_WEIGHTS = (0.299, 0.587, 0.114)

# Channels this close are a grey image with rounding noise, not a coloured one.
_GREY_TOLERANCE = 3 / 255


def luminance(values: NDArray[Any]) -> tuple[Display, bool]:
    """Grey levels in [0, 1], and whether the image has colour.

    Args:
        values: Shape (rows, columns) or (rows, columns, 3); unsigned integers over their type's
            full range, or floats in [0, 1].

    Returns:
        Shape (rows, columns), float32 in [0, 1]; True if the channels really differ. Equal
        channels are returned as they are, so that a grey image stored as RGB equals its twin.
    """
    scale = np.float32(np.iinfo(values.dtype).max if values.dtype.kind in "bui" else 1)
    if values.ndim == 2:
        return np.divide(values, scale, dtype=np.float32), False
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return np.divide(red, scale, dtype=np.float32), False
    spread = (values.max(axis=2) - values.min(axis=2)).max() / scale
    grey = np.multiply(red, np.float32(_WEIGHTS[0] / scale), dtype=np.float32)
    grey += np.multiply(green, np.float32(_WEIGHTS[1] / scale), dtype=np.float32)
    grey += np.multiply(blue, np.float32(_WEIGHTS[2] / scale), dtype=np.float32)
    return np.clip(grey, 0, 1, out=grey), bool(spread > _GREY_TOLERANCE)

"""Display images, looked up block by block as they are asked for, and colour turned to grey."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Display = NDArray[np.float32]

# ITU-R BT.601, the weights of YCbCr in JPEG and of YBR_FULL in DICOM (PS3.3 C.7.6.3.1.2).
_WEIGHTS = (0.299, 0.587, 0.114)

# Channels this close are a grey image with rounding noise, not a coloured one.
_GREY_TOLERANCE = 3 / 255

# Pixels looked up at once: few enough to stay in the cache.
_BLOCK = 1 << 16

# Pixels of an image small enough to be held in floating point.
_DIVIDED = 1 << 17

_INDICES = {1: pa.uint8(), 2: pa.uint16()}


@dataclass(frozen=True, slots=True)
class GreyImage:
    """A display image as pixel cells and the grey level of each value that a cell can have.

    Every step from stored value to grey level maps one value to one value, whatever the pixel's
    neighbours are. So the pixels themselves may stay as small as they were stored: looking a
    block of them up gives the same bits as looking up all of them, and a caller that goes through
    the rows block by block never needs the image in floating point.

    Attributes:
        cells: Shape (rows, columns); unsigned integers, or grey levels where `table` is None.
        table: Grey level of each cell value, float32 in [0, 1]; 1 is white.
        pixel_aspect: Height of a pixel over its width.
    """

    cells: NDArray[Any]
    table: Display | None = None
    pixel_aspect: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows, columns = self.cells.shape
        return rows, columns

    def rows(self, start: int, stop: int) -> Display:
        """Grey levels of some rows, shape (stop - start, columns), float32 in [0, 1]."""
        block = self.cells[start:stop]
        if self.table is None:
            return block
        # Arrow takes cells for indices as they are, where numpy widens them to 64 bits first: half
        # of the time. Each is below the table's length, which spares the check for it.
        table = _arrow(self.table, pa.float32())
        cells = _arrow(block, _INDICES[block.dtype.itemsize])
        found = pc.take(table, cells, boundscheck=False, memory_pool=pa.system_memory_pool())
        # Its `to_numpy` would import pandas wherever that is installed.
        levels = np.frombuffer(found.buffers()[1], np.float32, count=block.size)
        return levels.reshape(block.shape)

    def points(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Display:
        """Grey levels where rows and columns cross, shape (rows, columns)."""
        # One axis after the other, which is faster than both at once.
        return GreyImage(self.cells.take(rows, 0).take(columns, 1), self.table).whole()

    def whole(self) -> Display:
        """Grey levels of all rows, shape (rows, columns), float32 in [0, 1]."""
        if self.table is None:
            return self.cells
        grey = np.empty(self.shape, np.float32)
        step = max(1, _BLOCK // self.shape[1])
        for start in range(0, self.shape[0], step):
            grey[start : start + step] = self.rows(start, start + step)
        return grey


def grey_of(values: NDArray[Any]) -> tuple[GreyImage, bool]:
    """Luminance of an image, and whether it has colour.

    Args:
        values: Shape (rows, columns) or (rows, columns, 3); unsigned integers over their type's
            full range, or floats in [0, 1].

    Returns:
        The grey image; True if the channels really differ. Equal channels are taken as they are,
        so that a grey image stored as RGB equals its twin.
    """
    if values.ndim == 2:
        return _plain(values), False
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return _plain(red), False
    scale = _full_scale(values)
    spread = (values.max(axis=2) - values.min(axis=2)).max() / scale
    grey = np.multiply(red, np.float32(_WEIGHTS[0] / scale), dtype=np.float32)
    grey += np.multiply(green, np.float32(_WEIGHTS[1] / scale), dtype=np.float32)
    grey += np.multiply(blue, np.float32(_WEIGHTS[2] / scale), dtype=np.float32)
    return GreyImage(np.clip(grey, 0, 1, out=grey)), bool(spread > _GREY_TOLERANCE)


def _arrow(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """The same memory as Arrow has it, or a copy where it is not in one piece."""
    native = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    return pa.Array.from_buffers(kind, native.size, [None, pa.py_buffer(native)])


def _plain(values: NDArray[Any]) -> GreyImage:
    scale = _full_scale(values)
    # To divide is faster than to look up; but of a large image it would make a larger one.
    if values.dtype.itemsize > 2 or values.size <= _DIVIDED:
        # In two steps, as numpy converts little by little where it divides as well.
        grey = values.astype(np.float32)
        return GreyImage(np.divide(grey, scale, out=grey))
    domain = np.arange(1 << (8 * values.dtype.itemsize), dtype=np.float32)
    return GreyImage(values, np.divide(domain, scale, dtype=np.float32))


def _full_scale(values: NDArray[Any]) -> np.float32:
    return np.float32(np.iinfo(values.dtype).max if values.dtype.kind in "bui" else 1)

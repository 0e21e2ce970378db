"""Turns stored values into grey levels, and holds the display image that results.

Each step maps one value to one value, whatever its neighbours are. So for pixels of 8 and 16 bits
`render_grey` maps the list of all values that a pixel can have, and pixels are looked up in the
result: the same bits for a tenth of the work. The percentiles of the policy "robust" depend on the
image; they need only a histogram, which is a weight for each value of that list.

Source: DICOM PS3.3 C.7.6.3 (pixels), C.7.5.1.1.2 (padding), C.11.1 (modality LUT), C.11.2 (VOI
LUT), C.11.6 (presentation LUT shape); PS3.4 N.2 (their order).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Cells = NDArray[np.unsignedinteger]
GreyValues = NDArray[np.float64]
Display = NDArray[np.float32]

# Shares of the pixels that the policy "robust" clips to black and to white.
_ROBUST_TAIL = 0.005
# Percentiles are taken of about so many pixels, in whole rows at even distances.
_SAMPLED_PIXELS = 1 << 18
# Pixels looked up at once: few enough to stay in the processor's cache.
_BLOCK = 1 << 16
_INDEX_TYPES = {1: pa.uint8(), 2: pa.uint16()}


@dataclass(frozen=True, slots=True)
class GreyImage:
    """A display image: pixel cells, and the grey level of each value that a cell can have.

    With a `table` the pixels stay as small as they were stored: a caller that goes through the
    rows block by block never holds the whole image in floating point. `numpy.asarray(image)` gives
    all grey levels, as `whole` does.

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
        """Shape of the image: (rows, columns)."""
        rows, columns = self.cells.shape
        return rows, columns

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        """All grey levels, as numpy asks for them."""
        return np.array(self.whole(), dtype, copy=copy if self.table is None else None)

    def rows(self, start: int, stop: int) -> Display:
        """Return rows `start` to `stop` - 1 as grey levels: shape (n, columns), float32, 0 to 1."""
        block = self.cells[start:stop]
        if self.table is None:
            return block
        # Arrow takes cells as indices as they are, where numpy widens them to 64 bits first: half
        # of the time. Each is below the table's length, so the check for that is left out.
        table = _arrow_array(self.table, pa.float32())
        cells = _arrow_array(block, _INDEX_TYPES[block.dtype.itemsize])
        taken = pc.take(table, cells, boundscheck=False, memory_pool=pa.system_memory_pool())
        # Its `to_numpy` would import pandas wherever that is installed.
        levels = np.frombuffer(taken.buffers()[1], np.float32, count=block.size)
        return levels.reshape(block.shape)

    def points(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Display:
        """Return the grey levels where some rows cross some columns, float32 in [0, 1].

        Args:
            rows: Numbers of r rows, from 0; the result has shape (r, c).
            columns: Numbers of c columns, from 0.
        """
        # One axis after the other, which is faster than both at once.
        return GreyImage(self.cells.take(rows, 0).take(columns, 1), self.table).whole()

    def whole(self) -> Display:
        """Return the grey levels of all rows, shape (rows, columns), float32 in [0, 1]."""
        if self.table is None:
            return self.cells
        grey = np.empty(self.shape, np.float32)
        step = max(1, _BLOCK // self.shape[1])
        for start in range(0, self.shape[0], step):
            grey[start : start + step] = self.rows(start, start + step)
        return grey


def _arrow_array(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """The same memory as an Arrow array, or a copy where it is not in one piece."""
    native = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    return pa.Array.from_buffers(kind, native.size, [None, pa.py_buffer(native)])


def every_value(cells: NDArray[Any]) -> NDArray[Any]:
    """Return all values of the type of `cells`, ascending: 0 to 255 (uint8), 65,535 (uint16)."""
    return np.arange(1 << (8 * cells.dtype.itemsize), dtype=cells.dtype)


@dataclass(frozen=True, slots=True)
class StoredLayout:
    """Which bits of a pixel cell hold the value (PS3.5 section 8.1.1).

    They are `bits_stored` bits, and the highest of them is bit number `high_bit`, counted from 0.
    Values are in two's complement if `is_signed`, else not negative.
    """

    bits_stored: int
    high_bit: int
    is_signed: bool

    @property
    def lowest(self) -> int:
        """The least value that can be stored: 0, or -2^(bits_stored - 1) if values are signed."""
        return -(1 << (self.bits_stored - 1)) if self.is_signed else 0

    @property
    def highest(self) -> int:
        """The greatest value that can be stored: `lowest` + 2^bits_stored - 1."""
        return self.lowest + (1 << self.bits_stored) - 1


@dataclass(frozen=True, slots=True)
class Rescale:
    """A modality transform: value x Slope (0028,1053), never zero, + Intercept (0028,1052)."""

    slope: float
    intercept: float


@dataclass(frozen=True, slots=True)
class LookupTable:
    """A modality or VOI lookup table.

    Attributes:
        entries: Shape (entries,), float64, each within 0 and 2**bits - 1.
        first: The input value that the first entry belongs to.
        bits: Bits per entry, 1 to 16.
    """

    entries: GreyValues
    first: int
    bits: int

    def look_up(self, values: GreyValues) -> GreyValues:
        """Return each value's entry, same shape; the first or last entry for values outside."""
        index = np.clip(values - self.first, 0, len(self.entries) - 1)
        return self.entries[index.astype(np.int64)]


@dataclass(frozen=True, slots=True)
class VoiWindow:
    """Window Center, Width (modality units), VOI LUT Function: LINEAR, LINEAR_EXACT, SIGMOID."""

    center: float
    width: float
    function: str = "LINEAR"


@dataclass(frozen=True, slots=True)
class DisplayTransforms:
    """The transforms from stored values to grey levels that a header asks for.

    Attributes:
        layout: Which bits of a cell hold the value.
        padding: Lowest and highest stored value that mean "no image here", or None.
        modality: Modality transform, or None.
        voi: The one VOI transform, or None.
        is_inverted: Whether low values are white.
        voi_place: Which functional groups hold the VOI transform: "shared" or "per_frame"; empty
            where the header itself holds it.
    """

    layout: StoredLayout
    padding: tuple[int, int] | None = None
    modality: Rescale | LookupTable | None = None
    voi: VoiWindow | LookupTable | None = None
    is_inverted: bool = False
    voi_place: str = ""

    def voi_source(self, no_voi: str) -> str:
        """Name the VOI transform that is applied under the policy `no_voi`, as tables name it.

        Returns:
            "voi_lut", "window_linear", "window_linear_exact" or "window_sigmoid", followed by
            "_shared" or "_per_frame" where functional groups hold the transform; without a
            transform "none_" followed by the policy, "full_range" for up to 8 bits in any case.
        """
        place = f"_{self.voi_place}" if self.voi_place else ""
        if isinstance(self.voi, LookupTable):
            return f"voi_lut{place}"
        if isinstance(self.voi, VoiWindow):
            return f"window_{self.voi.function.lower()}{place}"
        return f"none_{self._policy(no_voi)}"

    def _policy(self, no_voi: str) -> str:
        """`no_voi`, but "full_range" for up to 8 bits: those were made for display."""
        return "full_range" if self.layout.bits_stored <= 8 else no_voi

    def full_range(self) -> tuple[float, float]:
        """Return the least and the greatest modality value that the header allows.

        They depend on bits stored, sign and modality transform alone, not on the pixels.
        """
        if isinstance(self.modality, LookupTable):
            return 0.0, float((1 << self.modality.bits) - 1)
        ends = np.array([self.layout.lowest, self.layout.highest], np.float64)
        ends = _apply_modality(ends, self.modality)
        return float(ends.min()), float(ends.max())


def render_grey(
    cells: Cells, transforms: DisplayTransforms, *, no_voi: str = "robust"
) -> GreyImage:
    """Turn the pixel cells of one frame into a display image.

    Args:
        cells: Shape (rows, columns), unsigned, as stored: unused bits are still there.
        transforms: What the header asks for.
        no_voi: Policy where there is no VOI transform, one of `readings.NO_VOI_POLICIES`: "robust"
            maps all but about 0.5 % of pixels at each end linearly to [0, 1], "full_range" all
            values that the header allows. It is "full_range" for up to 8 bits stored in any case.

    Returns:
        An image of the same shape; 1 is white, padding is 0.
    """
    policy = transforms._policy(no_voi) if transforms.voi is None else "full_range"
    if cells.dtype.itemsize > 2:
        weights = np.ones(cells.shape)
        return GreyImage(_grey_levels(cells, transforms, policy=policy, weights=weights))
    domain = every_value(cells)
    counts = None
    if policy == "robust":
        sampled = cells[:: max(1, cells.size // _SAMPLED_PIXELS)].reshape(-1)
        counts = np.bincount(sampled, minlength=len(domain)).astype(np.float64)
    return GreyImage(cells, _grey_levels(domain, transforms, policy=policy, weights=counts))


def _grey_levels(
    cells: Cells, transforms: DisplayTransforms, *, policy: str, weights: GreyValues | None
) -> Display:
    """All steps, one time each; `weights` says how often each cell counts in percentiles."""
    stored = stored_values(cells, transforms.layout)
    values = _apply_modality(stored.astype(np.float64), transforms.modality)
    lowest, highest = transforms.padding or (0, 0)
    padded = None if transforms.padding is None else (stored >= lowest) & (stored <= highest)
    if transforms.voi is not None:
        grey = _apply_voi(values, transforms.voi)
    elif policy == "robust" and weights is not None:
        counted = weights if padded is None else np.where(padded, 0.0, weights)
        grey = apply_range(values, robust_range(values, counted))
    else:
        grey = _apply_full_range(values, transforms)
    if transforms.is_inverted:
        grey = 1.0 - grey
    if padded is not None:
        grey = np.where(padded, 0.0, grey)
    return grey.astype(np.float32)


def stored_values(cells: Cells, layout: StoredLayout) -> NDArray[np.int64]:
    """Return the values of pixel cells, same shape: sign applied, bits outside the value cleared.

    Source: DICOM PS3.5 section 8.1.1; the other bits may hold overlays.
    """
    shift = layout.high_bit + 1 - layout.bits_stored
    values = (cells.astype(np.int64) >> shift) & ((1 << layout.bits_stored) - 1)
    if layout.is_signed:
        values -= (values >> (layout.bits_stored - 1)) << layout.bits_stored
    return values


def _apply_modality(values: GreyValues, modality: Rescale | LookupTable | None) -> GreyValues:
    """Stored values to modality values (PS3.3 C.11.1)."""
    if isinstance(modality, Rescale):
        return values * modality.slope + modality.intercept
    return values if modality is None else modality.look_up(values)


def _apply_voi(values: GreyValues, voi: VoiWindow | LookupTable) -> GreyValues:
    """Modality values to [0, 1]: 1 is the end of the transform's output range, not of the image's.

    Source: DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3.
    """
    if isinstance(voi, LookupTable):
        return voi.look_up(values) / ((1 << voi.bits) - 1)
    if voi.function in ("SIGMOID", "LINEAR_EXACT"):
        with np.errstate(over="ignore"):  # a width near 0: what becomes infinite is clipped
            steps = (values - voi.center) / voi.width
        if voi.function == "LINEAR_EXACT":
            return np.clip(steps + 0.5, 0, 1)
        # Beyond +-125 the result is 0 or 1 in float32, and exp stays finite.
        return 1 / (1 + np.exp(-4 * np.clip(steps, -125, 125)))
    if voi.width == 1:
        return (values > voi.center - 0.5).astype(np.float64)
    return np.clip((values - (voi.center - 0.5)) / (voi.width - 1) + 0.5, 0, 1)


def _apply_full_range(values: GreyValues, transforms: DisplayTransforms) -> GreyValues:
    """Map all values that the header allows to [0, 1], as DCMTK does without a VOI.

    Of fewer than 256 values each takes an equal share of 256 grey levels, so that the greatest
    stays below white: a mask of single bits comes out as black and middle grey, as in DCMTK.
    """
    low, high = transforms.full_range()
    modality = transforms.modality
    step = abs(modality.slope) if isinstance(modality, Rescale) else 1.0
    return apply_range(values, (low, low + max(high - low, (high - low + step) * 255 / 256)))


def robust_range(values: GreyValues, weights: GreyValues) -> tuple[float, float]:
    """Return the 0.5th and the 99.5th percentile of pixels, by nearest rank: two of `values`.

    Both ends are counted alike, so a negative has the mirrored range. (0, 0) if there is no pixel.

    Args:
        values: Any shape, in any order.
        weights: Same shape; how many pixels have each value.
    """
    counted = weights.reshape(-1) > 0
    flat, counts = values.reshape(-1)[counted], weights.reshape(-1)[counted]
    if not flat.size:
        return 0.0, 0.0
    order = np.argsort(flat, kind="stable")
    tail = _ROBUST_TAIL * counts.sum()
    low, high = (
        flat[ranked[np.searchsorted(np.cumsum(counts[ranked]), tail)]]
        for ranked in (order, order[::-1])
    )
    return float(low), float(high)


def apply_range(values: GreyValues, limits: tuple[float, float]) -> GreyValues:
    """Map values linearly, `limits` (low, high) to 0 and 1; clip; all 0 unless low < high."""
    low, high = limits
    if not high > low:
        return np.zeros_like(values)
    return np.clip((values - low) / (high - low), 0, 1)

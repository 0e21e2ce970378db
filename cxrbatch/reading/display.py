"""Stored values to grey levels, in the standard's order, as pure functions on numpy arrays.

Each step maps one value to one value, whatever its neighbours are. So the steps may run on an
image or on the list of all values that its pixels can have; `render` does the latter for pixels
of 8 and 16 bits and gives the list, to be looked up, which has the same bits for a tenth of the
work. The one step that depends on the image, the percentiles of the robust policy, needs only a
histogram, and a histogram is a weight for each value of that list.

Source: DICOM PS3.3 C.7.6.3 (pixels), C.7.5.1.1.2 (padding), C.11.1 (modality LUT), C.11.2 (VOI
LUT), C.11.6 (presentation LUT shape); PS3.4 N.2 (their order).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrbatch.reading.grey import Display, GreyImage

Cells = NDArray[np.unsignedinteger]
Values = NDArray[np.float64]

NO_VOI_POLICIES = ("robust", "full_range")

# Shares of the pixels that the robust policy clips to black and to white.
_ROBUST_TAIL = 0.005
# Percentiles are taken of about so many pixels, in whole rows at even distances.
_SAMPLED_PIXELS = 1 << 18


@dataclass(frozen=True, slots=True)
class StoredLayout:
    """Where in a pixel cell the value lies (PS3.5 section 8.1.1)."""

    bits_stored: int
    high_bit: int
    is_signed: bool

    @property
    def lowest(self) -> int:
        """The least value that can be stored."""
        return -(1 << (self.bits_stored - 1)) if self.is_signed else 0

    @property
    def highest(self) -> int:
        """The greatest value that can be stored."""
        return self.lowest + (1 << self.bits_stored) - 1


@dataclass(frozen=True, slots=True)
class Rescale:
    """Rescale Slope (0028,1053), not zero, and Intercept (0028,1052)."""

    slope: float
    intercept: float


@dataclass(frozen=True, slots=True)
class Lut:
    """A modality or VOI lookup table.

    Attributes:
        entries: Shape (entries,), float64, each within 0 and 2**bits - 1.
        first: The input value that the first entry belongs to.
        bits: Bits per entry, 1 to 16.
    """

    entries: Values
    first: int
    bits: int


@dataclass(frozen=True, slots=True)
class Window:
    """Window Center (0028,1050), Width (0028,1051) and VOI LUT Function (0028,1056)."""

    center: float
    width: float
    function: str = "LINEAR"


@dataclass(frozen=True, slots=True)
class Greyscale:
    """All that a header says about how stored values become grey levels.

    Attributes:
        layout: Where the value lies in its cell.
        padding: Lowest and highest stored value that mean "no image here", or None.
        modality: Modality transform, or None.
        voi: The one VOI transform, or None.
        is_inverted: Whether low values are white.
        voi_place: Which functional groups hold the VOI transform: "shared" or "per_frame"; empty
            where the header itself does.
    """

    layout: StoredLayout
    padding: tuple[int, int] | None = None
    modality: Rescale | Lut | None = None
    voi: Window | Lut | None = None
    is_inverted: bool = False
    voi_place: str = ""

    def voi_source(self, no_voi: str) -> str:
        """Which VOI transform `render` uses, in the words of the results table.

        "voi_lut", "window_linear", "window_linear_exact" or "window_sigmoid", with "_shared" or
        "_per_frame" behind where functional groups hold it; else "none_" and the policy.
        """
        place = f"_{self.voi_place}" if self.voi_place else ""
        if isinstance(self.voi, Lut):
            return f"voi_lut{place}"
        if isinstance(self.voi, Window):
            return f"window_{self.voi.function.lower()}{place}"
        return f"none_{self._policy(no_voi)}"

    def _policy(self, no_voi: str) -> str:
        """Values of 8 bits or fewer were made for display: clipping them would only lose."""
        return "full_range" if self.layout.bits_stored <= 8 else no_voi


def render(cells: Cells, greyscale: Greyscale, *, no_voi: str = "robust") -> GreyImage:
    """Turn the pixel cells of one frame into grey levels.

    Args:
        cells: Shape (rows, columns), unsigned, as stored: unused bits are still there.
        greyscale: What the header says.
        no_voi: Policy where there is no VOI transform, one of `NO_VOI_POLICIES`.

    Returns:
        Same shape; 1 is white, padding is 0.
    """
    policy = greyscale._policy(no_voi) if greyscale.voi is None else "full_range"
    if cells.dtype.itemsize > 2:
        weights = np.ones(cells.shape)
        return GreyImage(_grey_levels(cells, greyscale, policy=policy, weights=weights))
    domain = np.arange(1 << (8 * cells.dtype.itemsize), dtype=cells.dtype)
    counts = _histogram(cells) if policy == "robust" else None
    return GreyImage(cells, _grey_levels(domain, greyscale, policy=policy, weights=counts))


def _histogram(cells: Cells) -> Values:
    step = max(1, cells.size // _SAMPLED_PIXELS)
    length = 1 << (8 * cells.dtype.itemsize)
    return np.bincount(cells[::step].reshape(-1), minlength=length).astype(np.float64)


def _grey_levels(
    cells: Cells, greyscale: Greyscale, *, policy: str, weights: Values | None
) -> Display:
    """All steps, one time each; `weights` says how often each cell counts in percentiles."""
    stored = stored_values(cells, greyscale.layout)
    values = apply_modality(stored.astype(np.float64), greyscale.modality)
    padded = None if greyscale.padding is None else is_padding(stored, greyscale.padding)
    if greyscale.voi is not None:
        grey = apply_voi(values, greyscale.voi)
    elif policy == "robust" and weights is not None:
        counted = weights if padded is None else np.where(padded, 0.0, weights)
        grey = apply_range(values, robust_range(values, counted))
    else:
        grey = apply_full_range(values, greyscale.layout, greyscale.modality)
    if greyscale.is_inverted:
        grey = 1.0 - grey
    if padded is not None:
        grey = np.where(padded, 0.0, grey)
    return grey.astype(np.float32)


def stored_values(cells: Cells, layout: StoredLayout) -> NDArray[np.int64]:
    """Values without the cell's other bits, which may hold overlays, and with their sign.

    Source: DICOM PS3.5 section 8.1.1.
    """
    shift = layout.high_bit + 1 - layout.bits_stored
    values = (cells.astype(np.int64) >> shift) & ((1 << layout.bits_stored) - 1)
    if layout.is_signed:
        values -= (values >> (layout.bits_stored - 1)) << layout.bits_stored
    return values


def is_padding(stored: NDArray[np.int64], padding: tuple[int, int]) -> NDArray[np.bool_]:
    """Where stored values lie within the padding range, both ends included.

    Source: DICOM PS3.3 C.7.5.1.1.2.
    """
    return (stored >= padding[0]) & (stored <= padding[1])


def apply_modality(values: Values, modality: Rescale | Lut | None) -> Values:
    """Stored values to modality values. Source: DICOM PS3.3 C.11.1."""
    if modality is None:
        return values
    if isinstance(modality, Rescale):
        return values * modality.slope + modality.intercept
    return apply_lut(values, modality)


def apply_lut(values: Values, lut: Lut) -> Values:
    """Table entries; values outside the table take its first or last entry.

    Source: DICOM PS3.3 C.11.1.1 and C.11.2.1.1.
    """
    index = np.clip(values - lut.first, 0, len(lut.entries) - 1)
    return lut.entries[index.astype(np.int64)]


def apply_voi(values: Values, voi: Window | Lut) -> Values:
    """Modality values to [0, 1]: the output range of the transform, not of this image, is 1."""
    if isinstance(voi, Lut):
        return apply_lut(values, voi) / ((1 << voi.bits) - 1)
    if voi.function == "SIGMOID":
        # Beyond +-500 the result is 0 or 1 in float32, and exp stays finite.
        return 1 / (1 + np.exp(np.clip(-4 * (values - voi.center) / voi.width, -500, 500)))
    if voi.function == "LINEAR_EXACT":
        return np.clip((values - voi.center) / voi.width + 0.5, 0, 1)
    if voi.width == 1:
        return (values > voi.center - 0.5).astype(np.float64)
    return np.clip((values - (voi.center - 0.5)) / (voi.width - 1) + 0.5, 0, 1)


def full_range(layout: StoredLayout, modality: Rescale | Lut | None) -> tuple[float, float]:
    """Least and greatest modality value that the header allows; the image does not matter."""
    if isinstance(modality, Lut):
        return 0.0, float((1 << modality.bits) - 1)
    ends = apply_modality(np.array([layout.lowest, layout.highest], np.float64), modality)
    return float(ends.min()), float(ends.max())


def apply_full_range(
    values: Values, layout: StoredLayout, modality: Rescale | Lut | None
) -> Values:
    """Map all values that the header allows to [0, 1], as DCMTK does without a VOI.

    Of fewer than 256 values each takes an equal share of 256 grey levels, so that the greatest
    stays below white: a mask of single bits comes out as black and middle grey, as it does there.
    """
    low, high = full_range(layout, modality)
    step = abs(modality.slope) if isinstance(modality, Rescale) else 1.0
    return apply_range(values, (low, low + max(high - low, (high - low + step) * 255 / 256)))


def robust_range(values: Values, weights: Values) -> tuple[float, float]:
    """Values that all but a small share of the pixels lie between, by nearest rank.

    Counted from either end alike, so that a negative has exactly the mirrored range.
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


def apply_range(values: Values, limits: tuple[float, float]) -> Values:
    """Map a range to [0, 1], clipping; an empty range, a flat image, becomes black."""
    low, high = limits
    if not high > low:
        return np.zeros_like(values)
    return np.clip((values - low) / (high - low), 0, 1)

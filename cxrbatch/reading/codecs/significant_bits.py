"""Finds the range of values to show in PNGs whose samples use only some of their bits.

A converter that copies the 12-bit values of a detector into a PNG of 16 bits writes an image that
is nearly black. The chunk sBIT may give the number of bits that count; without it the image is
treated like a DICOM image without window.

Source: PNG specification, sections 11.3.2.4 (sBIT) and 13.12 (rescaling of samples).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrbatch.reading.display import GreyImage, apply_range, robust_range

# Percentiles are computed from about so many pixels, in whole rows at even distances.
_SAMPLED_PIXELS = 1 << 18
_POLICY_DEPTH = 16
# About so many samples are counted, in whole rows; this share of them may lie beyond the range.
_COUNTED_SAMPLES, _OUTLIERS = 1 << 16, 0.005

UNSCALED = "the samples are not scaled up to the depth of the PNG, as its chunk sBIT implies"


@dataclass(frozen=True, slots=True)
class ShownRange:
    """Which part of the full range of a PNG's samples is shown from black to white.

    Attributes:
        bits: Bits per sample that carry the value: 0 is black and 2^`bits` - 1 white, unless
            `is_guessed`.
        is_unscaled: Whether sBIT names `bits`, and the samples were not scaled up to the PNG's
            depth.
        is_guessed: Whether `bits` was found from the samples alone, so that a policy chooses.
    """

    bits: int
    is_unscaled: bool = False
    is_guessed: bool = False


def shown_range(samples: NDArray[Any], *, depth: int, significant: int | None) -> ShownRange:
    """Find out how many bits of the samples carry the value.

    The chunk sBIT decides if it names fewer bits than the depth and the samples do not contradict
    it. Otherwise samples of 16 bits are guessed to have as many bits as their values need; others
    have the depth of the PNG.

    About 0.5 % of the samples may lie beyond the range, such as a marker that was burned in; they
    are shown as white.

    Args:
        samples: All colour samples, shape (rows, columns) or (rows, columns, channels), unsigned;
            no alpha.
        depth: Bits per sample of the PNG.
        significant: The greatest number of bits in sBIT; None without a valid sBIT.
    """
    named = None
    if significant is not None and significant < depth:
        named = _named_range(samples, depth=depth, bits=significant)
    if named is not None or depth < _POLICY_DEPTH:
        return named or ShownRange(depth)
    return _guessed_range(samples, depth=depth)


def _named_range(samples: NDArray[Any], *, depth: int, bits: int) -> ShownRange | None:
    """The range that sBIT names; None if the samples contradict it."""
    most = int(samples.max())
    if most == 0 or (most >= 1 << bits and _are_scaled(samples, depth=depth, bits=bits)):
        return ShownRange(depth)
    return None if _reach(samples, 1 << bits) else ShownRange(bits, is_unscaled=True)


def _guessed_range(samples: NDArray[Any], *, depth: int) -> ShownRange:
    """The range by the samples alone: the full one, unless they leave its upper bits unused."""
    half = 1 << (depth - 1)
    if _reach(samples, half):
        return ShownRange(depth)  # the usual case, decided without reading every sample
    used = int(samples.max())
    if used >= half:
        if _reach(samples, half // 2):
            return ShownRange(depth)
        used = _largest_but_outliers(samples)
    return ShownRange(max(1, used.bit_length()), is_guessed=True)


def stretched(image: GreyImage, shown: ShownRange, *, depth: int, no_voi: str) -> GreyImage:
    """Return an image whose shown range is stretched to black and white.

    Args:
        image: Grey levels as shares of the full range of `depth` bits.
        shown: The range, as `shown_range` returned it.
        depth: Bits per sample of the PNG.
        no_voi: Policy for a guessed range, one of `readings.NO_VOI_POLICIES`: "robust" stretches
            the percentiles of the image, other policies the bits in use.

    Returns:
        The image with new grey levels in [0, 1]; values beyond the range are clipped.
    """
    if shown.is_guessed and no_voi == "robust":
        limits = _robust_limits(image)
    else:
        limits = (0.0, ((1 << shown.bits) - 1) / ((1 << depth) - 1))
    levels = image.cells if image.table is None else image.table
    mapped = apply_range(levels.astype(np.float64), limits).astype(np.float32)
    if image.table is None:
        return replace(image, cells=mapped)
    return replace(image, table=mapped)


def _are_scaled(samples: NDArray[Any], *, depth: int, bits: int) -> bool:
    """Whether samples of `bits` bits were scaled up to `depth` bits.

    The specification allows three ways: samples are multiplied, shifted, or filled up with a
    repetition of their own bits.
    """
    present = np.flatnonzero(np.bincount(samples.reshape(-1), minlength=1 << depth))
    full, most = (1 << depth) - 1, (1 << bits) - 1
    values = np.arange(1 << bits)
    shifted = values << (depth - bits)
    repeated, filled = shifted.copy(), bits
    while filled < depth:
        repeated |= shifted >> filled
        filled += bits
    multiplied = (2 * values * full + most) // (2 * most)
    return bool(np.isin(present, np.concatenate([shifted, repeated, multiplied])).all())


def _reach(samples: NDArray[Any], value: int) -> bool:
    """Whether more samples than a few outliers are at least `value`."""
    some = _row_sample(samples)
    return bool(np.count_nonzero(some >= value) > _OUTLIERS * some.size)


def _largest_but_outliers(samples: NDArray[Any]) -> int:
    some = _row_sample(samples).reshape(-1)
    place = some.size - 1 - int(_OUTLIERS * some.size)
    return int(np.partition(some, place)[place])


def _row_sample(samples: NDArray[Any]) -> NDArray[Any]:
    """Whole rows at even distances, with about `_COUNTED_SAMPLES` samples in all."""
    return samples[:: max(1, samples.size // _COUNTED_SAMPLES)]


def _robust_limits(image: GreyImage) -> tuple[float, float]:
    step = max(1, image.cells.size // _SAMPLED_PIXELS)
    sample = GreyImage(image.cells[::step], image.table).whole().astype(np.float64)
    return robust_range(sample, np.ones(sample.shape))

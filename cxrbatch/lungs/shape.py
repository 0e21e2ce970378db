"""Measures of what the network found, by which implausible masks are told; imports no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Probability = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

LIKELY = 0.5
"""Probability from which a pixel counts as lung."""

_LEAST_PART = 0.02
_SURE = 1e-6
_WORDS = {
    "area": "share of the image that is lung",
    "entropy": "entropy per pixel of lung, bits",
    "parts": "number of parts",
    "left": "share of the lungs at the viewer's left",
    "height": "height of the lungs as a share of the image's",
    "width": "width of the lungs as a share of the image's",
    "filled": "share of the lungs' bounding box that is lung",
    "margin": "share of the image's border that is lung",
}


@dataclass(frozen=True, slots=True)
class LungMeasures:
    """Measures of one mask on the network's grid; all but `parts` and `entropy` are in [0, 1].

    Attributes:
        area: Share of the image that is lung.
        entropy: Sum of the pixels' binary entropies over the number of pixels that are lung, bits:
            how wide the zone of doubt is, compared with the lungs. 0 without lungs.
        parts: Number of separate parts, of those that hold 2 % of the lungs at least; usually 2.
        left: Share of the lungs that lies in the left half, as seen, of their bounding box.
        height: Height of the bounding box as a share of the image's.
        width: Width of the bounding box as a share of the image's.
        filled: Share of the bounding box that is lung.
        margin: Share of the image's outermost pixels that are lung.
    """

    area: float
    entropy: float
    parts: int
    left: float
    height: float
    width: float
    filled: float
    margin: float


MEASURES = tuple(_WORDS)
"""Names of the measures, in the order of `LungMeasures`."""


def lungs_in(probability: Probability) -> Mask:
    """Return where the probability of lung is `LIKELY` at least, without specks.

    Specks are parts that hold less than 2 % of that area. Parts that touch at a corner alone are
    separate.

    Args:
        probability: Shape (rows, columns), in [0, 1].

    Returns:
        The same shape.
    """
    labels, sizes = _parts(probability >= LIKELY)
    large = np.concatenate([[False], sizes >= _LEAST_PART * max(1, sizes.sum())])
    mask: Mask = large[labels]
    return mask


def resized_mask(probability: Probability, mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Return the mask of an image at another size, with edges as smooth as the probability.

    The probability, without specks, is interpolated linearly in 256 levels: in floating point that
    takes longer than all else where an image is large.

    Args:
        probability: Shape (size, size), in [0, 1].
        mask: The result of `lungs_in`.
        shape: (rows, columns) of the result.
    """
    kept = np.where(mask | (probability < LIKELY), probability, np.float32(0))
    levels = Image.fromarray((kept * 256).clip(0, 255).astype(np.uint8))
    rows, columns = shape
    grown: Mask = np.asarray(levels.resize((columns, rows), Image.Resampling.BILINEAR)) >= 128
    return grown


def measure_lungs(probability: Probability, mask: Mask) -> LungMeasures:
    """Measure what was found in one image.

    Args:
        probability: Shape (size, size), in [0, 1].
        mask: The result of `lungs_in`.
    """
    p = probability.astype(np.float64).clip(_SURE, 1 - _SURE)
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum()
    if not mask.any():
        return LungMeasures(0.0, 0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # The middle column of a box of odd width counts half.
    across = np.arange(box.shape[1]) - (box.shape[1] - 1) / 2
    left = box.sum(axis=0) @ ((1 - np.sign(across)) / 2)
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    return LungMeasures(
        area=float(mask.mean()),
        entropy=float(entropy / mask.sum()),
        parts=len(_parts(mask)[1]),
        left=float(left / mask.sum()),
        height=box.shape[0] / mask.shape[0],
        width=box.shape[1] / mask.shape[1],
        filled=float(box.mean()),
        margin=float(border.mean()),
    )


def doubts_about(
    measures: LungMeasures, limits: Mapping[str, tuple[float, float]]
) -> tuple[str, ...]:
    """Say which measures of a mask lie outside what is usual; empty if the mask is plausible.

    Args:
        measures: The measures.
        limits: Smallest and largest usual value by name of the measure, as a card has them.

    Returns:
        One text for each such measure, in the order of `MEASURES`; one text alone without lungs.
    """
    if not measures.area:
        return ("no lungs were found",)
    values = asdict(measures)
    return tuple(
        f"{_WORDS[name]}: {values[name]:.3g}, usual are {low:.3g} to {high:.3g}"
        for name in MEASURES
        for low, high in [limits[name]]
        if not low <= values[name] <= high
    )


def _parts(mask: Mask) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Label the parts of a mask from 1; the second array is the size of each in pixels."""
    # Imported here: half of the import's time is scipy's.
    from scipy.ndimage import label

    labels, count = label(mask)
    return labels, np.bincount(labels.ravel(), minlength=count + 1)[1:]

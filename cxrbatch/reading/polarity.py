"""Measures whether the pixels look like a radiograph or like its negative.

The image is reduced to a thumbnail, and the cells of the thumbnail to their ranks. The polarity is
the correlation of these ranks with a fixed template: bright where frontal chests have spine, heart
and abdomen, dark in the lungs and beside the neck. A window or gamma hardly changes the ranks, and
a negative reverses them, so that it has the opposite polarity.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cxrbatch.reading.display import GreyImage

Grid = NDArray[np.integer]

SUSPECT = -0.3
"""An image of a lower polarity is suspected of being a negative.

Chosen on 400 validation chests: none of them is suspected, and all but one of their negatives are.
Of 400 test chests none is, and 399 of their negatives are; with each side cut by up to a quarter
none, and 380 negatives. Of 17,395 chests for training three are, which are negatives. Radiographs
of other body parts mostly have a polarity near 0. Of chests that lie on their side one in 27 is
suspected.
"""

SIDE = 16
"""Cells per side of the thumbnail."""

# Points per side of a cell: the mean of 64 is within an eighth of the spread of a cell's pixels,
# far less than lung and heart differ by. All pixels of a radiograph are 500 times as many.
_POINTS = 8
_LEVELS = 65_535
# A border's row or column is of one grey level, but for a letter or noise in a tenth at each end.
_BORDER_LEVELS = _LEVELS // 20
_BORDER_TAIL = SIDE * _POINTS // 10

# Learned by training/recipes/polarity.py. The right half is the left one's mirror image.
# fmt: off
_LEFT_HALF = [
    [ -60,  -54,  -53,  -47,  -36,  -16,   13,   32],
    [ -45,  -34,  -31,  -27,  -23,  -11,    9,   26],
    [ -29,  -16,  -13,  -12,  -18,  -18,   -3,   18],
    [ -16,   -3,   -2,  -10,  -28,  -35,  -15,   14],
    [ -11,    0,   -2,  -17,  -43,  -49,  -23,   16],
    [ -11,   -1,   -3,  -25,  -51,  -51,  -19,   23],
    [ -14,   -4,   -6,  -31,  -53,  -43,   -6,   35],
    [ -18,   -7,  -10,  -34,  -49,  -31,   10,   49],
    [ -24,  -12,  -15,  -35,  -41,  -15,   25,   61],
    [ -29,  -16,  -19,  -32,  -28,   -1,   37,   71],
    [ -32,  -20,  -19,  -24,  -13,   12,   46,   78],
    [ -36,  -22,  -17,  -13,    3,   26,   57,   85],
    [ -40,  -22,  -10,    4,   23,   45,   69,   94],
    [ -43,  -21,   -1,   23,   44,   63,   83,  100],
    [ -45,  -20,    8,   34,   54,   70,   83,   95],
    [ -47,  -18,   12,   40,   59,   72,   83,   92],
]
# fmt: on
_TEMPLATE = np.hstack([_LEFT_HALF, np.fliplr(_LEFT_HALF)]).ravel().astype(np.float64)
_TEMPLATE -= _TEMPLATE.mean()
_TEMPLATE /= np.linalg.norm(_TEMPLATE)


def measure_polarity(image: GreyImage) -> float:
    """Measure how much an image looks like a frontal chest radiograph of the right polarity.

    Args:
        image: Of any size.

    Returns:
        The polarity, in [-1, 1]: the higher the more like the template; a negative has the
        opposite. 0 if all cells of the thumbnail are alike, or if it is larger than the image.
    """
    if min(image.shape) < SIDE:
        return 0.0
    ranks = thumbnail_ranks(image)
    norm = float(np.linalg.norm(ranks))
    return float(ranks @ _TEMPLATE) / norm if norm else 0.0


def thumbnail_ranks(image: GreyImage) -> Grid:
    """Reduce an image without its plain borders to a thumbnail, and rank the thumbnail's cells.

    A plain border is the rows and columns at the edges that have, but for outliers, nearly one grey
    level.

    Args:
        image: At least SIDE (16) rows and columns.

    Returns:
        Shape (SIDE * SIDE,), row by row: for each cell the number of darker cells less that of
        brighter ones, from 1 - SIDE * SIDE to SIDE * SIDE - 1. Cells of equal brightness have
        equal ranks.
    """
    # Whole numbers: otherwise rounding would make equal cells differ in the negative alone.
    rows, columns = (_evenly(length) for length in image.shape)
    levels = np.rint(image.points(rows, columns) * np.float32(_LEVELS)).astype(np.uint16)
    inner = _without_borders(levels)
    if inner.shape != levels.shape:
        rows, columns = (_evenly(length) for length in inner.shape)
        inner = inner.take(rows, 0).take(columns, 1)
    # Rows first, as they lie in one piece.
    tall = inner.reshape(SIDE, _POINTS, -1).sum(axis=1, dtype=np.int32)
    sums = tall.reshape(SIDE, SIDE, _POINTS).sum(axis=2).ravel()
    order = np.argsort(sums)
    ordered = sums[order]  # in order they are searched three times as fast
    below = np.searchsorted(ordered, ordered, side="left")
    above = sums.size - np.searchsorted(ordered, ordered, side="right")
    ranks: Grid = np.empty_like(order)
    ranks[order] = below - above
    return ranks


@lru_cache(maxsize=1024)
def _evenly(length: int) -> NDArray[np.int64]:
    """Numbers of the rows or columns in the middle of SIDE * _POINTS equal parts of an image."""
    odd = 2 * np.arange(SIDE * _POINTS) + 1
    places: NDArray[np.int64] = odd * length // (2 * odd.size)
    return places


def _without_borders(levels: Grid) -> Grid:
    """The part between the outermost rows and columns that show something."""
    rows, columns = _shown(levels), _shown(levels.T)
    return levels if rows is None or columns is None else levels[rows, columns]


def _shown(lines: Grid) -> slice | None:
    """From the first line that shows something to the last; None if none does."""
    # Most images have no border: then the two outermost lines show something.
    if (_spread(lines[[0, -1]]) > _BORDER_LEVELS).all():
        return slice(None)
    shown = np.flatnonzero(_spread(lines) > _BORDER_LEVELS)
    return slice(shown[0], shown[-1] + 1) if shown.size else None


def _spread(lines: Grid) -> Grid:
    """Range of the grey levels of each line, without the tail at each end."""
    ordered = np.sort(np.ascontiguousarray(lines), axis=1)
    spread: Grid = ordered[:, -1 - _BORDER_TAIL] - ordered[:, _BORDER_TAIL]
    return spread

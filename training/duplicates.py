"""Pictures that stand twice among the labelled files, whatever their names say.

Equal inputs are found by their hash. For near-equal ones (encoded anew, rescaled, cropped, turned
a little, with other brightness or contrast, negatives) all pairs of thumbnails are compared, and
the few that are alike are looked at closely.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cxrbatch.model.preprocessing import image_hash
from cxrbatch.training.likeness import COARSE, details, likeness

# Likeness from which two inputs are one exposure, by their size in pixels: films that were taken of
# one person on two days reach 0.89 in fine detail, and more where small inputs hold little of it.
_SIZES, _SAME_PICTURE = (40, 48, 64, 80), (0.94, 0.93, 0.92, 0.9)
_CANDIDATE = 0.78
_TRIMMED = 0.02
# Of hundreds of copies of one picture, each needs to be tied to some of the others only.
_MOST_CANDIDATES = 32
_ROWS, _PAIRS_AT_ONCE = 1024, 512


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """Two inputs that are one picture.

    Attributes:
        first: Index of the earlier one.
        second: Index of the later one.
        likeness: 1 for equal inputs, below 1 for near-equal ones.
    """

    first: int
    second: int
    likeness: float


def near_duplicates(
    inputs: npt.NDArray[np.uint8], *, readable: npt.NDArray[np.bool_] | None = None
) -> list[Pair]:
    """Find the pairs of inputs that are one exposure.

    Equal inputs are given as pairs with the first of them, near-equal ones as pairs of the first
    of each kind, so that the pairs join what belongs together without naming every combination.

    Args:
        inputs: Shape (n, size, size), uint8, size at least 32; may be memory-mapped.
        readable: Shape (n,); inputs to look at, all if None.

    Returns:
        The pairs in order.
    """
    rows = np.arange(len(inputs)) if readable is None else np.flatnonzero(readable)
    earlier = _equal_earlier(inputs, rows)
    unique = rows[earlier == rows]
    pairs = [Pair(int(a), int(b), 1.0) for a, b in zip(earlier, rows, strict=True) if a != b]
    least = float(np.interp(inputs.shape[1], _SIZES, _SAME_PICTURE))
    for first, second, negative in _candidates(inputs, unique):
        found = likeness(inputs[first], inputs[second], negative=negative)
        for row in np.flatnonzero(found >= least):
            # Equal inputs alone are 1.
            value = min(round(float(found[row]), 4), 0.9999)
            pairs.append(Pair(int(first[row]), int(second[row]), value))
    return sorted(pairs)


def _equal_earlier(
    inputs: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Give for each of the rows the first that is equal to it."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(image_hash(inputs[row]), row) for row in rows], np.int64)


def _candidates(
    inputs: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """Give pairs whose thumbnails are alike, each once: first, second, negative."""
    blocks = [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]
    if not blocks:
        return
    thumbnails = torch.cat([_thumbnails(inputs[block]) for block in blocks])
    found: dict[tuple[int, int], bool] = {}
    for number, block in enumerate(blocks):
        start = number * _ROWS
        plain = thumbnails[start : start + len(block)]
        # A cropped copy is like the other's thumbnail without its border.
        for query, against in (
            (plain, start),
            (_thumbnails(_without_border(inputs[block])), 0),
        ):
            for row, column, negative in _most_alike(query, thumbnails[against:]):
                pair = sorted((start + row, against + column))
                if pair[0] != pair[1]:
                    found[pair[0], pair[1]] = negative
    pairs = np.array(sorted(found), np.int64).reshape(-1, 2)
    negatives = np.array([found[a, b] for a, b in pairs.tolist()], np.bool_)
    for begin in range(0, len(pairs), _PAIRS_AT_ONCE):
        part = slice(begin, begin + _PAIRS_AT_ONCE)
        yield rows[pairs[part, 0]], rows[pairs[part, 1]], negatives[part]


def _thumbnails(inputs: npt.NDArray[np.uint8]) -> Tensor:
    """Shape (n, 1024), float32, of length 1; 0 for flat images."""
    flat = details(inputs, COARSE).flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    lengths: Tensor = flat.norm(dim=1, keepdim=True)
    return flat / lengths.clamp(min=1e-6)


def _without_border(inputs: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    size = inputs.shape[1]
    border = max(1, round(_TRIMMED * size))
    return inputs[:, border : size - border, border : size - border]


def _most_alike(query: Tensor, thumbnails: Tensor) -> Iterator[tuple[int, int, bool]]:
    correlation = query @ thumbnails.T
    # Few rows have a hit: extremes are found without another array of this size.
    extreme = torch.maximum(correlation.amax(1), -correlation.amin(1))
    for row in torch.nonzero(extreme > _CANDIDATE)[:, 0].tolist():
        strength = correlation[row].abs()
        columns = torch.nonzero(strength > _CANDIDATE)[:, 0]
        order = strength[columns].argsort(descending=True, stable=True)
        for column in columns[order[:_MOST_CANDIDATES]].tolist():
            yield row, column, bool(correlation[row, column] < 0)

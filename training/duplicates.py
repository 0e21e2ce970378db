"""Find pictures that are twice among the labelled files, by their pixels.

Equal inputs are found by their hash. For near-equal ones (encoded anew, rescaled, cropped, turned
a little, with other brightness or contrast, negatives) all pairs of thumbnails are compared, and
the few that are alike are looked at closely.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from cxrbatch.model.preprocessing import image_hash

COARSE = 32
"""Edge of the thumbnails in pixels: the smallest size that an input may have."""

# Edges of the images that are compared, in pixels, and how much less a correlation counts there:
# cropping shows in the coarser ones, the losses of JPEG and rescaling in the finer.
_LOOKS = ((48, 0.05), (80, 0.0))
# Pixels; what is wider is anatomy that all chests share.
_DETAIL_WIDTH = 1.5
_MOST_DEFORMED = 0.065
# The alignment looks at the inner part alone: what was cropped away has no counterpart.
_MARGIN = 0.05
_COARSE_STEPS, _FINE_STEPS = 6, 3
_LEAST_COARSE = 0.88
_PARTS = 6
_LEAST_CONTENT, _LEAST_SHARED = 0.2, 0.5
_FEWEST_PARTS = 4
# Grey levels that a change of brightness or contrast may have cut off, also after JPEG.
_BLACK, _WHITE, _MOST_CUT_OFF = 5, 250, 0.3
_TINY = 1e-6


def details(inputs: npt.NDArray[np.uint8], size: int) -> Tensor:
    """Shrink network inputs and remove their large structures, brightness and contrast.

    Each pixel loses the Gaussian mean around it (sigma 1.5 pixels) and is divided by 1 plus the
    contrasts around it (sigma 3 pixels) and of the whole image, so that fine detail is left.

    Args:
        inputs: Shape (n, edge, edge), uint8.
        size: Edge of the result in pixels.

    Returns:
        Shape (n, size, size), float32, around 0; nearly 0 for an image of one grey level.
    """
    images = torch.from_numpy(inputs.astype(np.float32))[:, None]
    small = functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    band = small - _blurred(small, _DETAIL_WIDTH)
    contrast = _blurred(band * band, 2 * _DETAIL_WIDTH).clamp(min=0).sqrt()
    overall = band.square().mean((2, 3), keepdim=True).sqrt()
    # One grey level: below it there is rounding and no detail.
    return (band / (contrast + overall + 1.0))[:, 0]


def likeness(
    first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], *, negative: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Measure for each pair of inputs how much their fine detail agrees: are both one exposure?

    The second image is first aligned with the first by an affine map. The inner part is cut into
    6 x 6 tiles, and the `details` of both images are correlated in each tile.

    Args:
        first: Shape (n, size, size), uint8.
        second: Same shape: one partner for each of `first`, which may be cropped, turned or
            squeezed by a few per cent.
        negative: Shape (n,); whether to compare with the negative of the second.

    Returns:
        Shape (n,), float32, from 0 to 1 but for rounding: the lower quartile of the correlations of
        the tiles, the larger one of up to two image sizes (of 48 pixels less 0.05, unless that is
        the inputs' size). 0 where aligned thumbnails of 32 x 32 pixels correlate below 0.88, or too
        few tiles have content in both images that is neither black nor white.
    """
    sign = torch.from_numpy(np.where(negative, -1.0, 1.0).astype(np.float32))[:, None, None]
    warps = torch.eye(2, 3).repeat(len(first), 1, 1)
    coarse, warps = _align(
        details(first, COARSE), sign * details(second, COARSE), warps, steps=_COARSE_STEPS
    )
    result = np.zeros(len(first), np.float32)
    kept = torch.nonzero(coarse >= _LEAST_COARSE)[:, 0]
    rows = kept.numpy()
    if len(rows):
        close = _look_closely(first[rows], second[rows], sign=sign[kept], warps=warps[kept])
        result[rows] = close.numpy()
    return result


def _look_closely(
    first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], *, sign: Tensor, warps: Tensor
) -> Tensor:
    size = first.shape[1]
    looks = [look for look in _LOOKS if look[0] < size]
    if size <= _LOOKS[-1][0]:
        looks.append((size, 0.0))
    best = torch.zeros(len(first))
    for edge, discount in looks:
        one, other = details(first, edge), sign * details(second, edge)
        _, warps = _align(one, other, warps, steps=_FINE_STEPS)
        usable = [_within_range(inputs, edge) for inputs in (first, second)]
        score = _lower_quartile(one, _warped(other, warps), usable=usable) - discount
        best = torch.maximum(best, score)
    return best


def _align(first: Tensor, second: Tensor, warps: Tensor, *, steps: int) -> tuple[Tensor, Tensor]:
    """Find the affine maps under which the second images correlate best with the first.

    Gauss-Newton steps with the slopes of the first image, which need computing only once.
    Source: S. Baker, I. Matthews, "Lucas-Kanade 20 Years On", 2004.

    Returns:
        The correlations, shape (n,), and the maps, shape (n, 2, 3).
    """
    edge = first.shape[1]
    inside, places = _inner_places(edge)
    target = _standardised(first.flatten(1)[:, inside])
    scale = _spread(first.flatten(1)[:, inside])
    slopes = torch.gradient(first, dim=(2, 1))
    columns = [
        (slope.flatten(1)[:, inside] * (edge / 2) / scale)[:, None] * places for slope in slopes
    ]
    design = torch.cat([*columns, target[:, None]], 1)
    design = design - design.mean(2, keepdim=True)
    normal = design @ design.transpose(1, 2)
    normal = normal + torch.diag_embed(normal.diagonal(dim1=1, dim2=2) * 1e-4 + _TINY)
    best, found = torch.full((len(first),), -1.0), warps
    identity = torch.eye(2, 3)
    for step in range(steps + 1):
        moved = _standardised(_warped(second, warps).flatten(1)[:, inside])
        correlation = (moved * target).sum(1)
        better = correlation > best
        best = torch.where(better, correlation, best)
        found = torch.where(better[:, None, None], warps, found)
        if step < steps:
            error = (target - moved)[:, :, None]
            change = torch.linalg.solve(normal, design @ error)[:, :6, 0].reshape(-1, 2, 3)
            warps = identity + (warps + change - identity).clamp(-_MOST_DEFORMED, _MOST_DEFORMED)
    return best, found


@lru_cache(maxsize=8)
def _inner_places(edge: int) -> tuple[Tensor, Tensor]:
    """Pixels away from the border, shape (edge²,), and their (x, y, 1), shape (3, inner)."""
    line = (torch.arange(edge) + 0.5) * 2 / edge - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    inside = (torch.maximum(x.abs(), y.abs()) < 1 - 2 * _MARGIN).flatten()
    return inside, torch.stack([x.flatten(), y.flatten(), torch.ones(edge * edge)])[:, inside]


def _lower_quartile(first: Tensor, second: Tensor, *, usable: Sequence[Tensor]) -> Tensor:
    """Lower quartile of the correlations of the parts that have content in both images."""
    parts, others = _around_zero(_parts(first)), _around_zero(_parts(second))
    filled = _has_content(parts) & usable[0]
    other_filled = _has_content(others) & usable[1]
    both = filled & other_filled
    scale = parts.square().sum(2) * others.square().sum(2)
    correlation = (parts * others).sum(2) / (scale.sqrt() + _TINY)
    quartile = correlation.masked_fill(~both, torch.nan).nanquantile(0.25, 1)
    fewer = torch.minimum(filled.sum(1), other_filled.sum(1))
    enough = both.sum(1) >= (_LEAST_SHARED * fewer).clamp(min=_FEWEST_PARTS)
    return torch.where(enough, quartile, 0.0)


def _within_range(inputs: npt.NDArray[np.uint8], size: int) -> Tensor:
    """Return whether less than a third of each part is black or white; shape (n, tiles)."""
    cut_off = torch.from_numpy((inputs <= _BLACK) | (inputs >= _WHITE)).float()[:, None]
    small = functional.interpolate(cut_off, (size, size), mode="bilinear", antialias=True)
    return _parts(small[:, 0]).mean(2) < _MOST_CUT_OFF


def _has_content(parts: Tensor) -> Tensor:
    energy: Tensor = parts.square().sum(2)
    return energy > _LEAST_CONTENT * energy.mean(1, keepdim=True)


def _parts(images: Tensor) -> Tensor:
    """Cut the inner part into tiles: shape (n, tiles, pixels)."""
    margin = round(images.shape[1] * _MARGIN)
    edge = (images.shape[1] - 2 * margin) // _PARTS
    stop = margin + edge * _PARTS
    tiles = images[:, margin:stop, margin:stop].unfold(1, edge, edge).unfold(2, edge, edge)
    return tiles.reshape(len(images), _PARTS * _PARTS, edge * edge)


def _around_zero(parts: Tensor) -> Tensor:
    return parts - parts.mean(2, keepdim=True)


def _warped(images: Tensor, warps: Tensor) -> Tensor:
    grid = functional.affine_grid(warps, [len(images), 1, *images.shape[1:]], align_corners=False)
    moved = functional.grid_sample(
        images[:, None], grid, padding_mode="border", align_corners=False
    )
    return moved[:, 0]


def _spread(values: Tensor) -> Tensor:
    spread: Tensor = (values - values.mean(1, keepdim=True)).norm(dim=1, keepdim=True)
    return spread + _TINY


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean(1, keepdim=True)) / _spread(values)


def _blurred(images: Tensor, width: float) -> Tensor:
    reach = min(round(3 * width), images.shape[-1] - 1)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width) ** 2)
    line = line / line.sum()
    padded = functional.pad(images, (reach,) * 4, mode="reflect")
    tall = functional.conv2d(padded, line[None, None, :, None])
    return functional.conv2d(tall, line[None, None, None, :])


# Likeness from which two inputs are one exposure, by their size in pixels: films that were taken of
# one person on two days reach 0.89 in fine detail, and more where small inputs hold little of it.
_SIZES, _SAME_PICTURE = (40, 48, 64, 80), (0.94, 0.93, 0.92, 0.9)
_CANDIDATE = 0.78
_TRIMMED = 0.02
# Of hundreds of copies of one picture, each needs to be tied to some of the others only.
_MOST_CANDIDATES = 32
_ROWS, _PAIRS_AT_ONCE = 1024, 512


@dataclass(frozen=True, slots=True, order=True)
class DuplicatePair:
    """Two inputs that are one picture.

    Attributes:
        first: Index of the earlier one in the array given to `near_duplicates`.
        second: Index of the later one.
        likeness: 1 for equal inputs, below 1 for nearly equal ones.
    """

    first: int
    second: int
    likeness: float


def near_duplicates(
    inputs: npt.NDArray[np.uint8], *, readable: npt.NDArray[np.bool_] | None = None
) -> list[DuplicatePair]:
    """Find the pairs of inputs that are one exposure.

    Of several equal inputs each later one is paired with the first, which alone is compared with
    others. Near-equal inputs are paired if their thumbnails are alike and their `likeness` reaches
    0.94 (up to 40 pixels) to 0.9 (from 80 pixels on). Not every combination of copies is listed.

    Args:
        inputs: Shape (n, size, size), uint8, size at least 32; may be memory-mapped.
        readable: Shape (n,); True for inputs to compare, the others are skipped. None compares all.

    Returns:
        The pairs, ordered by first and second index.
    """
    rows = np.arange(len(inputs)) if readable is None else np.flatnonzero(readable)
    earlier = _equal_earlier(inputs, rows)
    unique = rows[earlier == rows]
    pairs = [
        DuplicatePair(int(a), int(b), 1.0) for a, b in zip(earlier, rows, strict=True) if a != b
    ]
    least = float(np.interp(inputs.shape[1], _SIZES, _SAME_PICTURE))
    for first, second, negative in _candidates(inputs, unique):
        found = likeness(inputs[first], inputs[second], negative=negative)
        for row in np.flatnonzero(found >= least):
            # Equal inputs alone are 1.
            value = min(round(float(found[row]), 4), 0.9999)
            pairs.append(DuplicatePair(int(first[row]), int(second[row]), value))
    return sorted(pairs)


def _equal_earlier(
    inputs: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return for each row the first row with an equal input."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(image_hash(inputs[row]), row) for row in rows], np.int64)


def _candidates(
    inputs: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """Yield pairs with similar thumbnails, each once: first, second, negative."""
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

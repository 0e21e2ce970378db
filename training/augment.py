"""Mild changes that a radiograph could have had: position, focus, exposure, grain. No mirroring.

What torchvision's v2 transforms do to one image at a time is done here to a batch at once, each
image in its own way: a Gaussian blur per image alone would take a tenth of a training step.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, pad

from cxrbatch.atomic import writing, written_whole
from cxrbatch.training.dataset import Side

ROTATION = math.radians(15.0)
ZOOM = 0.16
SHIFT = 0.1
BLUR = 1.0
GAMMA = 0.4
BRIGHTNESS = 0.15
CONTRAST = 0.35
NOISE = 0.04

_BLUR_RADIUS = 2
_SMALLEST_SIGMA = 1e-2
# Drawing normal numbers for every pixel would take as long as moving the images.
_STRIP_STARTS = 1 << 22


class Changes(NamedTuple):
    """What happens to each of n images; all of shape (n,) and on the CPU.

    Attributes:
        angle: Of rotation, radians.
        zoom: Factor, about 1.
        right: Shift in halves of the width.
        down: Shift in halves of the height.
        mirror: -1 where left and right change places, else 1.
        blur: Standard deviation of a Gaussian, pixels; half of them next to 0.
        gamma: Exponent of the grey levels, about 1.
        contrast: Factor around middle grey, about 1.
        brightness: Added to the grey levels, which are in [0, 1].
        noise: Standard deviation of the grain, in the same unit.
        start: Where in a long strip of grain that of the image begins.
    """

    angle: Tensor
    zoom: Tensor
    right: Tensor
    down: Tensor
    mirror: Tensor
    blur: Tensor
    gamma: Tensor
    contrast: Tensor
    brightness: Tensor
    noise: Tensor
    start: Tensor

    def of(self, rows: slice) -> "Changes":
        """The changes of some of the images."""
        return Changes(*(values[rows] for values in self))


def draw_changes(count: int, *, generator: torch.Generator, flip: bool) -> Changes:
    """Draw how each image of a batch is to be changed.

    Args:
        count: Images in the batch.
        generator: Source of all randomness, on the CPU.
        flip: Mirror half of the images.
    """

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2.0 - 1.0) * limit

    return Changes(
        angle=uniform(ROTATION),
        zoom=uniform(ZOOM).exp(),
        right=uniform(SHIFT),
        down=uniform(SHIFT),
        mirror=torch.where(uniform(1.0) > (0.0 if flip else -2.0), 1.0, -1.0),
        blur=uniform(BLUR).clamp(min=_SMALLEST_SIGMA),
        gamma=uniform(GAMMA).exp(),
        contrast=uniform(CONTRAST).exp(),
        brightness=uniform(BRIGHTNESS),
        noise=uniform(NOISE).abs(),
        start=torch.randint(_STRIP_STARTS, (count,), generator=generator),
    )


def augment(images: Tensor, changes: Changes) -> Tensor:
    """Change each image of a batch in its own way, whatever else is in the batch.

    Args:
        images: Shape (n, 1, size, size), in [0, 1].
        changes: Of these n images.

    Returns:
        Same shape, in [0, 1].
    """
    there = Changes(*(values.to(images.device) for values in changes))
    contrast, brightness = _each(there.contrast), _each(there.brightness)
    found = _blur(_move(images, there), changes.blur).clamp(0.0, 1.0).pow(_each(there.gamma))
    found = found.sub_(0.5).mul_(contrast).add_(0.5 + brightness)
    return found.add_(_grain(images, changes.start).mul_(_each(there.noise))).clamp_(0.0, 1.0)


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _move(images: Tensor, changes: Changes) -> Tensor:
    cosine, sine = changes.angle.cos() * changes.zoom, changes.angle.sin() * changes.zoom
    rows = [
        torch.stack([cosine * changes.mirror, -sine, changes.right], dim=1),
        torch.stack([sine * changes.mirror, cosine, changes.down], dim=1),
    ]
    grid = affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="bilinear", align_corners=False)


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur those images, in place, whose kernel has more than its middle; `sigma` is on the CPU."""
    rows = (sigma > _SMALLEST_SIGMA).nonzero()[:, 0]
    if len(rows):
        there = rows.to(images.device)
        images[there] = _blurred(images[there], sigma[rows].to(images.device))
    return images


def _blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Columns first, then rows, each as a sum of shifted images; the edge goes on outside."""
    steps = torch.arange(_BLUR_RADIUS + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (steps / sigma[:, None]) ** 2)
    weights /= 2.0 * weights.sum(1, keepdim=True) - weights[:, :1]
    middle, *others = (_each(column) for column in weights.T)
    for axis, margins in (
        (2, (0, 0, _BLUR_RADIUS, _BLUR_RADIUS)),
        (3, (_BLUR_RADIUS, _BLUR_RADIUS, 0, 0)),
    ):
        padded = pad(images, margins, mode="replicate")
        images = images * middle
        for step, weight in enumerate(others, start=1):
            pair = [
                padded.narrow(axis, _BLUR_RADIUS + shift, images.shape[axis])
                for shift in (-step, step)
            ]
            images.addcmul_(pair[0] + pair[1], weight)
    return images


def _grain(images: Tensor, starts: Tensor) -> Tensor:
    """Standard normal noise that depends on each image's start alone."""
    pixels = images[0].numel()
    strip = _strip(pixels, images.device)
    grain = torch.stack([strip[start : start + pixels] for start in starts.tolist()])
    return grain.view(images.shape)


@lru_cache(maxsize=2)
def _strip(pixels: int, device: torch.device) -> Tensor:
    """Grain for an image of so many pixels from every start: the same in every process."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_STRIP_STARTS + pixels, generator=generator).to(device)


def draw_shares(count: int, *, generator: torch.Generator) -> Tensor:
    """Draw how much of each image stays its own; the rest comes from its partner.

    Args:
        count: Images in the batch.
        generator: Source of all randomness, on the CPU.

    Returns:
        Shape (count,), in [0, 1], of the Beta(1/2, 1/2) distribution, whose mass is at the ends;
        one value for both of a pair.
    """
    angles = torch.rand(-(-count // 2), generator=generator) * (math.pi / 2.0)
    return angles.sin().square().repeat_interleave(2)[:count]


def mix(images: Tensor, shares: Tensor) -> Tensor:
    """Mix each image with its partner.

    Args:
        images: Shape (n, 1, size, size).
        shares: Shape (n,), on any device.

    Returns:
        Same shape.
    """
    own = shares.to(images.device)[:, None, None, None]
    return images[_partners(images)].lerp(images, own)


def mixed_cross_entropy(
    logits: Tensor, truth: Tensor, shares: Tensor, *, label_smoothing: float
) -> Tensor:
    """Average the cross entropies with both labels of each image, in their shares.

    Args:
        logits: Shape (n, classes).
        truth: Shape (n,), class indices before mixing.
        shares: As given to `mix`.
        label_smoothing: Share of the target spread over all classes.
    """
    own, other = (
        cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
        for labels in (truth, truth[_partners(truth)])
    )
    return other.lerp(own, shares.to(logits)).mean()


def _partners(values: Tensor) -> Tensor:
    """Neighbours of the first axis are partners; a last one that has none is its own."""
    return (torch.arange(len(values), device=values.device) ^ 1).clamp(max=len(values) - 1)


_VERSIONS = 5
_MOST_CELL = 224
_GAP, _LINE = 4, 18
_FONT_SIZE = 12
_INK = 230


def write_contact_sheet(
    path: Path, side: Side, *, classes: Sequence[str], flip: bool, seed: int, rows: int = 8
) -> None:
    """Write originals, each with five augmented versions to its right, as a PNG.

    Args:
        path: The file.
        side: What to show images of, the classes in turn.
        classes: Names by class index.
        flip: As in training.
        seed: Of the choice and of the changes.
        rows: Originals, at most.

    Raises:
        TableError: It cannot be written.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = _in_turn(side.truth, rows, generator)
    lines = []
    for original, index in zip(side.images(chosen), side.truth[chosen], strict=True):
        same = torch.from_numpy(original)[None, None].repeat(_VERSIONS, 1, 1, 1).float() / 255.0
        changes = draw_changes(_VERSIONS, generator=generator, flip=flip)
        varied = augment(same, changes)[:, 0].mul(255.0).round().byte().numpy()
        lines.append((classes[int(index)], [original, *varied]))
    _save(_drawn(lines, edge=min(_MOST_CELL, side.inputs.shape[1])), path)


def _in_turn(
    truth: npt.NDArray[np.int64], count: int, generator: torch.Generator
) -> npt.NDArray[np.int64]:
    """Positions of up to `count` images, one of each class after the other."""
    order = torch.randperm(len(truth), generator=generator).numpy()
    turn = np.empty(len(truth), np.int64)
    for c in np.unique(truth):
        members = np.flatnonzero(truth[order] == c)
        turn[members] = np.arange(len(members))
    return order[np.lexsort((truth[order], turn))][:count]


def _drawn(lines: Sequence[tuple[str, list[npt.NDArray[np.uint8]]]], *, edge: int) -> Image.Image:
    step = edge + _GAP
    size = (step * (_VERSIONS + 1) + _GAP, (step + _LINE) * len(lines) + _GAP)
    sheet = Image.new("L", size)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for row, (name, images) in enumerate(lines):
        top = row * (step + _LINE) + _GAP
        pen.text((_GAP, top), f"{name}: original, then as trained on", fill=_INK, font=font)
        for column, image in enumerate(images):
            cell = Image.fromarray(image).resize((edge, edge), Image.Resampling.BILINEAR)
            sheet.paste(cell, (column * step + _GAP, top + _LINE))
    return sheet


def _save(sheet: Image.Image, path: Path) -> None:
    with writing(path), written_whole(path) as file:
        sheet.save(file, format="PNG")

"""Mild changes that a radiograph could have had: position, exposure, grain. No mirroring."""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

ROTATION = math.radians(8.0)
ZOOM = 0.08
SHIFT = 0.06
BRIGHTNESS = 0.08
CONTRAST = 0.15
NOISE = 0.02


def augment(images: Tensor, *, generator: torch.Generator, flip: bool) -> Tensor:
    """Change each image of a batch in its own random way.

    Args:
        images: Shape (n, 1, size, size), in [0, 1].
        generator: Source of all randomness, on the CPU.
        flip: Mirror half of the images.

    Returns:
        Same shape, in [0, 1].
    """
    count = len(images)

    def uniform(limit: float) -> Tensor:
        draws = torch.rand(count, generator=generator) * 2.0 - 1.0
        return (draws * limit).to(images.device)

    moved = _move(
        images,
        angle=uniform(ROTATION),
        zoom=uniform(ZOOM).exp(),
        shift=torch.stack([uniform(SHIFT), uniform(SHIFT)], dim=1),
        mirror=torch.where(uniform(1.0) > 0, -1.0, 1.0) if flip else uniform(0.0) + 1.0,
    )
    contrast, brightness = uniform(CONTRAST).exp(), uniform(BRIGHTNESS)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    grain = noise * (uniform(NOISE).abs()[:, None, None, None])
    exposed = (moved - 0.5) * contrast[:, None, None, None] + 0.5
    return (exposed + brightness[:, None, None, None] + grain).clamp(0.0, 1.0)


def _move(images: Tensor, *, angle: Tensor, zoom: Tensor, shift: Tensor, mirror: Tensor) -> Tensor:
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    rows = [
        torch.stack([cosine * mirror, -sine, shift[:, 0]], dim=1),
        torch.stack([sine * mirror, cosine, shift[:, 1]], dim=1),
    ]
    grid = affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="bilinear", align_corners=False)

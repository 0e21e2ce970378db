"""Images mixed in pairs, and their labels in the same shares.

Where a few thousand images are all there is, it keeps a network from learning them by heart.
Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


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

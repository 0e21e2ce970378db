"""Which images an epoch sees: each class equally often."""

import numpy as np
import numpy.typing as npt
import torch

Positions = npt.NDArray[np.int64]


def draw_epoch(
    truth: npt.NDArray[np.int64], *, count: int, generator: torch.Generator
) -> Positions:
    """Draw an epoch's images in their order.

    Each class is drawn equally often. In expectation that is the loss weighted by class, without
    the few huge steps that a rare class's weight would make. No image comes again before all
    others of its class have come.

    Args:
        truth: Shape (n,), class indices.
        count: Images to draw.
        generator: Source of all randomness, on the CPU.

    Returns:
        Shape (count,), positions in `truth`.
    """
    classes = np.unique(truth)
    shares = np.full(len(classes), count // len(classes))
    shares[_shuffled(np.arange(len(classes)), generator)[: count % len(classes)]] += 1
    drawn = [
        _rounds(np.flatnonzero(truth == c), int(share), generator)
        for c, share in zip(classes, shares, strict=True)
    ]
    return _shuffled(np.concatenate(drawn), generator)


def _rounds(members: Positions, count: int, generator: torch.Generator) -> Positions:
    rounds = [_shuffled(members, generator) for _ in range(-(-count // len(members)))]
    return np.concatenate([members[:0], *rounds])[:count]


def _shuffled(values: Positions, generator: torch.Generator) -> Positions:
    order: Positions = torch.randperm(len(values), generator=generator).numpy()
    return values[order]

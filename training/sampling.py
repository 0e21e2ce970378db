"""Draws of training images: which images an epoch's batches have, and how each is changed."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler, Sampler

from cxrbatch.training.augment import draw_shares
from cxrbatch.training.distributed import ALONE, ProcessGroup

_Positions = npt.NDArray[np.int64]


class Draw(NamedTuple):
    """One image drawn for a step of training.

    Attributes:
        position: Index of the image in the training subset.
        seed: Seed of the image's augmentation.
        share: Weight of the image when it is mixed with its partner (see `mix`), in [0, 1].
    """

    position: int
    seed: int
    share: float


class DrawSampler(Sampler[list[Draw]]):
    """Batches of draws for a DataLoader, with all strata drawn equally often (see `draw_epoch`).

    Each iteration over the sampler draws one epoch and yields `steps` lists, one for each batch.
    Of several processes each gets its own part of every batch; all of them together get the same
    draws as one process would.
    """

    def __init__(
        self,
        strata: npt.NDArray[np.int64],
        *,
        steps: int,
        batch_size: int,
        generator: torch.Generator,
        group: ProcessGroup = ALONE,
    ) -> None:
        """Keep the arguments; each iteration over the sampler draws one epoch.

        Args:
            strata: Shape (n,), the stratum of each training image: its class index to draw the
                classes equally often, or one number for all to draw all images equally often.
            steps: Batches per epoch.
            batch_size: Images per batch, over all processes.
            generator: Source of all randomness, on the CPU; its state decides all later epochs.
            group: The processes that train together.

        Raises:
            UsageError: A batch cannot be divided equally into parts of at least two images.
        """
        self._strata, self._generator, self._group = strata, generator, group
        self._steps, self._batch_size = steps, batch_size
        self._part_size = group.part_size(batch_size)

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[Draw]]:
        count = self._steps * self._batch_size
        order = draw_epoch(self._strata, count=count, generator=self._generator)
        seeds = torch.randint(1 << 62, (count,), generator=self._generator)
        shares = torch.cat(
            [draw_shares(self._batch_size, generator=self._generator) for _ in range(self._steps)]
        )
        draws = list(map(Draw, order.tolist(), seeds.tolist(), shares.tolist()))
        parts = [draws[i : i + self._part_size] for i in range(0, count, self._part_size)]
        # Every n-th part is this process's: one part of each batch.
        own: DistributedSampler[int] = DistributedSampler(
            range(len(parts)),  # type: ignore[arg-type]  # torch asks for a Dataset, takes len()
            num_replicas=self._group.size,
            rank=self._group.rank,
            shuffle=False,
        )
        return (parts[index] for index in own)


def draw_epoch(
    strata: npt.NDArray[np.int64], *, count: int, generator: torch.Generator
) -> _Positions:
    """Draw an epoch's images in random order, each stratum equally often.

    If `count` is no multiple of the number of strata, some strata chosen at random get one image
    more. With classes as strata that is in expectation the loss weighted by class, without the few
    huge steps that a rare class's weight would make. Images of one stratum are drawn equally often,
    too, or differ by one; `torch.utils.data.WeightedRandomSampler` does not guarantee that.

    Args:
        strata: Shape (n,), the number of each image's stratum, such as its class index.
        count: Images to draw.
        generator: Source of all randomness, on the CPU.

    Returns:
        Shape (count,), positions in `strata`.
    """
    numbers = np.unique(strata)
    counts = np.full(len(numbers), count // len(numbers))
    counts[_shuffled(np.arange(len(numbers)), generator)[: count % len(numbers)]] += 1
    drawn = []
    for number, wanted in zip(numbers, counts.tolist(), strict=True):
        members = np.flatnonzero(strata == number)
        rounds = [_shuffled(members, generator) for _ in range(-(-wanted // len(members)))]
        drawn.append(np.concatenate([members[:0], *rounds])[:wanted])
    return _shuffled(np.concatenate(drawn), generator)


def class_weights(truth: npt.NDArray[np.int64], *, classes: int) -> Tensor:
    """Return the weight of each class in a loss that draws all images equally often.

    It is n / (classes x images of the class), so that all classes weigh alike in an epoch and the
    mean over the images is 1.

    Args:
        truth: Shape (n,), class indices; each class has an image.
        classes: Number of classes.

    Returns:
        Shape (classes,), float32, on the CPU.
    """
    counts = torch.from_numpy(np.bincount(truth, minlength=classes))
    return len(truth) / (classes * counts.float())


def _shuffled(values: _Positions, generator: torch.Generator) -> _Positions:
    order: _Positions = torch.randperm(len(values), generator=generator).numpy()
    return values[order]

"""Decoded inputs as map-style datasets, and the loader and sampler of balanced batches."""

import hashlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from cxrbatch.errors import LabelError
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.results.label_names import SPLITS
from cxrbatch.training.augment import augmentation, draw_shares, kept_random_state
from cxrbatch.training.cache import DecodedInputs, UnreadableFile
from cxrbatch.training.distributed import ALONE, ProcessGroup
from cxrbatch.training.split import Split

_ROWS_AT_ONCE = 256

_Positions = npt.NDArray[np.int64]


class ImageSubset(Dataset[tuple[Tensor, int, int]]):
    """The n images of one subset of the split (train, val or test) with their classes.

    Attributes:
        inputs: Network inputs of all m images, those of other subsets too: shape (m, size, size),
            uint8; may be mapped from a file.
        truth: Shape (n,), the class index of each image of the subset.
        rows: Shape (n,), the row of `inputs` of each image of the subset; None where n = m and the
            order is the same.
    """

    def __init__(
        self,
        inputs: npt.NDArray[np.uint8],
        truth: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Keep references to the arrays; see the attributes."""
        self.inputs, self.truth, self.rows = inputs, truth, rows

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """Return image `index`, shape (1, size, size), uint8, its class index, and `index`."""
        row = index if self.rows is None else self.rows[index]
        return torch.from_numpy(self.inputs[row].copy())[None], int(self.truth[index]), index

    def images(self, positions: _Positions) -> npt.NDArray[np.uint8]:
        """Copy the images at some positions.

        Args:
            positions: Shape (k,), from 0 to n - 1.

        Returns:
            Shape (k, size, size), uint8, in the order of `positions`.
        """
        return self.inputs[positions if self.rows is None else self.rows[positions]]

    def batches(self, size: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield copies of all images in order, `size` at a time; the last batch may have fewer.

        Each batch has the shape (k, edge, edge), uint8.
        """
        for start in range(0, len(self), size):
            yield self.images(np.arange(start, min(start + size, len(self))))

    def every(self, step: int) -> "ImageSubset":
        """Return the subset of the images 0, `step`, 2 `step` and so on; no pixels are copied."""
        positions = np.arange(0, len(self), step)
        rows = positions if self.rows is None else self.rows[positions]
        return ImageSubset(self.inputs, self.truth[positions], rows)

    def sha256(self) -> str:
        """Return a SHA-256 of the images' number, shape, classes and pixels in order, 64 digits."""
        digest = hashlib.sha256(f"{len(self)}x{self.inputs.shape[1:]}:".encode())
        digest.update(np.ascontiguousarray(self.truth).data)
        for images in self.batches(_ROWS_AT_ONCE):
            digest.update(np.ascontiguousarray(images).data)
        return digest.hexdigest()


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


class AugmentedImages(Dataset[tuple[Tensor, int, float]]):
    """Training images, each augmented by the seed of its draw.

    An item is looked up by a `Draw`: `images[draw]` is the augmented image, shape (1, size, size),
    float32 in [0, 1], its class index, and the draw's share. It depends on the image and the draw
    alone, not on the batch or on what was drawn before.
    """

    def __init__(self, subset: ImageSubset, *, flip: bool) -> None:
        """Build the transform.

        Args:
            subset: The images.
            flip: Whether images are mirrored, each with a chance of one half.
        """
        self._subset = subset
        self._transform = augmentation(flip=flip)

    def __len__(self) -> int:
        return len(self._subset)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int, float]:
        """Return the augmented image, shape (1, size, size), in [0, 1], its class and its share."""
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[Draw]) -> list[tuple[Tensor, int, float]]:
        """Return the items of a batch; the DataLoader calls this in place of `__getitem__`."""
        items = []
        with kept_random_state():
            for position, seed, share in draws:
                image, label, _ = self._subset[position]
                torch.default_generator.manual_seed(seed)
                items.append((self._transform(image), label, share))
        return items


class BalancedBatchSampler(Sampler[list[Draw]]):
    """Batches of draws for a DataLoader, with all classes drawn equally often (see `draw_epoch`).

    Each iteration over the sampler draws one epoch and yields `steps` lists, one for each batch.
    Of several processes each gets its own part of every batch; all of them together get the same
    draws as one process would.
    """

    def __init__(
        self,
        truth: npt.NDArray[np.int64],
        *,
        steps: int,
        batch_size: int,
        generator: torch.Generator,
        group: ProcessGroup = ALONE,
    ) -> None:
        """Keep the arguments; each iteration over the sampler draws one epoch.

        Args:
            truth: Shape (n,), class indices of the training images.
            steps: Batches per epoch.
            batch_size: Images per batch, over all processes.
            generator: Source of all randomness, on the CPU; its state decides all later epochs.
            group: The processes that train together.

        Raises:
            UsageError: A batch cannot be divided equally into parts of at least two images.
        """
        self._truth, self._generator, self._group = truth, generator, group
        self._steps, self._batch_size = steps, batch_size
        self._part_size = group.part_size(batch_size)

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[Draw]]:
        count = self._steps * self._batch_size
        order = draw_epoch(self._truth, count=count, generator=self._generator)
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


def training_loader(
    subset: ImageSubset,
    sampler: BalancedBatchSampler,
    *,
    flip: bool,
    device: torch.device,
    workers: int,
) -> "DataLoader[tuple[Tensor, int, float]]":
    """Make the loader of augmented batches; each iteration over it is one epoch.

    Args:
        subset: The training images.
        sampler: Draws the images of each batch.
        flip: Whether images are mirrored, each with a chance of one half.
        device: Where the network is trained. On a GPU batches are pinned, and `workers` processes
            augment them. On a CPU this process does: its cores are busy with the network anyway,
            and augmentation takes 2 to 5 % of a step on one core.
        workers: Processes that augment for a GPU; with 0 this process does.

    Returns:
        A loader that yields images, shape (b, 1, size, size), float32 in [0, 1], not yet mixed;
        class indices, shape (b,); and the share of each image in `mix`, shape (b,), float64.
    """
    workers = workers if device.type == "cuda" else 0
    options: dict[str, Any] = {}
    if workers:
        # A forked process shares the mapped inputs; a spawned one would get a copy of them.
        options = {
            "multiprocessing_context": "fork",
            "worker_init_fn": _ignore_interrupts,
            "persistent_workers": True,
        }
    return DataLoader(
        AugmentedImages(subset, flip=flip),
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),
        **options,
    )


def _ignore_interrupts(_: int) -> None:
    """Leave Ctrl-C to the process that trains, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def draw_epoch(
    truth: npt.NDArray[np.int64], *, count: int, generator: torch.Generator
) -> _Positions:
    """Draw an epoch's images in random order, each class equally often.

    If `count` is no multiple of the number of classes, some classes chosen at random get one image
    more. In expectation that is the loss weighted by class, without the few huge steps that a rare
    class's weight would make. Images of one class are drawn equally often, too, or differ by one;
    `torch.utils.data.WeightedRandomSampler` does not guarantee that.

    Args:
        truth: Shape (n,), class indices.
        count: Images to draw.
        generator: Source of all randomness, on the CPU.

    Returns:
        Shape (count,), positions in `truth`.
    """
    classes = np.unique(truth)
    counts = np.full(len(classes), count // len(classes))
    counts[_shuffled(np.arange(len(classes)), generator)[: count % len(classes)]] += 1
    drawn = []
    for label, wanted in zip(classes, counts.tolist(), strict=True):
        members = np.flatnonzero(truth == label)
        rounds = [_shuffled(members, generator) for _ in range(-(-wanted // len(members)))]
        drawn.append(np.concatenate([members[:0], *rounds])[:wanted])
    return _shuffled(np.concatenate(drawn), generator)


def _shuffled(values: _Positions, generator: torch.Generator) -> _Positions:
    order: _Positions = torch.randperm(len(values), generator=generator).numpy()
    return values[order]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Labelled images ready for training.

    Attributes:
        classes: Class names in the order of the logits.
        split: Every labelled file, also one without an image, with its subset and group.
        subsets: The images of "train", "val" and "test", by these names.
        unreadable: The files without an image, which are in no subset.
    """

    classes: tuple[str, ...]
    split: Split
    subsets: dict[str, ImageSubset]
    unreadable: Sequence[UnreadableFile]

    def groups(self, name: str) -> list[int]:
        """Return the group of each image of the subset `name`, such as "val", in its order.

        Images of one patient or of one picture have the same number.
        """
        return [self.split.groups[row] for row in self._rows(name)]

    def sources(self, name: str) -> list[str | None]:
        """Return the collection that each image of the subset `name` is from, None if unknown."""
        return [self.split.files[row].source for row in self._rows(name)]

    def _rows(self, name: str) -> list[int]:
        """Return the index into `split.files` of each image of a subset."""
        rows = self.subsets[name].rows
        return [] if rows is None else rows.tolist()


def subsets_of(
    files: Sequence[LabelledFile], inputs: DecodedInputs, *, classes: Sequence[str]
) -> dict[str, ImageSubset]:
    """Make the subsets "train", "val" and "test", by these names.

    Files without an image, and files whose split is None, are in none of them.

    Args:
        files: The files of the inputs, in the same order, each with its split.
        inputs: From `prepare_inputs`.
        classes: Class names in the order of the logits; a label's index is the class index.

    Raises:
        ValueError: The label of a file is not in `classes`.
    """
    truth = np.array([classes.index(file.label) for file in files], dtype=np.int64)
    names = np.array([file.split for file in files], dtype=object)
    rows = {name: np.flatnonzero((names == name) & inputs.readable) for name in SPLITS}
    return {name: ImageSubset(inputs.values, truth[rows[name]], rows[name]) for name in SPLITS}


def divide_inputs(inputs: DecodedInputs, split: Split, *, classes: Sequence[str]) -> TrainingData:
    """Divide decoded inputs into the subsets of a split; files without an image are in none.

    Args:
        inputs: From `prepare_inputs`.
        split: The split of the same files, in the same order.
        classes: Class names in the order of the logits.

    Raises:
        LabelError: A class has no readable image for training or for validation.
    """
    subsets = subsets_of(split.files, inputs, classes=classes)
    for name in ("train", "val"):
        if missing := set(range(len(classes))) - set(subsets[name].truth.tolist()):
            raise LabelError(
                f"no image of {classes[min(missing)]!r} in the {name} split could be read; "
                "look at some with `cxrbatch inspect`"
            )
    return TrainingData(tuple(classes), split, subsets, inputs.unreadable(split.files))

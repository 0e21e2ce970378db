"""Decoded inputs as map-style datasets, and the DataLoader of training."""

import hashlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cxrbatch.errors import LabelError
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.results.label_names import SPLITS
from cxrbatch.training.augment import augmentation, kept_random_state
from cxrbatch.training.cache import DecodedInputs, UnreadableFile
from cxrbatch.training.sampling import Draw, DrawSampler
from cxrbatch.training.split import Split

_ROWS_AT_ONCE = 256


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

    def images(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
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

    def at(self, positions: npt.NDArray[np.int64]) -> "ImageSubset":
        """Return the subset of the images at some positions, shape (k,); no pixels are copied."""
        rows = positions if self.rows is None else self.rows[positions]
        return ImageSubset(self.inputs, self.truth[positions], rows)

    def sha256(self) -> str:
        """Return a SHA-256 of the images' number, shape, classes and pixels in order, 64 digits."""
        digest = hashlib.sha256(f"{len(self)}x{self.inputs.shape[1:]}:".encode())
        digest.update(np.ascontiguousarray(self.truth).data)
        for images in self.batches(_ROWS_AT_ONCE):
            digest.update(np.ascontiguousarray(images).data)
        return digest.hexdigest()


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


def training_loader(
    subset: ImageSubset,
    sampler: DrawSampler,
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
            and augmentation takes 2 to 10 % of a step on one core.
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

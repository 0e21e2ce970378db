"""One side of the split: inputs that may lie on the disk, and the truth about them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the split.

    Attributes:
        inputs: Shape (m, size, size), uint8; may be mapped from a file and is never copied whole.
        truth: Shape (n,), class indices.
        rows: Shape (n,), where in `inputs` each image lies; None where they lie in order, m = n.
    """

    inputs: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.truth)

    def images(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Copy the images at some positions, shape (k, size, size)."""
        return self.inputs[positions if self.rows is None else self.rows[positions]]

    def batches(self, size: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Give all images in order, up to `size` at a time."""
        for start in range(0, len(self), size):
            yield self.images(np.arange(start, min(start + size, len(self))))

    def sha256(self) -> str:
        """Hash of images and truth in their order."""
        digest = hashlib.sha256(f"{len(self)}x{self.inputs.shape[1:]}:".encode())
        digest.update(np.ascontiguousarray(self.truth).data)
        for images in self.batches(_ROWS_AT_ONCE):
            digest.update(np.ascontiguousarray(images).data)
        return digest.hexdigest()

"""The ranges that 8-bit arithmetic needs, and the change of accuracy that it costs."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_CHANGE = 0.002
"""Largest allowed change of the area under a class's ROC curve, in either direction."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """The calibration of a network for 8-bit arithmetic, and what that costs in accuracy.

    Attributes:
        ranges: Smallest and largest activation of each tensor, shape (tensors, 2), as
            `model.openvino.activation_ranges` returns them.
        images: Number of labelled images by class name.
        unreadable: Number of labelled files that could not be read.
        sha256: Hash of the images and their classes.
        auc_before: Area under the ROC curve of each class in float32, by class name.
        auc_after: The same in 8 bits.
    """

    ranges: npt.NDArray[np.float32]
    images: dict[str, int]
    unreadable: int
    sha256: str
    auc_before: dict[str, float]
    auc_after: dict[str, float]

    @property
    def auc_change(self) -> dict[str, float]:
        """Change of the area under the ROC curve: `auc_after` less `auc_before`, by class name."""
        return {name: self.auc_after[name] - auc for name, auc in self.auc_before.items()}

    @property
    def worst(self) -> str:
        """Name of the class whose area changes most, up or down; the first of equal ones."""
        change = self.auc_change
        return max(change, key=lambda name: abs(change[name]))

    def to_provenance(self) -> dict[str, Any]:
        """Return `auc_change` and all attributes but the ranges, as JSON values for a table."""
        values = {name: value for name, value in asdict(self).items() if name != "ranges"}
        return {**values, "auc_change": self.auc_change}

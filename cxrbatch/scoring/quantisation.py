"""The ranges that 8-bit arithmetic needs, and the change of accuracy that it costs."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_CHANGE = 0.002
"""Largest allowed change of the area under a class's ROC curve, in either direction."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """Ranges for 8-bit arithmetic, and areas under ROC curves with and without them.

    Attributes:
        ranges: The result of `model.openvino.activation_ranges`.
        images: Number of labelled images by class name.
        unreadable: Number of labelled files that could not be read.
        sha256: Hash of the images and their classes.
        auc_before: In float32, by class name.
        auc_after: In 8 bits, by class name.
    """

    ranges: npt.NDArray[np.float32]
    images: dict[str, int]
    unreadable: int
    sha256: str
    auc_before: dict[str, float]
    auc_after: dict[str, float]

    @property
    def auc_change(self) -> dict[str, float]:
        """`auc_after` less `auc_before`, by class name."""
        return {name: self.auc_after[name] - auc for name, auc in self.auc_before.items()}

    @property
    def worst(self) -> str:
        """The class whose area changes most."""
        change = self.auc_change
        return max(change, key=lambda name: abs(change[name]))

    def to_provenance(self) -> dict[str, Any]:
        """Return the entry for a table's metadata: all but the ranges, as JSON values."""
        values = {name: value for name, value in asdict(self).items() if name != "ranges"}
        return {**values, "auc_change": self.auc_change}

"""What it takes to compute in 8 bits, and what that costs."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_CHANGE = 0.002
"""By how much the area under a class's ROC curve may change, in either direction."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """What 8-bit arithmetic needs, and what it cost on the labelled images.

    Attributes:
        ranges: As of `model.openvino.activation_ranges`.
        images: By class name.
        unreadable: Files that were to be among them, and could not be read.
        sha256: Of the images and their classes.
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
        """The second less the first, by class name."""
        return {name: self.auc_after[name] - auc for name, auc in self.auc_before.items()}

    def to_provenance(self) -> dict[str, Any]:
        """Give what a table says of it, as JSON values."""
        told = {name: value for name, value in asdict(self).items() if name != "ranges"}
        return {**told, "auc_change": self.auc_change}

    @property
    def worst(self) -> str:
        """The class whose area changes most."""
        change = self.auc_change
        return max(change, key=lambda name: abs(change[name]))

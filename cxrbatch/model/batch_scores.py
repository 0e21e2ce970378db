"""The scores of a batch, on the host."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class BatchScores:
    """Scores of n images over c classes.

    Attributes:
        logits: Shape (n, c), float32.
        probabilities: Shape (n, c), float32, calibrated by the card's temperature; rows sum to 1.
        heatmaps: Shape (n, c, h, w), uint8.
        heatmap_scale: Shape (n,), float32.
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    heatmaps: npt.NDArray[np.uint8]
    heatmap_scale: npt.NDArray[np.float32]

    @property
    def are_finite(self) -> bool:
        """Whether no score and no heat map is infinite or NaN."""
        arrays = (self.logits, self.probabilities, self.heatmap_scale)
        return all(np.isfinite(values).all() for values in arrays)

    def first(self, count: int) -> "BatchScores":
        """Give the scores of the first `count` images."""
        return BatchScores(
            self.logits[:count],
            self.probabilities[:count],
            self.heatmaps[:count],
            self.heatmap_scale[:count],
        )

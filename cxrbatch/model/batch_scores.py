"""The scores of a batch as arrays: logits, probabilities, heat maps in 8 bits, the gate's part."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cxrbatch.model.card import Card
from cxrbatch.model.prediction import LEVELS, GateVerdict, Prediction, dequantise
from cxrbatch.reading.radiograph import Reading


class QuantisedHeatmaps(NamedTuple):
    """Heat maps as the table stores them.

    Attributes:
        levels: Shape (n, classes, h, w), uint8.
        scale: Shape (n,), float32; a heat map is levels * scale / 255.
    """

    levels: Tensor
    scale: Tensor


def quantise(heatmaps: Tensor) -> QuantisedHeatmaps:
    """Round heat maps to levels from 0 to 255, where 255 is the image's largest value (>= 1e-30).

    The largest value is that over all classes, so that the classes of an image stay comparable.

    Args:
        heatmaps: Shape (n, classes, h, w), not negative, float32.

    Returns:
        Levels, and the largest value of each image as its scale.
    """
    scale = heatmaps.amax(dim=(1, 2, 3))
    # An image without any activation has scale 0; its levels are 0 whatever they are divided by.
    divisor = scale.clamp(min=1e-30)[:, None, None, None]
    levels = (heatmaps * (LEVELS / divisor)).round().byte()
    return QuantisedHeatmaps(levels, scale)


@dataclass(frozen=True, slots=True)
class BatchScores:
    """Scores of n images over c classes.

    Attributes:
        logits: Shape (n, c), float32.
        probabilities: Shape (n, c), float32, calibrated by the card's temperature; rows sum to 1.
        heatmaps: Shape (n, c, h, w), uint8; levels of `quantise`.
        heatmap_scale: Shape (n,), float32; a heat map is heatmaps * heatmap_scale / 255.
        ood_score: Shape (n,), float32, in [0, 100]: how unlike those of training an image is, as a
            percentile of validation; None without a gate.
        ood_kind: Shape (n,), int64: the kind of foreign image, by its place in the card's list; -1
            for none; None without a gate.
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    heatmaps: npt.NDArray[np.uint8]
    heatmap_scale: npt.NDArray[np.float32]
    ood_score: npt.NDArray[np.float32] | None = None
    ood_kind: npt.NDArray[np.int64] | None = None

    @property
    def are_finite(self) -> bool:
        """Whether no logit, probability or heat map scale is infinite or NaN."""
        arrays = (self.logits, self.probabilities, self.heatmap_scale)
        return all(np.isfinite(values).all() for values in arrays)

    def first(self, count: int) -> "BatchScores":
        """Return the scores of the first `count` images; the arrays share memory with these."""
        return BatchScores(
            self.logits[:count],
            self.probabilities[:count],
            self.heatmaps[:count],
            self.heatmap_scale[:count],
            None if self.ood_score is None else self.ood_score[:count],
            None if self.ood_kind is None else self.ood_kind[:count],
        )

    def gate_verdict(self, place: int, card: Card) -> GateVerdict:
        """Return what the gate says about one image.

        Args:
            place: Number of the image among the n, from 0.
            card: The card of the checkpoint that scored it.
        """
        if self.ood_score is None or self.ood_kind is None:
            return GateVerdict()
        score, kind = float(self.ood_score[place]), int(self.ood_kind[place])
        is_foreign = score > card.gate["threshold"]
        named = card.gate["kinds"][kind] if is_foreign and kind >= 0 else None
        return GateVerdict(score, named, is_foreign)

    def prediction(self, place: int, reading: Reading, card: Card) -> Prediction:
        """Return the scores of one image, with its heat maps as numbers.

        Args:
            place: Number of the image among the n, from 0.
            reading: The Reading that the image came from; it goes into the result.
            card: The card of the checkpoint that scored it, with c classes.
        """
        maps = dequantise(
            self.heatmaps[place].tobytes(),
            scale=float(self.heatmap_scale[place]),
            classes=len(card.classes),
            size=self.heatmaps.shape[2:],
        )
        logits, probabilities = (
            dict(zip(card.classes, values[place].tolist(), strict=True))
            for values in (self.logits, self.probabilities)
        )
        return Prediction(
            reading,
            label=card.classes[int(self.probabilities[place].argmax())],
            probabilities=probabilities,
            logits=logits,
            heatmaps=dict(zip(card.classes, maps, strict=True)),
            geometry=card.recipe.geometry,
            gate=self.gate_verdict(place, card),
        )

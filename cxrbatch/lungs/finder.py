"""Finds the lungs in a frontal chest radiograph, and says where the mask is to be doubted."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxrbatch.errors import CxrbatchError, UsageError, checked_path, naming_arguments
from cxrbatch.lungs.shape import (
    LIKELY,
    LungMeasures,
    Mask,
    Probability,
    doubts_about,
    lungs_in,
    measure_lungs,
    resized_mask,
)
from cxrbatch.lungs.unet import bundled_lung_weights, lung_probability, read_lung_weights
from cxrbatch.model.prediction import first_reading, grey_picture
from cxrbatch.model.preprocessing import area_resize
from cxrbatch.reading.radiograph import Reading

LUNG_COLOUR = (0, 170, 255)
_TINT = 0.3

Findable: TypeAlias = "str | Path | bytes | npt.NDArray[np.generic] | Reading"
"""What `find_lungs` takes: a file's path, a display image as an array, or a Reading."""


@dataclass(frozen=True, slots=True, eq=False)
class Lungs:
    """The lungs found in one radiograph.

    Attributes:
        mask: Where lung is, bool, shape (rows, columns) of the display image.
        probability: Probability of lung on the network's grid, float32, shape (size, size); the
            grid covers the whole image, squeezed to a square.
        measures: Measures of the mask on that grid.
        doubts: What is unusual about the mask, a text for each measure; empty if it is plausible.
        reading: The radiograph as it was read.
    """

    mask: Mask = field(repr=False)
    probability: Probability = field(repr=False)
    measures: LungMeasures
    doubts: tuple[str, ...]
    reading: Reading = field(repr=False)

    @property
    def area(self) -> float:
        """Share of the image that is lung, in [0, 1]."""
        return self.measures.area

    @property
    def entropy(self) -> float:
        """How unsure the network is: bits of entropy per pixel of lung; 0 without lungs."""
        return self.measures.entropy

    @property
    def plausible(self) -> bool:
        """Whether there are no doubts; a plausible mask may be wrong all the same."""
        return not self.doubts

    def overlay(self) -> Image.Image:
        """Draw the display image with the lungs tinted and outlined.

        Returns:
            An RGB picture with square pixels; where pixels are not square, one axis is shrunk.

        Raises:
            UsageError: The Reading has no image.
        """
        if self.reading.image is None:
            raise UsageError("there is no image to draw the lungs on")
        grey = np.asarray(grey_picture(self.reading.image))
        rows, columns = grey.shape
        found = area_resize(self.mask.astype(np.float32), rows=rows, columns=columns) >= LIKELY
        shares = np.where(found, np.float32(_TINT), np.float32(0))
        # Two pixels wide on 1,000, so that it is seen where a large picture is shown small.
        shares[found & ~_eroded(found, max(1, round(max(rows, columns) / 500)))] = 1
        colour = np.array(LUNG_COLOUR, np.float32) - grey[:, :, None]
        return Image.fromarray(np.rint(grey[:, :, None] + shares[:, :, None] * colour).astype("u1"))


class LungMasks(NamedTuple):
    """What was found in n inputs of a network.

    Attributes:
        masks: Where lung is, bool, shape (n, size, size).
        doubts: For each input what `Lungs.doubts` is.
    """

    masks: npt.NDArray[np.bool_]
    doubts: tuple[tuple[str, ...], ...]


class LungFinder:
    """The network that finds lungs, on the CPU.

    It computes one image at a time, with its mirror image, so that a mask does not depend on what
    else is computed.

    Attributes:
        card: The card of the weights.
    """

    @naming_arguments()
    def __init__(self, weights: str | Path | None = None) -> None:
        """Read the weights.

        Args:
            weights: A file of weights; None for those that come with the package.

        Raises:
            CheckpointError: The file is none, or its weights are unsound.
            UsageError: The argument is of another type.
        """
        path = bundled_lung_weights() if weights is None else checked_path("weights", weights)
        read = read_lung_weights(path)
        self.card = read.card
        self._network = read.network()

    def find(self, item: Findable) -> Lungs:
        """Find the lungs in one radiograph; `find_lungs` describes argument and errors."""
        recipe = self.card.recipe
        reading, prepared = recipe.prepare_reading(first_reading(item, no_voi=recipe.no_voi))
        if prepared is None or reading.image is None:
            reason = f"{reading.outcome.value}: {reading.detail or reading.outcome.meaning}"
            raise CxrbatchError(f"no lungs can be looked for: {reason}")
        probability = lung_probability(self._network, prepared)
        found = lungs_in(probability)
        measures = measure_lungs(probability, found)
        return Lungs(
            mask=resized_mask(probability, found, reading.image.shape),
            probability=probability,
            measures=measures,
            doubts=doubts_about(measures, self.card.limits),
            reading=reading,
        )

    def masks(self, inputs: npt.NDArray[np.uint8]) -> LungMasks:
        """Find the lungs in inputs of a network.

        Inputs that were padded to a square are understood, too; limits of the measures fit inputs
        that were squeezed, so that narrow films are doubted more often when they were padded.

        Args:
            inputs: Shape (n, size, size), uint8, of any size; n may be 0.

        Returns:
            The masks, in the inputs' own pixels, and the doubts about each.

        Raises:
            UsageError: The array has another shape or type.
        """
        if inputs.ndim != 3 or inputs.shape[1] != inputs.shape[2] or inputs.dtype != np.uint8:
            raise UsageError(
                f"inputs of shape {inputs.shape} and {inputs.dtype} are no squares; give uint8 of "
                "shape (n, size, size)"
            )
        masks = np.zeros(inputs.shape, np.bool_)
        doubts = []
        edge = self.card.recipe.size
        for place, image in enumerate(inputs):
            levels = area_resize(image.astype(np.float32), rows=edge, columns=edge)
            prepared = np.rint(levels).clip(0, 255).astype(np.uint8)
            probability = lung_probability(self._network, prepared)
            found = lungs_in(probability)
            masks[place] = resized_mask(probability, found, image.shape)
            doubts.append(doubts_about(measure_lungs(probability, found), self.card.limits))
        return LungMasks(masks, tuple(doubts))


def find_lungs(item: Findable) -> Lungs:
    """Find the lungs in one frontal chest radiograph with the network that comes with the package.

    Lung behind the heart counts as lung. Research use only.

    Args:
        item: The path of a DICOM, PNG or JPEG file, of which the first frame is taken; a display
            image with square pixels, shape (rows, columns), 0 is black, as floats in [0, 1], uint8
            or uint16; or a Reading.

    Returns:
        The mask, and the doubts about it. An image without lungs gives a mask all the same, whose
        doubts say that it is unusual, or that no lungs were found.

    Raises:
        UsageError: The item is none of these, or an array is not a display image.
        CxrbatchError: The file cannot be read, or is not to be scored: of another modality, say.
    """
    return _bundled_finder().find(item)


@lru_cache(maxsize=1)
def _bundled_finder() -> LungFinder:
    return LungFinder()


def _eroded(mask: Mask, width: int) -> Mask:
    """Take a border of some pixels off a mask; the image's own edge is no border."""
    from scipy.ndimage import minimum_filter

    eroded: Mask = minimum_filter(mask, size=2 * width + 1, mode="nearest")
    return eroded

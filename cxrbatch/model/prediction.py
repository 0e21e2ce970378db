"""What the Predictor returns for one radiograph; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxrbatch.errors import UsageError
from cxrbatch.model.overlays import Heatmap, overlay_picture, place_heatmap
from cxrbatch.model.preprocessing import Geometry
from cxrbatch.reading.colour import grey_of
from cxrbatch.reading.display import Display, GreyImage
from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import Reading
from cxrbatch.reading.readings import HeaderFacts


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Prediction:
    """The result for one radiograph: its scores and heat maps, or the reason why it has none.

    Attributes:
        reading: The radiograph as it was read, with outcome, detail, flags and header facts.
        label: The class with the highest probability; None without scores.
        probabilities: By class name, calibrated, summing to 1; empty without scores.
        logits: By class name; empty without scores.
        heatmaps: By class name, as the table has them: shape (h, w), float32, not negative, 7 x 7
            for an input of 224 px; empty without scores.
        geometry: How the image became the square that the heat maps cover.
    """

    reading: Reading
    label: str | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    logits: Mapping[str, float] = field(default_factory=dict)
    heatmaps: Mapping[str, Heatmap] = field(default_factory=dict)
    geometry: Geometry = "squeeze"

    def __repr__(self) -> str:
        """Return the label with its probabilities, or the outcome and its detail."""
        shown = ", ".join(f"{name} {p:.4f}" for name, p in self.probabilities.items())
        what = f"{self.label}: {shown}" if self.label else f"{self.outcome.value}: {self.detail}"
        return f"<Prediction {what}>"

    @property
    def outcome(self) -> Outcome:
        """`Outcome.SCORED`, or the code of the reason why there are no scores."""
        return self.reading.outcome

    @property
    def detail(self) -> str:
        """One line for a person that explains the outcome; empty if there is nothing to add."""
        return self.reading.detail

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Remarks on the image, such as `lateral` or `lossy`, in the order of `Flag`."""
        return self.reading.flags

    @property
    def image(self) -> Display | None:
        """The display image, shape (rows, columns), float32 in [0, 1], 1 is white.

        None if the file gave no image, as when it cannot be decoded.
        """
        return self.reading.display

    def heatmap(self, class_name: str | None = None) -> Heatmap:
        """Return a class's heat map, enlarged to the image's own pixels.

        Args:
            class_name: The class; None for the predicted one.

        Returns:
            Shape (rows, columns) of `image`, float32, not negative; comparable between classes.

        Raises:
            UsageError: There are no scores, or no class has this name.
        """
        return place_heatmap(self._raw(class_name), self._grey(), self.geometry)

    def overlay(self, class_name: str | None = None) -> Image.Image:
        """Draw the image with a class's heat map laid over it.

        Args:
            class_name: The class; None for the predicted one.

        Returns:
            An RGB picture of full size; where pixels are not square, one axis is shrunk.

        Raises:
            UsageError: There are no scores, or no class has this name.
        """
        return overlay_picture(self._grey(), self._raw(class_name), self.geometry)

    def _grey(self) -> GreyImage:
        if self.reading.image is None:
            raise UsageError(f"there is no image: {self.outcome.value}")
        return self.reading.image

    def _raw(self, class_name: str | None) -> Heatmap:
        name = self.label if class_name is None else class_name
        if name is None:
            raise UsageError(f"there is no heat map: {self.outcome.value}")
        if name not in self.heatmaps:
            raise UsageError(f"no class {name!r}; the classes are {', '.join(self.heatmaps)}")
        return self.heatmaps[name]


def array_reading(array: npt.NDArray[np.generic]) -> Reading:
    """Make a Reading of an array that is a display image, as of a file without a header.

    Args:
        array: Shape (rows, columns), square pixels, 0 is black: floats in [0, 1], or uint8 or
            uint16 over their full range, which give the same bits as a PNG file of them.

    Returns:
        A Reading of frame 0 with the outcome `scored`, which means that it may be scored.

    Raises:
        UsageError: The array has another shape, type or range.
    """
    if array.ndim != 2 or not array.size:
        raise UsageError(f"an array of shape {array.shape} is no image; give (rows, columns)")
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # NaN is not, either
            raise UsageError("an array of floats has values outside [0, 1]; scale them first")
    elif array.dtype not in (np.uint8, np.uint16):
        raise UsageError(f"an array of {array.dtype} is no image; give floats, uint8 or uint16")
    rows, columns = array.shape
    facts = HeaderFacts(rows=rows, columns=columns)
    image, _ = grey_of(np.ascontiguousarray(array))
    return Reading(0, "other", Outcome.SCORED, "", facts, (), image)

"""What the Predictor returns for one radiograph, and heat maps as pictures; imports no torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxrbatch.errors import UsageError
from cxrbatch.model.preprocessing import Geometry, area_resize, with_square_pixels
from cxrbatch.reading.colour import grey_of
from cxrbatch.reading.display import Display, GreyImage
from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import Reading, iterate_radiographs
from cxrbatch.reading.readings import HeaderFacts, ReadingOptions

Heatmap = npt.NDArray[np.float32]

LEVELS = 255
HEAT_COLOUR = (255, 96, 0)
_OVERLAY_OPACITY = 0.6
_SMALLEST = 1e-30
# Rows turned to grey levels at once: a whole radiograph in floating point takes four times as much
# memory as its 8-bit picture.
_BLOCK_ROWS = 64


def dequantise(stored: bytes, *, scale: float, classes: int, size: tuple[int, int]) -> Heatmap:
    """Rebuild the heat maps of an image from its row in a results table.

    Args:
        stored: The `heatmaps` column, classes * h * w bytes.
        scale: The `heatmap_scale` column: the heat map's value at level 255.
        classes: Number of classes.
        size: (h, w) of one map.

    Returns:
        Shape (classes, h, w), float32: but for the rounding of floats, within scale / 510 of the
            maps before they were stored.

    Raises:
        ValueError: `stored` has another length.
    """
    levels = np.frombuffer(stored, dtype=np.uint8).reshape(classes, *size)
    return levels.astype(np.float32) * np.float32(scale / LEVELS)


def grey_picture(image: GreyImage, *, longest: int | None = None) -> Image.Image:
    """Draw a display image as 8-bit greyscale with square pixels.

    Where pixels are not square, the axis that has more pixels to a length is shrunk.

    Args:
        image: The display image.
        longest: Largest number of rows and of columns of the picture; None for no limit. A smaller
            image is not enlarged.

    Returns:
        A picture of Pillow's mode "L".
    """
    rows, columns = image.shape
    height, width = rows * min(1.0, image.pixel_aspect), columns / max(1.0, image.pixel_aspect)
    scale = min(1.0, longest / max(height, width)) if longest else 1.0
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if size != image.shape:
        image = GreyImage(area_resize(image.whole(), rows=size[0], columns=size[1]).clip(0.0, 1.0))
    levels = np.empty(image.shape, np.uint8)
    for start in range(0, size[0], _BLOCK_ROWS):
        block = image.rows(start, start + _BLOCK_ROWS)
        levels[start : start + _BLOCK_ROWS] = np.rint(block * np.float32(255.0))
    return Image.fromarray(levels)


def heat_picture(
    strength: Heatmap,
    *,
    edge: int,
    opacity: float = 1.0,
    padded: tuple[int, int] | None = None,
) -> Image.Image:
    """Draw one heat map as a layer of one colour to lay over its radiograph's picture.

    Args:
        strength: Shape (h, w), in [0, 1]; the alpha channel is proportional to it.
        edge: Width and height of the layer before `padded` crops it.
        opacity: Alpha where the strength is 1, in [0, 1].
        padded: (width, height) of the radiograph's picture if its input was padded to a square:
            the layer is cropped to the part of the square that the radiograph filled.

    Returns:
        A picture of Pillow's mode "RGBA".
    """
    grown = area_resize(strength, rows=edge, columns=edge).clip(0.0, 1.0)
    layer = np.empty((edge, edge, 4), np.uint8)
    layer[..., :3] = HEAT_COLOUR
    layer[..., 3] = np.rint(grown * np.float32(255.0 * opacity))
    if padded is not None:
        width, height = (round(edge * side / max(padded)) or 1 for side in padded)
        top, left = (edge - height) // 2, (edge - width) // 2
        layer = layer[top : top + height, left : left + width]
    return Image.fromarray(layer)


def place_heatmap(heatmap: Heatmap, image: GreyImage, geometry: Geometry) -> Heatmap:
    """Resize a heat map to the radiograph's own pixels.

    Args:
        heatmap: Shape (h, w), covering the network's input.
        image: The radiograph.
        geometry: How it became the input: by "pad" the map covers the added borders too, which
            are cropped.

    Returns:
        Shape (rows, columns) of the image, float32, in the map's own unit.
    """
    rows, columns = image.shape
    if geometry == "pad":
        height, width = with_square_pixels(image).shape
        edge = max(height, width)
        top, left = (edge - height) // 2, (edge - width) // 2
        square = area_resize(heatmap, rows=edge, columns=edge)
        heatmap = np.ascontiguousarray(square[top : top + height, left : left + width])
    return area_resize(heatmap, rows=rows, columns=columns)


def overlay_picture(image: GreyImage, heatmap: Heatmap, geometry: Geometry) -> Image.Image:
    """Blend a radiograph and a heat map into one RGB picture of full size with square pixels.

    Args:
        image: The radiograph.
        heatmap: Shape (h, w), not negative; it is divided by its largest value and resized, and
            gives the opacity of its colour: 1 is 60 %, and other values are in proportion.
        geometry: How the image became the network's input: "squeeze", or "pad" with borders, which
            are cropped from the heat map.
    """
    image = with_square_pixels(image)
    relative = heatmap / max(float(heatmap.max()), _SMALLEST)
    opacity = place_heatmap(relative, image, geometry).clip(0.0, 1.0) * _OVERLAY_OPACITY
    grey = np.repeat(image.whole()[:, :, None] * 255.0, 3, axis=2)
    colour = np.array(HEAT_COLOUR, np.float32)
    blended = grey * (1.0 - opacity[:, :, None]) + colour * opacity[:, :, None]
    return Image.fromarray(np.rint(blended).astype(np.uint8))


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """What the input gate says about an image.

    Attributes:
        ood_score: How unlike the images of training it is: the share, in percent, of validation
            images that are less strange; 100 beyond all of them; None without a gate.
        ood_kind: What the gate takes a foreign image for, such as "hand"; None where it knows no
            kind, or the image is not foreign.
        is_foreign: Whether the score is above the checkpoint's threshold.
    """

    ood_score: float | None = None
    ood_kind: str | None = None
    is_foreign: bool = False


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
        gate: What the input gate says about the image; nothing without scores.
    """

    reading: Reading
    label: str | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    logits: Mapping[str, float] = field(default_factory=dict)
    heatmaps: Mapping[str, Heatmap] = field(default_factory=dict)
    geometry: Geometry = "squeeze"
    gate: GateVerdict = field(default_factory=GateVerdict)

    def __repr__(self) -> str:
        """Return the label with its probabilities, or the outcome and its detail."""
        shown = ", ".join(f"{name} {p:.4f}" for name, p in self.probabilities.items())
        what = f"{self.label}: {shown}" if self.label else f"{self.outcome.value}: {self.detail}"
        return f"<Prediction {what}>"

    @property
    def outcome(self) -> Outcome:
        """The outcome of the Reading; other than `SCORED` it says why there are no scores."""
        return self.reading.outcome

    @property
    def detail(self) -> str:
        """One line for a person that explains the outcome; empty if there is nothing to add."""
        return self.reading.detail

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Remarks on the image, such as `lateral` or `lossy`, in the order of `Flag`."""
        foreign = (Flag.OUT_OF_DISTRIBUTION,) if self.gate.is_foreign else ()
        return self.reading.flags + foreign

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
            Shape (rows, columns) of `image`, float32, not negative. The value of a cell of the
            small map (7 x 7 for 224 px) is what it adds to the class's logit, rounded, or 0 if that
            is negative: so values compare between classes and between images of one model.

        Raises:
            UsageError: There are no scores or no image, or no class has this name.
        """
        return place_heatmap(self._raw(class_name), self._grey(), self.geometry)

    def overlay(self, class_name: str | None = None) -> Image.Image:
        """Draw the image with a class's heat map laid over it.

        Args:
            class_name: The class; None for the predicted one.

        Returns:
            An RGB picture of full size; where pixels are not square, one axis is shrunk. Opacity is
            60 % of a value's share of the small map's largest.

        Raises:
            UsageError: There are no scores or no image, or no class has this name.
        """
        return overlay_picture(self._grey(), self._raw(class_name), self.geometry)

    def _grey(self) -> GreyImage:
        if self.reading.image is None:
            raise UsageError(f"there is no image: {self.outcome.value}")
        return self.reading.image

    def _raw(self, class_name: str | None) -> Heatmap:
        name = self.label if class_name is None else class_name
        if name is None or not self.heatmaps:
            raise UsageError(f"there is no heat map: {self.outcome.value}")
        if name not in self.heatmaps:
            raise UsageError(f"no class {name!r}; the classes are {', '.join(self.heatmaps)}")
        return self.heatmaps[name]


def first_reading(item: object, *, no_voi: str) -> Reading:
    """Return the Reading of a file's first frame or of an array; a Reading is returned unchanged.

    A file that cannot be read gives a Reading without an image, whose outcome says why.

    Args:
        item: A path; a display image, shape (rows, columns), floats in [0, 1], uint8 or uint16; or
            a Reading.
        no_voi: How a radiograph without a VOI transform becomes grey levels: "robust" or
            "full_range", as in a recipe.

    Raises:
        UsageError: `item` is of another type, or the array is not a display image.
    """
    if isinstance(item, Reading):
        return item
    if isinstance(item, np.ndarray):
        return array_reading(item)
    if not isinstance(item, str | bytes | os.PathLike):
        kind = type(item).__name__
        raise UsageError(f"{kind} is no image: give a path, an array (rows, columns) or a Reading")
    return next(iterate_radiographs(os.fspath(item), ReadingOptions(no_voi=no_voi)))


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

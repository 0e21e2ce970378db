"""Radiographs and heat maps as pictures for a person; imports no torch.

Every picture that a user sees comes from here: of `cxrbatch inspect`, of `Prediction.overlay`, of
the report's gallery and of the web app. All have square pixels.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxrbatch.model.preprocessing import Geometry, area_resize, with_square_pixels
from cxrbatch.reading.display import GreyImage

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
        Shape (classes, h, w), float32, within scale / 510 of the maps before they were stored.
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
        heatmap: Shape (h, w), not negative; its largest value is drawn at an opacity of 60 %, and
            other values in proportion.
        geometry: How the image became the network's input, as for `place_heatmap`.
    """
    image = with_square_pixels(image)
    relative = heatmap / max(float(heatmap.max()), _SMALLEST)
    opacity = place_heatmap(relative, image, geometry).clip(0.0, 1.0) * _OVERLAY_OPACITY
    grey = np.repeat(image.whole()[:, :, None] * 255.0, 3, axis=2)
    colour = np.array(HEAT_COLOUR, np.float32)
    blended = grey * (1.0 - opacity[:, :, None]) + colour * opacity[:, :, None]
    return Image.fromarray(np.rint(blended).astype(np.uint8))

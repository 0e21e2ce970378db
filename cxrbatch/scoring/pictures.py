"""Films and heat maps as pictures for a person; for the child processes that read the films."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxrbatch.model.preprocessing import area_resize
from cxrbatch.reading.grey import GreyImage

_HEAT_COLOUR = (255, 96, 0)
_BLOCK_ROWS = 64


def grey_picture(image: GreyImage, *, longest: int | None = None) -> Image.Image:
    """Draw a display image with pixels as high as wide, 8-bit greyscale.

    Args:
        image: The display image.
        longest: Rows and columns that the picture has at most; those of the image by default.
    """
    rows, columns = image.shape
    # The side that has more pixels to a length gives some up.
    height = rows * min(1.0, image.pixel_aspect)
    width = columns / max(1.0, image.pixel_aspect)
    scale = min(1.0, longest / max(height, width)) if longest else 1.0
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if size != image.shape:
        image = GreyImage(area_resize(image.whole(), rows=size[0], columns=size[1]).clip(0.0, 1.0))
    levels = np.empty(image.shape, np.uint8)
    # By blocks: a whole film in floating point takes four times as much.
    for start in range(0, size[0], _BLOCK_ROWS):
        levels[start : start + _BLOCK_ROWS] = np.rint(
            image.rows(start, start + _BLOCK_ROWS) * np.float32(255.0)
        )
    return Image.fromarray(levels)


def heat_picture(
    strength: npt.NDArray[np.float32], *, edge: int, opacity: float = 1.0
) -> Image.Image:
    """Draw one heat map as a layer to lay over its film, the stronger the less transparent.

    Args:
        strength: Shape (h, w), in [0, 1].
        edge: Rows and columns of the picture.
        opacity: Where the strength is 1, in [0, 1].
    """
    grown = area_resize(strength, rows=edge, columns=edge).clip(0.0, 1.0)
    layer = np.empty((edge, edge, 4), np.uint8)
    layer[..., :3] = _HEAT_COLOUR
    layer[..., 3] = np.rint(grown * np.float32(255.0 * opacity))
    return Image.fromarray(layer)

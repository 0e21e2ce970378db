"""Films and heat maps as pictures for a person; for the child processes that read the films."""

import os
import posixpath
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxrbatch.model.preprocessing import Recipe, area_resize, image_hash
from cxrbatch.paths import text_to_path, text_to_place
from cxrbatch.reading.containers.listing import members_named
from cxrbatch.reading.grey import GreyImage
from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.radiograph import Reading, ReadingOptions, read_member, read_radiographs
from cxrbatch.results.table import Table

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


UNKNOWN_ORIGIN = "the table does not say where its images are and how they were read"
MISSING = "not in the archive any more"
CHANGED = "changed since it was scored"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the images of a table come from, and how they were read.

    Attributes:
        root: The archive's folder, absolute.
        recipe: How display images became inputs.
        options: How files were read; other modalities are rendered too.
        follow_links: Whether links were followed; else none may lead out of the folder.
    """

    root: bytes
    recipe: Recipe
    options: ReadingOptions
    follow_links: bool = False

    @classmethod
    def of(cls, table: Table, *, root: bytes | None = None) -> "Origin | None":
        """Read it off a table; None where the table does not say it in a usable way.

        Args:
            table: The table.
            root: Where the archive is; None for where it was.
        """
        made = table.provenance
        try:
            recipe = Recipe.from_card(made["recipe"])
            limit = int(made.get("max_pixels", ReadingOptions().max_pixels))
            root = text_to_path(str(made["archive_root"])) if root is None else root
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        if not os.path.isabs(root):
            return None
        options = ReadingOptions(
            render_all=True,
            max_pixels=limit,
            no_voi=recipe.no_voi,
            least_size=recipe.least_size if made.get("fast_decode") is True else None,
        )
        return cls(root, recipe, options, follow_links=made.get("follow_links") is True)


def revisit(origin: Origin, path: str, frame: int, hashed: str) -> Reading | str:
    """Read a row's image once more; for a child process, as files are hostile.

    Args:
        origin: Where the table's images come from.
        path: The row's `path`.
        frame: The row's `frame`.
        hashed: The row's `image_hash`.

    Returns:
        A Reading with an image, or why there is none.
    """
    failure = MISSING
    for readings in _files(origin, path):
        reading = next(islice(readings, frame, None), None)
        if reading is None or reading.outcome is Outcome.UNREADABLE_FILE:
            continue
        image = reading.image
        if image is not None and image_hash(origin.recipe.prepare(image)) == hashed:
            return reading
        failure = CHANGED
    return failure


def _files(origin: Origin, path: str) -> Iterator[Iterator[Reading]]:
    """Readings of each file of a row's path: a container may have several members of one name."""
    try:
        place, member = text_to_place(path)
    except ValueError:
        return
    if place.startswith(b"/") or b".." in place.split(b"/") or posixpath.normpath(place) != place:
        return
    location = os.path.join(origin.root, place)
    if not os.path.isfile(location):
        return
    if not origin.follow_links and not _is_within(location, origin.root):
        return
    if member is None:
        yield read_radiographs(location, origin.options)
        return
    with suppress(ReadingError, OSError):  # a container that is damaged or none
        for entry in members_named(location, member):
            if entry.kind == "file" and entry.fault is None:
                yield read_member(location, member, entry.offset, origin.options)


def _is_within(location: bytes, folder: bytes) -> bool:
    inside = os.path.join(os.path.realpath(folder), b"")
    return os.path.realpath(location).startswith(inside)

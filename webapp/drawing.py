"""Films drawn in child processes; imports little, as each child imports it anew."""

import io
from dataclasses import dataclass

from cxrbatch.model.overlays import grey_picture
from cxrbatch.reading.grey import GreyImage
from cxrbatch.scoring.revisiting import Origin, revisit

_THUMBNAIL_EDGE = 192
_THUMBNAIL_QUALITY = 80
_QUICK = 1  # of zlib's levels: a film is large, and the way to the browser short


@dataclass(frozen=True, slots=True)
class Film:
    """An image file, or why there is none.

    Attributes:
        content: A PNG or WebP file; empty where there is none.
        why: One line for a person.
    """

    content: bytes
    why: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A row's image, in full or small.

    Attributes:
        origin: Where the table's images come from.
        path: The row's `path`.
        frame: The row's `frame`.
        image_hash: The row's `image_hash`.
        is_thumbnail: Small, as WebP; in full, as PNG, otherwise.
    """

    origin: Origin
    path: str
    frame: int
    image_hash: str
    is_thumbnail: bool


def draw(wanted: Wanted) -> Film:
    """Read a row's image once more and draw it."""
    reading = revisit(wanted.origin, wanted.path, wanted.frame, wanted.image_hash)
    if isinstance(reading, str):
        return Film(b"", reading)
    assert reading.image is not None
    if not wanted.is_thumbnail:
        return Film(png(reading.image))
    stream = io.BytesIO()
    small = grey_picture(reading.image, longest=_THUMBNAIL_EDGE).convert("RGB")
    small.save(stream, format="WEBP", quality=_THUMBNAIL_QUALITY)
    return Film(stream.getvalue())


def png(image: GreyImage, *, longest: int | None = None) -> bytes:
    """Draw a display image with square pixels, 8-bit greyscale.

    Args:
        image: The display image.
        longest: Rows and columns that the drawing has at most; those of the image by default.
    """
    stream = io.BytesIO()
    grey_picture(image, longest=longest).save(stream, format="PNG", compress_level=_QUICK)
    return stream.getvalue()

"""Radiographs and heat maps as image files that a browser shows."""

import io
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from cxrbatch.model.overlays import heat_picture
from cxrbatch.scoring.revisiting import UNKNOWN_ORIGIN, Origin
from cxrbatch.webapp.children import Children, Queue
from cxrbatch.webapp.drawing import Film, Wanted, draw
from cxrbatch.webapp.opened import OpenedTable, Row
from cxrbatch.workers.worker import WorkerFault

_MOST_THUMBNAILS = 2000
_HEAT_EDGE = 256
_NEVER_AN_IMAGE = "the file gave no image to be scored"


class Films:
    """Reads films anew in child processes; keeps thumbnails while their table stays the same."""

    def __init__(self, children: Children, queue: Queue) -> None:
        """Read nothing yet.

        Args:
            children: Read the files.
            queue: Whose turn it is.
        """
        self._children = children
        self._queue = queue
        self._thumbnails: WeakKeyDictionary[OpenedTable, dict[int, Film]] = WeakKeyDictionary()

    def film(self, opened: OpenedTable, row: Row) -> Film:
        """Give a row's film in full, as PNG.

        Raises:
            Busy: Too many wait.
        """
        return self._drawn(opened, row, is_thumbnail=False)

    def thumbnail(self, opened: OpenedTable, row: Row) -> Film:
        """Give it small, as WebP.

        Raises:
            Busy: Too many wait.
        """
        kept = self._thumbnails.setdefault(opened, {})
        number = int(row["row"])
        if number not in kept:
            film = self._drawn(opened, row, is_thumbnail=True)
            if len(kept) >= _MOST_THUMBNAILS:
                kept.clear()
            kept[number] = film
        return kept[number]

    def _drawn(self, opened: OpenedTable, row: Row, *, is_thumbnail: bool) -> Film:
        origin = Origin.of(opened.table)
        if origin is None:
            return Film(b"", UNKNOWN_ORIGIN)
        if not row["image_hash"]:
            return Film(b"", _NEVER_AN_IMAGE)
        wanted = Wanted(origin, row["path"], row["frame"], row["image_hash"], is_thumbnail)
        with self._queue.turn():
            drawn = self._children.call(draw, wanted)
        return Film(b"", drawn.detail) if isinstance(drawn, WorkerFault) else drawn


def heat_layer(levels: npt.NDArray[np.uint8]) -> bytes:
    """Draw one heat map as a layer to lay over its film, the stronger the less transparent.

    Args:
        levels: Shape (h, w), on the scale that all classes of the image share.

    Returns:
        A square PNG.
    """
    strength = levels.astype(np.float32) / np.float32(255.0)
    stream = io.BytesIO()
    heat_picture(strength, edge=_HEAT_EDGE).save(stream, format="PNG")
    return stream.getvalue()

"""The page of one image, with its radiograph, its thumbnail and its heat maps."""

import io
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from flask import Blueprint, Response, current_app, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import NotFound

from cxrbatch.model.prediction import heat_picture
from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.results.columns import FACTS
from cxrbatch.results.table import Table
from cxrbatch.scoring.file_reader import UNKNOWN_ORIGIN, Origin
from cxrbatch.webapp.children import (
    ChildProcesses,
    WorkQueue,
    encode_row_image,
)
from cxrbatch.webapp.library import ServedFile, get_service, requested_table
from cxrbatch.webapp.row_filter import parse_filter, parse_number
from cxrbatch.webapp.runs import card_of_table, checkpoint_name
from cxrbatch.webapp.served_table import RowValues, ServedTable
from cxrbatch.workers.worker import WorkerFault

OUTCOMES = {code.value: code for code in Outcome}
"""Outcome code -> its meaning and remedy."""

FLAG_MEANINGS = {flag.value: flag.meaning for flag in Flag}
"""Flag code -> its meaning."""

SHOWN_FACTS = tuple(name for name in FACTS if not name.endswith("_uid"))
"""The facts of a header that a page shows."""

_MAX_THUMBNAILS = 2000
_MAX_PLACE = 999_999_999
_HEAT_MAP_EDGE = 256
_NO_IMAGE = "the file gave no image to be scored"

blueprint = Blueprint("images", __name__)


class ImageEncoder:
    """Encodes images of rows as PNG or WebP in child processes, and caches thumbnails.

    A table's thumbnails are cached as long as the table is open. When the cache has 2000 of a
    table, all of them are dropped before the next one is stored.
    """

    def __init__(self, children: ChildProcesses) -> None:
        """Create an encoder with an empty cache.

        Args:
            children: Child processes that read and encode the images.
        """
        self._children = children
        self._queue = WorkQueue(running=2, waiting=10)
        self._thumbnails: WeakKeyDictionary[ServedTable, dict[int, bytes | str]] = (
            WeakKeyDictionary()
        )

    def encode(self, table: ServedTable, row: RowValues, *, is_thumbnail: bool) -> bytes | str:
        """Read the image of a row again from the table's archive, and encode it.

        A cached thumbnail is returned without reading; so is the reason why there is none.

        Args:
            table: The table.
            row: All columns of the row.
            is_thumbnail: Whether to return a WebP file of at most 192 x 192 pixels instead of a
                PNG file of full size.

        Returns:
            The content of the image file as bytes; or, as a text of one line, why there is none:
            the row has no image, its file is gone, unreadable or was changed since the run, or the
            table does not say where its archive is.

        Raises:
            CxrbatchError: No process can be started.
            ServerBusy: Too many requests wait.
        """
        thumbnails = self._thumbnails.setdefault(table, {}) if is_thumbnail else {}
        number = int(row["row"])
        image = thumbnails.get(number)
        if image is None:
            image = self._read(table, row, is_thumbnail=is_thumbnail)
            if len(thumbnails) >= _MAX_THUMBNAILS:
                thumbnails.clear()
            thumbnails[number] = image
        return image

    def _read(self, table: ServedTable, row: RowValues, *, is_thumbnail: bool) -> bytes | str:
        origin = Origin.of(table.table)
        if origin is None:
            return UNKNOWN_ORIGIN
        if not row["image_hash"]:
            return _NO_IMAGE
        key = row["path"], row["frame"], row["image_hash"]
        with self._queue.turn():
            image = self._children.call(encode_row_image, origin, *key, is_thumbnail=is_thumbnail)
        return image.detail if isinstance(image, WorkerFault) else image


def heat_map_png(levels: npt.NDArray[np.uint8]) -> bytes:
    """Draw a heat map as a PNG of 256 x 256 pixels and one colour, to lay over its image.

    Args:
        levels: Shape (h, w), uint8, on the scale that all classes of the image share: 0 becomes
            transparent, 255 opaque.

    Returns:
        The content of the PNG file.
    """
    strength = levels.astype(np.float32) / np.float32(255.0)
    stream = io.BytesIO()
    heat_picture(strength, edge=_HEAT_MAP_EDGE).save(stream, format="PNG")
    return stream.getvalue()


@blueprint.get("/runs/<id>/images/<int:number>")
def show_image(id: str, number: int) -> ResponseReturnValue:
    """Answer with the page of one image, its scores, and links to the images before and after it.

    The images before and after are neighbours among the rows that the query of the address selects,
    in the query's order. `at` in the query is the image's probable place among them, from 0.

    Args:
        id: Id of the run's table.
        number: The row's number in the table, from 0.

    Raises:
        BadRequest: A parameter of the query is invalid.
        NotFound: There is no such table or row.
        TableError: The table is damaged.
    """
    file, served, row = _requested_row(id, number)
    table = served.table
    row_filter = parse_filter(request.args, table, others=("at",))
    guess = parse_number(request.args, "at", default=0, least=0, most=_MAX_PLACE)
    place, (before, after) = served.neighbours(row_filter, number, guess=guess)
    card = card_of_table(table)
    return render_template(
        "image.html",
        run=file,
        row=row,
        number=number,
        at=place,
        count=served.count(row_filter),
        before=before,
        after=after,
        arguments=row_filter.arguments(),
        model=checkpoint_name(table),
        classes=table.classes,
        probabilities={name: row[f"p_{name}"] for name in table.classes},
        points=card.operating_points if card else {},
        outcome=OUTCOMES.get(row["outcome"]),
        flags=[(flag, FLAG_MEANINGS.get(flag, "")) for flag in row["image_flags"] or ()],
        facts=[(name, row[name]) for name in SHOWN_FACTS if row[name]],
        geometry=_geometry(table),
    )


@blueprint.get("/runs/<id>/images/<int:number>/film.png")
def send_image(id: str, number: int) -> Response:
    """Answer with the radiograph of a row in full size as PNG.

    Args:
        id: Id of the run's table.
        number: The row's number in the table, from 0.

    Raises:
        NotFound: There is no such table or row, or no image of the row.
        CxrbatchError: No process can be started.
        ServerBusy: Too many requests wait.
        TableError: The table is damaged.
    """
    _, table, row = _requested_row(id, number)
    image = get_service(ImageEncoder).encode(table, row, is_thumbnail=False)
    if isinstance(image, str):
        raise NotFound(f"There is no image to show: {image}.")
    return Response(image, mimetype="image/png")


@blueprint.get("/runs/<id>/images/<int:number>/thumbnail.webp")
def send_thumbnail(id: str, number: int) -> Response:
    """Answer with a row's radiograph as WebP, at most 192 x 192 pixels.

    If there is no image of the row, the answer is an SVG placeholder.

    Args:
        id: Id of the run's table.
        number: The row's number in the table, from 0.

    Raises:
        NotFound: There is no such table or row.
        CxrbatchError: No process can be started.
        ServerBusy: Too many requests wait.
        TableError: The table is damaged.
    """
    _, table, row = _requested_row(id, number)
    image = get_service(ImageEncoder).encode(table, row, is_thumbnail=True)
    if isinstance(image, str):
        return current_app.send_static_file("absent.svg")
    return Response(image, mimetype="image/webp")


@blueprint.get("/runs/<id>/images/<int:number>/heat/<int:class_index>.png")
def send_heat_map(id: str, number: int, class_index: int) -> Response:
    """Answer with the heat map of one class of a row, as stored in the table, drawn as PNG.

    Args:
        id: Id of the run's table.
        number: The row's number in the table, from 0.
        class_index: Index of the class in the table's classes, from 0.

    Raises:
        NotFound: There is no such table, row or class, or the row has no scores.
        TableError: The table is damaged.
    """
    _, served, row = _requested_row(id, number)
    if row["heatmaps"] is None or class_index >= len(served.table.classes):
        raise NotFound("There is no heat map.")
    size = int(served.table.provenance["heatmap_size"])
    levels = np.frombuffer(row["heatmaps"], np.uint8).reshape(-1, size, size)
    return Response(heat_map_png(levels[class_index]), mimetype="image/png")


def _requested_row(id: str, number: int) -> tuple[ServedFile, ServedTable, RowValues]:
    file, table = requested_table(id)
    row = table.row(number)
    if row is None:
        raise NotFound("There is no such row any more.")
    return file, table, row


def _geometry(table: Table) -> str:
    recipe = table.provenance.get("recipe")
    return "pad" if isinstance(recipe, dict) and recipe.get("geometry") == "pad" else "squeeze"

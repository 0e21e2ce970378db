"""Small pictures of some rows of a table, read anew from the archive, each with its heat map.

The files are hostile here as they are for the scorer: child processes read them. What the archive
gives now must be what was scored, by the hash of the network's input; else nothing of it is shown.
"""

import base64
import io
import os
import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

from cxrbatch.model.preprocessing import Recipe, area_resize, image_hash
from cxrbatch.reading.containers import list_members
from cxrbatch.reading.grey import GreyImage
from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import Reading, ReadingOptions, read_member, read_radiographs
from cxrbatch.results.paths import text_to_path, text_to_place
from cxrbatch.results.table import Table
from cxrbatch.scoring.isolation import Fault, IsolatedProcess, Limits, Nursery

EDGE = 320
_QUALITY = 75
_SECONDS = 20.0
_MOST_PROCESSES = 4
_HEAT_EDGE = 96
_HEAT_COLOUR, _HEAT_OPACITY = (255, 96, 0), 0.75

MISSING = "not in the archive any more"
CHANGED = "changed since it was scored"
WITHHELD = "not shown: its header says that text may be burned into it"
NOT_AT_HAND = "the archive is not at hand"
UNKNOWN_RECIPE = "the table does not say how its images were read"


@dataclass(frozen=True, slots=True)
class Picture:
    """A row's image as data: URLs, or why there is none.

    Attributes:
        image: WebP, at most `EDGE` pixels; empty where there is none.
        heat: Its heat map, WebP with transparency; empty where there is none.
        width: In pixels.
        height: In pixels.
        absence: Why there is no image; empty where there is one.
    """

    image: Markup
    heat: Markup
    width: int
    height: int
    absence: str


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An image to be read."""

    path: str
    frame: int
    image_hash: str


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What a child gives: WebP bytes, or why there are none; and the shape of the whole image."""

    content: bytes
    shape: tuple[int, int]
    size: tuple[int, int]
    absence: str


def read_pictures(
    table: Table,
    rows: Sequence[int],
    heat_of: Sequence[int],
    *,
    archive: Path | None = None,
    workers: int = 1,
) -> dict[int, Picture]:
    """Read the pictures of some rows.

    Args:
        table: The table.
        rows: Rows with an image, from 0.
        heat_of: For each row the class whose heat map is laid over it.
        archive: Where the archive is; None for where it was.
        workers: Processes that read.

    Raises:
        TableError: The table is damaged.
        CxrbatchError: No process can be started.
    """
    columns = ["path", "frame", "image_hash", "flags", "heatmaps"]
    found = table.take(rows, columns).to_pylist()
    read_as = _recipe(table)
    if read_as is None:
        return {row: _absent(UNKNOWN_RECIPE) for row in rows}
    recipe, options = read_as
    root = _root(table) if archive is None else os.fsencode(archive)
    pictures = {}
    to_read: dict[int, _Wanted] = {}
    for row, facts in zip(rows, found, strict=True):
        if Flag.BURNED_IN_RISK.value in (facts["flags"] or ()):
            pictures[row] = _absent(WITHHELD)
        elif root is None or not os.path.isdir(root):
            pictures[row] = _absent(NOT_AT_HAND)
        else:
            to_read[row] = _Wanted(facts["path"], facts["frame"], facts["image_hash"] or "")
    draw = partial(_draw, root=root or b"", recipe=recipe, options=options)
    drawn = dict(zip(to_read, _in_children(draw, [*to_read.values()], workers), strict=True))
    for row, facts, number in zip(rows, found, heat_of, strict=True):
        if row in drawn:
            pictures[row] = _joined(drawn[row], table, facts["heatmaps"], number, recipe)
    return pictures


def _joined(
    drawn: _Drawn | Fault, table: Table, heatmaps: bytes | None, number: int, recipe: Recipe
) -> Picture:
    if isinstance(drawn, Fault) or drawn.absence:
        return _absent(MISSING if isinstance(drawn, Fault) else drawn.absence)
    heat = b""
    if heatmaps:
        levels = np.frombuffer(heatmaps, np.uint8).reshape(len(table.classes), -1)[number]
        heat = heat_layer(levels, shape=drawn.shape, geometry=recipe.geometry)
    image, layer = (_data_url(content) for content in (drawn.content, heat))
    return Picture(image, layer, *drawn.size, "")


def heat_layer(levels: npt.NDArray[np.uint8], *, shape: tuple[int, int], geometry: str) -> bytes:
    """Draw one heat map as a layer for its image: WebP, the stronger the less transparent.

    Args:
        levels: The square map's cells, row by row.
        shape: Rows and columns of the image, in square pixels.
        geometry: Of the recipe: of "pad" the map covers the black borders too.
    """
    cells = round(len(levels) ** 0.5)
    square = levels.reshape(cells, cells).astype(np.float32)
    strength = square / max(float(square.max()), 1.0)
    grown = area_resize(strength, rows=_HEAT_EDGE, columns=_HEAT_EDGE).clip(0, 1)
    if geometry == "pad":
        rows, columns = (round(_HEAT_EDGE * side / max(shape)) or 1 for side in shape)
        top, left = (_HEAT_EDGE - rows) // 2, (_HEAT_EDGE - columns) // 2
        grown = grown[top : top + rows, left : left + columns]
    layer = np.empty((*grown.shape, 4), np.uint8)
    layer[..., :3] = _HEAT_COLOUR
    layer[..., 3] = np.rint(grown * (_HEAT_OPACITY * 255))
    return _webp(Image.fromarray(layer), quality=_QUALITY)


def _in_children(
    draw: "partial[_Drawn]", wanted: Sequence[_Wanted], workers: int
) -> Iterator[_Drawn | Fault]:
    """Read in several processes, each its share."""
    count = max(1, min(workers, _MOST_PROCESSES, len(wanted)))
    if not wanted:
        return
    nursery = Nursery()
    try:
        with ThreadPoolExecutor(count) as threads:
            shares = [wanted[start::count] for start in range(count)]
            read = list(threads.map(lambda share: _in_child(draw, share, nursery), shares))
    finally:
        nursery.close()
    for place in range(len(wanted)):
        yield read[place % count][place // count]


def _in_child(
    draw: "partial[_Drawn]", wanted: Sequence[_Wanted], nursery: Nursery
) -> list[_Drawn | Fault]:
    process = IsolatedProcess(nursery, Limits(seconds=_SECONDS))
    try:
        return list(process.map(draw, wanted))
    finally:
        process.close()


def _draw(wanted: _Wanted, *, root: bytes, recipe: Recipe, options: ReadingOptions) -> _Drawn:
    """Read one image and shrink it; runs in a child process."""
    reading = next(islice(_readings(wanted, root, options), wanted.frame, None), None)
    if reading is None or reading.outcome in (Outcome.UNREADABLE_FILE, Outcome.NOT_AN_IMAGE):
        return _Drawn(b"", (0, 0), (0, 0), MISSING)
    if reading.image is None or image_hash(recipe.prepare(reading.image)) != wanted.image_hash:
        return _Drawn(b"", (0, 0), (0, 0), CHANGED)
    rows, columns = _square_pixels(reading.image)
    scale = min(1.0, EDGE / max(rows, columns))
    height, width = (max(1, round(side * scale)) for side in (rows, columns))
    small = area_resize(reading.image.whole(), rows=height, columns=width)
    grey = Image.fromarray(np.rint(small.clip(0, 1) * 255).astype(np.uint8))
    content = _webp(grey.convert("RGB"), quality=_QUALITY)
    return _Drawn(content, (round(rows), round(columns)), (width, height), "")


def _readings(wanted: _Wanted, root: bytes, options: ReadingOptions) -> Iterator[Reading]:
    try:
        path, member = text_to_place(wanted.path)
    except ValueError:
        return
    # A table may have been edited: nothing outside the archive gets onto a page.
    if path.startswith(b"/") or b".." in path.split(b"/") or posixpath.normpath(path) != path:
        return
    location = os.path.join(root, path)
    if not os.path.isfile(location):
        return
    if member is None:
        yield from read_radiographs(location, options)
        return
    for entry in list_members(location):
        if entry.name == member and entry.kind == "file" and entry.fault is None:
            yield from read_member(location, member, entry.offset, options)
            return


def _square_pixels(image: GreyImage) -> tuple[float, float]:
    """Rows and columns once pixels are as high as wide."""
    rows, columns = image.shape
    if image.pixel_aspect > 1:
        return rows, max(1.0, columns / image.pixel_aspect)
    return max(1.0, rows * image.pixel_aspect), columns


def _recipe(table: Table) -> tuple[Recipe, ReadingOptions] | None:
    """How the table's images were read; None where it does not say so in a usable way."""
    try:
        recipe = Recipe.from_card(table.provenance["recipe"])
        limit = int(table.provenance.get("max_pixels", ReadingOptions().max_pixels))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return recipe, ReadingOptions(render_all=True, max_pixels=limit, no_voi=recipe.no_voi)


def _root(table: Table) -> bytes | None:
    try:
        return text_to_path(str(table.provenance["archive_root"]))
    except (KeyError, ValueError):
        return None


def _absent(why: str) -> Picture:
    return Picture(Markup(""), Markup(""), 0, 0, why)


def _webp(image: Image.Image, *, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=quality, method=4)
    return stream.getvalue()


def _data_url(content: bytes) -> Markup:
    return Markup("data:image/webp;base64," + base64.b64encode(content).decode() if content else "")

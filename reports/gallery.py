"""Reads the pictures of images to show from the archive, in child processes."""

import base64
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

from cxrbatch.model.prediction import grey_picture, heat_picture
from cxrbatch.reading.outcomes import Flag
from cxrbatch.results.table import Table
from cxrbatch.scoring.file_reader import UNKNOWN_ORIGIN, Origin, revisit
from cxrbatch.workers.forkserver_client import Forkserver
from cxrbatch.workers.worker import WorkerFault, WorkerLimits, WorkerProcess

EDGE = 320
_QUALITY = 75
_SECONDS = 20.0
_MOST_PROCESSES = 4
_HEAT_EDGE = 96
_HEAT_OPACITY = 0.75

WITHHELD = "not shown: its header says that text may be burned into it"
NOT_AT_HAND = "the archive is not at hand"
NOT_READ = "could not be read again"


@dataclass(frozen=True, slots=True)
class DataPicture:
    """An image with its heat map as data: URLs, or why there is none.

    Attributes:
        image: WebP, at most `EDGE` pixels high and wide; empty where there is none.
        heat: WebP layer to lay over the image; empty where there is no heat map.
        width: In pixels; 0 where there is no image.
        height: Likewise.
        absence: Why there is no image, for a reader; empty where there is one.
    """

    image: Markup
    heat: Markup
    width: int
    height: int
    absence: str


@dataclass(frozen=True, slots=True)
class GalleryImage:
    """A row of a table that a page shows.

    Attributes:
        row: Its number in the table, from 1.
        prediction: Name of the most probable class.
        probability: Probability of that class.
        truth: Name of the true class; None where unknown.
        flags: Codes of remarks on the image.
        ood_score: How unlike the images of training it is, in [0, 100]; None without a gate.
        ood_kind: What the gate takes it for; None where it does not say.
        path: Path in the archive; None where the page may not show paths.
        picture: The image and its heat map.
    """

    row: int
    prediction: str
    probability: float
    truth: str | None
    flags: tuple[str, ...]
    ood_score: float | None
    ood_kind: str | None
    path: str | None
    picture: DataPicture

    def figures(self) -> dict[str, Any]:
        """Return the image's entry for the JSON file: no picture, but why it is not shown."""
        values = {
            name: getattr(self, name)
            for name in ("row", "prediction", "probability", "flags", "ood_score", "ood_kind")
        }
        path = {"path": self.path} if self.path else {}
        return {**values, "not_shown": self.picture.absence or None, "truth": self.truth, **path}


@dataclass(frozen=True, slots=True)
class PictureSource:
    """Where the report reads pictures from, and whether a page may show their paths.

    Attributes:
        archive: The archive's folder now; None for where it was scored.
        show_paths: Whether paths may be shown.
        workers: Number of processes that read images; at most 4 are used.
    """

    archive: Path | None = None
    show_paths: bool = False
    workers: int = 1


AS_SCORED = PictureSource()
"""The archive lies where it was scored, no path is shown, one process reads."""


def gallery_images(
    table: Table,
    rows: Sequence[int],
    predicted: Sequence[int],
    probability: Sequence[float],
    truth: Sequence[str | None],
    source: PictureSource,
) -> list[GalleryImage]:
    """Read the pictures of some scored rows, and collect what the page says under each.

    One image is returned for each row, in the order of `rows`.

    Args:
        table: The table.
        rows: Row numbers, from 0.
        predicted: Of each row the class index, whose heat map is shown.
        probability: Of each row the probability of that class.
        truth: Of each row the name of its true class, or None.
        source: Where the pictures are, and whether paths may be shown.

    Raises:
        TableError: The table is damaged.
        CxrbatchError: No process can be started.
    """
    pictures = read_pictures(table, rows, predicted, source)
    values = table.take(rows, ["path", "image_flags", "ood_score", "ood_kind"]).to_pylist()
    return [
        GalleryImage(
            row=row + 1,
            prediction=table.classes[number],
            probability=share,
            truth=true,
            flags=tuple(value["image_flags"] or ()),
            ood_score=value["ood_score"],
            ood_kind=value["ood_kind"],
            path=value["path"] if source.show_paths else None,
            picture=pictures[row],
        )
        for row, number, share, true, value in zip(
            rows, predicted, probability, truth, values, strict=True
        )
    ]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An image to read."""

    path: str
    frame: int
    image_hash: str


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The answer of a child: WebP bytes with their width and height, or why there are none."""

    content: bytes = b""
    size: tuple[int, int] = (0, 0)
    absence: str = ""


def read_pictures(
    table: Table,
    rows: Sequence[int],
    heat_of: Sequence[int],
    source: PictureSource,
) -> dict[int, DataPicture]:
    """Read the pictures of some rows in child processes, and draw their heat maps.

    Args:
        table: The table.
        rows: Rows with an image, from 0.
        heat_of: For each row the index of the class whose heat map is drawn.
        source: Where the archive is, and how many processes read.

    Returns:
        Row -> picture. A picture only says why it is absent if text may be burned into the image;
        the archive is unknown or not at hand; or the image is not in it, has changed, or cannot be
        read.

    Raises:
        TableError: The table is damaged.
        CxrbatchError: No process can be started.
    """
    columns = ["path", "frame", "image_hash", "image_flags", "heatmaps"]
    found = table.take(rows, columns).to_pylist()
    archive = source.archive
    root = None if archive is None else os.path.abspath(os.fsencode(archive))
    origin = Origin.of(table, root=root)
    if origin is None:
        return {row: _absent(UNKNOWN_ORIGIN) for row in rows}
    pictures = {}
    to_read: dict[int, _Wanted] = {}
    for row, facts in zip(rows, found, strict=True):
        if Flag.BURNED_IN_RISK.value in (facts["image_flags"] or ()):
            pictures[row] = _absent(WITHHELD)
        elif not os.path.isdir(origin.root):
            pictures[row] = _absent(NOT_AT_HAND)
        else:
            to_read[row] = _Wanted(facts["path"], facts["frame"], facts["image_hash"] or "")
    draw = partial(_draw, origin=origin)
    drawn = dict(zip(to_read, _in_children(draw, [*to_read.values()], source.workers), strict=True))
    for row, facts, number in zip(rows, found, heat_of, strict=True):
        if row in drawn:
            pictures[row] = _joined(
                drawn[row], table, facts["heatmaps"], number, origin.recipe.geometry
            )
    return pictures


def _joined(
    drawn: _Drawn | WorkerFault, table: Table, heatmaps: bytes | None, number: int, geometry: str
) -> DataPicture:
    if isinstance(drawn, WorkerFault) or drawn.absence:
        return _absent(NOT_READ if isinstance(drawn, WorkerFault) else drawn.absence)
    heat = b""
    if heatmaps:
        levels = np.frombuffer(heatmaps, np.uint8).reshape(len(table.classes), -1)[number]
        heat = _webp(_heat_layer(levels, size=drawn.size, geometry=geometry))
    image, layer = (_data_url(content) for content in (drawn.content, heat))
    return DataPicture(image, layer, *drawn.size, "")


def _heat_layer(
    levels: npt.NDArray[np.uint8], *, size: tuple[int, int], geometry: str
) -> Image.Image:
    """Draw the cells of one square map, row by row, as a layer for a picture of some size."""
    cells = round(len(levels) ** 0.5)
    square = levels.reshape(cells, cells).astype(np.float32)
    strength = square / max(float(square.max()), 1.0)
    padded = size if geometry == "pad" else None
    return heat_picture(strength, edge=_HEAT_EDGE, opacity=_HEAT_OPACITY, padded=padded)


def _in_children(
    draw: "partial[_Drawn]", wanted: Sequence[_Wanted], workers: int
) -> Iterator[_Drawn | WorkerFault]:
    """Draw images in several child processes, each its share; yield them in order."""
    count = max(1, min(workers, _MOST_PROCESSES, len(wanted)))
    if not wanted:
        return
    # Else each child would import this module while its first image waits, with a limit of time.
    forkserver = Forkserver(preload=(__name__,))
    try:
        with ThreadPoolExecutor(count) as threads:
            shares = [wanted[start::count] for start in range(count)]
            read = list(threads.map(lambda share: _in_child(draw, share, forkserver), shares))
    finally:
        forkserver.close()
    for place in range(len(wanted)):
        yield read[place % count][place // count]


def _in_child(
    draw: "partial[_Drawn]", wanted: Sequence[_Wanted], forkserver: Forkserver
) -> list[_Drawn | WorkerFault]:
    process = WorkerProcess(forkserver, WorkerLimits(seconds=_SECONDS))
    try:
        return list(process.map(draw, wanted))
    finally:
        process.close()


def _draw(wanted: _Wanted, *, origin: Origin) -> _Drawn:
    """Read one image and shrink it; runs in a child process."""
    reading = revisit(origin, wanted.path, wanted.frame, wanted.image_hash)
    if isinstance(reading, str):
        return _Drawn(absence=reading)
    assert reading.image is not None
    small = grey_picture(reading.image, longest=EDGE).convert("RGB")
    return _Drawn(_webp(small), small.size)


def _absent(why: str) -> DataPicture:
    return DataPicture(Markup(""), Markup(""), 0, 0, why)


def _webp(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=_QUALITY, method=4)
    return stream.getvalue()


def _data_url(content: bytes) -> Markup:
    return Markup("data:image/webp;base64," + base64.b64encode(content).decode() if content else "")

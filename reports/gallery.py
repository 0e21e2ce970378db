"""Which images are worth a look: the surest right, the surest wrong, the least sure."""

import base64
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

from cxrbatch.model.overlays import grey_picture, heat_picture
from cxrbatch.reading.outcomes import Flag
from cxrbatch.results.table import Table
from cxrbatch.scoring.revisiting import MISSING, UNKNOWN_ORIGIN, Origin, revisit
from cxrbatch.workers.forkserver_client import Forkserver
from cxrbatch.workers.worker import WorkerFault, WorkerLimits, WorkerProcess

EACH = 3
_LOOKED_THROUGH = 64

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Choice:
    """Images of one kind.

    Attributes:
        title: What they have in common.
        positions: At most `EACH`, the most telling first.
    """

    title: str
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ClassChoices:
    """The images chosen of those that were predicted to be of one class."""

    name: str
    choices: tuple[Choice, ...]


def choose(
    predicted: npt.NDArray[np.int16],
    probabilities: npt.NDArray[np.float32],
    truth: npt.NDArray[np.int16] | None,
    pictures: npt.NDArray[np.integer],
    *,
    classes: Sequence[str],
) -> tuple[ClassChoices, ...]:
    """Choose images class by class; of equal pictures one.

    Args:
        predicted: Shape (n,), class indices.
        probabilities: Shape (n, classes).
        truth: Shape (n,), class indices; None where nothing is known.
        pictures: Shape (n,), equal numbers for equal pictures.
        classes: Names.
    """
    n = len(predicted)
    confidence = probabilities[np.arange(n), predicted] if n else np.empty(0, np.float32)
    second = np.partition(probabilities, -2, axis=1)[:, -2] if n else confidence
    found = []
    for number, name in enumerate(classes):
        of_class = predicted == number
        kinds = {"Surest": (of_class, -confidence)}
        if truth is not None:
            kinds = {
                "Surest and right": (of_class & (truth == number), -confidence),
                "Surest and wrong": (of_class & (truth != number), -confidence),
            }
        kinds["Least sure"] = (of_class, confidence - second)
        choices = [
            Choice(title, _first(np.flatnonzero(chosen), rank, pictures))
            for title, (chosen, rank) in kinds.items()
        ]
        found.append(ClassChoices(name, tuple(choices)))
    return tuple(found)


def _first(
    chosen: Positions, rank: npt.NDArray[np.float32], pictures: npt.NDArray[np.integer]
) -> tuple[int, ...]:
    """The positions with the smallest rank, each picture once."""
    if len(chosen) > _LOOKED_THROUGH:
        nearest = np.argpartition(rank[chosen], _LOOKED_THROUGH)[:_LOOKED_THROUGH]
        chosen = np.sort(chosen[nearest])
    once: dict[int, int] = {}
    for position in chosen[np.argsort(rank[chosen], kind="stable")].tolist():
        once.setdefault(int(pictures[position]), position)
    return tuple(once.values())[:EACH]


EDGE = 320
_QUALITY = 75
_SECONDS = 20.0
_MOST_PROCESSES = 4
_HEAT_EDGE = 96
_HEAT_OPACITY = 0.75

WITHHELD = "not shown: its header says that text may be burned into it"
NOT_AT_HAND = "the archive is not at hand"


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
    """What a child gives: WebP bytes with their width and height, or why there are none."""

    content: bytes = b""
    size: tuple[int, int] = (0, 0)
    absence: str = ""


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
    origin = Origin.of(
        table, root=None if archive is None else os.path.abspath(os.fsencode(archive))
    )
    if origin is None:
        return {row: _absent(UNKNOWN_ORIGIN) for row in rows}
    pictures = {}
    to_read: dict[int, _Wanted] = {}
    for row, facts in zip(rows, found, strict=True):
        if Flag.BURNED_IN_RISK.value in (facts["flags"] or ()):
            pictures[row] = _absent(WITHHELD)
        elif not os.path.isdir(origin.root):
            pictures[row] = _absent(NOT_AT_HAND)
        else:
            to_read[row] = _Wanted(facts["path"], facts["frame"], facts["image_hash"] or "")
    draw = partial(_draw, origin=origin)
    drawn = dict(zip(to_read, _in_children(draw, [*to_read.values()], workers), strict=True))
    for row, facts, number in zip(rows, found, heat_of, strict=True):
        if row in drawn:
            pictures[row] = _joined(
                drawn[row], table, facts["heatmaps"], number, origin.recipe.geometry
            )
    return pictures


def _joined(
    drawn: _Drawn | WorkerFault, table: Table, heatmaps: bytes | None, number: int, geometry: str
) -> Picture:
    if isinstance(drawn, WorkerFault) or drawn.absence:
        return _absent(MISSING if isinstance(drawn, WorkerFault) else drawn.absence)
    heat = b""
    if heatmaps:
        levels = np.frombuffer(heatmaps, np.uint8).reshape(len(table.classes), -1)[number]
        heat = _webp(_heat_layer(levels, size=drawn.size, geometry=geometry))
    image, layer = (_data_url(content) for content in (drawn.content, heat))
    return Picture(image, layer, *drawn.size, "")


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
    """Read in several processes, each its share."""
    count = max(1, min(workers, _MOST_PROCESSES, len(wanted)))
    if not wanted:
        return
    forkserver = Forkserver(preload=("cxrbatch.scoring.file_reader",))
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


def _absent(why: str) -> Picture:
    return Picture(Markup(""), Markup(""), 0, 0, why)


def _webp(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=_QUALITY, method=4)
    return stream.getvalue()


def _data_url(content: bytes) -> Markup:
    return Markup("data:image/webp;base64," + base64.b64encode(content).decode() if content else "")

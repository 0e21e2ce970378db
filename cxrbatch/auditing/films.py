"""Reads the films of table rows from their archive once more, with what their files are like.

Worker processes run this module, so it imports no torch.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from warnings import catch_warnings, simplefilter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from cxrbatch.auditing.parts import cells_of, packed, read_part, write_part
from cxrbatch.files import text_to_path
from cxrbatch.model.preprocessing import ModelInput
from cxrbatch.reading.display import Display, GreyImage
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.scoring.file_reader import Origin, revisit
from cxrbatch.workers.pool import ReadingPool
from cxrbatch.workers.scheduler import PendingItem
from cxrbatch.workers.worker import WorkerLimits

CHUNK_FILMS = 1024
"""Films that are put on the disk at a time."""

NUMBERS = ("sharpness", "image_rows", "image_columns", "jpeg_quantisation")
"""Measures of a film's file, see `FilmFacts`."""

_RIM, _BLOCK = 0.1, 256


class WantedFilm(NamedTuple):
    """A row of a results table whose film is to be read.

    Attributes:
        path: The row's `path`.
        frame: The row's `frame`.
        image_hash: The row's `image_hash`.
        size: The row's `file_size`, bytes.
    """

    path: str
    frame: int
    image_hash: str
    size: int


@dataclass(frozen=True, slots=True)
class FilmFacts:
    """What was read of one film.

    Attributes:
        prepared: The network's input, shape (size, size), uint8; None if the film was not read.
        absence: Why it was not read, for a person; empty if it was.
        sharpness: Of the film's rim, from `sharpness_of`; NaN where unknown.
        image_rows: Rows of the display image; NaN where unknown.
        image_columns: Columns, likewise.
        jpeg_quantisation: Mean of the first quantisation table of a JPEG file; NaN for other files
            and for members of containers.
    """

    prepared: ModelInput | None
    absence: str = ""
    sharpness: float = math.nan
    image_rows: float = math.nan
    image_columns: float = math.nan
    jpeg_quantisation: float = math.nan


@dataclass(frozen=True, slots=True)
class FilmReader:
    """Reads films; is pickled and sent to the worker processes.

    Attributes:
        origin: Where the table's images are.
    """

    origin: Origin

    def read(self, wanted: WantedFilm) -> FilmFacts:
        """Read one film, and check that it is the one that was scored."""
        reading = revisit(self.origin, wanted.path, wanted.frame, wanted.image_hash)
        if isinstance(reading, str):
            return FilmFacts(None, reading)
        assert reading.image is not None
        return FilmFacts(
            self.origin.recipe.prepare(reading.image),
            sharpness=sharpness_of(reading.image),
            image_rows=reading.image.shape[0],
            image_columns=reading.image.shape[1],
            jpeg_quantisation=_jpeg_quantisation(self.origin.root, wanted.path),
        )

    def failed(self, wanted: WantedFilm, outcome: Outcome, detail: str) -> FilmFacts:
        """Return the result for a film whose worker process was lost."""
        return FilmFacts(None, outcome.meaning)


def sharpness_of(image: GreyImage) -> float:
    """Measure how sharp the rim of a film is, a tenth of its edge on each side.

    The rim has no lung: how a file was made shows there, and no disease.

    Args:
        image: The display image; only its rim is held in memory.

    Returns:
        The mean squared difference of neighbours over twice the variance, mean of the four sides:
        near 0 for a blurred film, 1 for noise; NaN where a side has one grey level.
    """
    rows, columns = image.shape
    high, wide = (max(2, round(edge * _RIM)) for edge in (rows, columns))
    sides = [image.rows(0, high), image.rows(max(rows - high, 0), rows)]
    for part in (slice(None, wide), slice(-wide, None)):
        strips = [
            image.rows(top, min(top + _BLOCK, rows))[:, part].copy()
            for top in range(0, rows, _BLOCK)
        ]
        sides.append(np.concatenate(strips))
    return float(np.mean([_roughness(side) for side in sides]))


def _roughness(display: Display) -> float:
    variance = float(display.var(dtype=np.float64))
    if variance <= 0.0 or min(display.shape) < 2:
        return math.nan
    steps = [
        float(np.square(np.diff(display, axis=axis)).mean(dtype=np.float64)) for axis in (0, 1)
    ]
    return sum(steps) / 4.0 / variance


def _jpeg_quantisation(root: bytes, path: str) -> float:
    # The file is hostile, and was read already: whatever is wrong here is no reason to lose it.
    with suppress(Exception), catch_warnings():
        simplefilter("ignore")
        location = os.path.join(root, text_to_path(path))
        with Image.open(os.fsdecode(location), formats=["JPEG"]) as image:
            return float(np.mean(vars(image)["quantization"][0]))
    return math.nan


class FilmSet(NamedTuple):
    """Films of some rows, read once, in the order of the rows.

    Attributes:
        inputs: For each chunk of at most `CHUNK_FILMS` rows the network inputs, shape (n, size,
            size), uint8, mapped from a file; zeros for a film that was not read.
        size: Edge of an input in pixels.
        absences: For each row why its film was not read; empty if it was.
        numbers: Shape (rows, 4), float64: the measures `NUMBERS`; NaN where unknown.
    """

    inputs: tuple[npt.NDArray[np.uint8], ...]
    size: int
    absences: tuple[str, ...]
    numbers: npt.NDArray[np.float64]

    @property
    def is_read(self) -> npt.NDArray[np.bool_]:
        """Whether the film of each row was read, shape (rows,)."""
        return np.array([not absence for absence in self.absences], np.bool_)


def read_films(
    wanted: Sequence[WantedFilm],
    reader: FilmReader,
    *,
    folder: Path,
    run: str,
    workers: int,
    limits: WorkerLimits,
    advance: Callable[[int], object],
) -> FilmSet:
    """Read films into files of a folder, chunk by chunk; chunks that are there are kept.

    Args:
        wanted: The rows.
        reader: Reads one film.
        folder: Where the files are written.
        run: Id of the run: files of another one are written anew.
        workers: Processes that read; 0 reads in this process.
        limits: Time and memory for one film.
        advance: Called with a number of films when so many are read or were there.

    Raises:
        OSError: A file cannot be written.
        CxrbatchError: No process can be started.
    """
    size = reader.origin.recipe.size
    places = [folder / f"films-{number:06d}.arrow" for number, _ in enumerate(chunks(len(wanted)))]
    missing = [p for p in places if read_part(p, run=run) is None]
    spans = dict(zip(places, chunks(len(wanted)), strict=True))
    if missing:
        with ReadingPool(reader, workers=workers, limits=limits, result_bytes=size**2) as pool:
            items = (PendingItem(row, wanted[row]) for p in missing for row in spans[p])
            read: Iterator[FilmFacts] = pool.map(items)
            for place in missing:
                films = [_counted(next(read), advance) for _ in spans[place]]
                write_part(place, _columns(films, size=size), run=run)
    advance(len(wanted) - sum(len(spans[p]) for p in missing))
    return _joined([read_part(place, run=run) for place in places], size=size)


def no_films(count: int, *, size: int, absence: str) -> FilmSet:
    """Return a set of films of which none was read, all for one reason.

    Args:
        count: Number of rows.
        size: Edge of an input in pixels.
        absence: The reason, for a person.
    """
    inputs = tuple(np.zeros((len(rows), size, size), np.uint8) for rows in chunks(count))
    return FilmSet(inputs, size, (absence,) * count, np.full((count, len(NUMBERS)), np.nan))


def chunks(count: int) -> list[range]:
    """Divide rows from 0 to `count` - 1 into consecutive ranges of at most `CHUNK_FILMS`."""
    return [range(start, min(start + CHUNK_FILMS, count)) for start in range(0, count, CHUNK_FILMS)]


def _counted(film: FilmFacts, advance: Callable[[int], object]) -> FilmFacts:
    advance(1)
    return film


def _columns(films: Sequence[FilmFacts], *, size: int) -> dict[str, pa.Array]:
    nothing = np.zeros((size, size), np.uint8)
    inputs = np.stack([nothing if film.prepared is None else film.prepared for film in films])
    measures = {name: pa.array([float(getattr(f, name)) for f in films]) for name in NUMBERS}
    absences = pa.array([film.absence for film in films], pa.string())
    return {"input": packed(inputs), "absence": absences, **measures}


def _joined(parts: Sequence[pa.Table | None], *, size: int) -> FilmSet:
    inputs, absences, numbers = [], [], [np.empty((0, len(NUMBERS)))]
    for part in parts:
        assert part is not None  # each was just written or found whole
        inputs.append(cells_of(part["input"], np.uint8, (size, size)))
        absences += part["absence"].to_pylist()
        numbers.append(np.stack([part[name].to_numpy() for name in NUMBERS], axis=1))
    return FilmSet(tuple(inputs), size, tuple(absences), np.concatenate(numbers))

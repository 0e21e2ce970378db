"""Child processes with limits that read untrusted files, and the functions that they run.

Every child imports this module, so no import at its top may load torch, Flask or DuckDB.
"""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from cxrbatch.errors import LabelError, TableError
from cxrbatch.model.prediction import grey_picture
from cxrbatch.reading.display import GreyImage
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.file_reader import FileReader, LoadedFile, Origin, revisit
from cxrbatch.workers.forkserver_client import Forkserver, ForkserverClosed
from cxrbatch.workers.worker import WorkerFault, WorkerLimits, WorkerProcess

if TYPE_CHECKING:
    from cxrbatch.results.analysis import Flow
    from cxrbatch.results.figures import Headline
    from cxrbatch.results.label_files import LabelOptions

MAX_FRAMES = 16
"""Number of frames of an upload that are read; the frames after them are skipped."""

NO_TRUTH = "the truth of no scored image is known"
"""What `evaluate_table` returns for a table without a truth."""

_MAX_UPLOAD_EDGE = 1600
_THUMBNAIL_EDGE = 192
_THUMBNAIL_QUALITY = 80
# A fast level of zlib: a radiograph is large, and the way to the browser is short.
_PNG_LEVEL = 1

P = ParamSpec("P")
Result = TypeVar("Result")


class ServerBusy(Exception):
    """The server has no room for a request now; the message says why. It is answered with 503."""


class WorkQueue:
    """Limits how many threads do one kind of work at the same time, and how many wait for it."""

    def __init__(self, *, running: int, waiting: int) -> None:
        """Create an empty queue.

        Args:
            running: Number of threads that may work at the same time.
            waiting: Number of threads that may wait.
        """
        self._places = threading.BoundedSemaphore(running + waiting)
        self._running = threading.BoundedSemaphore(running)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until this thread may work; the work is the body of the `with` statement.

        Raises:
            ServerBusy: At once, if as many threads wait already as may wait.
        """
        if not self._places.acquire(blocking=False):
            raise ServerBusy("Too many requests of this kind wait already")
        try:
            with self._running:
                yield
        finally:
            self._places.release()


class ChildProcesses:
    """Calls functions on untrusted files, each call in a child process that ends with the call.

    Attributes:
        is_closed: Whether `close` was called, as it is when the server ends.
    """

    def __init__(self, limits: WorkerLimits) -> None:
        """Store the limits; the first call starts the first process.

        Args:
            limits: Time and memory that one call may use.
        """
        self._limits = limits
        self._lock = threading.Lock()
        self._forkserver: Forkserver | None = None
        self.is_closed = False

    def call(
        self,
        function: Callable[P, Result],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Result | WorkerFault:
        """Return `function(*args, **kwargs)`, computed in a child process.

        Args:
            function: A function of a module, as the child imports it by its name.
            args: Positional arguments, which are pickled.
            kwargs: Keyword arguments, which are pickled.

        Returns:
            The function's result; or a WorkerFault where the function raised an exception, or the
            child crashed or exceeded a limit.

        Raises:
            CxrbatchError: No process can be started.
            ForkserverClosed: `close` was called.
        """
        process = WorkerProcess(self._started(), self._limits)
        try:
            (result,) = process.map(_call, [partial(function, *args, **kwargs)])
        finally:
            process.close()
        return result

    def close(self) -> None:
        """End all child processes; later calls raise ForkserverClosed."""
        with self._lock:
            self.is_closed = True
            if self._forkserver is not None:
                self._forkserver.close()

    def _started(self) -> Forkserver:
        with self._lock:
            if self.is_closed:
                raise ForkserverClosed
            if self._forkserver is None:
                self._forkserver = Forkserver(preload=(__name__,))
            return self._forkserver


def _call(function: "partial[Result]") -> Result:
    return function()


def encode_row_image(
    origin: Origin, path: str, frame: int, image_hash: str, *, is_thumbnail: bool
) -> bytes | str:
    """Read the image of a table's row again from its archive, and encode it.

    Args:
        origin: Archive of the table, and how its files were read.
        path: The row's `path`.
        frame: The row's `frame`.
        image_hash: The row's `image_hash`.
        is_thumbnail: Whether to return a WebP file of at most 192 x 192 pixels instead of a PNG
            file of full size.

    Returns:
        The content of the image file as bytes; or, as a text of one line, why there is none: the
        archive has no such file any more, it cannot be read, or its image has another hash.
    """
    reading = revisit(origin, path, frame, image_hash)
    if isinstance(reading, str):
        return reading
    assert reading.image is not None
    if not is_thumbnail:
        return encode_png(reading.image)
    stream = io.BytesIO()
    small = grey_picture(reading.image, longest=_THUMBNAIL_EDGE).convert("RGB")
    small.save(stream, format="WEBP", quality=_THUMBNAIL_QUALITY)
    return stream.getvalue()


def encode_png(image: GreyImage, *, max_edge: int | None = None) -> bytes:
    """Encode a display image as an 8-bit greyscale PNG.

    Args:
        image: The display image.
        max_edge: Largest number of rows and columns of the PNG, to which a larger image is shrunk;
            None for no limit. Pixels that are not square are made square by shrinking.

    Returns:
        The content of the PNG file.
    """
    stream = io.BytesIO()
    grey_picture(image, longest=max_edge).save(stream, format="PNG", compress_level=_PNG_LEVEL)
    return stream.getvalue()


def read_upload(reader: FileReader, file: ArchiveFile) -> tuple[LoadedFile, bytes]:
    """Read the first `MAX_FRAMES` (16) frames of an uploaded file; decode each of them once.

    Args:
        reader: Reads the file as a run does.
        file: The file; its path is relative to the reader's base folder.

    Returns:
        Rows and network inputs of the frames; and the first frame as PNG, shrunk to at most 1600
        rows and columns, or b"" where the first frame gave no image.
    """
    pairs, first_png = [], b""
    for reading, row in islice(reader.frames(file), MAX_FRAMES):
        pairs.append(row)
        if len(pairs) == 1 and reading.image is not None:
            first_png = encode_png(reading.image, max_edge=_MAX_UPLOAD_EDGE)
    return LoadedFile.stack(pairs, size=reader.recipe.size), first_png


@dataclass(frozen=True, slots=True)
class RunEvaluation:
    """The main figures of a run, and the truth that its scores were compared with.

    Attributes:
        headline: The main figures of `cxrbatch report`.
        flow: How many images and labels were left out, and why.
        truth: Where the truth comes from, for a reader: "a file of labels, joined by path".
        is_from_labels: Whether that is a file of labels, not the table itself.
        notes: What was done with the labels beside joining them, a sentence each.
    """

    headline: "Headline"
    flow: "Flow"
    truth: str
    is_from_labels: bool
    notes: tuple[str, ...]


def evaluate_table(
    path: Path, labels: Path | None = None, options: "LabelOptions | None" = None
) -> RunEvaluation | str:
    """Compare the scores of a table with the truth, as `cxrbatch report` does.

    Args:
        path: The table.
        labels: A file of labels; None to use the table's own truth.
        options: How labels are read and joined; None for the usual way.

    Returns:
        The main figures of the report, or in one line why there are none; `NO_TRUTH` where there
        are neither labels, nor a column truth, nor class folders. The line has neither path.
    """
    # These import pandas and scikit-learn, which other children do without.
    from cxrbatch.results.analysis import analyse
    from cxrbatch.results.evaluation import headline_of_analysis
    from cxrbatch.results.label_files import LabelOptions

    try:
        analysis = analyse(path, labels, label_options=options or LabelOptions())
        if analysis.truth is None:
            return NO_TRUTH
        if len(analysis.all_images) > len(analysis.chosen) == 0:
            return "all scored images with a truth are flagged as lateral or as no chest"
        headline = headline_of_analysis(analysis)
    except LabelError as error:
        message = str(error).replace(str(path), "the table")
        if labels is None:
            return message
        return f"the labels cannot be used: {message.replace(str(labels), labels.name)}"
    except TableError as error:
        return str(error).replace(str(path), "the table")
    truth = analysis.truth
    return RunEvaluation(headline, analysis.flow, truth.source, labels is not None, truth.notes)

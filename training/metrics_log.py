"""The file of metrics that grows by a line of JSON with each epoch."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from pathlib import Path

from cxrbatch.errors import TableError
from cxrbatch.files import disk_errors, written_whole
from cxrbatch.training.loop import EpochMetrics


class MetricsLog:
    """Writes the metrics of each epoch, with its time and speed, as a line of JSON."""

    def __init__(self, path: Path) -> None:
        """Write nothing yet; `start` does.

        Args:
            path: The file.
        """
        self._path = path
        self._epochs = self._images = 0
        self._restart_clock()

    def start(self, history: Sequence[EpochMetrics]) -> None:
        """Make the file contain the epochs that are done, each once.

        A line of the file that has the metrics of such an epoch stays, with its time. Where there
        is none, as after a kill, one is written whose time and speed are null.

        Args:
            history: The epochs that are done; without any the file becomes empty.

        Raises:
            TableError: The file cannot be read or written.
        """
        with self._writing():
            existing = self._path.read_bytes() if history and self._path.exists() else None
            known = {line["number"]: line for line in _lines(existing or b"")}
            content = b"".join(_renewed(epoch, known) for epoch in history)
            # A file that is followed (tail -f) is left alone if it is right.
            if content != existing:
                with written_whole(self._path) as file:
                    file.write(content)
        self._epochs = len(history)
        self._restart_clock()

    def stepped(self, images: int) -> None:
        """Count the images of a step."""
        self._images += images
        self._last_step = time.monotonic()

    def append(self, metrics: EpochMetrics) -> None:
        """Append the line of an epoch, unless it was in the history that `start` got.

        The line has the metrics; "seconds", from the end of the epoch before to now, validation and
        saving included; and "images_per_second" of its steps alone.

        Raises:
            TableError: The file cannot be written.
        """
        if metrics.number > self._epochs:
            seconds = time.monotonic() - self._begin
            speed = self._images / max(self._last_step - self._begin, 1e-9)
            line = _line(metrics, seconds=round(seconds, 3), speed=round(speed, 1))
            with self._writing(), self._path.open("ab") as file:
                file.write(line)
            self._epochs = metrics.number
        self._restart_clock()

    def _restart_clock(self) -> None:
        self._begin = self._last_step = time.monotonic()
        self._images = 0

    def _writing(self) -> AbstractContextManager[None]:
        return disk_errors(
            f"cannot write {self._path}",
            full="free some space, then go on with --resume",
            other="check permissions and the disk, then go on with --resume",
            error=TableError,
        )


def _lines(content: bytes) -> Iterator[dict[str, object]]:
    """Yield the lines of a file that are whole and have a number."""
    for line in content.splitlines():
        with suppress(ValueError, RecursionError):
            found = json.loads(line)
            if isinstance(found, dict) and isinstance(found.get("number"), int):
                yield found


def _figures(metrics: EpochMetrics) -> dict[str, object]:
    """The metrics by name; JSON has no NaN, so null stands for it."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(metrics).items()
    }


def _line(metrics: EpochMetrics, *, seconds: float | None, speed: float | None) -> bytes:
    values = {**_figures(metrics), "seconds": seconds, "images_per_second": speed}
    return json.dumps(values).encode() + b"\n"


def _renewed(epoch: EpochMetrics, known: Mapping[object, Mapping[str, object]]) -> bytes:
    found, figures = known.get(epoch.number, {}), _figures(epoch)
    if all(name in found and found[name] == value for name, value in figures.items()):
        return json.dumps(found).encode() + b"\n"
    return _line(epoch, seconds=None, speed=None)

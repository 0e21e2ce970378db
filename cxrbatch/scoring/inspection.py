"""One file as the scorer sees it, with the images that a table has no room for."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxrbatch.errors import UsageError
from cxrbatch.model.checkpoint import Checkpoint, load_checkpoint
from cxrbatch.model.inference import DEFAULT_BATCH_SIZE, Scorer, choose_device, choose_precision
from cxrbatch.model.network import dequantise
from cxrbatch.model.preprocessing import area_resize
from cxrbatch.reading.containers.listing import members_named
from cxrbatch.reading.outcomes import Outcome, ReadingError, reading_error
from cxrbatch.reading.radiograph import Reading, ReadingOptions, read_member, read_radiographs
from cxrbatch.reading.readings import failed

_HEAT_COLOUR = np.array([255.0, 96.0, 0.0], dtype=np.float32)
_HEAT_OPACITY = 0.6


@dataclass(frozen=True, slots=True)
class Prediction:
    """Scores of one image.

    Attributes:
        label: The class with the highest probability.
        probabilities: By class name.
        logits: By class name.
        heatmaps: By class name, each of shape (h, w), float32, not negative.
    """

    label: str
    probabilities: dict[str, float]
    logits: dict[str, float]
    heatmaps: dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Inspection:
    """One frame: what was read, and its scores where a checkpoint was given."""

    reading: Reading
    prediction: Prediction | None


class Inspector:
    """Reads and scores single files by the same functions, in the same batch shape, as a run."""

    def __init__(
        self,
        checkpoint: Path | None,
        *,
        device: str = "auto",
        max_pixels: int = ReadingOptions().max_pixels,
    ) -> None:
        """Load a checkpoint, if one is given.

        Raises:
            CheckpointError: It cannot be used.
        """
        self._checkpoint: Checkpoint | None = None
        self._options = ReadingOptions(render_all=True, max_pixels=max_pixels)
        if checkpoint is not None:
            self._checkpoint = load_checkpoint(checkpoint)
            target = choose_device(device)
            self._scorer = Scorer(
                self._checkpoint,
                batch_size=DEFAULT_BATCH_SIZE,
                device=target,
                precision=choose_precision("auto", target),
            )
            self._options = replace(self._options, no_voi=self._checkpoint.card.recipe.no_voi)

    def inspect(self, file: bytes, member: bytes | None = None) -> Iterator[Inspection]:
        """Read a file; one result per frame, never an exception of the file's making.

        Args:
            file: Its path.
            member: Read the members of this name, of the container that the file is.

        Raises:
            UsageError: There is no such member.
        """
        if member is None:
            readings = read_radiographs(file, self._options)
        else:
            readings = self._members(file, member)
        for reading in readings:
            yield Inspection(reading, self._predict(reading))

    def _members(self, container: bytes, name: bytes) -> Iterator[Reading]:
        found = 0
        try:
            for member in members_named(container, name):
                if member.kind != "file":
                    continue
                found += 1
                if member.fault is None:
                    yield from read_member(container, name, member.offset, self._options)
                else:
                    yield failed("other", ReadingError(*member.fault))
        except Exception as error:
            if not found:
                yield failed("other", reading_error(error))
                return
        if not found:
            raise UsageError(f"{os.fsdecode(container)} has no such member")

    def _predict(self, reading: Reading) -> Prediction | None:
        if self._checkpoint is None or reading.image is None:
            return None
        if reading.outcome is not Outcome.SCORED:
            return None
        card = self._checkpoint.card
        scores = self._scorer.score(card.recipe.prepare(reading.image)[None])
        size = (scores.heatmaps.shape[2], scores.heatmaps.shape[3])
        maps = dequantise(
            scores.heatmaps[0].tobytes(),
            scale=float(scores.heatmap_scale[0]),
            classes=len(card.classes),
            size=size,
        )
        return Prediction(
            card.classes[int(scores.probabilities[0].argmax())],
            _by_class(card.classes, scores.probabilities[0]),
            _by_class(card.classes, scores.logits[0]),
            dict(zip(card.classes, maps, strict=True)),
        )


def grey_image(display: npt.NDArray[np.float32]) -> Image.Image:
    """Give a display image, shape (rows, columns) in [0, 1], as 8-bit greyscale."""
    return Image.fromarray(np.rint(display * 255.0).astype(np.uint8))


def overlay_image(
    display: npt.NDArray[np.float32], heatmap: npt.NDArray[np.float32]
) -> Image.Image:
    """Lay a heat map over its radiograph.

    Args:
        display: Shape (rows, columns), in [0, 1].
        heatmap: Shape (h, w), not negative; its largest value is drawn at full strength.
    """
    rows, columns = display.shape
    strength = area_resize(heatmap / max(float(heatmap.max()), 1e-30), rows=rows, columns=columns)
    opacity = (strength.clip(0.0, 1.0) * _HEAT_OPACITY)[:, :, None]
    grey = np.repeat(display[:, :, None] * 255.0, 3, axis=2)
    blended = grey * (1.0 - opacity) + _HEAT_COLOUR * opacity
    return Image.fromarray(np.rint(blended).astype(np.uint8))


def _by_class(classes: Sequence[str], values: npt.NDArray[np.float32]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(classes, values, strict=True)}

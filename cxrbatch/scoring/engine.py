"""The engine: walk, load, score, write. One row per file, in the walk's order."""

import errno
import os
import platform
import secrets
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cxrbatch import __version__
from cxrbatch.errors import TableError, UsageError
from cxrbatch.model.checkpoint import Checkpoint, load_checkpoint
from cxrbatch.model.inference import (
    DEFAULT_BATCH_SIZE,
    Precision,
    Scorer,
    choose_device,
    choose_precision,
    describe_device,
)
from cxrbatch.model.resnet import STRIDE
from cxrbatch.reading.outcomes import Kind, Outcome
from cxrbatch.reading.radiograph import ReadingOptions
from cxrbatch.results.paths import check_output, path_to_text
from cxrbatch.results.table import SCHEMA_VERSION, ImageScores, Row
from cxrbatch.scoring.allocation import keep_freed_memory
from cxrbatch.scoring.archive import Walk, read_manifest, write_manifest
from cxrbatch.scoring.loading import load_files
from cxrbatch.scoring.patients import patient_secret
from cxrbatch.scoring.rows import FileReader, LoadedFiles
from cxrbatch.scoring.writing import TableWriter, partial_folder, publish

ScoredRow = tuple[Row, ImageScores | None]


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """Options of one run.

    Attributes:
        batch_size: Images per forward pass.
        workers: Processes that read files.
        precision: "auto", "fp32", "bf16" or "fp16".
        device: "auto", "cpu", "cuda" or "cuda:N".
        follow_links: Follow symbolic links.
        max_pixels: Refuse images that claim more.
        modalities: DICOM modalities that are scored.
    """

    batch_size: int = DEFAULT_BATCH_SIZE
    workers: int = 1
    precision: Precision = "auto"
    device: str = "auto"
    follow_links: bool = False
    max_pixels: int = ReadingOptions().max_pixels
    modalities: frozenset[str] = ReadingOptions().modalities


@dataclass(slots=True)
class Summary:
    """What became of an archive.

    Attributes:
        output: The table.
        files: Files found.
        rows: Rows written; more than files where a file has several frames.
        outcomes: Rows per outcome code.
        predictions: Scored rows per predicted class.
        passed_over: What the walk did not read, by kind.
        seconds: From the first file read to the table in its place.
        device: Where the model ran.
        precision: At which precision.
        lasting_patient_keys: Whether the keys of patients will be the same in the next run.
    """

    output: Path
    files: int = 0
    rows: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    predictions: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    device: str = ""
    precision: str = ""
    lasting_patient_keys: bool = True

    @property
    def failures(self) -> int:
        """Images and folders that could not be read."""
        images = sum(self.outcomes[code] for code in Outcome if code.kind is Kind.FAILED)
        return images + self.passed_over["unreadable_folder"]


class Progress(Protocol):
    """Told how far a run is."""

    def found(self, files: int) -> None:
        """The walk has found so many files."""

    def start(self, files: int) -> None:
        """The walk is complete; scoring begins."""

    def advance(self, files: int) -> None:
        """So many more files are in the table."""


def score_archive(
    archive: Path,
    output: Path,
    *,
    checkpoint: Path,
    options: ScoringOptions,
    overwrite: bool,
    progress: Progress,
) -> Summary:
    """Score every file of an archive into a results table.

    Args:
        archive: A folder, or one file.
        output: The table to write; appears only when it is whole.
        checkpoint: What to score with.
        options: The run's options.
        overwrite: Replace an output that is there.
        progress: Told how far the run is.

    Raises:
        UsageError: The archive is missing or empty, or the output exists.
        CheckpointError: The checkpoint cannot be used.
        TableError: The table cannot be written.
        CxrbatchError: The model's scores are not finite.
    """
    check_output(output, overwrite=overwrite)
    loaded = load_checkpoint(checkpoint)
    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    scorer = Scorer(
        loaded,
        batch_size=options.batch_size,
        device=device,
        precision=choose_precision(options.precision, device),
    )
    summary = Summary(output, device=describe_device(device), precision=scorer.precision)
    try:
        with partial_folder(output) as folder:
            _run(archive, folder, loaded, scorer, options, progress, summary)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "; free space or choose another -o, then run again" if full else ""
        raise TableError(f"cannot write {output}: {error.strerror or error}{remedy}") from None
    return summary


def _run(
    archive: Path,
    folder: Path,
    checkpoint: Checkpoint,
    scorer: Scorer,
    options: ScoringOptions,
    progress: Progress,
    summary: Summary,
) -> None:
    walk = Walk(archive, follow_links=options.follow_links, skip=_own(folder, summary.output))
    manifest = folder / "manifest"
    with manifest.open("wb") as file:
        for count in write_manifest(walk, file):
            summary.files = count
            progress.found(count)
    summary.passed_over = walk.passed_over
    if not summary.files:
        raise UsageError(f"archive {archive} has no files")
    progress.start(summary.files)
    started = time.monotonic()
    reader = _reader(walk.base, checkpoint, options, summary)
    batches = load_files(read_manifest(manifest), reader, workers=options.workers)
    table = folder / "table"
    card = checkpoint.card
    writer = TableWriter(table, classes=card.classes, heatmap_size=heatmap_size(checkpoint))
    try:
        for row, scores in score_batches(_reporting(batches, progress), scorer):
            writer.add(row, scores)
            _count(summary, row, scores, card.classes)
        writer.finish(_provenance(walk.base, checkpoint, options, summary))
    except BaseException:
        writer.abandon()
        raise
    publish(table, summary.output)
    summary.seconds = time.monotonic() - started


def score_batches(loaded: Iterable[LoadedFiles], scorer: Scorer) -> Iterator[ScoredRow]:
    """Gather inputs to full batches, score them, and give the rows back in their order.

    Args:
        loaded: Rows with their inputs, in any portions.
        scorer: Scores up to its batch size at once.
    """
    waiting: deque[tuple[Row, npt.NDArray[np.uint8] | None]] = deque()
    ready = 0
    for portion in loaded:
        inputs = iter(portion.inputs)
        for row, scorable in zip(portion.rows, portion.scorable, strict=True):
            waiting.append((row, next(inputs) if scorable else None))
            ready += scorable
            if ready == scorer.batch_size or not ready:
                yield from _scored(waiting, scorer)
                ready = 0
    yield from _scored(waiting, scorer)


def heatmap_size(checkpoint: Checkpoint) -> int:
    """Height and width of one heat map in cells."""
    return -(-checkpoint.card.recipe.size // STRIDE)


def _scored(
    waiting: deque[tuple[Row, npt.NDArray[np.uint8] | None]], scorer: Scorer
) -> Iterator[ScoredRow]:
    inputs = [prepared for _, prepared in waiting if prepared is not None]
    scores = _image_scores(np.stack(inputs), scorer) if inputs else iter(())
    while waiting:
        row, prepared = waiting.popleft()
        yield row, None if prepared is None else next(scores)


def _image_scores(inputs: npt.NDArray[np.uint8], scorer: Scorer) -> Iterator[ImageScores]:
    batch = scorer.score(inputs)
    for i in range(len(inputs)):
        yield ImageScores(
            batch.logits[i],
            batch.probabilities[i],
            batch.heatmaps[i].tobytes(),
            float(batch.heatmap_scale[i]),
        )


def _reader(
    base: Path, checkpoint: Checkpoint, options: ScoringOptions, summary: Summary
) -> FileReader:
    recipe = checkpoint.card.recipe
    secret = patient_secret()
    summary.lasting_patient_keys = secret is not None
    reading = ReadingOptions(
        max_pixels=options.max_pixels, modalities=options.modalities, no_voi=recipe.no_voi
    )
    return FileReader(os.fsencode(base), recipe, reading, secret or secrets.token_bytes(32))


def _reporting(batches: Iterable[LoadedFiles], progress: Progress) -> Iterator[LoadedFiles]:
    for batch in batches:
        yield batch
        progress.advance(sum(row.frame == 0 for row in batch.rows))


def _count(
    summary: Summary, row: Row, scores: ImageScores | None, classes: tuple[str, ...]
) -> None:
    summary.rows += 1
    summary.outcomes[row.outcome] += 1
    if scores is not None:
        summary.predictions[classes[int(scores.probabilities.argmax())]] += 1


def _provenance(
    base: Path, checkpoint: Checkpoint, options: ScoringOptions, summary: Summary
) -> dict[str, Any]:
    card = checkpoint.card
    return {
        "schema_version": SCHEMA_VERSION,
        "classes": card.classes,
        "heatmap_size": heatmap_size(checkpoint),
        "checkpoint_sha256": checkpoint.sha256,
        "card": card.to_json(),
        "recipe": card.recipe.to_card(),
        "recipe_sha256": card.recipe.sha256,
        "precision": summary.precision,
        "device": summary.device,
        "batch_size": options.batch_size,
        "max_pixels": options.max_pixels,
        "modalities": sorted(options.modalities),
        "archive_root": path_to_text(os.fsencode(base.resolve())),
        "files": summary.files,
        "rows": summary.rows,
        "outcomes": dict(sorted(summary.outcomes.items())),
        "passed_over": dict(sorted(summary.passed_over.items())),
        "versions": {
            "cxrbatch": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torchvision", "pydicom", "pillow")},
        },
    }


def _own(folder: Path, output: Path) -> frozenset[tuple[int, int]]:
    own = [folder.stat()] + ([output.stat()] if output.exists() else [])
    return frozenset((state.st_dev, state.st_ino) for state in own)

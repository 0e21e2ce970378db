"""The files beside a checkpoint: examples of augmented images, curves, and the results table."""

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cxrbatch.files import path_to_text, writing, written_whole
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.model.inference import DEFAULT_BATCH_SIZE, Precision, describe_device
from cxrbatch.model.predictor import Predictor
from cxrbatch.reading.outcomes import OutcomeKind
from cxrbatch.results.columns import (
    TRUTH_COLUMNS,
    patient_secret,
    record_batch,
    table_schema,
)
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.scoring.archive import ArchiveFile, modified_ns
from cxrbatch.scoring.dataset import score_batches
from cxrbatch.scoring.file_reader import FileReader
from cxrbatch.scoring.plan import heatmap_size, make_fingerprint
from cxrbatch.scoring.run import ScoringOptions
from cxrbatch.scoring.table_writer import ScoredRow, write_table
from cxrbatch.training.augment import augmentation, kept_random_state
from cxrbatch.training.cache import UnreadableFile
from cxrbatch.training.dataset import ImageSubset
from cxrbatch.training.loop import EpochMetrics, best_epoch
from cxrbatch.workers.pool import ReadingPool
from cxrbatch.workers.scheduler import PendingItem

_VERSIONS = 5
_MOST_CELL = 224
_GAP, _LINE = 4, 18
_FONT_SIZE = 12
_INK = 230


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The files that a training writes, and the labelled files that it could not use.

    Attributes:
        checkpoint: Path of the checkpoint.
        results: Path of the results table of validation and test, with the columns truth and split.
        split: Path of the labels file with the split of every file.
        card: The checkpoint's card; `card.training` has history and figures. None in all
            processes but the first, if `torchrun` started several, and after a check of labels.
        unreadable: Labelled files without an image, which were left out.
    """

    checkpoint: Path
    results: Path
    split: Path
    card: Card | None
    unreadable: tuple[UnreadableFile, ...]

    @property
    def all_read(self) -> bool:
        """False if reading a file failed; a file that is no radiograph is not a failure."""
        return not any(item.outcome.kind is OutcomeKind.FAILED for item in self.unreadable)


def write_contact_sheet(
    path: Path,
    subset: ImageSubset,
    *,
    classes: Sequence[str],
    flip: bool,
    seed: int,
    rows: int = 8,
) -> None:
    """Write a PNG of training images, each with five augmented versions to its right.

    Args:
        path: The PNG file; an existing one is replaced.
        subset: Training images. The images to show are chosen at random, one of each class, then
            a second one of each class, and so on.
        classes: Class names by class index; each row of the picture has its own above it.
        flip: Whether augmentation mirrors images at random, as in training.
        seed: Seed of the choice and of the augmentation.
        rows: Number of images, at most.

    Raises:
        TableError: The file cannot be written.
    """
    chosen = _in_turn(subset.truth, rows, torch.Generator().manual_seed(seed))
    transform = augmentation(flip=flip)
    edge = min(_MOST_CELL, subset.inputs.shape[1])
    step = edge + _GAP
    size = (step * (_VERSIONS + 1) + _GAP, (step + _LINE) * len(chosen) + _GAP)
    sheet = Image.new("L", size)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    with kept_random_state():
        torch.default_generator.manual_seed(seed)
        for row, position in enumerate(chosen.tolist()):
            original, label, _ = subset[position]
            cells = [original, *(_levels(transform(original)) for _ in range(_VERSIONS))]
            top = row * (step + _LINE) + _GAP
            text = f"{classes[label]}: original, then as trained on"
            pen.text((_GAP, top), text, fill=_INK, font=font)
            for column, cell in enumerate(cells):
                image = Image.fromarray(cell[0].numpy())
                image = image.resize((edge, edge), Image.Resampling.BILINEAR)
                sheet.paste(image, (column * step + _GAP, top + _LINE))
    with writing(path), written_whole(path) as file:
        sheet.save(file, format="PNG")


def _levels(image: Tensor) -> Tensor:
    return image.mul(255.0).round().byte()


def _in_turn(
    truth: npt.NDArray[np.int64], count: int, generator: torch.Generator
) -> npt.NDArray[np.int64]:
    """Positions of up to `count` images, one of each class after the other."""
    order = torch.randperm(len(truth), generator=generator).numpy()
    turn = np.empty(len(truth), np.int64)
    for c in np.unique(truth):
        members = np.flatnonzero(truth[order] == c)
        turn[members] = np.arange(len(members))
    return order[np.lexsort((truth[order], turn))][:count]


_WIDTH, _HEIGHT = 360, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 40, 44
_ACROSS, _DOWN = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
_TICKS = 4

# Blue and orange differ for every common kind of colour blindness; the dashes say it again.
_STYLE = """
  svg { font: 12px system-ui, sans-serif; background: #fff }
  text { fill: #222 } .title { font-weight: 600 } .tick { fill: #555; font-size: 11px }
  .frame { stroke: #bbb; fill: none } .best { stroke: #888; stroke-dasharray: 2 3 }
  .first { stroke: #0b62a8 } .second { stroke: #c65d00; stroke-dasharray: 5 5 }
  .line { fill: none; stroke-width: 2; stroke-linecap: round }
  @media (prefers-color-scheme: dark) {
    svg { background: #15181c } text { fill: #e6e6e6 } .tick { fill: #aaa }
    .frame { stroke: #555 } .first { stroke: #6ab0f3 } .second { stroke: #ff9d4d }
  }
"""


def write_curves(path: Path, history: Sequence[EpochMetrics]) -> None:
    """Write an SVG with two charts over the epochs: both losses, and the macro AUC on validation.

    A dashed line marks the best epoch.

    Args:
        path: The SVG file; an existing one is replaced.
        history: Metrics of all epochs in order, at least one.

    Raises:
        TableError: The file cannot be written.
    """
    best = best_epoch(history)
    losses = {"training": [epoch.loss for epoch in history]}
    losses["validation"] = [epoch.val_loss for epoch in history]
    areas = {"one against the rest": [epoch.macro_auc for epoch in history]}
    title = f"Validation macro AUC, best {best.macro_auc:.4f} in epoch {best.number}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _WIDTH} {_HEIGHT}" '
        f'width="{2 * _WIDTH}" height="{_HEIGHT}" role="img">'
        f"<title>Training: loss and validation macro AUC over {len(history)} epochs</title>"
        f"<style>{_STYLE}</style>{_chart('Loss', losses, best=best.number, offset=0)}"
        f"{_chart(title, areas, best=best.number, offset=_WIDTH)}</svg>\n"
    )
    with writing(path), written_whole(path) as file:
        file.write(svg.encode())


def _chart(title: str, lines: dict[str, list[float]], *, best: int, offset: int) -> str:
    values = [value for line in lines.values() for value in line]
    low, high = min(values), max(values)
    low, high = (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5)
    count = max(2, max(len(line) for line in lines.values()))

    def x(number: float) -> float:
        return _LEFT + _ACROSS * (number - 1) / (count - 1)

    def y(value: float) -> float:
        return _TOP + _DOWN * (high - value) / (high - low)

    bottom = _TOP + _DOWN
    parts = [
        _text(_LEFT, 16, title, kind="title", anchor="start"),
        f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{_ACROSS}" height="{_DOWN}"/>',
        f'<line class="best" x1="{x(best):.1f}" x2="{x(best):.1f}" y1="{_TOP}" y2="{bottom}"/>',
        _text(_LEFT + _ACROSS / 2, _HEIGHT - 8, "epoch"),
    ]
    for tick in range(_TICKS + 1):
        value = low + (high - low) * tick / _TICKS
        parts.append(_text(_LEFT - 6, y(value) + 4, f"{value:.3g}", anchor="end"))
    parts += [_text(x(n), bottom + 16, f"{n}") for n in sorted({1, (count + 1) // 2, count})]
    for index, (name, line) in enumerate(lines.items()):
        kind, left = ("first", "second")[index], _LEFT + 120 * index
        points = [f"{x(i + 1):.1f},{y(value):.1f}" for i, value in enumerate(line)]
        # A line of one point is drawn by no browser, one of no length as a dot.
        text = " ".join(points * 2 if len(points) == 1 else points)
        parts.append(f'<polyline class="line {kind}" points="{text}"/>')
        parts.append(f'<line class="line {kind}" x1="{left}" x2="{left + 24}" y1="28" y2="28"/>')
        parts.append(_text(left + 30, 32, name, anchor="start"))
    return f'<g transform="translate({offset} 0)">{"".join(parts)}</g>'


def _text(x: float, y: float, text: str, *, kind: str = "tick", anchor: str = "middle") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def write_results(
    path: Path,
    files: Sequence[tuple[LabelledFile, ArchiveFile]],
    *,
    root: Path,
    checkpoint: Path,
    workers: int,
    device: torch.device,
    precision: Precision,
) -> None:
    """Score labelled files with a checkpoint, and write the scores to a results table.

    The table is that of `cxrbatch score` with two more columns, truth and split: the label and the
    subset of the row's file. Every frame of a file has a row; a file without an image has one that
    says why. The paths of the rows are those of the labels; absolute ones below `root` become
    relative to it.

    Args:
        path: The table to write; an existing one is replaced.
        files: The label, with its split, of each file, and the file, with an absolute path; at
            least one.
        root: The folder that the paths of labels are relative to, absolute; the table's archive.
        checkpoint: File of the trained checkpoint.
        workers: Worker processes that read.
        device: The device that computes.
        precision: "fp32", "bf16" or "fp16".

    Raises:
        CheckpointError: The checkpoint cannot be used.
        TableError: The table does not read back.
        OSError: The table cannot be written.
        CxrbatchError: A score is not finite, a batch does not fit into memory, or no process can be
            started.
    """
    model = load_checkpoint(checkpoint)
    options = ScoringOptions(workers=workers)
    secret = patient_secret() or secrets.token_bytes(32)
    reader = FileReader(b"", model.card.recipe, options.reading(model.card.recipe), secret)
    scorer = Predictor(model, batch_size=DEFAULT_BATCH_SIZE, device=device, precision=precision)
    cells = heatmap_size(model)
    schema = table_schema(model.card.classes, heatmap_size=cells)
    with ReadingPool(
        reader,
        workers=workers,
        limits=options.limits,
        result_bytes=model.card.recipe.size**2,
    ) as pool:
        entries = [PendingItem(i, _as_now(file)) for i, (_, file) in enumerate(files)]
        rows = list(score_batches(pool.map(entries), scorer))
    labels = {path_to_text(file.path, file.member): label for label, file in files}
    table = _with_truth(rows, labels, root=root, classes=model.card.classes, schema=schema)
    made = make_fingerprint(
        checkpoint=model,
        precision=precision,
        device=describe_device(device),
        archive_root=root,
        patient_secret=secret,
        options={"labelled": True, "follow_links": True},
    )
    write_table(
        path,
        [table],
        within=path.parent,
        schema=table_schema(model.card.classes, heatmap_size=cells, labelled=True),
        files=len(files),
        provenance=lambda counts: {**made, "passed_over": {}, **counts.to_provenance()},
    )


def _with_truth(
    rows: Sequence[ScoredRow],
    labels: Mapping[str, LabelledFile],
    *,
    root: Path,
    classes: Sequence[str],
    schema: pa.Schema,
) -> pa.Table:
    """Make the table; `labels` has the label of each file by its absolute path, as in `rows`."""
    inside = f"{path_to_text(os.fsencode(root)).rstrip('/')}/"
    # Every frame of a file has the file's label.
    of_rows = [labels[row.path] for row, _ in rows]
    renamed = [
        (row._replace(path=label.path.removeprefix(inside)), scores)
        for label, (row, scores) in zip(of_rows, rows, strict=True)
    ]
    table = pa.Table.from_batches([record_batch(renamed, classes=classes, schema=schema)])
    for column, values in zip(
        TRUTH_COLUMNS, zip(*((f.label, f.split) for f in of_rows), strict=True), strict=True
    ):
        table = table.append_column(pa.field(column, pa.string()), pa.array(values, pa.string()))
    return table


def _as_now(file: ArchiveFile) -> ArchiveFile:
    """Take size and time of a file anew; a member keeps those of its listing."""
    try:
        state = os.stat(file.path)
    except OSError:
        return file  # gone since it was trained on: its row tells
    if file.member is not None:
        return file
    return replace(file, size=state.st_size, modified_ns=modified_ns(state))

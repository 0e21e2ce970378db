"""The files beside a checkpoint: sheets of pictures, such as augmented ones, and curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cxrbatch.files import writing, written_whole
from cxrbatch.model.card import Card
from cxrbatch.reading.outcomes import OutcomeKind
from cxrbatch.training.augment import augmentation, kept_random_state
from cxrbatch.training.cache import UnreadableFile
from cxrbatch.training.dataset import ImageSubset
from cxrbatch.training.loop import EpochMetrics, best_epoch

_VERSIONS = 5
_MOST_CELL = 224
_GAP, _LINE = 4, 18
SHEET_FONT_SIZE = 12
"""Height of the text on a sheet of pictures, in pixels."""
_INK = 230


@dataclass(frozen=True, slots=True)
class FoldsResult:
    """What a cross-validation gave.

    Attributes:
        checkpoints: Path of the checkpoint of each fold, in order.
        figures: The content of the file `summary`: figures of all images, each scored by the
            checkpoint that did not learn from its group, and how the figures of the folds spread.
        summary: Path of the JSON file with `figures`.
        doubts: Path of the CSV file of all labels, the most doubted first.
    """

    checkpoints: tuple[Path, ...]
    figures: Mapping[str, Any]
    summary: Path
    doubts: Path


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
        folds: With folds, what the cross-validation gave; `checkpoint` and `card` are then those
            of the first fold. None without folds, and where `card` is None.
    """

    checkpoint: Path
    results: Path
    split: Path
    card: Card | None
    unreadable: tuple[UnreadableFile, ...]
    folds: "FoldsResult | None" = None

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
    pictures: list[Picture] = []
    with kept_random_state():
        torch.default_generator.manual_seed(seed)
        for position in chosen.tolist():
            original, label, _ = subset[position]
            text = f"{classes[label]}: original, then as trained on"
            pictures.append(Picture(original[0].numpy(), (text,)))
            augmented = (_levels(transform(original))[0].numpy() for _ in range(_VERSIONS))
            pictures += [Picture(levels, ()) for levels in augmented]
    edge = min(_MOST_CELL, subset.inputs.shape[1])
    write_sheet(path, pictures, columns=_VERSIONS + 1, edge=edge, lines=1)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture on a sheet.

    Attributes:
        levels: Shape (size, size), grey levels, uint8.
        lines: Lines of text above the picture.
    """

    levels: npt.NDArray[np.uint8]
    lines: tuple[str, ...]


def write_sheet(
    path: Path, pictures: Sequence[Picture], *, columns: int, edge: int, lines: int
) -> None:
    """Write a PNG of pictures in rows, each below its lines of text.

    Args:
        path: The PNG file; an existing one is replaced.
        pictures: The pictures, row by row.
        columns: Number of pictures in a row.
        edge: Height and width of each picture in the PNG, in pixels.
        lines: Lines of text that have room above each picture.

    Raises:
        TableError: The file cannot be written.
    """
    step, text = edge + _GAP, lines * _LINE
    height = -(-len(pictures) // columns) * (step + text) + _GAP
    sheet = Image.new("L", (step * columns + _GAP, height))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(SHEET_FONT_SIZE)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        left, top = column * step + _GAP, row * (step + text) + _GAP
        for line, words in enumerate(picture.lines):
            pen.text((left, top + line * _LINE), words, fill=_INK, font=font)
        image = Image.fromarray(picture.levels)
        sheet.paste(image.resize((edge, edge), Image.Resampling.BILINEAR), (left, top + text))
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

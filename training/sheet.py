"""A contact sheet: what augmentation makes of some training images, to be looked at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from cxrbatch.scoring.claim import writing
from cxrbatch.scoring.durable import written_whole
from cxrbatch.training.augment import augment, draw_changes
from cxrbatch.training.side import Side

_VERSIONS = 5
_MOST_CELL = 224
_GAP, _LINE = 4, 18
_FONT_SIZE = 12
_INK = 230


def write_contact_sheet(
    path: Path, side: Side, *, classes: Sequence[str], flip: bool, seed: int, rows: int = 8
) -> None:
    """Write originals, each with five augmented versions to its right, as a PNG.

    Args:
        path: The file.
        side: What to show images of, the classes in turn.
        classes: Names by class index.
        flip: As in training.
        seed: Of the choice and of the changes.
        rows: Originals, at most.

    Raises:
        TableError: It cannot be written.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = _in_turn(side.truth, rows, generator)
    lines = []
    for original, index in zip(side.images(chosen), side.truth[chosen], strict=True):
        same = torch.from_numpy(original)[None, None].repeat(_VERSIONS, 1, 1, 1).float() / 255.0
        changes = draw_changes(_VERSIONS, generator=generator, flip=flip)
        varied = augment(same, changes)[:, 0].mul(255.0).round().byte().numpy()
        lines.append((classes[int(index)], [original, *varied]))
    _save(_drawn(lines, edge=min(_MOST_CELL, side.inputs.shape[1])), path)


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


def _drawn(lines: Sequence[tuple[str, list[npt.NDArray[np.uint8]]]], *, edge: int) -> Image.Image:
    step = edge + _GAP
    size = (step * (_VERSIONS + 1) + _GAP, (step + _LINE) * len(lines) + _GAP)
    sheet = Image.new("L", size)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for row, (name, images) in enumerate(lines):
        top = row * (step + _LINE) + _GAP
        pen.text((_GAP, top), f"{name}: original, then as trained on", fill=_INK, font=font)
        for column, image in enumerate(images):
            cell = Image.fromarray(image).resize((edge, edge), Image.Resampling.BILINEAR)
            sheet.paste(cell, (column * step + _GAP, top + _LINE))
    return sheet


def _save(sheet: Image.Image, path: Path) -> None:
    with writing(path), written_whole(path) as file:
        sheet.save(file, format="PNG")

"""Labels that a network doubts: confident learning on scores of images that it did not learn from.

C. Northcutt, L. Jiang, I. Chuang: "Confident Learning: Estimating Uncertainty in Dataset Labels",
Journal of Artificial Intelligence Research 70, 2021.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import ImageFont

from cxrbatch.training.outputs import SHEET_FONT_SIZE, Picture, write_sheet
from cxrbatch.training.split_report import write_listing

_Probabilities = npt.NDArray[np.floating]
_Numbers = npt.NDArray[np.int64]

_SHOWN, _COLUMNS, _EDGE, _LINES = 48, 6, 224, 3
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Doubts:
    """The labels of n images, the most doubted first.

    Attributes:
        order: Shape (n,), the images, as positions in the arrays that were given.
        suggested: Shape (n,), by position: the class index that the label might have to be.
        likely_wrong: Shape (n,), by position: whether the label is probably wrong.
    """

    order: _Numbers
    suggested: _Numbers
    likely_wrong: npt.NDArray[np.bool_]


def find_doubts(labels: _Numbers, probabilities: _Probabilities) -> Doubts:
    """Rank labels by how little a network believes them, and find those that are probably wrong.

    The rank is by self-confidence: the probability of the label, the lowest first. The threshold
    of a class is the mean of its probability over the images labelled so. An image counts as of the
    most probable of the classes whose probability is at least their threshold; its label is
    probably wrong if this is another class. The suggested class is the most probable of the
    classes other than the label that reach their threshold; of all others if none does.

    Args:
        labels: Shape (n,), class indices as labelled.
        probabilities: Shape (n, classes), of a network that did not learn from the image.
    """
    rows, given = np.arange(len(labels)), probabilities.astype(np.float64)
    # No image reaches the threshold of a class that no label names.
    own = [given[labels == c, c] for c in range(given.shape[1])]
    thresholds = np.array([values.mean() if len(values) else np.inf for values in own])
    reaching = np.where(given >= thresholds, given, -1.0)
    best = reaching.argmax(axis=1)
    reaching[rows, labels] = -np.inf
    others = given.copy()
    others[rows, labels] = -np.inf
    suggested = np.where(reaching.max(axis=1) >= 0, reaching.argmax(axis=1), others.argmax(axis=1))
    confident = (given >= thresholds).any(axis=1)
    order = np.argsort(given[rows, labels], kind="stable")
    return Doubts(order, suggested, confident & (best != labels))


def write_doubts(
    path: Path,
    doubts: Doubts,
    *,
    paths: Sequence[str],
    labels: _Numbers,
    probabilities: _Probabilities,
    classes: Sequence[str],
) -> None:
    """Write all labels to a CSV file, a row for each image, the most doubted first.

    The columns are rank (from 1), path, label, suggested, p_label, p_suggested and likely_wrong
    (0 or 1). The list is for a person to look at; it changes no label.

    Args:
        path: The CSV file; an existing one is replaced.
        doubts: From `find_doubts`.
        paths: Path of each image.
        labels: Shape (n,), class indices as labelled.
        probabilities: Shape (n, classes).
        classes: Class names in the order of the probabilities.

    Raises:
        TableError: The file cannot be written.
    """
    order, names = doubts.order, np.array(classes, dtype=object)
    suggested = doubts.suggested[order]
    columns = {
        "rank": np.arange(1, len(order) + 1),
        "path": [paths[image] for image in order.tolist()],
        "label": names[labels[order]],
        "suggested": names[suggested],
        "p_label": probabilities[order, labels[order]].astype(np.float64).round(_DIGITS),
        "p_suggested": probabilities[order, suggested].astype(np.float64).round(_DIGITS),
        "likely_wrong": doubts.likely_wrong[order].astype(int),
    }
    write_listing(pd.DataFrame(columns), path)


def write_doubted_pictures(
    path: Path,
    doubts: Doubts,
    *,
    images: npt.NDArray[np.uint8],
    rows: _Numbers,
    labels: _Numbers,
    probabilities: _Probabilities,
    classes: Sequence[str],
) -> None:
    """Write a PNG of the 48 most doubted images, each with its rank, label and suggested class.

    Args:
        path: The PNG file; an existing one is replaced.
        doubts: From `find_doubts`.
        images: Network inputs, shape (m, size, size), uint8.
        rows: Shape (n,), the row of `images` of each image.
        labels: Shape (n,), class indices as labelled.
        probabilities: Shape (n, classes).
        classes: Class names in the order of the probabilities.

    Raises:
        TableError: The file cannot be written.
    """
    pictures = []
    for rank, image in enumerate(doubts.order[:_SHOWN].tolist(), 1):
        label, other = int(labels[image]), int(doubts.suggested[image])
        likely = ", likely wrong" if doubts.likely_wrong[image] else ""
        lines = (
            f"{rank}{likely}",
            _fitted(f"{probabilities[image, label]:.3f} {classes[label]}"),
            _fitted(f"-> {probabilities[image, other]:.3f} {classes[other]}"),
        )
        pictures.append(Picture(images[rows[image]], lines))
    write_sheet(path, pictures, columns=_COLUMNS, edge=_EDGE, lines=_LINES)


def _fitted(text: str) -> str:
    """Cut a line that is wider than a picture."""
    font = ImageFont.load_default(SHEET_FONT_SIZE)
    if font.getlength(text) <= _EDGE:
        return text
    while font.getlength(f"{text}…") > _EDGE:
        text = text[:-1]
    return f"{text}…"

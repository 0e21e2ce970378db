"""Which images are worth a look: the surest right, the surest wrong, the least sure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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

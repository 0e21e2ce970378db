"""Chooses images to show: of each predicted class the surest and the least sure."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

EACH = 3
_LOOKED_THROUGH = 64

Choices = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Predicted class -> kind of image, such as "Least sure" -> positions, the most telling first."""


def choose(
    predicted: npt.NDArray[np.int16],
    probabilities: npt.NDArray[np.float32],
    truth: npt.NDArray[np.int16] | None,
    pictures: npt.NDArray[np.integer],
    *,
    classes: Sequence[str],
) -> Choices:
    """Choose images to show of each predicted class: at most three of each kind.

    Args:
        predicted: Shape (n,), class indices.
        probabilities: Shape (n, classes).
        truth: Shape (n,), class indices; None where no true class is known.
        pictures: Shape (n,), equal numbers for equal pictures, of which a kind has one at most.
        classes: Names of the classes.

    Returns:
        Class -> kind -> positions in the arrays. "Surest": largest probability of that class, with
        a truth in two kinds, right and wrong; "Least sure": smallest lead over the second class.
    """
    n = len(predicted)
    confidence = probabilities[np.arange(n), predicted] if n else np.empty(0, np.float32)
    second = np.partition(probabilities, -2, axis=1)[:, -2] if n else confidence
    chosen = {}
    for number, name in enumerate(classes):
        of_class = predicted == number
        kinds = {"Surest": (of_class, -confidence)}
        if truth is not None:
            kinds = {
                "Surest and right": (of_class & (truth == number), -confidence),
                "Surest and wrong": (of_class & (truth != number), -confidence),
            }
        kinds["Least sure"] = (of_class, confidence - second)
        chosen[name] = {
            title: _first(np.flatnonzero(of_kind), rank, pictures)
            for title, (of_kind, rank) in kinds.items()
        }
    return chosen


def _first(
    chosen: npt.NDArray[np.int64], rank: npt.NDArray[np.float32], pictures: npt.NDArray[np.integer]
) -> tuple[int, ...]:
    """The positions with the smallest `rank` among `chosen`; of equal pictures one."""
    if len(chosen) > _LOOKED_THROUGH:
        nearest = np.argpartition(rank[chosen], _LOOKED_THROUGH)[:_LOOKED_THROUGH]
        chosen = np.sort(chosen[nearest])
    once: dict[int, int] = {}
    for position in chosen[np.argsort(rank[chosen], kind="stable")].tolist():
        once.setdefault(int(pictures[position]), position)
    return tuple(once.values())[:EACH]

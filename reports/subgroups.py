"""The same figures for parts of the images: does the model do as well for all of them?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxrbatch.results.evaluation import evaluate_subgroup
from cxrbatch.results.figures import SubgroupFigures
from cxrbatch.results.statistics.intervals import Groups
from cxrbatch.results.table import Table

FEW = 20
"""Below so many images a subgroup's figures say next to nothing and are shown in grey."""

_FACTS = {
    "patient_sex": "Sex",
    "patient_age_bin": "Age, years",
    "view_position": "View",
    "manufacturer": "Manufacturer",
    "format": "Format",
    "photometric": "Photometric interpretation",
}
_MOST_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Subgroup:
    """Images with one value of a header fact; `few` where they are too few to judge by."""

    name: str
    figures: SubgroupFigures
    few: bool


@dataclass(frozen=True, slots=True)
class Subgroups:
    """The images by one header fact.

    Attributes:
        fact: The table's column.
        title: For a reader.
        parts: The most frequent values, the largest first, ages rising.
        other_values: Further values that are not shown.
        other_images: Their images.
    """

    fact: str
    title: str
    parts: tuple[Subgroup, ...]
    other_values: int
    other_images: int


def by_facts(
    table: Table,
    rows: npt.NDArray[np.int64],
    truth: npt.NDArray[np.int16],
    probabilities: npt.NDArray[np.float32],
    groups: Groups,
    *,
    classes: Sequence[str],
) -> tuple[Subgroups, ...]:
    """Evaluate the images by each of the facts.

    Args:
        table: Where the facts are.
        rows: Shape (n,), the rows of the images.
        truth: Shape (n,), class indices.
        probabilities: Shape (n, classes).
        groups: Shape (n,), whose each image is.
        classes: Names.
    """
    found = []
    for fact, title in _FACTS.items():
        codes = table.read([fact])[fact].combine_chunks().dictionary_encode()
        names = ["not stated", *codes.dictionary.to_pylist()]
        numbers = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False)[rows] + 1
        counts = np.bincount(numbers, minlength=len(names))
        order = [n for n in np.argsort(-counts, kind="stable").tolist() if counts[n]]
        parts = []
        shown = order[:_MOST_SHOWN]
        if fact == "patient_age_bin":
            shown.sort(key=names.__getitem__)
        for number in shown:
            chosen = numbers == number
            figures = evaluate_subgroup(
                truth[chosen], probabilities[chosen], groups[chosen], classes=classes
            )
            parts.append(Subgroup(names[number], figures, int(counts[number]) < FEW))
        left = order[_MOST_SHOWN:]
        found.append(
            Subgroups(fact, title, tuple(parts), len(left), int(counts[left].sum()) if left else 0)
        )
    return tuple(found)

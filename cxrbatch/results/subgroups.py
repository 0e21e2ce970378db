"""The figures of subgroups of a table's images: by sex, age, view, manufacturer and format."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxrbatch.results.analysis import Analysis
from cxrbatch.results.figures import SubgroupFigures
from cxrbatch.results.statistics.calculation import evaluate_subgroup

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
_MOST_SUBGROUPS = 12


@dataclass(frozen=True, slots=True)
class Subgroup:
    """The images with one value of a header fact, such as those of one manufacturer.

    Attributes:
        name: The value; "not stated" where the header lacks it.
        figures: The figures of these images.
        few: Whether there are fewer than `FEW` images: too few to judge by.
    """

    name: str
    figures: SubgroupFigures
    few: bool


@dataclass(frozen=True, slots=True)
class Subgroups:
    """The analysed images, divided by the values of one header fact.

    Attributes:
        fact: Name of the table's column.
        title: Name of the fact for a reader.
        parts: At most the 12 most frequent values, the largest first; ages in rising order.
        other_values: Number of further values, which are not evaluated.
        other_images: Number of images of these values.
    """

    fact: str
    title: str
    parts: tuple[Subgroup, ...]
    other_values: int
    other_images: int


def evaluate_subgroups(analysis: Analysis) -> tuple[Subgroups, ...]:
    """Evaluate the analysed images in subgroups: by the values of each of six columns.

    The columns have sex, age, view, manufacturer, format and photometric interpretation; of each
    at most the 12 most frequent values are evaluated; "not stated" counts as a value. The
    analysis's `truth` must not be None.

    Returns:
        One entry per column.

    Raises:
        TableError: The table is damaged.
    """
    patients, probabilities = analysis.patients(), analysis.probabilities
    truth = analysis.true_classes()[analysis.chosen]
    groups = []
    for fact, title in _FACTS.items():
        codes, values = pd.factorize(analysis.results.read([fact])[fact])
        names = ["not stated", *values]
        numbers = codes[analysis.rows] + 1
        counts = np.bincount(numbers, minlength=len(names))
        order = [n for n in np.argsort(-counts, kind="stable").tolist() if counts[n]]
        shown, rest = order[:_MOST_SUBGROUPS], order[_MOST_SUBGROUPS:]
        if fact == "patient_age_bin":
            shown.sort(key=names.__getitem__)
        parts = []
        for number in shown:
            chosen = numbers == number
            figures = evaluate_subgroup(
                truth[chosen],
                probabilities[chosen],
                patients[chosen],
                classes=analysis.task.classes,
            )
            parts.append(Subgroup(names[number], figures, int(counts[number]) < FEW))
        groups.append(Subgroups(fact, title, tuple(parts), len(rest), int(counts[rest].sum())))
    return tuple(groups)

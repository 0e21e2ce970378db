"""Names of classes as people write them: in which letters and with which gaps is their own."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from cxrbatch.errors import LabelError
from cxrbatch.results.paths import shown

_SHOWN = 8


def class_numbers(labels: Iterable[str], classes: Sequence[str]) -> dict[str, int]:
    """Give the class, by its index in `classes`, that each label names.

    Case, spaces, hyphens and underscores do not matter, unless they are all that sets two classes
    apart.

    Raises:
        LabelError: Lists the labels that name none, and the classes that there are.
    """
    numbers = folded_numbers(classes)
    exact = {name: number for number, name in enumerate(classes)}
    found = {label: exact.get(label, numbers.get(folded(label), -1)) for label in labels}
    if unknown := sorted(label for label, number in found.items() if number < 0):
        listed = ", ".join(map(shown, unknown[:_SHOWN])) + (" …" if unknown[_SHOWN:] else "")
        raise LabelError(
            f"{len(unknown)} labels name no class of the model: {listed}; "
            f"its classes are {', '.join(map(shown, classes))}: rename or remove those rows"
        )
    return found


def folded_numbers(classes: Sequence[str]) -> dict[str, int]:
    """Give the index of the class of each folded name; -1 where two classes share it."""
    numbers: dict[str, int] = {}
    for number, name in enumerate(classes):
        numbers[folded(name)] = -1 if folded(name) in numbers else number
    return numbers


def folded(name: str) -> str:
    """The same for spellings that differ by case, a space, hyphen or underscore inside, or spaces
    around."""
    plain = unicodedata.normalize("NFKC", name).casefold().replace("_", " ").strip()
    parts = [part for part in re.split(r"(?<=\w)[\s_-]+(?=\w)", plain) if part]
    folded = ""
    for part in parts:
        # Between digits it means something: stage 1-1 is not stage 11.
        between_digits = folded[-1:].isdigit() and part[0].isdigit()
        folded += f" {part}" if between_digits else part
    return folded

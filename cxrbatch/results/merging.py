"""Classes of labels that stand for several classes of the model, and scores merged accordingly.

Labels such as Pneumonia and Normal tell fewer classes apart than a model that has Normal, COVID-19,
Viral Pneumonia and Lung Opacity. A map of texts to classes says which classes belong together.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from cxrbatch.errors import LabelError, UsageError
from cxrbatch.files import listed, shown
from cxrbatch.results.label_files import ClassMap
from cxrbatch.results.label_names import find_classes, folded, folded_numbers

ScoresByClass = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Task:
    """The classes that labels tell apart: each stands for one or several classes of the model.

    Attributes:
        model_classes: Names of the model's classes, in the order of its probabilities.
        classes: Names of the task's classes, in the order of the first class of the model that each
            stands for; equal to `model_classes` where nothing is merged.
        class_of: For each class of the model the index, into `classes`, of the one that it is part
            of.
        texts: Text of a label -> the name, among `names`, that it means.
    """

    model_classes: tuple[str, ...]
    classes: tuple[str, ...]
    class_of: tuple[int, ...]
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_merged(self) -> bool:
        """Whether a class of the task stands for several classes of the model."""
        return len(self.classes) < len(self.model_classes)

    @property
    def matrix(self) -> npt.NDArray[np.uint8]:
        """Shape (model's classes, task's classes), 0 or 1: which is part of which; one 1 a row."""
        return np.eye(len(self.classes), dtype=np.uint8)[list(self.class_of)]

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Class of the task -> the classes of the model that it stands for, in the model's order.

        Only those that stand for several.
        """
        parts: dict[str, tuple[str, ...]] = {}
        for name, number in zip(self.model_classes, self.class_of, strict=True):
            parts[self.classes[number]] = (*parts.get(self.classes[number], ()), name)
        return {name: own for name, own in parts.items() if len(own) > 1}

    @property
    def names(self) -> tuple[str, ...]:
        """Names that a label may have: the model's classes, then merged ones of another name."""
        return (*self.model_classes, *(n for n in self.classes if n not in self.model_classes))

    def numbers(self, labels: Iterable[str]) -> dict[str, int]:
        """Map each label to the index of the task's class that it names; -1 where it names none.

        A label names a class by the rules of `find_classes`; one that names a class of the model is
        of the task's class that this is part of. `texts` is not applied.
        """
        found = find_classes(labels, self.names)
        return {label: self._class_of_name(number) for label, number in found.items()}

    def folder_numbers(self) -> dict[str, int]:
        """Map the folded name of each class, and each text of `texts`, to an index of `classes`.

        Of names see `folded`. A folded name of two classes maps to -1.
        """
        known = folded_numbers(self.names)
        numbers = {name: self._class_of_name(number) for name, number in known.items()}
        meant = self.numbers(self.texts.values())
        return numbers | {folded(text): meant[name] for text, name in self.texts.items()}

    def unchanged(self) -> frozenset[str]:
        """Return the classes of the model that no other is merged with."""
        counts = Counter(self.class_of)
        pairs = zip(self.model_classes, self.class_of, strict=True)
        return frozenset(name for name, number in pairs if counts[number] == 1)

    def merge_probabilities(self, probabilities: ScoresByClass) -> ScoresByClass:
        """Add up the probabilities of the classes that are merged.

        Args:
            probabilities: Shape (n, model's classes), float32.

        Returns:
            Shape (n, task's classes), float32, at most 1; the argument itself if none is merged.
        """
        if not self.is_merged:
            return probabilities
        # In 64 bits: sums of 32 bits may exceed 1.
        sums = probabilities.astype(np.float64) @ self.matrix
        return np.asarray(sums.clip(max=1.0), np.float32)

    def merge_logits(self, logits: ScoresByClass) -> ScoresByClass:
        """Return logits whose softmax is the sum of the softmax of the classes that are merged.

        That is the logarithm of the summed exponentials, at temperature 1.

        Args:
            logits: Shape (n, model's classes), float32.

        Returns:
            Shape (n, task's classes), float32; the argument itself if none is merged.
        """
        if not self.is_merged:
            return logits
        columns = [logits[:, own.astype(bool)].astype(np.float64) for own in self.matrix.T]
        return np.stack([logsumexp(own, axis=1) for own in columns], axis=1).astype(np.float32)

    def _class_of_name(self, number: int) -> int:
        """The task's class of a name of `names` by its index; -1 for -1."""
        if number < 0:
            return number
        name = self.names[number]
        is_own = number < len(self.model_classes)
        return self.class_of[number] if is_own else self.classes.index(name)


def make_task(classes: Sequence[str], class_map: ClassMap, *, merge: bool = False) -> Task:
    """Find out which classes of a model the labels tell apart.

    Args:
        classes: Class names of the model.
        class_map: Text of a label -> the class or classes of the model that are meant. A text with
            commas that is no class names several. Texts with the same classes are one class, which
            has the name of the first. A single class may also be a text that stands for several.
        merge: Whether a text may stand for several classes.

    Raises:
        LabelError: A name is no class of the model; the message lists all such names.
        UsageError: A name is empty; a class is part of two different classes, or a text is the
            name of a class that it does not stand for; all classes become one; or a text stands
            for several classes, and `merge` is false.
    """
    given = {text: _names(meant, classes) for text, meant in class_map.items()}
    _check_names(given, classes)
    merged = {
        text: members
        for text, names in given.items()
        if len(names) > 1 and len(members := _members(names, classes)) > 1
    }
    if merged and not merge:
        raise UsageError(
            f"--map gives {shown(next(iter(merged)))} several classes, which `cxrbatch evaluate` "
            "and cxrbatch.evaluate merge; here give it one class"
        )
    groups: dict[tuple[int, ...], str] = {}
    for text, members in merged.items():
        groups.setdefault(members, _name(text, members, classes))
    _check_groups(groups, classes)
    aliases = {folded(text): groups[members] for text, members in merged.items()}
    texts = {
        text: aliases.get(folded(text if text in merged else names[0]), names[0])
        for text, names in given.items()
    }
    return _merged(classes, groups, texts)


def _names(meant: str | Sequence[str], classes: Sequence[str]) -> list[str]:
    """The names of classes that one entry of a map has."""
    if not isinstance(meant, str):
        return [*meant]
    is_one = "," not in meant or find_classes([meant], classes)[meant] >= 0
    return [meant] if is_one else [name.strip() for name in meant.split(",")]


def _members(names: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    return tuple(sorted(set(find_classes(names, classes).values())))


def _check_names(given: Mapping[str, Sequence[str]], classes: Sequence[str]) -> None:
    """Refuse names that are empty, or neither a class nor, alone, a text that stands for several.

    Raises:
        UsageError, LabelError: See `make_task`.
    """
    if not all(folded(name) for names in given.values() for name in names):
        raise UsageError("--map has an empty name of a class; give TEXT=CLASS or TEXT=CLASS,CLASS")
    several = {folded(text) for text, names in given.items() if len(names) > 1}
    to_find = [
        n for names in given.values() for n in names if len(names) > 1 or folded(n) not in several
    ]
    if unknown := [name for name, number in find_classes(to_find, classes).items() if number < 0]:
        what = "is no class" if len(unknown) == 1 else "are no classes"
        raise LabelError(
            f"--map names {listed(unknown)}, which {what} of the model; its classes are "
            f"{listed(classes)}"
        )


def _name(text: str, members: tuple[int, ...], classes: Sequence[str]) -> str:
    """The name of the class that a text stands for: the model's, where it has one of this name.

    Raises:
        UsageError: The model's class of this name is not among those it stands for.
    """
    own = folded_numbers(classes).get(folded(text))
    if own is not None and own not in members:
        raise UsageError(
            f"--map gives {shown(text)}, which is a class of the model, other classes in its "
            "place; add it to them, or write another text into the labels"
        )
    return text if own is None else classes[own]


def _check_groups(groups: Mapping[tuple[int, ...], str], classes: Sequence[str]) -> None:
    """Refuse classes that overlap, that have equal names, or of which only one is left.

    Raises:
        UsageError: See `make_task`.
    """
    counts = Counter(number for members in groups for number in members)
    if twice := [classes[number] for number, count in counts.items() if count > 1]:
        raise UsageError(
            f"--map gives {listed(twice)} to two texts; a class belongs to one of them"
        )
    if len({folded(name) for name in groups.values()}) < len(groups):
        raise UsageError("--map gives one text two meanings; give it all its classes at once")
    if len(counts) == len(classes) and len(groups) == 1:
        raise UsageError("--map makes one class of all classes of the model; leave one out")


def _merged(
    classes: Sequence[str], groups: Mapping[tuple[int, ...], str], texts: Mapping[str, str]
) -> Task:
    group_of = {number: name for members, name in groups.items() for number in members}
    own = [group_of.get(number, name) for number, name in enumerate(classes)]
    names = tuple(dict.fromkeys(own))
    return Task(tuple(classes), names, tuple(map(names.index, own)), dict(texts))

"""Labels: which class an image truly is, as a CSV or Parquet file says."""

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import getsizeof

from cxrbatch.errors import LabelError
from cxrbatch.paths import shown
from cxrbatch.reading.containers.listing import open_regular
from cxrbatch.reading.outcomes import reading_error
from cxrbatch.results.label_rows import (
    LONGEST_VALUE,
    TOO_LONG,
    Fields,
    csv_rows,
    parquet_rows,
)

SPLITS = ("train", "val", "test")
IMAGE_KEYS = ("path", "sop_instance_uid", "image_hash")
"""By which column of a results table a file of labels may name its images; the first it has."""

_BY_PATH = ("path",)
_SHOWN = 5

_PARQUET_MAGIC = b"PAR1"
_MOST_DIFFERENT = 10_000
# What all labels of a file may take, so that a command stays below 1 GB: nearly two millions.
_MOST_BYTES = 512 << 20
# What a label takes without its texts, here and where it is joined with its file or row; and a
# text without its characters where it is shared.
_LABEL_BYTES, _SHARED_BYTES = 200, 100


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """One image and its label.

    Attributes:
        path: Path relative to the labels' root, or absolute, with forward slashes; of
            `labels_by_key`, what names the image.
        label: Class name as written.
        patient: Groups images of one person; None where unknown.
        split: "train", "val" or "test"; None where not given.
        source: The collection that it comes from; None where unknown.
    """

    path: str
    label: str
    patient: str | None = None
    split: str | None = None
    source: str | None = None


def read_labels(file: Path) -> list[LabelledFile]:
    """Read a file of labels in which each path stands once.

    Raises:
        LabelError: As for `labels_in`, or a path stands twice.
    """
    labelled = labels_in(file)
    check_each_once(file, labelled)
    return labelled


def check_each_once(
    file: Path, labelled: Sequence[LabelledFile], names: Sequence[str] | None = None
) -> None:
    """Refuse labels that name an image twice, be it with one class or with two.

    Args:
        file: Where they come from.
        labelled: The labels.
        names: What each of them calls its image; None for its path.

    Raises:
        LabelError: Lists the first of them.
    """
    names = [item.path for item in labelled] if names is None else names
    once = set(names)
    if len(once) == len(names):
        return
    doubled = set[str]()
    for name in names:
        if name in once:
            once.remove(name)
        else:
            doubled.add(name)
    labels: dict[str, set[str]] = {}
    for name, item in zip(names, labelled, strict=True):
        if name in labels or (name in doubled and len(labels) < _SHOWN):
            labels.setdefault(name, set()).add(item.label)
    listed = ", ".join(_doubled(*pair) for pair in labels.items())
    raise LabelError(f"{file} names {len(doubled)} images more than once: {listed}")


def labels_in(file: Path) -> list[LabelledFile]:
    """Read the rows of a CSV or Parquet file, told apart by its content, as they stand.

    It has the columns path and label and, optionally, patient, split and source. Numbers in a
    Parquet file count as the text of them.

    Raises:
        LabelError: Not readable as either, a column is missing or doubled, a field is empty, a
            split is unknown, there are no rows, or more than fit into memory.
    """
    return _read(file, _BY_PATH)[1]


def labels_by_key(file: Path) -> tuple[str, list[LabelledFile]]:
    """Read the rows of a file of labels that may name images by another column than path.

    Returns:
        The first of `IMAGE_KEYS` that the file has as a column, and the labels.

    Raises:
        LabelError: As for `labels_in`.
    """
    return _read(file, IMAGE_KEYS)


def _read(file: Path, keys: Sequence[str]) -> tuple[str, list[LabelledFile]]:
    try:
        with open_regular(file) as stream:
            is_parquet = stream.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
            stream.seek(0)
            key, labels = "", _Labels(file, "row" if is_parquet else "line")
            for number, key, fields in (parquet_rows if is_parquet else csv_rows)(
                stream, file, keys
            ):
                labels.add(number, key, fields)
    except LabelError:
        raise
    except Exception as error:
        raise LabelError(f"cannot read labels {file}: {reading_error(error).detail}") from None
    if not labels.items:
        raise LabelError(f"{file} has no rows")
    return key, labels.items


class _Labels:
    """The labels of a file, as far as they fit into memory; texts that repeat are shared.

    Attributes:
        items: The labels.
    """

    def __init__(self, file: Path, unit: str) -> None:
        self.items: list[LabelledFile] = []
        self._file = file
        self._unit = unit
        self._shared: dict[str, str] = {}
        self._different: set[str] = set()
        self._left = _MOST_BYTES

    def add(self, number: int, key: str, fields: Fields) -> None:
        """Check a row and keep its label.

        Raises:
            LabelError: The row is of no use, or is one too many.
        """
        try:
            _check_fields(key, fields)
        except ValueError as error:
            raise LabelError(f"{self._file}, {self._unit} {number}: {error}") from None
        name = posixpath.normpath(fields[0]) if key == "path" else fields[0]
        label, patient, split, source = map(self._once, fields[1:])
        self.items.append(LabelledFile(name, label, patient or None, split or None, source or None))
        self._different.add(label)
        if len(self._different) > _MOST_DIFFERENT:
            raise LabelError(
                f"{self._file} has more than {_MOST_DIFFERENT:,} different labels; "
                "its column label has to name classes"
            )
        self._left -= _LABEL_BYTES + getsizeof(name)
        if self._left < 0:
            raise LabelError(
                f"{self._file} has more labels than fit into {_MOST_BYTES >> 20} MiB, "
                f"{len(self.items):,} by then; divide it"
            )

    def _once(self, text: str) -> str:
        shared = self._shared.get(text)
        if shared is None:
            shared = self._shared[text] = text
            self._left -= _SHARED_BYTES + getsizeof(text)
        return shared


def _check_fields(key: str, fields: Fields) -> None:
    """Refuse a row without a name or a label, or with a field that is no use.

    Raises:
        ValueError: Says what is wrong.
    """
    if not fields[0] or not fields[1]:
        raise ValueError(f"{key} or label is empty")
    for field in fields:
        if len(field) > LONGEST_VALUE:
            raise ValueError(TOO_LONG)
    # Of a path it is found out, and listed, that there is no such file.
    if any("\0" in field for field in fields[1:]):
        raise ValueError("a field holds a NUL character; write the file again as text")
    if fields[3] and fields[3] not in SPLITS:
        raise ValueError("split is not train, val or test")


def _doubled(path: str, labels: Iterable[str]) -> str:
    names = sorted(labels)
    if len(names) == 1:
        return shown(path)
    return f"{shown(path)} (labels {', '.join(map(shown, names[:_SHOWN]))})"


_LISTED = 8


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
        listed = ", ".join(map(shown, unknown[:_LISTED])) + (" …" if unknown[_LISTED:] else "")
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

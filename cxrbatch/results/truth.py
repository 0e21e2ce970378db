"""Labels: which class an image truly is, from a CSV file or from class-named folders."""

import csv
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cxrbatch.errors import LabelError

SPLITS = ("train", "val", "test")
_REQUIRED = ("path", "label")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """One image and its label.

    Attributes:
        path: Path relative to the labels' root, with forward slashes.
        label: Class name as written.
        patient: Groups images of one person; None where unknown.
        split: "train", "val" or "test"; None where not given.
    """

    path: str
    label: str
    patient: str | None = None
    split: str | None = None


def read_labels(file: Path) -> list[LabelledFile]:
    """Read a CSV file with the columns path, label and, optionally, patient and split.

    Raises:
        LabelError: Not readable as CSV, a column is missing, a field is empty, a split is
            unknown, or a path stands twice.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            labelled = list(_rows(csv.DictReader(lines), file))
    except OSError as error:
        raise LabelError(f"cannot read labels {file}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{file} is not a CSV file in UTF-8: {error}") from None
    _check(labelled, file)
    return labelled


def labels_from_folders(root: Path) -> list[LabelledFile]:
    """Label every file below `root` by the folder it is in: root/<class>/…/file.

    Folders without a file, and files directly in `root`, are not classes. The order is sorted.

    Raises:
        LabelError: `root` has no folder with a file, or cannot be listed.
    """
    labelled = []
    try:
        folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except OSError as error:
        raise LabelError(f"cannot list {root}: {error.strerror}") from None
    for folder in folders:
        for directory, subfolders, names in os.walk(root / folder, onerror=_refuse):
            subfolders.sort()
            relative = Path(directory).relative_to(root)
            labelled += [LabelledFile((relative / n).as_posix(), folder) for n in sorted(names)]
    if not labelled:
        raise LabelError(f"{root} has no class folders with files (expected {root}/<class>/…)")
    return labelled


def _refuse(error: OSError) -> None:
    raise LabelError(f"cannot list {error.filename}: {error.strerror}")


def _rows(reader: "csv.DictReader[str]", file: Path) -> Iterator[LabelledFile]:
    present = reader.fieldnames or []
    if missing := [column for column in _REQUIRED if column not in present]:
        raise LabelError(f"{file} has no column {missing[0]!r}; needed: path, label")
    for row in reader:
        path, label = (row["path"] or "").strip(), (row["label"] or "").strip()
        if not path or not label:
            raise LabelError(f"{file}, line {reader.line_num}: path or label is empty")
        split = (row.get("split") or "").strip() or None
        if split is not None and split not in SPLITS:
            raise LabelError(f"{file}, line {reader.line_num}: split is not train, val or test")
        yield LabelledFile(
            posixpath.normpath(path), label, (row.get("patient") or "").strip() or None, split
        )


def _check(labelled: Iterable[LabelledFile], file: Path) -> None:
    paths = Counter(item.path for item in labelled)
    if not paths:
        raise LabelError(f"{file} has no rows")
    if doubled := [path for path, count in paths.items() if count > 1]:
        shown = ", ".join(doubled[:_SHOWN])
        raise LabelError(f"{file} names {len(doubled)} paths more than once: {shown}")

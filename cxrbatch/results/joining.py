"""The truth about the rows of a table: by labels, by class folders, or by the table itself."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import LabelError
from cxrbatch.paths import path_to_text
from cxrbatch.results.labels import (
    SPLITS,
    check_each_once,
    class_numbers,
    folded,
    folded_numbers,
    labels_by_key,
)
from cxrbatch.results.statistics.intervals import Groups, patient_groups
from cxrbatch.results.table import TRUTH_COLUMNS, Table

UNKNOWN = -1

# Folders say the truth only where they say it of nearly all images, and of more than one class:
# a lone folder "normal" may mean anything.
_LEAST_SHARE, _FEWEST_CLASSES = 0.9, 2

Numbers = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of the rows of a table.

    Attributes:
        source: Where it comes from, for a reader.
        classes: Shape (rows,), class indices, `UNKNOWN` where none is known.
        splits: Shape (rows,), indices into `SPLITS`, `UNKNOWN` where none is given.
        patients: Shape (rows,), text; null where the labels name no patient.
        labels: Labels that were given.
        without_row: Those of them that name no row of the table.
    """

    source: str
    classes: Numbers
    splits: Numbers
    patients: pa.Array
    labels: int
    without_row: int


def find_truth(table: Table, labels: Path | None = None) -> Truth | None:
    """Find the truth: in `labels`, else in the table's own columns, else in class folders.

    Every frame of a file has the file's label.

    Raises:
        LabelError: Labels cannot be read, name an image twice, an unknown class, or no row.
        TableError: The table is damaged.
    """
    if labels is not None:
        return join_labels(table, labels)
    if table.provenance.get("labelled") is True:
        return _own_truth(table)
    return folder_truth(table)


def join_labels(table: Table, file: Path) -> Truth:
    """Join a file of labels by path, SOP Instance UID or image hash, whichever column it has.

    Paths are those of the table, or absolute below the archive's root.

    Raises:
        LabelError: As in `find_truth`.
    """
    key, labelled = labels_by_key(file)
    numbers = class_numbers({item.label for item in labelled}, table.classes)
    column = table.read([key])[key].combine_chunks()
    names = [item.path for item in labelled]
    if key == "path":
        names = _as_in_table(names, column, str(table.provenance.get("archive_root", "")))
    check_each_once(file, labelled, names)
    of_row = pc.index_in(column, value_set=pa.array(names, pa.string()))
    found = of_row.fill_null(UNKNOWN).to_numpy(zero_copy_only=False)
    matched = len(np.unique(found[found != UNKNOWN]))
    if not matched:
        raise LabelError(
            f"none of the {len(labelled)} labels in {file} names a row of {table.path} by its "
            f"{key}; write it as the table's column {key} has it"
        )
    return Truth(
        source=f"a file of labels, joined by {key.replace('_', ' ')}",
        classes=_taken([numbers[item.label] for item in labelled], found),
        splits=_taken(
            [UNKNOWN if i.split is None else SPLITS.index(i.split) for i in labelled], found
        ),
        patients=pa.array([i.patient for i in labelled], pa.string()).take(of_row),
        labels=len(labelled),
        without_row=len(labelled) - matched,
    )


def folder_truth(table: Table) -> Truth | None:
    """Take the truth from class-named folders, if they hold nearly all images of two classes.

    A path that leads through folders of two classes has no truth.

    Raises:
        TableError: The table is damaged.
    """
    columns = table.read(["path", "prediction"])
    folders = pc.replace_substring_regex(columns["path"], "(^|/)[^/]*$", "")
    codes = pc.dictionary_encode(folders).combine_chunks()
    wanted = folded_numbers(table.classes)
    known: dict[str, int] = {}
    of_folder = [_class_of(folder, wanted, known) for folder in codes.dictionary.to_pylist()]
    classes = _taken(of_folder, _indices(codes))
    scored = pc.is_valid(columns["prediction"]).to_numpy()
    found = classes[scored]
    told = found[found != UNKNOWN]
    if len(told) < _LEAST_SHARE * len(found) or len(np.unique(told)) < _FEWEST_CLASSES:
        return None
    return Truth(
        source="the class folders of the archive",
        classes=classes,
        splits=np.full(table.rows, UNKNOWN, np.int16),
        patients=pa.nulls(table.rows, pa.string()),
        labels=int(np.count_nonzero(classes != UNKNOWN)),
        without_row=0,
    )


def patients_of(table: Table, truth: Truth, rows: npt.NDArray[np.int64]) -> Groups:
    """Whose the images are: as the labels say, else as the headers do."""
    named = pc.binary_join_element_wise("label", truth.patients.take(pa.array(rows)), "/")
    keys = table.read(["patient_key"])["patient_key"].take(pa.array(rows)).combine_chunks()
    keyed = pc.binary_join_element_wise("header", keys, "/")
    return patient_groups(pa.chunked_array([pc.coalesce(named, keyed)]))


def _own_truth(table: Table) -> Truth:
    columns = table.read(TRUTH_COLUMNS)
    labels, splits = (pc.dictionary_encode(columns[n]).combine_chunks() for n in TRUTH_COLUMNS)
    names = labels.dictionary.to_pylist()
    numbers = class_numbers(names, table.classes)
    known = [
        SPLITS.index(name) if name in SPLITS else UNKNOWN for name in splits.dictionary.to_pylist()
    ]
    classes = _taken([numbers[name] for name in names], _indices(labels))
    return Truth(
        source="the table's own column truth",
        classes=classes,
        splits=_taken(known, _indices(splits)),
        patients=pa.nulls(table.rows, pa.string()),
        labels=int(np.count_nonzero(classes != UNKNOWN)),
        without_row=0,
    )


def _as_in_table(names: Sequence[str], column: pa.Array, root: str) -> list[str]:
    """Write paths as the table does: relative to its root, escapes and all."""
    inside = f"{root.rstrip('/')}/"
    relative = [name.removeprefix(inside) if name.startswith("/") else name for name in names]
    there = pc.is_in(pa.array(relative, pa.string()), value_set=column).to_pylist()
    return [
        name if is_there or "\\" not in name else path_to_text(os.fsencode(name))
        for name, is_there in zip(relative, there, strict=True)
    ]


def _class_of(folder: str, wanted: dict[str, int], known: dict[str, int]) -> int:
    """The one class that the parts of a folder's path name."""
    found = set()
    for part in folder.split("/"):
        if part not in known:
            known[part] = wanted.get(folded(part), UNKNOWN)
        if known[part] != UNKNOWN:
            found.add(known[part])
    return found.pop() if len(found) == 1 else UNKNOWN


def _indices(codes: pa.DictionaryArray) -> npt.NDArray[np.int64]:
    indices: npt.NDArray[np.int64] = codes.indices.fill_null(UNKNOWN).to_numpy(zero_copy_only=False)
    return indices


def _taken(values: Sequence[int], positions: npt.NDArray[np.integer]) -> Numbers:
    """The values at some positions; `UNKNOWN` at position `UNKNOWN`."""
    taken: Numbers = np.array([*values, UNKNOWN], np.int16)[positions]
    return taken

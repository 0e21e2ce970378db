"""The true classes of a table's rows: from labels, from the table itself, or from class folders."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrbatch.errors import LabelError
from cxrbatch.files import listed, path_to_text, shown
from cxrbatch.results.columns import TRUTH_COLUMNS
from cxrbatch.results.frames import Results
from cxrbatch.results.label_files import AS_USUAL, LabelledFile, LabelOptions, load
from cxrbatch.results.label_joining import join, scored_rows
from cxrbatch.results.label_names import SPLITS, find_classes, folded
from cxrbatch.results.merging import Task, make_task
from cxrbatch.results.statistics.intervals import Groups

UNKNOWN = -1

# Class folders count as truth only where they name the class of nearly all images, and more than
# one class: a lone folder "normal" may mean anything.
_LEAST_SHARE, _FEWEST_CLASSES = 0.9, 2

ClassNumbers = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Truth:
    """The true class, the split and the patient of each row of a table, where known.

    Attributes:
        source: Where they come from, for a reader.
        classes: Shape (rows,), class indices; `UNKNOWN` (-1) where no class is known.
        splits: Shape (rows,), indices into `SPLITS`; `UNKNOWN` where no split is given.
        patients: The id of each row's patient as text; null where the labels name no patient.
        labels: Number of labels; without a file of labels, number of rows whose class is known.
        without_row: Number of labels that name no row of the table.
        notes: What was done with the labels beside joining them, a sentence each; for a reader.
        warnings: What to mend before the figures are believed, a line each.
    """

    source: str
    classes: ClassNumbers
    splits: ClassNumbers
    patients: pd.Series
    labels: int
    without_row: int
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def find_truth(
    results: Results,
    labels: "Path | pd.DataFrame | None" = None,
    options: LabelOptions = AS_USUAL,
    task: Task | None = None,
) -> Truth | None:
    """Find the true classes of a table's rows in the first of three places that applies.

    These are `labels`, if given; the table's own column truth, if it has one; and the folders in
    its paths, if they are named like classes.

    Args:
        results: The table.
        labels: A file of labels, or a DataFrame with such columns; a label that names a file is
            that of each of its frames.
        options: How labels are read and joined.
        task: The classes that the truth tells apart, made of the map of `options`; None for those
            of the table.

    Returns:
        The truth; None where there are no labels and no column truth, and class folders do not name
        the class of at least 90 % of the scored rows and at least two classes.

    Raises:
        LabelError: Labels cannot be read or contradict each other, one names an unknown class, or
            none names a row; or the column truth has an unknown class.
        UsageError: The map of `options` cannot be used, see `make_task`, or has a text of several
            classes where `task` is None.
        TableError: The table is damaged.
    """
    if labels is not None:
        return join_labels(results, labels, options, task)
    task = task or make_task(results.classes, options.class_map)
    if results.provenance.get("labelled") is True:
        return _own_truth(results, task)
    return folder_truth(results, task)


def join_labels(
    results: Results,
    labels: "Path | pd.DataFrame",
    options: LabelOptions = AS_USUAL,
    task: Task | None = None,
) -> Truth:
    """Take true class, split and patient of each row of a table from the label that names the row.

    A row that no label names has none of them. A label that names no row is only counted.

    Args:
        results: The table.
        labels: A file of labels, or a DataFrame with such columns.
        options: How labels are read, and by what they name rows, such as path or UID.
        task: The classes that the labels tell apart, made of the map of `options`; None for those
            of the table.

    Raises:
        LabelError: Labels cannot be read or contradict each other, name an unknown class, or none
            of them names a row.
        UsageError: The map of `options` cannot be used, as for `find_truth`.
        TableError: The table is damaged.
    """
    task = task or make_task(results.classes, options.class_map)
    loaded = load(labels, replace(options, class_map=task.texts), task.names)
    joined = join(results, loaded, options.by, task)
    joined.check()
    label_of_row, frame = joined.label_of_row, joined.labels
    return Truth(
        source=f"{joined.loaded.kind}, joined by {joined.by.replace('_', ' ')}",
        classes=_at(_mapped(frame["label"], joined.numbers), label_of_row),
        splits=_at(_mapped(frame["split"], _SPLIT_NUMBERS), label_of_row),
        patients=frame["patient"]
        .reset_index(drop=True)
        .reindex(label_of_row)
        .reset_index(drop=True),
        labels=len(frame),
        without_row=len(frame) - joined.matched,
        notes=(*joined.losses(), *joined.notes()),
        warnings=tuple(joined.warnings(scored_rows(results))),
    )


def folder_truth(results: Results, task: Task | None = None) -> Truth | None:
    """Take the true class of each row from the names of the folders in its path.

    A folder names a class if their `folded` names are equal. A path whose folders name no class, or
    two, has no true class.

    Args:
        results: The table.
        task: The classes that the folders tell apart, with texts that stand for them; None for the
            classes of the table.

    Returns:
        The truth, without splits and patients; None where the folders name the class of fewer than
        90 % of the scored rows, or fewer than two classes.

    Raises:
        TableError: The table is damaged.
    """
    columns = results.read(["path", "prediction"])
    codes, folders = pd.factorize(columns["path"].str.replace(r"(^|/)[^/]*$", "", regex=True))
    wanted = (task or make_task(results.classes, {})).folder_numbers()
    known: dict[str, int] = {}
    classes = _at([_class_of(folder, wanted, known) for folder in folders], codes)
    of_scored = classes[columns["prediction"].notna()]
    named = of_scored[of_scored != UNKNOWN]
    if len(named) < _LEAST_SHARE * len(of_scored) or len(np.unique(named)) < _FEWEST_CLASSES:
        return None
    return _without_labels("the class folders of the archive", classes, UNKNOWN)


def patients_of(results: Results, truth: Truth, rows: npt.NDArray[np.int64]) -> Groups:
    """Number the patients of some rows of a table, so that rows of one patient have one number.

    The patient is the one that the labels name, else that of the header (`patient_key`).

    Args:
        results: The table.
        truth: The truth of the same table, with the patients that the labels name.
        rows: Shape (n,), row numbers, from 0.

    Returns:
        Shape (n,), int32, from 0 without gaps, in the order of `rows`; an image of an unknown
        patient has a number of its own.

    Raises:
        TableError: The table is damaged.
    """
    named = "label/" + truth.patients.astype("string")[rows]
    keyed = "header/" + results.read(["patient_key"])["patient_key"].astype("string")[rows]
    numbers, patients = pd.factorize(named.fillna(keyed))
    alone = numbers < 0
    numbers[alone] = len(patients) + np.arange(np.count_nonzero(alone))
    groups: Groups = numbers.astype(np.int32)
    return groups


_SPLIT_NUMBERS = {name: number for number, name in enumerate(SPLITS)}


def class_numbers(labels: Iterable[str], classes: Sequence[str]) -> dict[str, int]:
    """Map each label to the index of the class that it names, see `find_classes`.

    Args:
        labels: Labels as written.
        classes: Class names of the model.

    Returns:
        Label -> index into `classes`.

    Raises:
        LabelError: A label names no class; the message lists up to eight of such labels, and of the
            classes.
    """
    found = find_classes(labels, classes)
    if unknown := sorted(label for label, number in found.items() if number < 0):
        raise LabelError(
            f"{len(unknown)} labels name no class of the model: {listed(unknown)}; "
            f"its classes are {listed(classes)}: rename or remove those rows"
        )
    return found


def _own_truth(results: Results, task: Task) -> Truth:
    columns = results.read(TRUTH_COLUMNS)
    names = columns["truth"].cat.remove_unused_categories()
    meant = {name: task.texts.get(name, name) for name in names.cat.categories}
    class_numbers(meant.values(), task.names)
    found = task.numbers(meant.values())
    numbers = {name: found[own] for name, own in meant.items()}
    splits = _mapped(columns["split"], _SPLIT_NUMBERS)
    return _without_labels("the table's own column truth", _mapped(names, numbers), splits)


def _without_labels(source: str, classes: ClassNumbers, splits: ClassNumbers | int) -> Truth:
    return Truth(
        source=source,
        classes=classes,
        splits=np.full(len(classes), splits, np.int16) if isinstance(splits, int) else splits,
        patients=pd.Series([None] * len(classes), dtype="string"),
        labels=int(np.count_nonzero(classes != UNKNOWN)),
        without_row=0,
    )


def _class_of(folder: str, wanted: dict[str, int], known: dict[str, int]) -> int:
    """The one class that the parts of a folder's path name; `known` keeps what was looked up."""
    found = set()
    for part in folder.split("/"):
        if part not in known:
            known[part] = wanted.get(folded(part), UNKNOWN)
        if known[part] != UNKNOWN:
            found.add(known[part])
    return found.pop() if len(found) == 1 else UNKNOWN


def _mapped(names: pd.Series, numbers: Mapping[str, int]) -> ClassNumbers:
    """The number of each name of a column of categories; `UNKNOWN` where there is none."""
    return _at([numbers.get(name, UNKNOWN) for name in names.cat.categories], names.cat.codes)


def _at(
    values: "list[int] | ClassNumbers", positions: "npt.NDArray[np.integer] | pd.Series"
) -> ClassNumbers:
    """The values at some positions; `UNKNOWN` at position -1."""
    taken: ClassNumbers = np.array([*values, UNKNOWN], np.int16)[positions]
    return taken


def labels_from_folders(root: Path) -> list[LabelledFile]:
    """Label every file below `root` with the name of the top folder it is in: root/<class>/…/file.

    Files directly in `root` get no label. Files and folders whose names start with a dot are
    skipped. All other files are labelled, whether they are images or not. Links to folders are
    followed in `root` alone.

    Returns:
        The labels, folder by folder in sorted order; paths are relative to `root` and written as
        `cxrbatch.files.path_to_text` writes them.

    Raises:
        LabelError: No folder in `root` holds a file (at any depth), one of them holds none, or a
            folder cannot be listed.
    """
    try:
        with os.scandir(root) as entries:
            folders = sorted(e.name for e in entries if not _is_hidden(e) and os.path.isdir(e.path))
        found = {folder: list(files_below(root / folder)) for folder in folders}
    except OSError as error:
        place = root if error.filename is None else os.fsdecode(error.filename)
        raise LabelError(
            f"cannot list {shown(str(place))}: {error.strerror}; check its permissions"
        ) from None
    if not any(found.values()):
        raise LabelError(f"{root} has no class folders with files (expected {root}/<class>/…)")
    if empty := [folder for folder, names in found.items() if not names]:
        raise LabelError(f"empty class folders in {root}: {listed(empty)}; fill or remove them")
    return [
        LabelledFile(f"{label}/{path_to_text(os.fsencode(name))}", label)
        for label, names in ((path_to_text(os.fsencode(f)), names) for f, names in found.items())
        for name in names
    ]


def files_below(folder: Path, *, pass_unreadable: bool = False) -> Iterator[str]:
    """Yield the path of every file below `folder`, also pipes and broken links, relative to it.

    The order is sorted, the files of a folder before its folders. Links to folders are not
    followed. Names that start with a dot are skipped: file managers write them, and they are no
    images.

    Args:
        folder: The folder to walk.
        pass_unreadable: Whether a folder that cannot be listed is skipped.

    Raises:
        OSError: A folder cannot be listed, and `pass_unreadable` is false.
    """
    # An explicit stack: folders may be nested deeper than Python recurses.
    stack = [""]
    while stack:
        inside = stack.pop()
        try:
            folders, files = _listed(folder, inside)
        except OSError:
            if pass_unreadable:
                continue
            raise
        yield from files
        stack += reversed(folders)


def _listed(root: Path, inside: str) -> tuple[list[str], list[str]]:
    """The folders and the files in one folder, each sorted."""
    folders, files = [], []
    with os.scandir(os.path.join(root, inside)) as entries:
        for entry in entries:
            if _is_hidden(entry):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(os.path.join(inside, entry.name))
            elif not os.path.isdir(entry.path):
                files.append(os.path.join(inside, entry.name))
    return sorted(folders), sorted(files)


def _is_hidden(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".")

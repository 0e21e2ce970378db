"""The folds of a cross-validation: no patient and no picture is in two of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from cxrbatch.errors import LabelError
from cxrbatch.files import shown
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.training.duplicates import DuplicatePair
from cxrbatch.training.split import (
    JoinedPatients,
    Split,
    divide_groups,
    group_files,
    groups_by_class,
)
from cxrbatch.training.split_report import report_split, write_listing

_REST = {"train": 0.9, "val": 0.1}
# With two folds, one of them has to be divided into train and val.
_FEWEST_OF_TWO = 4


@dataclass(frozen=True, slots=True)
class Folds:
    """Labelled files divided into folds.

    Attributes:
        files: All files in the order given; `split` of each is None.
        groups: The number of each file's group: all files of one patient or picture.
        numbers: The fold of each file, from 1; all files of a group are in one fold.
        splits: For each fold in order, the split whose side test is that fold.
        lines: Counts of the folds by class and source, and warnings, for a person.
    """

    files: tuple[LabelledFile, ...]
    groups: tuple[int, ...]
    numbers: tuple[int, ...]
    splits: tuple[Split, ...]
    lines: tuple[str, ...]

    def write(self, path: Path) -> None:
        """Write the folds as a CSV labels file without a column split.

        The column patient has no patient ids but the number of the group, after the start of a
        hash of the first fold's split; it is empty where the patient is unknown.

        Raises:
            TableError: The file cannot be written.
        """
        name = self.splits[0].sha256[:8]
        rows = [
            {
                **asdict(file),
                "patient": file.patient and f"{name}-{group}",
                "fold": k,
                "group": group,
            }
            for file, group, k in zip(self.files, self.groups, self.numbers, strict=True)
        ]
        columns = ["path", "label", "patient", "source", "fold", "group"]
        write_listing(pd.DataFrame(rows, columns=columns), path)


def check_folds(files: Sequence[LabelledFile], *, count: int) -> None:
    """Check, before any image is read, that each class has enough patients for its folds.

    Args:
        files: All files; one without a patient counts as a patient.
        count: Number of folds.

    Raises:
        LabelError: A class has fewer patients than there are folds, or fewer than four for two.
    """
    _check_groups(files, group_files(files, ()), count=count)


def divide_folds(
    patients: JoinedPatients, pairs: Sequence[DuplicatePair], *, count: int, seed: int
) -> Folds:
    """Divide files into equal folds by groups, stratified by class, and by source where possible.

    A source counts where a class has as many groups of it as there are folds, and 10 or more. The
    files outside of a fold are divided about 9 : 1 into train and val, likewise.

    Args:
        patients: All files, with the persons whom labels or headers name.
        pairs: From `near_duplicates`, by index into the files.
        count: Number of folds.
        seed: Seed of the division.

    Raises:
        LabelError: A class has fewer groups than there are folds, fewer than four for two, or is
            missing in train or val of a fold.
    """
    files = tuple(replace(file, split=None) for file in patients.files)
    groups = group_files(files, pairs)
    _check_groups(files, groups, count=count)
    names = [f"fold {number}" for number in range(1, count + 1)]
    shares = dict.fromkeys(names, 1 / count)
    parts = divide_groups(files, groups, shares=shares, seed=seed)
    named = [replace(file, split=part) for file, part in zip(files, parts, strict=True)]
    report = report_split(named, groups, pairs, given=False, patients=patients.counts)
    splits = []
    for name in names:
        divided = _around(named, groups, name, seed=seed)
        counts = report_split(divided, groups, pairs, given=False, patients=patients.counts)
        splits.append(Split(tuple(divided), groups, counts))
    numbers = tuple(names.index(part) + 1 for part in parts)
    return Folds(files, groups, numbers, tuple(splits), tuple(report.lines(names)))


def _around(
    files: Sequence[LabelledFile], groups: Sequence[int], test: str, *, seed: int
) -> list[LabelledFile]:
    """Make one fold the side test, and divide the other files into train and val."""
    rest = [index for index, file in enumerate(files) if file.split != test]
    others, of_others = [files[i] for i in rest], [groups[i] for i in rest]
    parts = divide_groups(others, of_others, shares=_REST, seed=seed)
    subsets = dict(zip(rest, parts, strict=True))
    divided = [replace(f, split=subsets.get(i, "test")) for i, f in enumerate(files)]
    for side in _REST:
        labels = {file.label for file in divided if file.split == side}
        if missing := sorted({file.label for file in files} - labels):
            raise LabelError(
                f"around {test} no patient of {shown(missing[0])} is left for {side}, as patients "
                "have images of several classes; give fewer --folds"
            )
    return divided


def _check_groups(files: Sequence[LabelledFile], groups: Sequence[int], *, count: int) -> None:
    fewest = max(count, _FEWEST_OF_TWO) if count == 2 else count
    counts: Mapping[str, int] = groups_by_class(files, groups)
    few = {name: number for name, number in sorted(counts.items()) if number < fewest}
    if few:
        listed = ", ".join(f"{shown(name)} has {number}" for name, number in few.items())
        raise LabelError(
            f"{count} folds need at least {fewest} patients, or pictures that differ, of each "
            f"class: {listed}; give fewer --folds, or leave the class out"
        )

"""Training, validation and test sides that no patient and no picture is on two of."""

import csv
import hashlib
import io
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cxrbatch.atomic import writing, written_whole
from cxrbatch.errors import LabelError
from cxrbatch.paths import shown
from cxrbatch.results.labels import SPLITS, LabelledFile
from cxrbatch.training.duplicates import Pair
from cxrbatch.training.groups import Leak, PatientCounts, find_leaks, group_files
from cxrbatch.training.split_report import SplitReport, report_split

_SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
# Of fewer groups than this a tenth is less than one.
_FEWEST_TO_STRATIFY = 10
_SHOWN = 20
_NAME_DIGITS = 8

_Stratum = tuple[str, str | None]


class LeakError(LabelError):
    """A split that was given has what belongs together on two sides.

    Attributes:
        leaks: All that was found; the message shows the first.
    """

    def __init__(self, leaks: Sequence[Leak]) -> None:
        listed = "; ".join(map(str, leaks[:_SHOWN]))
        more = f"; and {len(leaks) - _SHOWN} more" if len(leaks) > _SHOWN else ""
        super().__init__(
            f"{len(leaks)} pairs are on two sides of the given split: {listed}{more}. Correct "
            "the split, leave its column out, or give --drop-leaks to train without the copies"
        )
        self.leaks = tuple(leaks)


@dataclass(frozen=True, slots=True)
class Split:
    """Labelled files with their sides.

    Attributes:
        files: All files in the order given, each with its side; None for one that was dropped.
        groups: The group of each file; a group is on one side.
        report: What a reader should know of it.
    """

    files: tuple[LabelledFile, ...]
    groups: tuple[int, ...]
    report: SplitReport

    @property
    def sha256(self) -> str:
        """Hash over paths, labels, sides and groups, whatever the order of the files."""
        rows = [(f.path, f.label, f.split, g) for f, g in self._kept()]
        lines = "\n".join(json.dumps(row) for row in sorted(rows))
        return hashlib.sha256(lines.encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the split as a file of labels that gives it again.

        In place of a patient stands the group, under a name that no other split has.

        Raises:
            TableError: The disk refuses.
        """
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["path", "label", "patient", "source", "split", "group"])
        name = self.sha256[:_NAME_DIGITS]
        for f, group in self._kept():
            patient = None if f.patient is None else f"{name}-{group}"
            table.writerow([f.path, f.label, patient, f.source, f.split, group])
        with writing(path), written_whole(path) as file:
            file.write(text.getvalue().encode())

    def _kept(self) -> list[tuple[LabelledFile, int]]:
        paired = zip(self.files, self.groups, strict=True)
        return [(file, group) for file, group in paired if file.split is not None]


def split_files(
    files: Sequence[LabelledFile],
    pairs: Sequence[Pair],
    *,
    seed: int,
    drop_leaks: bool = False,
    patients: PatientCounts | None = None,
) -> Split:
    """Give every file a side; a split that came with the labels is kept and checked.

    Without one, groups are divided 8 : 1 : 1, stratified by class, and by source where a class
    has several; the order of the files makes no difference.

    Args:
        files: All files; none, or all, with a split.
        pairs: From `near_duplicates`, by index into `files`.
        seed: Of the split, where none is given.
        drop_leaks: Where a given split has a group on several sides, leave out its files on all
            but one: training copies before validation's, and those before test's.
        patients: How the patients of `files` are known; None where the labels alone name them.

    Raises:
        LeakError: The given split has a group on two sides.
        LabelError: Only some files have a split, or a class has too few groups or is missing on
            a side.
    """
    given = check_split(files)
    groups = group_files(files, pairs)
    sided = list(files) if given else _divide(files, groups, seed=seed)
    if leaks := find_leaks(sided, pairs):
        if not drop_leaks:
            raise LeakError(leaks)
        sided = _without_leaks(sided, groups)
    _check_classes(sided)
    report = report_split(sided, groups, pairs, given=given, patients=patients)
    return Split(tuple(sided), groups, report)


def check_split(files: Sequence[LabelledFile]) -> bool:
    """Refuse, before any image is read, labels that no split can be had of.

    Returns:
        Whether a split is given.

    Raises:
        LabelError: Only some files have a split, or a class has too few patients or is missing on
            a side.
    """
    given = [file.split is not None for file in files]
    if any(given) and not all(given):
        raise LabelError(
            f"{given.count(False)} of {len(files)} files have no split; give all of them one, or "
            "leave the column out"
        )
    if all(given):
        _check_classes(files)
    else:
        _strata(files, group_files(files, ()))
    return all(given)


def _divide(
    files: Sequence[LabelledFile], groups: Sequence[int], *, seed: int
) -> list[LabelledFile]:
    """Iterative stratification by group: K. Sechidis et al., ECML PKDD 2011.

    The rarest stratum first, its largest groups first, each to the side that lacks most of it.
    """
    strata = _strata(files, groups)
    sizes: defaultdict[int, Counter[_Stratum]] = defaultdict(Counter)
    for group, stratum in zip(groups, strata, strict=True):
        sizes[group][stratum] += 1
    # Shuffled by number, which the order of the files does not change.
    shuffled = random.Random(seed).sample(range(len(sizes)), len(sizes))
    totals, number_of = Counter(strata), Counter(s for held in sizes.values() for s in held)
    held: Counter[tuple[str, _Stratum]] = Counter()
    sides: dict[int, str] = {}
    for stratum in sorted(totals, key=lambda s: (number_of[s], s[0], s[1] or "")):
        own = [group for group in shuffled if sizes[group][stratum] and group not in sides]
        for group in sorted(own, key=lambda g: -sizes[g][stratum]):
            side = max(SPLITS, key=lambda s: 1 - held[s, stratum] / (_SHARES[s] * totals[stratum]))
            sides[group] = side
            held.update({(side, kind): count for kind, count in sizes[group].items()})
    return [replace(file, split=sides[group]) for file, group in zip(files, groups, strict=True)]


def _strata(files: Sequence[LabelledFile], groups: Sequence[int]) -> list[_Stratum]:
    """Class and source of each file; class alone where that is too rare to be divided."""
    members: defaultdict[_Stratum, set[int]] = defaultdict(set)
    of_class: defaultdict[str, set[int]] = defaultdict(set)
    for file, group in zip(files, groups, strict=True):
        members[file.label, file.source].add(group)
        of_class[file.label].add(group)
    name, fewest = min(of_class.items(), key=lambda pair: (len(pair[1]), pair[0]))
    if len(fewest) < len(SPLITS):
        raise LabelError(
            f"each class needs at least three patients, or pictures that differ, to be split; "
            f"{shown(name)} has {len(fewest)}"
        )
    rare = {stratum for stratum, held in members.items() if len(held) < _FEWEST_TO_STRATIFY}
    return [
        (file.label, None if (file.label, file.source) in rare else file.source) for file in files
    ]


def _without_leaks(files: Sequence[LabelledFile], groups: Sequence[int]) -> list[LabelledFile]:
    kept: defaultdict[int, str] = defaultdict(lambda: SPLITS[0])
    for file, group in zip(files, groups, strict=True):
        kept[group] = max(kept[group], file.split or SPLITS[0], key=SPLITS.index)
    return [
        file if file.split == kept[group] else replace(file, split=None)
        for file, group in zip(files, groups, strict=True)
    ]


def _check_classes(files: Sequence[LabelledFile]) -> None:
    labels = {file.label for file in files}
    for side in ("train", "val"):
        present = {file.label for file in files if file.split == side}
        if missing := sorted(labels - present):
            raise LabelError(
                f"no image of {shown(missing[0])} in the {side} split; give it some, or leave the "
                "column split out"
            )

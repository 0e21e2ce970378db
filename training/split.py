"""The split into train, val and test: no patient and no picture is in two of them."""

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from cxrbatch.errors import LabelError
from cxrbatch.paths import shown
from cxrbatch.results.labels import SPLITS, LabelledFile
from cxrbatch.training.duplicates import DuplicatePair
from cxrbatch.training.groups import PatientCounts, group_files
from cxrbatch.training.labels import write_listing
from cxrbatch.training.split_report import SplitReport, report_split

_SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
# Of fewer groups than this a tenth is less than one.
_FEWEST_TO_STRATIFY = 10
_SHOWN = 20
_NAME_DIGITS = 8

_Stratum = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Leak:
    """Two files of one patient or one picture in two subsets of a split.

    Attributes:
        first: One of them.
        second: The other.
        reason: Why they belong together.
    """

    first: LabelledFile
    second: LabelledFile
    reason: str

    def __str__(self) -> str:
        ends = " and ".join(f"{shown(f.path)} ({f.split})" for f in (self.first, self.second))
        return f"{ends}: {self.reason}"


class LeakError(LabelError):
    """A given split has files that belong together in two subsets.

    Attributes:
        leaks: All leaks; the message names the first.
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
    """Labelled files divided into subsets.

    Attributes:
        files: All files in the order given; `split` is None for a file that was dropped.
        groups: The group of each file; all files of a group are in one subset.
        report: Counts and warnings.
    """

    files: tuple[LabelledFile, ...]
    groups: tuple[int, ...]
    report: SplitReport

    @property
    def sha256(self) -> str:
        """Hash of paths, labels, subsets and groups, whatever the order of the files."""
        rows = [(f.path, f.label, f.split, g) for f, g in self._kept()]
        lines = "\n".join(json.dumps(row) for row in sorted(rows))
        return hashlib.sha256(lines.encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the split as a labels file, from which `split_files` makes the same split.

        The column patient holds the group, with a prefix that no other split has.

        Raises:
            TableError: The file cannot be written.
        """
        name = self.sha256[:_NAME_DIGITS]
        rows = [
            {**asdict(f), "patient": f.patient and f"{name}-{group}", "group": group}
            for f, group in self._kept()
        ]
        columns = ["path", "label", "patient", "source", "split", "group"]
        write_listing(pd.DataFrame(rows, columns=columns), path)

    def _kept(self) -> list[tuple[LabelledFile, int]]:
        paired = zip(self.files, self.groups, strict=True)
        return [(file, group) for file, group in paired if file.split is not None]


def split_files(
    files: Sequence[LabelledFile],
    pairs: Sequence[DuplicatePair],
    *,
    seed: int,
    drop_leaks: bool = False,
    patients: PatientCounts | None = None,
) -> Split:
    """Assign every file to a subset; a split that came with the labels is kept and checked.

    Without one, groups are divided 8 : 1 : 1, stratified by class, and by source where a class
    has several; the order of the files makes no difference.

    Args:
        files: All files; none, or all, with a split.
        pairs: From `near_duplicates`, by index into `files`.
        seed: Seed of a new split.
        drop_leaks: Where a given split has a group in several subsets, drop its files in all but
            one: those of train before those of val, and those of val before those of test.
        patients: How the patients of `files` are known; None where the labels alone name them.

    Raises:
        LeakError: The given split has a group in two subsets.
        LabelError: Only some files have a split, or a class has too few groups or is missing in
            train or val.
    """
    given = check_split(files)
    groups = group_files(files, pairs)
    divided = list(files) if given else _divide(files, groups, seed=seed)
    if leaks := find_leaks(divided, pairs):
        if not drop_leaks:
            raise LeakError(leaks)
        divided = _without_leaks(divided, groups)
    _check_classes(divided)
    report = report_split(divided, groups, pairs, given=given, patients=patients)
    return Split(tuple(divided), groups, report)


def check_split(files: Sequence[LabelledFile]) -> bool:
    """Check, before any image is read, that labels can be split.

    Returns:
        Whether the labels have a split.

    Raises:
        LabelError: Only some files have a split, or a class has too few patients or is missing in
            train or val.
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


def find_leaks(files: Sequence[LabelledFile], pairs: Iterable[DuplicatePair]) -> list[Leak]:
    """Find what joins two subsets: per patient and two subsets one leak, and each pair.

    Args:
        files: All files, each with its split.
        pairs: From `near_duplicates`, by index into `files`.
    """
    first: defaultdict[str, dict[str | None, LabelledFile]] = defaultdict(dict)
    for file in files:
        if file.patient is not None:
            first[file.patient].setdefault(file.split, file)
    leaks = []
    for by_subset in first.values():
        earliest, *others = by_subset.values()
        leaks += [Leak(earliest, other, "the same patient") for other in others]
    for pair in pairs:
        one, other = files[pair.first], files[pair.second]
        if one.split != other.split:
            near = f"nearly the same picture (likeness {pair.likeness:.3f})"
            leaks.append(Leak(one, other, "the same picture" if pair.likeness == 1 else near))
    return leaks


def write_leaks(leaks: Sequence[Leak], path: Path) -> None:
    """List leaks in a CSV file; without any, remove the list of an earlier run.

    Raises:
        TableError: The file cannot be written.
    """
    columns = ["first", "first_split", "second", "second_split", "reason"]
    rows = [(k.first.path, k.first.split, k.second.path, k.second.split, k.reason) for k in leaks]
    write_listing(pd.DataFrame(rows, columns=columns), path)


def _divide(
    files: Sequence[LabelledFile], groups: Sequence[int], *, seed: int
) -> list[LabelledFile]:
    """Iterative stratification by group: K. Sechidis et al., ECML PKDD 2011.

    The rarest stratum first, its largest groups first, each to the subset that lacks most of it.
    scikit-learn's StratifiedGroupKFold makes equal folds, so shares of 8 : 1 : 1 hold only on
    average over classes, and it may leave a class of three patients out of a subset.
    """
    strata = _strata(files, groups)
    sizes: defaultdict[int, Counter[_Stratum]] = defaultdict(Counter)
    for group, stratum in zip(groups, strata, strict=True):
        sizes[group][stratum] += 1
    # Shuffled by number, which the order of the files does not change.
    shuffled = random.Random(seed).sample(range(len(sizes)), len(sizes))
    totals, number_of = Counter(strata), Counter(s for held in sizes.values() for s in held)
    counts: Counter[tuple[str, _Stratum]] = Counter()
    subsets: dict[int, str] = {}
    for stratum in sorted(totals, key=lambda s: (number_of[s], s[0], s[1] or "")):
        own = [group for group in shuffled if sizes[group][stratum] and group not in subsets]
        for group in sorted(own, key=lambda g: -sizes[g][stratum]):
            subset = max(
                SPLITS, key=lambda s: 1 - counts[s, stratum] / (_SHARES[s] * totals[stratum])
            )
            subsets[group] = subset
            counts.update({(subset, kind): count for kind, count in sizes[group].items()})
    return [replace(file, split=subsets[group]) for file, group in zip(files, groups, strict=True)]


def _strata(files: Sequence[LabelledFile], groups: Sequence[int]) -> list[_Stratum]:
    """Return class and source of each file; class alone if the two are too rare to be divided."""
    of_stratum: defaultdict[_Stratum, set[int]] = defaultdict(set)
    of_class: defaultdict[str, set[int]] = defaultdict(set)
    for file, group in zip(files, groups, strict=True):
        of_stratum[file.label, file.source].add(group)
        of_class[file.label].add(group)
    name, fewest = min(of_class.items(), key=lambda pair: (len(pair[1]), pair[0]))
    if len(fewest) < len(SPLITS):
        raise LabelError(
            f"each class needs at least three patients, or pictures that differ, to be split; "
            f"{shown(name)} has {len(fewest)}"
        )
    rare = {stratum for stratum, held in of_stratum.items() if len(held) < _FEWEST_TO_STRATIFY}
    strata = ((file.label, file.source) for file in files)
    return [(label, None if (label, source) in rare else source) for label, source in strata]


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
    for name in ("train", "val"):
        if missing := sorted(labels - {file.label for file in files if file.split == name}):
            raise LabelError(
                f"no image of {shown(missing[0])} in the {name} split; give it some, or leave the "
                "column split out"
            )

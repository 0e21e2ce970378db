"""The split into train, val and test: no patient and no picture is in two of them."""

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxrbatch.errors import LabelError
from cxrbatch.files import shown
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.results.label_names import SPLITS
from cxrbatch.training.duplicates import DuplicatePair
from cxrbatch.training.split_report import (
    LeakError,
    PatientCounts,
    SplitReport,
    find_leaks,
    report_split,
    write_listing,
)

# The largest public archives have some 200 radiographs of their most examined patient.
_MOST_FILES = 1000
# In a small archive one person may well have so many, and so large a share of those with an id.
_FEW_FILES, _LARGEST_SHARE = 20, 1 / 3

_Links = Sequence[tuple[int, int]]


_SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}
# Of fewer groups than this a tenth is less than one.
_FEWEST_TO_STRATIFY = 10
_NAME_DIGITS = 8

_Stratum = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Split:
    """Labelled files divided into subsets.

    Attributes:
        files: All files in the order given, each with its subset as `split`: "train", "val",
            "test", or None for a file that was dropped.
        groups: The number of each file's group. A group is all files of one patient or picture;
            those that are not dropped lie in one subset.
        report: Counts and warnings.
    """

    files: tuple[LabelledFile, ...]
    groups: tuple[int, ...]
    report: SplitReport

    @property
    def sha256(self) -> str:
        """SHA-256 of paths, labels, subsets and groups, 64 hexadecimal digits.

        The order of the files makes no difference, and dropped files are not hashed.
        """
        rows = [(f.path, f.label, f.split, g) for f, g in self._kept()]
        lines = "\n".join(json.dumps(row) for row in sorted(rows))
        return hashlib.sha256(lines.encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the split as a CSV labels file, whose column split a later training keeps.

        Dropped files are left out. The column patient has no patient ids but the number of the
        group, after the start of this split's hash; it is empty where the patient is unknown.

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

    Without one, groups are divided about 8 : 1 : 1, stratified by class, and by source where a
    class has 10 groups or more of it; the order of the files makes no difference.

    Args:
        files: All files; none, or all, with a split.
        pairs: From `near_duplicates`, by index into `files`.
        seed: Seed of a new split.
        drop_leaks: Where a given split has a group in several subsets, drop its files in all but
            one: test is kept if it is one of them, else val. If false, LeakError is raised.
        patients: How the patients of `files` are known, for the report; None where the labels
            alone name them.

    Returns:
        The split; `split` of a dropped file is None.

    Raises:
        LeakError: The given split has a group in two subsets, and `drop_leaks` is false.
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
        True if every file has a split, False if none has one.

    Raises:
        LabelError: Only some files have a split; or a class is missing in train or val of that
            split; or, without a split, a class has fewer than three patients, where a file without
            a patient counts as one.
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
        _check_enough(files, group_files(files, ()))
    return all(given)


def _divide(
    files: Sequence[LabelledFile], groups: Sequence[int], *, seed: int
) -> list[LabelledFile]:
    _check_enough(files, groups)
    subsets = divide_groups(files, groups, shares=_SHARES, seed=seed)
    return [replace(file, split=subset) for file, subset in zip(files, subsets, strict=True)]


def divide_groups(
    files: Sequence[LabelledFile], groups: Sequence[int], *, shares: Mapping[str, float], seed: int
) -> list[str]:
    """Divide groups of files into parts, stratified by class and source.

    Iterative stratification by group: K. Sechidis et al., ECML PKDD 2011. The rarest stratum first,
    its largest groups first, each to the part that lacks most of it; of several equal shares, to
    the part with the fewest files. The order of the files makes no difference.

    Args:
        files: All files.
        groups: The number of each file's group, from `group_files`.
        shares: Name of each part -> its share of the files; the shares add up to 1.
        seed: Seed of the order of equally large groups.

    Returns:
        The name of each file's part, in the order of `files`.
    """
    # scikit-learn's StratifiedGroupKFold makes equal folds, so shares of 8 : 1 : 1 hold only on
    # average over classes, and it may leave a class of three patients out of a subset.
    strata = _strata(files, groups, fewest=max(_FEWEST_TO_STRATIFY, len(shares)))
    sizes: defaultdict[int, Counter[_Stratum]] = defaultdict(Counter)
    for group, stratum in zip(groups, strata, strict=True):
        sizes[group][stratum] += 1
    # Shuffled by number, which the order of the files does not change.
    shuffled = random.Random(seed).sample(sorted(sizes), len(sizes))
    totals, number_of = Counter(strata), Counter(s for kinds in sizes.values() for s in kinds)
    counts: Counter[tuple[str, _Stratum]] = Counter()
    loads: Counter[str] = Counter()
    parts: dict[int, str] = {}

    def lack(part: str) -> tuple[float, int]:
        wanted = shares[part] * totals[stratum]
        return 1 - counts[part, stratum] / wanted, -loads[part]

    for stratum in sorted(totals, key=lambda s: (number_of[s], s[0], s[1] or "")):
        own = [group for group in shuffled if sizes[group][stratum] and group not in parts]
        for group in sorted(own, key=lambda g: -sizes[g][stratum]):
            part = max(shares, key=lack)
            parts[group] = part
            counts.update({(part, kind): count for kind, count in sizes[group].items()})
            if len({*shares.values()}) == 1:
                loads[part] += sizes[group].total()
    return [parts[group] for group in groups]


def groups_by_class(files: Sequence[LabelledFile], groups: Sequence[int]) -> dict[str, int]:
    """Return the number of groups that have a file of each class: class name -> number."""
    of_class: defaultdict[str, set[int]] = defaultdict(set)
    for file, group in zip(files, groups, strict=True):
        of_class[file.label].add(group)
    return {name: len(members) for name, members in of_class.items()}


def _check_enough(files: Sequence[LabelledFile], groups: Sequence[int]) -> None:
    counts = groups_by_class(files, groups)
    name = min(counts, key=lambda name: (counts[name], name))
    if counts[name] < len(SPLITS):
        raise LabelError(
            f"each class needs at least three patients, or pictures that differ, to be split; "
            f"{shown(name)} has {counts[name]}"
        )


def _strata(files: Sequence[LabelledFile], groups: Sequence[int], *, fewest: int) -> list[_Stratum]:
    """Return class and source of each file; class alone if the two have fewer groups."""
    of_stratum: defaultdict[_Stratum, set[int]] = defaultdict(set)
    for file, group in zip(files, groups, strict=True):
        of_stratum[file.label, file.source].add(group)
    rare = {kind for kind, members in of_stratum.items() if len(members) < fewest}
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


def group_files(files: Sequence[LabelledFile], pairs: Iterable[DuplicatePair]) -> tuple[int, ...]:
    """Number the groups of files that must be in one subset.

    Files of one patient are in one group, and both files of a pair; so are files that are linked
    through others. A file without either is a group of its own.

    Args:
        files: All files; a patient of None equals no other.
        pairs: Pairs of one picture, from `near_duplicates`, by index into `files`.

    Returns:
        The number of each file's group. Groups are numbered from 0 in the sorted order of their
        first paths, so that the order of the files makes no difference.
    """
    patients = _links_of_equal([file.patient for file in files])
    return _connected(files, [*patients, *((pair.first, pair.second) for pair in pairs)])


@dataclass(frozen=True, slots=True)
class JoinedPatients:
    """Labelled files with the persons whom labels or headers name.

    Attributes:
        files: The files in the order given. `patient` is replaced by the number of the person as
            text, from which no id can be learned; None if neither label nor header names one, or
            only by an id that is ignored.
        counts: Number of files by how their patient is known.
    """

    files: tuple[LabelledFile, ...]
    counts: PatientCounts


def join_patients(files: Sequence[LabelledFile], keys: Sequence[str | None]) -> JoinedPatients:
    """Find which files are of one person: those with the same patient in labels or in headers.

    Files that are linked through others are of one person, too. `files` is not changed.
    Labels are trusted. A header's key is ignored if it is on all files, on more than 1000, or on
    more than 20 and more than a third of the files with a key: de-identification wrote such an id
    into the files of many persons.

    Args:
        files: All labelled files.
        keys: Keyed hash of the patient id in the header of each file, in the order of `files`;
            None if there is none.

    Returns:
        Copies of the files with the number of the person, as text, in place of the patient; and
        counts of how the patients are known.
    """
    files_of = Counter(key for key in keys if key is not None)
    most = min(max(_FEW_FILES, _LARGEST_SHARE * sum(files_of.values())), _MOST_FILES)
    shared = {key: n for key, n in files_of.items() if n > most or n == len(files)}
    headers = [None if key in shared else key for key in keys]
    labels = [file.patient for file in files]
    persons = _connected(files, [*_links_of_equal(labels), *_links_of_equal(headers)])
    known = [pair != (None, None) for pair in zip(labels, headers, strict=True)]
    by_labels = sum(label is not None for label in labels)
    counts = PatientCounts(
        by_labels, sum(known) - by_labels, known.count(False), len(shared), sum(shared.values())
    )
    named = (
        replace(file, patient=str(person) if is_known else None)
        for file, person, is_known in zip(files, persons, known, strict=True)
    )
    return JoinedPatients(tuple(named), counts)


def _links_of_equal(values: Sequence[str | None]) -> _Links:
    """Link each place with the first one of the same value; None equals nothing."""
    codes, _ = pd.factorize(pd.Series(values, dtype=object))
    first = pd.Series(np.arange(len(codes))).groupby(codes).transform("first")
    return [(int(a), b) for b, a in enumerate(first) if codes[b] >= 0]


def _connected(files: Sequence[LabelledFile], links: _Links) -> tuple[int, ...]:
    """Number the connected components of a graph by their first path in the order of text."""
    ends = np.array(links, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(links)), (ends[0], ends[1])), shape=(len(files),) * 2)
    _, components = connected_components(graph, directed=False)
    numbers: dict[int, int] = {}
    for index in sorted(range(len(files)), key=lambda i: files[i].path):
        numbers.setdefault(int(components[index]), len(numbers))
    return tuple(numbers[int(component)] for component in components)

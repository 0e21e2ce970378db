"""Files that must stay on one side of a split: those of one patient, and those of one picture."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cxrbatch.atomic import writing, written_whole
from cxrbatch.paths import shown
from cxrbatch.results.labels import LabelledFile
from cxrbatch.training.duplicates import Pair


@dataclass(frozen=True, slots=True)
class Leak:
    """Two files on two sides of a split that belong together.

    Attributes:
        first: One of them.
        second: The other.
        reason: Why they belong together.
    """

    first: LabelledFile
    second: LabelledFile
    reason: str

    def __str__(self) -> str:
        sides = " and ".join(f"{shown(f.path)} ({f.split})" for f in (self.first, self.second))
        return f"{sides}: {self.reason}"


def group_files(files: Sequence[LabelledFile], pairs: Iterable[Pair]) -> tuple[int, ...]:
    """Join files of one patient and pairs of one picture, and what these have in common.

    Args:
        files: All files.
        pairs: From `near_duplicates`, by index into `files`.

    Returns:
        The group of each file, as `numbered` counts them.
    """
    links = [*alike([file.patient for file in files]), *((p.first, p.second) for p in pairs)]
    return numbered(files, joined(len(files), links))


def alike(values: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    """Link each place with the first one that holds the same; None is like nothing."""
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        if value is not None:
            yield first.setdefault(value, index), index


def joined(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """Join what is linked, also through others; those with one root belong together."""
    parents = list(range(count))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for first, second in links:
        parents[root(second)] = root(first)
    return [root(index) for index in range(count)]


def numbered(files: Sequence[LabelledFile], roots: Sequence[int]) -> tuple[int, ...]:
    """Count groups from 0 by their first path in the order of text, whatever that of the files."""
    numbers: dict[int, int] = {}
    for index in sorted(range(len(files)), key=lambda i: files[i].path):
        numbers.setdefault(roots[index], len(numbers))
    return tuple(numbers[root] for root in roots)


def find_leaks(files: Sequence[LabelledFile], pairs: Iterable[Pair]) -> list[Leak]:
    """Give all that joins two sides of a split: per patient and two sides once, and each pair.

    Args:
        files: All files, each with its side.
        pairs: From `near_duplicates`, by index into `files`.
    """
    return [*_of_patients(files), *_of_pictures(files, pairs)]


def write_leaks(leaks: Sequence[Leak], path: Path) -> None:
    """List leaks in a CSV file; without any, remove the list of an earlier run.

    Raises:
        TableError: The disk refuses.
    """
    if not leaks:
        with writing(path):
            path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["first", "first_split", "second", "second_split", "reason"])
    for leak in leaks:
        first, second = leak.first, leak.second
        table.writerow([first.path, first.split, second.path, second.split, leak.reason])
    with writing(path), written_whole(path) as file:
        file.write(text.getvalue().encode())


def _of_patients(files: Sequence[LabelledFile]) -> Iterator[Leak]:
    first: defaultdict[str, dict[str | None, LabelledFile]] = defaultdict(dict)
    for file in files:
        if file.patient is not None:
            first[file.patient].setdefault(file.split, file)
    for sides in first.values():
        earliest, *others = sides.values()
        yield from (Leak(earliest, other, "the same patient") for other in others)


def _of_pictures(files: Sequence[LabelledFile], pairs: Iterable[Pair]) -> Iterator[Leak]:
    for pair in pairs:
        first, second = files[pair.first], files[pair.second]
        if first.split != second.split:
            same = "the same picture"
            near = f"nearly the same picture (likeness {pair.likeness:.3f})"
            yield Leak(first, second, same if pair.likeness == 1 else near)


# The largest public archives have some 200 radiographs of their most examined patient.
_MOST_FILES = 1000
# In a small archive one person may well have so many, and so large a share of those with an id.
_FEW_FILES, _LARGEST_SHARE = 20, 1 / 3


@dataclass(frozen=True, slots=True)
class PatientCounts:
    """Of how many files the patient is known.

    Attributes:
        by_labels: Files whose patient the labels name.
        by_headers: Files whose patient their header alone names.
        unknown: Files whose patient nothing names.
        shared_ids: Ids in headers that are on too many files to be one person's.
        of_shared_ids: Files with one of these, which are not joined by it.
    """

    by_labels: int
    by_headers: int
    unknown: int
    shared_ids: int = 0
    of_shared_ids: int = 0

    def to_card(self) -> dict[str, int]:
        """Give the JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Patients:
    """Labelled files with the persons whom labels or headers name.

    Attributes:
        files: In the order given; `patient` is the number of a person as text, which says nothing
            of the ids, or None.
        counts: How they are known.
    """

    files: tuple[LabelledFile, ...]
    counts: PatientCounts


def join_patients(files: Sequence[LabelledFile], keys: Sequence[str | None]) -> Patients:
    """Join the files that labels, or headers, or both in turn, give to one person.

    Labels are taken at their word. An id of headers is not used where it is on all files, or on
    more of those with an id than a person has: de-identification wrote it, and it would join an
    archive into one.

    Args:
        files: All labelled files.
        keys: Of each the key of the patient in its header, None where there is none.
    """
    held = Counter(key for key in keys if key is not None)
    most = min(max(_FEW_FILES, _LARGEST_SHARE * sum(held.values())), _MOST_FILES)
    shared = {key: n for key, n in held.items() if n > most or n == len(files)}
    headers = [None if key in shared else key for key in keys]
    labels = [file.patient for file in files]
    persons = numbered(files, joined(len(files), [*alike(labels), *alike(headers)]))
    known = [pair != (None, None) for pair in zip(labels, headers, strict=True)]
    by_labels = sum(label is not None for label in labels)
    counts = PatientCounts(
        by_labels, sum(known) - by_labels, known.count(False), len(shared), sum(shared.values())
    )
    named = (
        replace(file, patient=str(person) if is_known else None)
        for file, person, is_known in zip(files, persons, known, strict=True)
    )
    return Patients(tuple(named), counts)

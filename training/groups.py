"""Files that must stay on one side of a split: those of one patient, and those of one picture."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrbatch.results.paths import shown
from cxrbatch.results.truth import LabelledFile
from cxrbatch.scoring.claim import writing
from cxrbatch.scoring.durable import written_whole
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

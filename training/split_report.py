"""Leaks of a split, its counts by class and source, and warnings about its labels."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cxrbatch.errors import LabelError
from cxrbatch.files import shown, writing, written_whole
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.results.label_names import SPLITS
from cxrbatch.training.duplicates import DuplicatePair

_LINES = 20

_ByClass = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Leak:
    """Two files of one patient or one picture in two subsets of a split.

    Attributes:
        first: One of the files, with its split.
        second: The other file.
        reason: Why they belong together: "the same patient", "the same picture" or "nearly the
            same picture (likeness …)".
    """

    first: LabelledFile
    second: LabelledFile
    reason: str

    def __str__(self) -> str:
        ends = " and ".join(f"{shown(f.path)} ({f.split})" for f in (self.first, self.second))
        return f"{ends}: {self.reason}"


class LeakError(LabelError):
    """The split that came with the labels has files of one patient or picture in two subsets.

    Attributes:
        leaks: All leaks; the message names the first 20.
    """

    def __init__(self, leaks: Sequence[Leak]) -> None:
        listed = "; ".join(map(str, leaks[:_LINES]))
        more = f"; and {len(leaks) - _LINES} more" if len(leaks) > _LINES else ""
        super().__init__(
            f"{len(leaks)} pairs are on two sides of the given split: {listed}{more}. Correct "
            "the split, leave its column out, or give --drop-leaks to train without the copies"
        )
        self.leaks = tuple(leaks)


def find_leaks(files: Sequence[LabelledFile], pairs: Iterable[DuplicatePair]) -> list[Leak]:
    """Find the files of one patient or one picture that are in two subsets.

    A patient with files in k subsets gives k - 1 leaks: the first file of each other subset, paired
    with the patient's first file. Each pair of one picture in two subsets gives a leak.

    Args:
        files: All files, each with its split; a patient of None joins nothing.
        pairs: From `near_duplicates`, by index into `files`.

    Returns:
        The leaks, those by patient first; empty if there are none.
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
    """Write leaks to a CSV file, a row for each; if there are none, delete an existing file.

    Raises:
        TableError: The file cannot be written or deleted.
    """
    if not leaks:
        with writing(path):
            path.unlink(missing_ok=True)
        return
    columns = ["first", "first_split", "second", "second_split", "reason"]
    rows = [(k.first.path, k.first.split, k.second.path, k.second.split, k.reason) for k in leaks]
    write_listing(pd.DataFrame(rows, columns=columns), path)


def write_listing(rows: pd.DataFrame, path: Path) -> None:
    """Write rows to a CSV file in UTF-8, with a header; an existing file is replaced at once.

    The index is not written, and a missing value is an empty cell. Without rows the header alone is
    written.

    Raises:
        TableError: The file cannot be written.
    """
    content = rows.to_csv(index=False, lineterminator="\n").encode(errors="backslashreplace")
    with writing(path), written_whole(path) as file:
        file.write(content)


@dataclass(frozen=True, slots=True)
class PatientCounts:
    """Number of files by how their patient is known.

    Attributes:
        by_labels: Files whose patient the labels name.
        by_headers: Files whose patient their header alone names.
        unknown: Files whose patient nothing names.
        shared_ids: Number of ids in headers that are on all files, or on too many for one person.
        of_shared_ids: Files with one of these ids, which do not count as one person's because of
            it.
    """

    by_labels: int
    by_headers: int
    unknown: int
    shared_ids: int = 0
    of_shared_ids: int = 0

    def to_card(self) -> dict[str, int]:
        """Return the counts by name, as the checkpoint's card has them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SplitReport:
    """Counts of a split, and doubtful labels.

    A group is all files of one patient or picture. Files without an image are counted, too.

    Attributes:
        given: Whether the split came with the labels.
        patients: Number of files by how their patient is known.
        images: Number of files by subset and class.
        groups: Number of groups by subset and class.
        sources: Number of files by subset, class and source, of files with a source.
        one_source: Class -> source, for each class whose files are all from one source; empty
            if all files have the same source.
        equal: Number of the pairs of equal pictures inside a subset.
        near: Number of the pairs of nearly equal pictures inside a subset.
        contradictions: Pairs of files that are one picture with two labels.
        dropped: Paths that were left out because files of the same group are in another subset.
    """

    given: bool
    patients: PatientCounts
    images: _ByClass
    groups: _ByClass
    sources: dict[str, _ByClass]
    one_source: dict[str, str]
    equal: int
    near: int
    contradictions: tuple[tuple[LabelledFile, LabelledFile], ...]
    dropped: tuple[str, ...]

    def to_card(self) -> dict[str, Any]:
        """Return the counts for the checkpoint's card; of files it has numbers and no paths."""
        return {
            "given": self.given,
            "patients": self.patients.to_card(),
            "images": self.images,
            "groups": self.groups,
            "sources": self.sources,
            "classes_of_one_source": self.one_source,
            "equal_pairs": self.equal,
            "near_equal_pairs": self.near,
            "contradictory_pairs": len(self.contradictions),
            "dropped_as_leaks": len(self.dropped),
        }

    def lines(self, sides: Sequence[str] = SPLITS) -> Iterator[str]:
        """Yield lines for a person: counts of subsets, patients and duplicates, then warnings.

        Args:
            sides: Names of the subsets in their order.
        """
        for name in sides:
            counts = [
                f"{shown(label)} {count} in {self.groups[name][label]} groups"
                for label, count in self.images.get(name, {}).items()
            ]
            yield f"{name}: {', '.join(counts) or 'no images'}"
        for name in sides if self.sources else ():
            counts = [
                f"{shown(label)} from {shown(source)} {count}"
                for label, of_class in self.sources.get(name, {}).items()
                for source, count in of_class.items()
            ]
            yield f"{name} by source: {', '.join(counts) or 'none known'}"
        yield (
            f"patients: named by the labels for {self.patients.by_labels} images, by headers alone "
            f"for {self.patients.by_headers}, unknown for {self.patients.unknown}"
        )
        yield f"duplicates inside a side: {self.equal} equal and {self.near} nearly equal pairs"
        for warning in (*self._patient_warnings(), *self._label_warnings()):
            yield f"warning: {warning}"

    def _patient_warnings(self) -> Iterator[str]:
        known = self.patients
        if known.shared_ids:
            yield (
                f"{known.of_shared_ids} images share {known.shared_ids} patient ids in "
                "their headers, more than persons have: these ids are not used; name the patients "
                "in a column patient of the labels"
            )
        if known.unknown and not self.given:
            whose = "no patient column and no patient ids in headers"
            if known.by_labels or known.by_headers:
                whose = f"nothing names the patients of {known.unknown} images"
            yield f"{whose}, so images of one person may be on two sides of the split"

    def _label_warnings(self) -> Iterator[str]:
        if self.dropped:
            more = f" and {len(self.dropped) - _LINES} more" if self.dropped[_LINES:] else ""
            yield (
                f"left out as copies of files on another side: {len(self.dropped)}: "
                f"{', '.join(map(shown, self.dropped[:_LINES]))}{more}"
            )
        for label, source in self.one_source.items():
            yield (
                f"all images of {shown(label)} are from {shown(source)}: a score may tell "
                "sources apart instead of diseases"
            )
        for first, second in self.contradictions[:_LINES]:
            yield (
                f"one picture, two labels: {shown(first.path)} is {shown(first.label)}, "
                f"{shown(second.path)} is {shown(second.label)}"
            )
        if len(self.contradictions) > _LINES:
            yield f"one picture, two labels: {len(self.contradictions) - _LINES} more"


def report_split(
    files: Sequence[LabelledFile],
    groups: Sequence[int],
    pairs: Sequence[DuplicatePair],
    *,
    given: bool,
    patients: PatientCounts | None = None,
) -> SplitReport:
    """Count the files of a split by subset, class and source, and find doubtful labels.

    Args:
        files: All files with their split, which is None for those that were dropped.
        groups: The number of each file's group, in the order of `files`.
        pairs: Pairs of one picture, from `near_duplicates`, by index into `files`.
        given: Whether the split came with the labels.
        patients: How the patients of `files` are known; None where the labels alone name them.
    """
    frame = pd.DataFrame([asdict(file) for file in files], dtype=object).assign(group=groups)
    unknown = int(frame["patient"].isna().sum())
    by_class = frame.groupby(["split", "label"])  # leaves out rows without a split
    by_source = frame.groupby(["split", "label", "source"])
    couples = [(files[pair.first], files[pair.second], pair.likeness) for pair in pairs]
    inside = [like for a, b, like in couples if a.split is not None and a.split == b.split]
    return SplitReport(
        given,
        patients or PatientCounts(len(files) - unknown, 0, unknown),
        _by_label(by_class.size()),
        _by_label(by_class["group"].nunique()),
        {
            str(split): _by_label(counts.droplevel("split"))
            for split, counts in by_source.size().groupby("split")
        },
        _of_one_source(frame),
        inside.count(1),
        len(inside) - inside.count(1),
        tuple((a, b) for a, b, _ in couples if a.label != b.label),
        tuple(file.path for file in files if file.split is None),
    )


def _of_one_source(frame: pd.DataFrame) -> dict[str, str]:
    if frame["source"].nunique(dropna=False) < 2:
        return {}
    kinds = frame.groupby("label")["source"]
    first = kinds.first()[kinds.nunique(dropna=False) == 1].dropna()
    return {str(label): str(source) for label, source in first.items()}


def _by_label(counts: "pd.Series[int]") -> dict[str, dict[str, int]]:
    """Turn counts with an index of two levels into dicts in dicts, sorted by text."""
    nested: dict[str, dict[str, int]] = {}
    for (outer, inner), count in counts.items():
        nested.setdefault(outer, {})[inner] = int(count)
    return nested

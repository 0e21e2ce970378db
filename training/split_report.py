"""What a reader should know of a split: counts, sources, duplicates, contradictions."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cxrbatch.paths import shown
from cxrbatch.results.labels import SPLITS, LabelledFile
from cxrbatch.training.duplicates import Pair
from cxrbatch.training.groups import PatientCounts

_LINES = 20


@dataclass(frozen=True, slots=True)
class SplitReport:
    """Counts of a split, and what is odd about its labels.

    Attributes:
        given: Whether the split came with the labels.
        patients: Of how many files the patient is known.
        images: Number of images by (side, class).
        groups: Number of groups by (side, class).
        sources: Number of images by (side, class, source), where sources are known.
        one_source: Classes that come from one source only while others exist, with the source.
        equal: Pairs of equal pictures inside a side.
        near: Pairs of nearly equal pictures inside a side.
        contradictions: Paths and labels of two files that are one picture with two labels.
        dropped: Paths that were left out because copies of them are on another side.
    """

    given: bool
    patients: PatientCounts
    images: Counter[tuple[str, str]]
    groups: Counter[tuple[str, str]]
    sources: Counter[tuple[str, str, str]]
    one_source: tuple[tuple[str, str], ...]
    equal: int
    near: int
    contradictions: tuple[tuple[LabelledFile, LabelledFile], ...]
    dropped: tuple[str, ...]

    def to_card(self) -> dict[str, Any]:
        """Give the JSON form, which names no file."""
        return {
            "given": self.given,
            "patients": self.patients.to_card(),
            "images": _nested(self.images),
            "groups": _nested(self.groups),
            "sources": _nested_sources(self.sources),
            "classes_of_one_source": dict(self.one_source),
            "equal_pairs": self.equal,
            "near_equal_pairs": self.near,
            "contradictory_pairs": len(self.contradictions),
            "dropped_as_leaks": len(self.dropped),
        }

    def lines(self) -> Iterator[str]:
        """Lines for a person, warnings last."""
        for side in SPLITS:
            counts = [
                f"{shown(label)} {count} in {self.groups[side, label]} groups"
                for (where, label), count in sorted(self.images.items())
                if where == side
            ]
            yield f"{side}: {', '.join(counts) or 'no images'}"
        for side in SPLITS if self.sources else ():
            counts = [
                f"{shown(label)} from {shown(source)} {count}"
                for (where, label, source), count in sorted(self.sources.items())
                if where == side
            ]
            yield f"{side} by source: {', '.join(counts) or 'none known'}"
        yield (
            f"patients: named by the labels for {self.patients.by_labels} images, by headers alone "
            f"for {self.patients.by_headers}, unknown for {self.patients.unknown}"
        )
        yield f"duplicates inside a side: {self.equal} equal and {self.near} nearly equal pairs"
        yield from self._warnings()

    def _warnings(self) -> Iterator[str]:
        yield from self._warnings_of_patients()
        if self.dropped:
            yield (
                f"warning: left out as copies of files on another side: {len(self.dropped)}: "
                f"{_listed(self.dropped)}"
            )
        for label, source in self.one_source:
            yield (
                f"warning: all images of {shown(label)} are from {shown(source)}: a score may tell "
                "sources apart instead of diseases"
            )
        for first, second in self.contradictions[:_LINES]:
            yield (
                f"warning: one picture, two labels: {shown(first.path)} is {shown(first.label)}, "
                f"{shown(second.path)} is {shown(second.label)}"
            )
        if len(self.contradictions) > _LINES:
            yield f"warning: one picture, two labels: {len(self.contradictions) - _LINES} more"

    def _warnings_of_patients(self) -> Iterator[str]:
        known = self.patients
        if known.shared_ids:
            yield (
                f"warning: {known.of_shared_ids} images share {known.shared_ids} patient ids in "
                "their headers, more than persons have: these ids are not used; name the patients "
                "in a column patient of the labels"
            )
        if self.given or not known.unknown:
            return
        if known.by_labels or known.by_headers:
            whose = f"nothing names the patients of {known.unknown} images"
        else:
            whose = "no patient column and no patient ids in headers"
        yield f"warning: {whose}, so images of one person may be on two sides of the split"


def report_split(
    files: Sequence[LabelledFile],
    groups: Sequence[int],
    pairs: Sequence[Pair],
    *,
    given: bool,
    patients: PatientCounts | None = None,
) -> SplitReport:
    """Count a split.

    Args:
        files: All files with their sides; None for those that were dropped.
        groups: The group of each file.
        pairs: Pairs of one picture, by index into `files`.
        given: Whether the split came with the labels.
        patients: How the patients of `files` are known; None where the labels alone name them.
    """
    unknown = sum(file.patient is None for file in files)
    images: Counter[tuple[str, str]] = Counter()
    members: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    sources: Counter[tuple[str, str, str]] = Counter()
    for file, group in zip(files, groups, strict=True):
        if file.split is not None:
            images[file.split, file.label] += 1
            members[file.split, file.label].add(group)
            if file.source is not None:
                sources[file.split, file.label, file.source] += 1
    inside = [
        pair
        for pair in pairs
        if files[pair.first].split is not None
        and files[pair.first].split == files[pair.second].split
    ]
    equal = sum(pair.likeness == 1 for pair in inside)
    couples = [(files[pair.first], files[pair.second]) for pair in pairs]
    return SplitReport(
        given,
        patients or PatientCounts(len(files) - unknown, 0, unknown),
        images,
        Counter({key: len(held) for key, held in members.items()}),
        sources,
        _of_one_source(files),
        equal,
        len(inside) - equal,
        tuple((a, b) for a, b in couples if a.label != b.label),
        tuple(file.path for file in files if file.split is None),
    )


def _of_one_source(files: Sequence[LabelledFile]) -> tuple[tuple[str, str], ...]:
    sources: defaultdict[str, set[str | None]] = defaultdict(set)
    for file in files:
        sources[file.label].add(file.source)
    if len(set().union(*sources.values())) < 2:
        return ()
    single = {label: next(iter(held)) for label, held in sources.items() if len(held) == 1}
    return tuple((label, held) for label, held in sorted(single.items()) if held is not None)


def _nested(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    nested: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for (side, label), count in sorted(counts.items()):
        nested[side][label] = count
    return dict(nested)


def _nested_sources(
    counts: Counter[tuple[str, str, str]],
) -> dict[str, dict[str, dict[str, int]]]:
    nested: defaultdict[str, dict[str, dict[str, int]]] = defaultdict(dict)
    for (side, label, source), count in sorted(counts.items()):
        nested[side].setdefault(label, {})[source] = count
    return dict(nested)


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _LINES} more" if len(paths) > _LINES else ""
    return ", ".join(map(shown, paths[:_LINES])) + more

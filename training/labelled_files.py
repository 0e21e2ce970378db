"""Collect labels from several sources, join each with its file, and order their classes."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path

import pandas as pd

from cxrbatch.errors import LabelError
from cxrbatch.files import path_to_text, shown
from cxrbatch.model.card import check_classes
from cxrbatch.results.label_files import labels_in
from cxrbatch.results.labels import LabelledFile, folded, labels_from_folders
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.training.file_index import (
    LocatedFile,
    MemberIndex,
    NotFoundError,
    files_at,
    images_below,
    spellings,
)
from cxrbatch.training.split_report import write_listing


class MismatchReason(StrEnum):
    """Why a label and a file do not match.

    Attributes:
        remedy: What a user can do about it.
    """

    remedy: str

    def __new__(cls, value: str, remedy: str) -> "MismatchReason":
        """Make a member with a text and a remedy."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.remedy = remedy
        return member

    NO_FILE = "label without a file", "correct the path, or say with --root what it is relative to"
    TWO_FILES = (
        "label of several files",
        "write its path in full, give one --root, or rename one of two members of one name",
    )
    TWO_LABELS = "file with two labels", "keep the row that is right"
    TWO_ROWS = "file with contradicting rows", "give its rows one patient and one split"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A label that has not exactly one file, or is not the only one of its file.

    Attributes:
        path: The path in the labels.
        reason: What is wrong.
        detail: The paths that were tried, or the files and labels found, as text; may be empty.
    """

    path: str
    reason: MismatchReason
    detail: str = ""


_SHOWN = 5
_MOST_NAMED = 100
# Where a million labels name no file, the places of the first are enough.
_MOST_EXPLAINED = 100_000
_LABEL_IT = "label the image to have it used"
_NESTED = "an archive inside an archive is not opened"


@dataclass(frozen=True, slots=True)
class CollectedLabels:
    """Labels joined with their files.

    Attributes:
        files: The labels that have one file. Their paths are relative to a root, as `path_to_text`
            writes them, where the labels have relative ones; absolute where these are, or where
            several files have one relative path.
        located: The files in the same order, with absolute paths. Members of containers come last,
            in the order in which they lie in their container.
        root: The folder that relative paths start from; if there are several, or none, the folder
            that all files are below.
        mismatches: Labels without exactly one file and files without exactly one label; none of
            them is in `files`.
        unlabelled: Number of images without a label.
        unlabelled_paths: Paths of these images, or of the first few.
    """

    files: tuple[LabelledFile, ...]
    located: tuple[ArchiveFile, ...]
    root: Path
    mismatches: tuple[Mismatch, ...]
    unlabelled: int
    unlabelled_paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """A label with its file, and the root that the file was found below."""

    item: LabelledFile
    located: LocatedFile
    root: Path | None


def collect_labels(
    sources: Sequence[Path], *, roots: Sequence[Path] = (), all_unlabelled: bool = False
) -> CollectedLabels:
    """Join the labels of all sources with their files, and find labels and files that do not match.

    A label is a mismatch if it has no file, has several files, or contradicts another label of
    its file. Images without a label are counted among the first million files below those roots,
    and folders of class folders, that have a labelled file; members of containers are not counted.

    Args:
        sources: Folders of class folders, and files of labels.
        roots: Folders in each of which a relative path of a labels file is looked up; if empty,
            the folder of the labels file.
        all_unlabelled: Whether the paths of all images without a label are returned, not only of
            the first few.

    Raises:
        LabelError: A source or a root cannot be read.
    """
    if missing := [root for root in roots if not root.is_dir()]:
        raise LabelError(f"--root {missing[0]} is not a folder")
    found: list[_Found] = []
    lost: list[Mismatch] = []
    for result in chain.from_iterable(_find_all(source, roots) for source in sources):
        if isinstance(result, _Found):
            found.append(result)
        else:
            lost.append(result if len(lost) < _MOST_EXPLAINED else replace(result, detail=""))
    once, doubled = _once_each(found)
    # There is no way into the middle of a compressed tar: its members are read in their order.
    once.sort(key=_place_in_container)
    known = {one.located.place[:2] for one in found}
    unlabelled = images_below([one.root for one in found if one.root is not None], known)
    paths = list(unlabelled if all_unlabelled else islice(unlabelled, _SHOWN))
    return CollectedLabels(
        _named_apart(once),
        tuple(one.located.file for one in once),
        _common_root(once),
        (*lost, *doubled),
        len(paths) + sum(1 for _ in unlabelled),
        tuple(paths),
    )


def order_classes(labelled: Sequence[LabelledFile], wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the class names in the order of the logits.

    Args:
        labelled: All labelled files.
        wanted: All class names in the wanted order; if empty, they are sorted.

    Raises:
        LabelError: One class only, two spellings of one class, a label that is not in `wanted`,
            a wanted class without an image, or a name that cannot be a column of a table.
    """
    counts = Counter(item.label for item in labelled)
    spellings: dict[str, str] = {}
    for name in sorted(counts):
        other = spellings.setdefault(folded(name), name)
        if other != name:
            raise LabelError(
                f"one class in two spellings: {shown(other)} ({counts[other]} images) and "
                f"{shown(name)} ({counts[name]}); write both alike"
            )
    order = tuple(wanted) or tuple(sorted(counts))
    if empty := [name for name in order if name not in counts]:
        raise LabelError(
            f"no image of {_listed(empty)}; label some, or take the name out of --classes"
        )
    if unknown := sorted(counts.keys() - set(order)):
        raise LabelError(
            f"the label {_listed(unknown)} is not in --classes; add it there, or remove its rows"
        )
    if len(counts) < 2:
        raise LabelError(f"all images are {_listed(counts)}; training needs at least two classes")
    try:
        check_classes(order)
    except ValueError as error:
        raise LabelError(
            f"{error}; rename its folder, or correct the labels or --classes"
        ) from None
    return order


def write_mismatches(labels: CollectedLabels, path: Path) -> None:
    """Write all mismatches, and the images without a label, to a CSV file.

    Its columns are path, reason, detail and remedy.

    Args:
        labels: The labels, collected with `all_unlabelled`.
        path: The file; an existing one is replaced.

    Raises:
        TableError: The file cannot be written.
    """
    rows = [(m.path, m.reason.value, m.detail, m.reason.remedy) for m in labels.mismatches]
    rows += [(path, "file without a label", "", _LABEL_IT) for path in labels.unlabelled_paths]
    write_listing(pd.DataFrame(rows, columns=["path", "reason", "detail", "remedy"]), path)


def refuse_mismatches(mismatches: Sequence[Mismatch]) -> None:
    """Raise if there are mismatches.

    Raises:
        LabelError: The message has the count and remedy of each reason.
    """
    if counts := Counter(mismatch.reason for mismatch in mismatches):
        listed = "; ".join(f"{n:,} x {reason}: {reason.remedy}" for reason, n in counts.items())
        raise LabelError(
            f"labels and files do not fit: {listed}; --mismatches FILE lists all of them"
        )


def _find_all(source: Path, roots: Sequence[Path]) -> Iterator[_Found | Mismatch]:
    if source.is_dir():
        items, roots = labels_from_folders(source), [source]
    else:
        items, roots = labels_in(source), roots or [source.parent]
    members = MemberIndex(item.path for item in items)
    for item in items:
        yield _find(item, roots, members)


def _find(item: LabelledFile, roots: Sequence[Path], members: MemberIndex) -> _Found | Mismatch:
    """Find the file of a label below the roots, by the first spelling of its path that exists."""
    faults: list[str] = []
    for path, member in spellings(item.path):
        existing, missing = _existing(path, member, roots, members)
        if len(existing) > 1:
            locations = " and ".join(_location(file) for file, _ in existing)
            return Mismatch(item.path, MismatchReason.TWO_FILES, locations)
        if existing:
            ((located, root),) = existing
            return _Found(replace(item, path=path_to_text(path, member)), located, root)
        if not faults or member is not None:
            faults = missing
    if item.path.count("!/") > 1:
        faults = [_NESTED]
    return Mismatch(item.path, MismatchReason.NO_FILE, "; ".join(faults))


def _existing(
    path: bytes, member: bytes | None, roots: Sequence[Path], members: MemberIndex
) -> tuple[list[tuple[LocatedFile, Path | None]], list[str]]:
    """Return the different files of one path, each with its root, and why others are missing."""
    existing: dict[tuple[int, int, int], tuple[LocatedFile, Path | None]] = {}
    missing = []
    bases = [None] if os.path.isabs(path) else [*roots]
    for root in bases:
        location = path if root is None else os.path.join(os.fsencode(root), path)
        try:
            for located in files_at(location, member, members):
                existing.setdefault(located.place, (located, root))
        except NotFoundError as error:
            missing.append(f"{shown(os.fsdecode(location))}: {error}")
    return [*existing.values()], missing


def _location(located: LocatedFile) -> str:
    return shown(path_to_text(located.file.path, located.file.member))


def _place_in_container(found: _Found) -> tuple[bytes, int]:
    file = found.located.file
    return (b"", 0) if file.member is None else (file.path, file.offset)


def _common_root(found: Sequence[_Found]) -> Path:
    roots = {os.path.abspath(one.root) for one in found if one.root is not None}
    if len(roots) == 1:
        return Path(roots.pop())
    folders = {os.path.dirname(one.located.file.path) for one in found}
    return Path(os.fsdecode(os.path.commonpath(folders))) if folders else Path()


def _once_each(found: Sequence[_Found]) -> tuple[list[_Found], list[Mismatch]]:
    """Keep one label of each file; rows that agree are one, and empty fields are filled."""
    rows: defaultdict[tuple[int, int, int], list[_Found]] = defaultdict(list)
    for one in found:
        rows[one.located.place].append(one)
    once, doubled = [], []
    for same in rows.values():
        values = {
            name: {value for one in same if (value := getattr(one.item, name)) is not None}
            for name in ("label", "patient", "split")
        }
        if differing := [name for name, own in values.items() if len(own) > 1]:
            doubled.append(_contradiction(same, differing))
            continue
        patient, split = (next(iter(values[name]), None) for name in ("patient", "split"))
        once.append(replace(same[0], item=replace(same[0].item, patient=patient, split=split)))
    return once, doubled


def _contradiction(same: Sequence[_Found], differing: Sequence[str]) -> Mismatch:
    if differing[0] != "label":  # an id of a patient is not shown
        detail = f"{len(same)} rows differ in {' and '.join(differing)}"
        return Mismatch(same[0].item.path, MismatchReason.TWO_ROWS, detail)
    named = [f"{shown(one.item.path)} as {shown(one.item.label)}" for one in same[:_MOST_NAMED]]
    more = f" and {len(same) - len(named):,} more" if same[_MOST_NAMED:] else ""
    return Mismatch(same[0].item.path, MismatchReason.TWO_LABELS, f"{', '.join(named)}{more}")


def _named_apart(found: Sequence[_Found]) -> tuple[LabelledFile, ...]:
    """Replace a relative path that several files have by their absolute paths."""
    counts = Counter(one.item.path for one in found)
    return tuple(
        one.item
        if counts[one.item.path] == 1
        else replace(one.item, path=path_to_text(one.located.file.path, one.located.file.member))
        for one in found
    )


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(map(shown, listed[:_SHOWN])) + (" …" if len(listed) > _SHOWN else "")

"""Collect labels from several sources, join each with its file, and order their classes."""

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path

import pandas as pd

from cxrbatch.errors import LabelError
from cxrbatch.files import path_to_text, shown, text_to_path, writing, written_whole
from cxrbatch.model.card import check_classes
from cxrbatch.reading.outcomes import ReadingError
from cxrbatch.reading.sniffing import HEAD_BYTES, open_regular, sniff
from cxrbatch.results.label_files import labels_in
from cxrbatch.results.labels import LabelledFile, files_below, folded, labels_from_folders

_LINES = 20
_NAMES = 3


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
    TWO_FILES = "file under two roots", "write its path in full, or give one --root of the two"
    TWO_LABELS = "file with two labels", "keep the row that is right"
    TWO_ROWS = "file named twice", "keep one of the rows"
    NO_LABEL = "file without a label", "label the image to have it used"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A label without exactly one file, or a file without exactly one label.

    Attributes:
        path: The path in the labels; for a file without a label, the path of the file.
        reason: What is wrong.
        detail: The paths that were tried, or the files and labels found, as text; may be empty.
    """

    path: str
    reason: MismatchReason
    detail: str = ""

    @property
    def is_fatal(self) -> bool:
        """True unless `reason` is a file without a label: training refuses to start if true."""
        return self.reason is not MismatchReason.NO_LABEL


def write_mismatches(mismatches: Sequence[Mismatch], path: Path) -> None:
    """Write mismatches to a CSV file; if there are none, delete an existing file.

    Raises:
        TableError: The file cannot be written.
    """
    rows = [(m.path, m.reason.value, m.detail, m.reason.remedy) for m in mismatches]
    write_listing(pd.DataFrame(rows, columns=["path", "reason", "detail", "remedy"]), path)


def write_listing(rows: pd.DataFrame, path: Path) -> None:
    """Write rows to a CSV file in UTF-8; if there are none, delete an existing file.

    Raises:
        TableError: The file cannot be written.
    """
    with writing(path):
        if rows.empty:
            path.unlink(missing_ok=True)
            return
        with written_whole(path) as file:
            file.write(
                rows.to_csv(index=False, lineterminator="\n").encode(errors="backslashreplace")
            )


def describe_mismatches(mismatches: Sequence[Mismatch], *, listing: Path) -> Iterator[str]:
    """Yield lines for a person: up to 20 mismatches of each fatal reason, and how many more.

    All images without a label share one line, a warning.

    Args:
        mismatches: All mismatches.
        listing: File in which all are listed; the lines name it and nothing is written to it.
    """
    for reason in MismatchReason:
        of_kind = [mismatch for mismatch in mismatches if mismatch.reason is reason]
        if reason is not MismatchReason.NO_LABEL:
            yield from (f"{reason}: {shown(m.path)} ({m.detail})" for m in of_kind[:_LINES])
            if len(of_kind) > _LINES:
                yield f"{reason}: {len(of_kind) - _LINES} more in {listing}"
        elif of_kind:
            names = ", ".join(shown(mismatch.path) for mismatch in of_kind[:_NAMES])
            yield (
                f"warning: images without a label are left out: {len(of_kind)}, such as {names}; "
                f"all are in {listing}; {reason.remedy}"
            )


def refuse_mismatches(mismatches: Sequence[Mismatch], *, listing: Path) -> None:
    """Raise if any mismatch is fatal (see `Mismatch.is_fatal`).

    Args:
        mismatches: All mismatches.
        listing: File in which all are listed; the message names it.

    Raises:
        LabelError: At least one is fatal; the message has the count and remedy of each reason.
    """
    counts = Counter(mismatch.reason for mismatch in mismatches if mismatch.is_fatal)
    if counts:
        listed = "; ".join(f"{n} x {reason}: {reason.remedy}" for reason, n in counts.items())
        raise LabelError(f"labels and files do not fit: {listed} (all are in {listing})")


_IMAGE_SUFFIXES = (".dcm", ".png", ".jpg", ".jpeg")
# A labels file may lie in a folder that holds much else, such as a home.
_MOST_LOOKED_AT = 1_000_000
_SHOWN = 5
_MOST_NAMED = 100
# Where a million labels name no file, the places of the first are enough.
_MOST_EXPLAINED = 100_000

_Place = tuple[int, int]
"""Device and inode: they identify a file under any name."""


@dataclass(frozen=True, slots=True)
class CollectedLabels:
    """Labels joined with their files.

    Attributes:
        files: The labels that have one file, with the paths that the sources have. If several
            files have the same relative path, each path is replaced by the absolute one.
        located: Absolute paths of the files, in the same order.
        mismatches: Labels and files that do not match; none of them is in `files`.
    """

    files: tuple[LabelledFile, ...]
    located: tuple[Path, ...]
    mismatches: tuple[Mismatch, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """A label with its file: path, device and inode, and the root that it was found below."""

    item: LabelledFile
    location: str
    place: _Place
    root: Path | None


def collect_labels(sources: Sequence[Path], *, roots: Sequence[Path] = ()) -> CollectedLabels:
    """Join the labels of all sources with their files, and find labels and files that do not match.

    A label is a mismatch if it has no file, has files under two roots, or is not the only one of
    its file. So is an image without a label, if it is one of the first million files below those
    roots, and folders of class folders, that have a labelled file.

    Args:
        sources: Folders of class folders, and CSV or Parquet files of labels.
        roots: Folders in each of which a relative path of a labels file is looked up; if empty,
            the folder of the labels file.

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
    mismatches = (*lost, *doubled, *_without_label(found))
    located = tuple(Path(one.location) for one in once)
    return CollectedLabels(_named_apart(once), located, mismatches)


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


def _find_all(source: Path, roots: Sequence[Path]) -> Iterator[_Found | Mismatch]:
    if source.is_dir():
        for item in labels_from_folders(source):
            yield _find(item, {os.path.join(source, os.fsdecode(text_to_path(item.path))): source})
        return
    for item in labels_in(source):
        spellings = [item.path]
        # A table of scores writes names that are no UTF-8 with escapes.
        if "\\" in item.path:
            spellings += _unescaped(item.path)
        for spelling in spellings:
            bases = roots or [source.parent]
            if os.path.isabs(spelling):
                result = _find(item, {spelling: None})
            else:
                result = _find(item, {os.path.join(base, spelling): base for base in bases})
            if isinstance(result, _Found):
                break
        yield result


def _find(item: LabelledFile, candidates: Mapping[str, Path | None]) -> _Found | Mismatch:
    """Find the file of a label among candidate paths, each given with its root."""
    existing: dict[_Place, tuple[str, Path | None]] = {}
    faults = []
    for location, root in candidates.items():
        try:
            state = os.stat(location)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            faults.append(f"{shown(location)}: {getattr(error, 'strerror', 'no possible path')}")
            continue
        if stat.S_ISREG(state.st_mode):
            existing.setdefault((state.st_dev, state.st_ino), (location, root))
        else:
            faults.append(f"{shown(location)}: not a regular file")
    if not existing:
        return Mismatch(item.path, MismatchReason.NO_FILE, "; ".join(faults))
    if len(existing) > 1:
        locations = " and ".join(shown(location) for location, _ in existing.values())
        return Mismatch(item.path, MismatchReason.TWO_FILES, locations)
    ((place, (location, root)),) = existing.items()
    return _Found(item, os.path.abspath(location), place, root)


def _unescaped(text: str) -> list[str]:
    try:
        return [os.fsdecode(text_to_path(text))]
    except ValueError:
        return []


def _once_each(found: Sequence[_Found]) -> tuple[list[_Found], list[Mismatch]]:
    rows: defaultdict[_Place, list[_Found]] = defaultdict(list)
    for one in found:
        rows[one.place].append(one)
    once, doubled = [], []
    for same in rows.values():
        if len(same) == 1:
            once.append(same[0])
            continue
        differ = len({one.item.label for one in same}) > 1
        named = [f"{shown(one.item.path)} as {shown(one.item.label)}" for one in same[:_MOST_NAMED]]
        more = f" and {len(same) - len(named):,} more" if same[_MOST_NAMED:] else ""
        reason = MismatchReason.TWO_LABELS if differ else MismatchReason.TWO_ROWS
        doubled.append(Mismatch(same[0].item.path, reason, f"{', '.join(named)}{more}"))
    return once, doubled


def _without_label(found: Sequence[_Found]) -> Iterator[Mismatch]:
    """Yield images below the roots that no label names, without decoding them."""
    labelled = {one.place for one in found}
    roots = dict.fromkeys(one.root for one in found if one.root is not None)
    below = ((root, name) for root in roots for name in files_below(root, pass_unreadable=True))
    for root, name in islice(below, _MOST_LOOKED_AT):
        location = os.path.join(root, name)
        place = _unlabelled_image(location, labelled)
        if place is not None:
            labelled.add(place)  # roots may overlap; each image is listed once
            yield Mismatch(path_to_text(os.fsencode(location)), MismatchReason.NO_LABEL)


def _unlabelled_image(location: str, labelled: Set[_Place]) -> _Place | None:
    try:
        state = os.stat(location)
        place = state.st_dev, state.st_ino
        if place in labelled or not stat.S_ISREG(state.st_mode):
            return None
        if location.lower().endswith(_IMAGE_SUFFIXES):
            return place
        with open_regular(location) as stream:
            return place if sniff(stream.read(HEAD_BYTES), size=state.st_size) != "other" else None
    except (OSError, ReadingError):
        return None


def _named_apart(found: Sequence[_Found]) -> tuple[LabelledFile, ...]:
    """Replace a relative path that several files have by their absolute paths."""
    counts = Counter(one.item.path for one in found)
    return tuple(
        one.item
        if counts[one.item.path] == 1
        else replace(one.item, path=path_to_text(os.fsencode(one.location)))
        for one in found
    )


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(map(shown, listed[:_SHOWN])) + (" …" if len(listed) > _SHOWN else "")

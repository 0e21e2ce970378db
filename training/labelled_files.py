"""Collect labels from several sources, join each with its file, and order their classes."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cxrbatch.errors import LabelError, UsageError
from cxrbatch.files import path_to_text, shown
from cxrbatch.results.label_files import AS_USUAL, LabelledFile, LabelOptions, load
from cxrbatch.results.label_names import JOINS, find_classes
from cxrbatch.results.truth import labels_from_folders
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.training.file_index import (
    Finder,
    Hit,
    NotFoundError,
    find_by_header,
    find_by_name,
    find_by_path,
)
from cxrbatch.training.mismatches import Mismatch, MismatchReason, images_below

_SHOWN, _CLASSES = 5, 64
# Where a million labels name no file, the places of the first are enough.
_MOST_EXPLAINED = 100_000
_FILES = "files: by path, name, sop, series, study or accession"
_SEVERAL = ("sop", "series", "study", "accession")


@dataclass(frozen=True, slots=True)
class CollectedLabels:
    """Labels joined with their files.

    Attributes:
        files: A label for each file that has one. Its path is relative to a root, as `path_to_text`
            writes it; absolute where the label has an absolute one that joined it, or where several
            files have one relative path.
        located: The files in the same order, with absolute paths. Members of containers come last,
            in the order in which they lie in their container.
        root: The folder that relative paths start from; if there are several, or none, the folder
            that all files are below.
        mismatches: Labels without a file, or with too many, and files with labels that contradict
            each other; none of them is in `files`.
        unlabelled: Number of images without a label, as far as `collect_labels` looks for them.
        unlabelled_paths: Paths of these images, or of the first few.
        notes: How each source was read and joined, as lines of a title and a text.
    """

    files: tuple[LabelledFile, ...]
    located: tuple[ArchiveFile, ...]
    root: Path
    mismatches: tuple[Mismatch, ...]
    unlabelled: int
    unlabelled_paths: tuple[str, ...]
    notes: tuple[tuple[str, str], ...]

    def counts(self) -> Iterator[tuple[str, str]]:
        """Yield lines, of a title and a text, about files, classes, subsets, sources, patients."""
        yield "files", f"{len(self.files):,}"
        for title, name in (("classes", "label"), ("split", "split"), ("sources", "source")):
            values = Counter(value for f in self.files if (value := getattr(f, name)) is not None)
            if values:
                some = [f"{shown(text)} {count:,}" for text, count in values.most_common(_CLASSES)]
                more = ", …" if len(values) > _CLASSES else ""
                yield title, ", ".join(some) + more
        patients = [file.patient for file in self.files if file.patient is not None]
        yield (
            "patients",
            f"{len({*patients}):,}, named by the labels for {len(patients):,} files; headers name "
            "others when images are read",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSources:
    """Where labels and their files are.

    Attributes:
        data: Folders of class folders, and files of labels.
        roots: Folders that relative paths start from, and in which files are looked for by other
            names; if empty, the folder of each labels file.
        options: How files of labels are read, and what names a file in them.
        classes: Class names in the wanted order; if empty, those of the labels are taken.
        workers: Processes that read headers, where labels name images by UID or accession number.
    """

    data: Sequence[Path]
    roots: Sequence[Path] = ()
    options: LabelOptions = AS_USUAL
    classes: Sequence[str] = ()
    workers: int = 0


@dataclass(frozen=True, slots=True)
class _Source:
    """A file of labels, or a folder of class folders, and what joined its labels with files."""

    name: str
    unit: str
    by: str

    def row(self, number: int) -> str:
        return f"{self.name}, {self.unit} {number}" if self.unit else self.name


class _Row(NamedTuple):
    """A label; until its file is found, its path is what names the file."""

    item: LabelledFile
    number: int
    source: _Source


class _Found(NamedTuple):
    """A label with one of its files, and where the label stands."""

    item: LabelledFile
    number: int
    source: _Source
    hit: Hit


def collect_labels(
    sources: LabelSources,
    *,
    all_unlabelled: bool = False,
    bar: Callable[[], AbstractContextManager[object]] = nullcontext,
    progress: Callable[[int], object] = int,
) -> CollectedLabels:
    """Join the labels of all sources with their files, and find labels and files that do not match.

    A label that names a UID or an accession number is the label of each file that has it; any
    other one is a mismatch if it has several files. Without `by`, the first of path, name, SOP,
    series, study and accession that finds a file joins the labels of a source. A label without a
    file is a mismatch, and so are labels of one file that differ in class, patient or split. Images
    without a label are counted among the first million files below the roots, and folders of class
    folders, that have a labelled file, as `images_below` finds them.

    Args:
        sources: Where labels and files are.
        all_unlabelled: Whether the paths of all images without a label are returned, not only of
            the first few.
        bar: Its context is entered while headers are read.
        progress: Called with 1 after each file whose header is looked for.

    Raises:
        LabelError: A source cannot be read or used, or a root is no folder.
        UsageError: Only hashes may join labels, which no file has; or a root cannot be listed.
        CxrbatchError: No process can be started.
    """
    if missing := [root for root in sources.roots if not root.is_dir()]:
        raise LabelError(f"--root {missing[0]} is not a folder")
    found: list[_Found] = []
    lost: list[Mismatch] = []
    notes: list[tuple[str, str]] = []
    for path in sources.data:
        joined = _class_folders(path)
        if joined is None:
            joined = _labels_file(path, sources, bar, progress)
        notes += joined.notes
        found += joined.found
        lost += joined.lost
    once, doubled = _once_each(found)
    # There is no way into the middle of a compressed tar: its members are read in their order.
    once.sort(key=_place_in_container)
    known = {one.hit.located.place[:2] for one in found}
    unlabelled = images_below([one.hit.root for one in found if one.hit.root is not None], known)
    paths = list(unlabelled if all_unlabelled else islice(unlabelled, _SHOWN))
    return CollectedLabels(
        _named_apart(once),
        tuple(one.hit.located.file for one in once),
        _common_root(once),
        (*lost, *doubled),
        len(paths) + sum(1 for _ in unlabelled),
        tuple(paths),
        tuple(notes),
    )


class _Joined(NamedTuple):
    """The labels of one source, joined with files; `notes` as in `CollectedLabels`."""

    found: list[_Found]
    lost: list[Mismatch]
    notes: list[tuple[str, str]]


def _class_folders(folder: Path) -> _Joined | None:
    if not folder.is_dir():
        return None
    source = _Source(shown(str(folder)), "", "path")
    items = labels_from_folders(folder)
    found, lost = _join((_Row(item, 0, source) for item in items), find_by_path([], [folder]))
    return _Joined(found, lost, [("labels", f"{folder}: class folders, {len(items):,} files")])


def _labels_file(
    path: Path,
    sources: LabelSources,
    bar: Callable[[], AbstractContextManager[object]],
    progress: Callable[[int], object],
) -> _Joined:
    """Read a file of labels, and join it by what is asked for or by the first that finds a file."""
    loaded = load(path, sources.options, sources.classes)
    frame = loaded.frame[loaded.frame["label"].notna()]
    given = sources.options.by
    tried = [by for by, column in JOINS.items() if column in frame and by in (given or by)]
    if "image_hash" in tried:
        tried.remove("image_hash")
    if not tried:
        raise UsageError(f"--by image_hash joins rows of a table; {path} is joined with {_FILES}")
    roots = sources.roots or [path.parent]

    def finder(by: str) -> Finder:
        keys = frame[JOINS[by]]
        if by in ("path", "name"):
            return (find_by_path if by == "path" else find_by_name)(keys, roots)
        with bar():
            return find_by_header(
                keys, roots, column=JOINS[by], workers=sources.workers, progress=progress
            )

    first = by, find = tried[0], finder(tried[0])
    while len(tried) > 1 and not _finds(find, frame[JOINS[by]]):
        if by == tried[-1]:
            by, find = first
            break
        by = tried[tried.index(by) + 1]
        find = finder(by)
    source = _Source(loaded.name, loaded.unit, by)
    found, lost = _join(_rows(frame, source, sources.classes), find)
    files = len({one.hit.located.place for one in found})
    count = len(frame) - len(lost)
    several = "; a label holds for each file that has it" if by in _SEVERAL else ""
    notes = [
        ("labels", f"{loaded.name}: {loaded.form}"),
        ("columns", loaded.columns_read()),
        ("joined", f"{count:,} of {len(frame):,} labels by {by}, {files:,} files{several}"),
    ]
    return _Joined(found, lost, notes)


def _finds(find: Finder, keys: Iterable[str]) -> bool:
    """Return whether any key names a file, or several."""
    for key in keys:
        with suppress(NotFoundError):
            find(key)
            return True
    return False


def _rows(frame: pd.DataFrame, source: _Source, classes: Sequence[str]) -> Iterator[_Row]:
    """Make the label of each row; its path is what `source.by` names the file by."""
    columns = [
        frame[name].astype(object).where(frame[name].notna(), None)
        for name in (JOINS[source.by], "label", "patient", "split", "source")
    ]
    meant = find_classes(frame["label"].cat.categories, classes)
    name_of = {text: classes[number] for text, number in meant.items() if number >= 0}
    columns[1] = columns[1].map(lambda text: name_of.get(text, text))
    items = zip(frame.index, map(LabelledFile, *columns), strict=True)
    return (_Row(item, int(number), source) for number, item in items)


def _join(rows: Iterable[_Row], find: Finder) -> tuple[list[_Found], list[Mismatch]]:
    found: list[_Found] = []
    lost: list[Mismatch] = []
    for row in rows:
        try:
            hits = find(row.item.path)
        except NotFoundError as error:
            detail = str(error) if len(lost) < _MOST_EXPLAINED else ""
            lost.append(_mismatch(row, MismatchReason.NO_FILE, detail))
            continue
        if len(hits) > 1 and row.source.by not in _SEVERAL:
            named = " and ".join(shown(_absolute(hit)) for hit in hits[:_SHOWN])
            lost.append(_mismatch(row, MismatchReason.TWO_FILES, named))
            continue
        item, number, source = row
        found += [_Found(replace(item, path=hit.path), number, source, hit) for hit in hits]
    return found, lost


def _mismatch(row: _Row, reason: MismatchReason, detail: str) -> Mismatch:
    path = row.item.path if row.source.by in ("path", "name") else ""
    return Mismatch(row.source.row(row.number), path, reason, detail)


def _place_in_container(found: _Found) -> tuple[bytes, int]:
    file = found.hit.located.file
    return (b"", 0) if file.member is None else (file.path, file.offset)


def _common_root(found: Sequence[_Found]) -> Path:
    roots = {os.path.abspath(one.hit.root) for one in found if one.hit.root is not None}
    if len(roots) == 1:
        return Path(roots.pop())
    folders = {os.path.dirname(one.hit.located.file.path) for one in found}
    return Path(os.fsdecode(os.path.commonpath(folders))) if folders else Path()


def _once_each(found: Sequence[_Found]) -> tuple[list[_Found], list[Mismatch]]:
    """Keep one label of each file; rows that agree are one, and empty fields are filled."""
    rows: defaultdict[tuple[int, int, int], list[_Found]] = defaultdict(list)
    for one in found:
        rows[one.hit.located.place].append(one)
    once, doubled = [], []
    for same in rows.values():
        if len(same) == 1:
            once += same
            continue
        values = {
            name: {value for one in same if (value := getattr(one.item, name)) is not None}
            for name in ("label", "patient", "split")
        }
        if differing := [name for name, own in values.items() if len(own) > 1]:
            doubled.append(_contradiction(same, differing))
            continue
        patient, split = (next(iter(values[name]), None) for name in ("patient", "split"))
        once.append(same[0]._replace(item=replace(same[0].item, patient=patient, split=split)))
    return once, doubled


def _contradiction(same: Sequence[_Found], differing: Sequence[str]) -> Mismatch:
    numbers = [one.source.row(one.number) for one in same[:_SHOWN]]
    more = f" and {len(same) - len(numbers):,} more" if same[_SHOWN:] else ""
    detail = f"{' and '.join(differing)} differ: {'; '.join(numbers)}{more}"  # no id is shown
    reason = MismatchReason.TWO_LABELS if differing[0] == "label" else MismatchReason.TWO_ROWS
    first = same[0]
    return Mismatch(first.source.row(first.number), first.item.path, reason, detail)


def _named_apart(found: Sequence[_Found]) -> tuple[LabelledFile, ...]:
    """Replace a relative path that several files have by their absolute paths."""
    counts = Counter(one.item.path for one in found)
    return tuple(
        one.item if counts[one.item.path] == 1 else replace(one.item, path=_absolute(one.hit))
        for one in found
    )


def _absolute(hit: Hit) -> str:
    return path_to_text(hit.located.file.path, hit.located.file.member)

"""Files below folders that labels may mean, members of zips and tars among them.

Worker processes import this module to read headers, so it imports neither torch nor pandas.
"""

import os
import re
import stat
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from cxrbatch.files import path_to_text, shown, text_to_path, text_to_place
from cxrbatch.reading.containers import Member, OpenMember
from cxrbatch.reading.containers.listing import list_members, open_member
from cxrbatch.reading.outcomes import Outcome, reading_error
from cxrbatch.reading.radiograph import iterate_member, iterate_radiographs
from cxrbatch.reading.readings import Reading, ReadingOptions
from cxrbatch.reading.sniffing import open_regular
from cxrbatch.results.patient_keys import accession_key, patient_secret
from cxrbatch.scoring.archive import ArchiveFile, Walk, modified_ns
from cxrbatch.workers.pool import ReadingPool
from cxrbatch.workers.scheduler import PendingItem
from cxrbatch.workers.worker import WorkerLimits

_INSIDE = "!/"
_NESTED = "an archive inside an archive is not opened"
_RASTER_SUFFIXES = (b".png", b".jpg", b".jpeg")
_NO_OFFSET = -1


class LocatedFile(NamedTuple):
    """A file, or a member of a container, that exists.

    Attributes:
        file: Its path is absolute.
        place: Device, inode and the offset of a member (-1 for a file that is no member): equal for
            one file under any name.
    """

    file: ArchiveFile
    place: tuple[int, int, int]


class Hit(NamedTuple):
    """A file that a label may mean.

    Attributes:
        located: The file.
        root: The folder below which it was found; None for an absolute path.
        path: Its path relative to `root`, or absolute, as `path_to_text` writes it.
    """

    located: LocatedFile
    root: Path | None
    path: str


class NotFoundError(Exception):
    """No file lies at a path, or none has a name or a header's value; the text says why."""


Finder = Callable[[str], list[Hit]]
"""Returns the files that one text of a label means, at least one, or raises NotFoundError."""


def spellings(text: str) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield what a label's path, relative or absolute, may mean, the most likely first.

    That is the text as it stands; as `path_to_text` writes a path, or a member of a container; and
    both with slashes for backslashes and in the two normal forms of Unicode.

    Yields:
        The path of a file or container, and the name of the member or None.
    """
    slashed = text.replace("\\", "/")
    forms = (text, slashed, normalize("NFC", slashed), normalize("NFD", slashed))
    for form in dict.fromkeys(forms):
        with suppress(ValueError):  # no UTF-8
            yield os.fsencode(form), None
        if "\\" in form:
            with suppress(ValueError):
                yield text_to_path(form), None
        if _INSIDE in form:
            with suppress(ValueError):
                yield text_to_place(form)


class MemberIndex:
    """The members of containers that labels name; each container is listed once, when needed."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Collect the names of the members that paths in labels name; skip other paths."""
        places = (place for text in texts if "!" in text for place in spellings(text))
        self._wanted = {member for _, member in places if member is not None}
        self._members: dict[bytes, dict[bytes, list[Member]]] = {}
        self._faults: dict[bytes, str] = {}

    def find(self, container: bytes, name: bytes) -> list[Member]:
        """Return the members of a container that have one name, at least one.

        Args:
            container: Path of the zip, tar or compressed file.
            name: Name of the member, as the container spells it; one of the names collected.

        Raises:
            NotFoundError: There is none, or the container cannot be listed as far as that.
        """
        if container not in self._members:
            self._list(container)
        if found := self._members[container].get(name):
            return found
        raise NotFoundError(self._faults.get(container, "the archive has no such member"))

    def _list(self, container: bytes) -> None:
        found = self._members[container] = defaultdict(list)
        try:
            for member in list_members(container):
                if member.kind == "file" and member.name in self._wanted:
                    found[member.name].append(member)
        except Exception as error:
            self._faults[container] = f"the archive cannot be listed: {reading_error(error).detail}"


def files_at(path: bytes, member: bytes | None, members: MemberIndex) -> list[LocatedFile]:
    """Return the file at a path, or all members of one name in the container there: one or more.

    Args:
        path: Of a file or container, absolute or relative to the working folder.
        member: Name of a member; None for the file itself.
        members: Lists the members of containers; was made with paths that name this member.

    Raises:
        NotFoundError: There is no such file or member, or the file is no regular one.
    """
    try:
        state = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise NotFoundError(getattr(error, "strerror", "no possible path")) from None
    if not stat.S_ISREG(state.st_mode):
        raise NotFoundError("not a regular file")
    file = ArchiveFile(os.path.abspath(path), state.st_size, modified_ns(state))
    if member is None:
        return [LocatedFile(file, (state.st_dev, state.st_ino, _NO_OFFSET))]
    return [
        LocatedFile(
            replace(file, size=found.size, member=member, offset=found.offset, fault=found.fault),
            (state.st_dev, state.st_ino, found.offset),
        )
        for found in members.find(file.path, member)
    ]


def find_by_path(texts: Iterable[str], roots: Sequence[Path]) -> Finder:
    """Return a function that finds the file at a path, by the first of `spellings` that exists.

    It returns several files if roots have different files of this path, or a container several
    members of this name; it raises NotFoundError if there is no file.

    Args:
        texts: All paths that the function may be called with.
        roots: Folders that relative paths start from.
    """
    members = MemberIndex(texts)

    def find(text: str) -> list[Hit]:
        faults: list[str] = []
        for path, member in spellings(text):
            existing, missing = _existing(path, member, roots, members)
            if existing:
                return existing
            if not faults or member is not None:
                faults = missing
        raise NotFoundError(_NESTED if text.count(_INSIDE) > 1 else "; ".join(faults))

    return find


def _existing(
    path: bytes, member: bytes | None, roots: Sequence[Path], members: MemberIndex
) -> tuple[list[Hit], list[str]]:
    """Return the different files of one path below the roots, and why others are missing."""
    existing: dict[tuple[int, int, int], Hit] = {}
    missing = []
    bases = [None] if os.path.isabs(path) else [*roots]
    for root in bases:
        location = path if root is None else os.path.join(os.fsencode(root), path)
        try:
            for located in files_at(location, member, members):
                existing.setdefault(located.place, Hit(located, root, path_to_text(path, member)))
        except NotFoundError as error:
            missing.append(f"{shown(os.fsdecode(location))}: {error}")
    return [*existing.values()], missing


def find_by_name(texts: Iterable[str], roots: Sequence[Path]) -> Finder:
    """Return a function that finds the files below the roots with the name that a path ends with.

    It raises NotFoundError if there is none. Upper and lower case differ.

    Args:
        texts: All names or paths that the function may be called with.
        roots: The folders; members of their containers are found, too.

    Raises:
        UsageError: A root cannot be listed.
    """
    wanted = {_name(text) for text in texts}
    index: defaultdict[str, dict[tuple[int, int, int], Hit]] = defaultdict(dict)
    for root, file in _files_below(roots):
        if (name := _name(path_to_text(file.path, file.member))) in wanted:
            hit = _hit(root, file)
            index[name].setdefault(hit.located.place, hit)
    return _finder(index, _name, "no file below the roots has this name")


def find_by_header(
    keys: Iterable[str],
    roots: Sequence[Path],
    *,
    column: str,
    workers: int,
    progress: Callable[[int], object],
) -> Finder:
    """Read the header of each DICOM file once; return a function that finds files by a value.

    The function raises NotFoundError if no file has the value.

    Args:
        keys: All values that the function may be called with.
        roots: The folders; members of their containers are read, too.
        column: What is compared: "sop_instance_uid", "series_instance_uid", "study_instance_uid" or
            "accession_key" (keyed hash of the accession number).
        workers: Processes that read; 0 reads in this process.
        progress: Called with 1 after each file, also one that is no DICOM.

    Raises:
        CxrbatchError: No process can be started, or a root cannot be listed.
    """
    wanted = {key for key in keys if key}
    index: defaultdict[str, dict[tuple[int, int, int], Hit]] = defaultdict(dict)
    waiting: deque[tuple[Path, ArchiveFile]] = deque()

    def entries() -> Iterator[PendingItem[ArchiveFile]]:
        for number, (root, file) in enumerate(_files_below(roots)):
            waiting.append((root, file))
            path = os.path.join(os.fsencode(root), file.path)
            yield PendingItem(number, replace(file, path=path))

    reader = HeaderReader(column, patient_secret() or b"")
    with ReadingPool(reader, workers=workers, limits=WorkerLimits(), result_bytes=1024) as pool:
        for key in pool.map(entries()):
            root, file = waiting.popleft()
            progress(1)
            if key in wanted:
                hit = _hit(root, file)
                index[key].setdefault(hit.located.place, hit)
    what = column.replace("_", " ").removesuffix(" key")
    return _finder(index, str, f"no DICOM file below the roots has this {what}")


@dataclass(frozen=True, slots=True)
class HeaderReader:
    """Reads one value of a DICOM file's header, without its pixels; runs in worker processes.

    Attributes:
        column: The value: "sop_instance_uid", "series_instance_uid", "study_instance_uid" or
            "accession_key".
        secret: Key of the hash that replaces an accession number.
    """

    column: str
    secret: bytes = field(repr=False)

    def read(self, file: ArchiveFile) -> str:
        """Return `column` of a file, whose path is absolute; "" if there is none to be read."""
        if (file.member or file.path).lower().endswith(_RASTER_SUFFIXES):
            return ""
        # No modality is accepted, so that no pixel is read.
        facts = read_first_frame(file, ReadingOptions(modalities=frozenset())).facts
        if self.column == "accession_key":
            return accession_key(facts.accession_number, self.secret) or ""
        return str(getattr(facts, self.column) or "")

    def failed(self, file: ArchiveFile, outcome: Outcome, detail: str) -> str:
        """Return "": the header of a file that ended its worker process is not known."""
        return ""


def _files_below(roots: Sequence[Path]) -> Iterator[tuple[Path, ArchiveFile]]:
    """Yield the files below folders, and the members of their containers, each with its root."""
    for root in dict.fromkeys(roots):
        for file in Walk(root, follow_links=True):
            if file.member is not None or file.fault is None:
                yield root, file


def _hit(root: Path, file: ArchiveFile) -> Hit:
    location = os.path.abspath(os.path.join(os.fsencode(root), file.path))
    state = os.stat(location)
    place = state.st_dev, state.st_ino, _NO_OFFSET if file.member is None else file.offset
    located = LocatedFile(replace(file, path=location), place)
    return Hit(located, root, path_to_text(file.path, file.member))


def _name(text: str) -> str:
    return normalize("NFC", re.split(r"[/\\]", text)[-1])


def _finder(
    index: Mapping[str, Mapping[tuple[int, int, int], Hit]],
    key_of: Callable[[str], str],
    missing: str,
) -> Finder:
    def find(text: str) -> list[Hit]:
        if hits := index.get(key_of(text)):
            return [*hits.values()]
        raise NotFoundError(missing)

    return find


@contextmanager
def opened(file: ArchiveFile) -> Iterator[OpenMember]:
    """Open a file, or a member of a container, with an absolute path, as a stream of its bytes.

    Yields:
        The stream with its size in bytes (None where only the end tells it), and `verify`, which
        raises ReadingError if a member has not the length or checksum that its container gives.

    Raises:
        OSError, ReadingError: The file or member cannot be opened.
    """
    if file.member is not None:
        with open_member(file.path, file.member, file.offset) as member:
            yield member
        return
    with open_regular(file.path) as stream:
        yield OpenMember(stream, os.fstat(stream.fileno()).st_size, verify=lambda: None)


def read_first_frame(file: ArchiveFile, options: ReadingOptions) -> Reading:
    """Read the first frame of a file or member, whose path is absolute; failures are an outcome."""
    if file.member is None:
        return next(iterate_radiographs(file.path, options))
    return next(iterate_member(file.path, file.member, file.offset, options))

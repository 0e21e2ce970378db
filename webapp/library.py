"""The tables and reports below a folder, as they are at this moment, each under an opaque id."""

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cxrbatch.errors import TableError
from cxrbatch.webapp.opened import OpenedTable

_DEEPEST = 3
_MOST_ENTRIES = 100_000
_MOST_OPEN = 8
_FRESH_SECONDS = 1.0
_REPORT_MARK = b'name="generator" content="cxrbatch'
_MARK_WITHIN = 4096

Version = tuple[int, int, int, int]
"""Device, inode, time of change and size: another one is another file."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file of interest.

    Attributes:
        id: What clients call it.
        path: Where it is.
        name: Its path below the folder, for a person.
    """

    id: str
    path: Path
    name: str

    @property
    def version(self) -> Version:
        """What the file is now.

        Raises:
            OSError: It has gone.
        """
        state = self.path.stat()
        return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


class Library:
    """Looks again at most once a second, so that what appears is there without a restart."""

    def __init__(self, folder: Path) -> None:
        """Look at nothing yet.

        Args:
            folder: Links in it are not followed.
        """
        self._folder = folder.resolve()
        self._lock = threading.Lock()
        self._seen = -_FRESH_SECONDS
        self._tables: dict[str, Found] = {}
        self._reports: dict[str, Found] = {}
        self._open: OrderedDict[str, tuple[Version, OpenedTable]] = OrderedDict()

    def tables(self) -> list[Found]:
        """All tables, whole or broken, the newest first."""
        self._look()
        return sorted(self._tables.values(), key=_age, reverse=True)

    def reports(self, table: Found) -> list[Found]:
        """The reports that lie beside a table, its namesake first."""
        self._look()
        beside = [r for r in self._reports.values() if r.path.parent == table.path.parent]
        return sorted(beside, key=lambda r: (r.path.stem != table.path.stem, r.name))

    def table(self, id: str) -> Found | None:
        """The table of an id."""
        self._look()
        return self._tables.get(id)

    def report(self, id: str) -> Found | None:
        """The report of an id."""
        self._look()
        return self._reports.get(id)

    def open(self, found: Found) -> OpenedTable:
        """Open a table as it is now; one that is open already stays so while it does not change.

        Raises:
            TableError: It is broken, or has gone.
        """
        try:
            version = found.version
        except OSError:
            raise TableError(f"{found.name} is not there any more") from None
        with self._lock:
            held = self._open.get(found.id)
            if held is not None and held[0] == version:
                self._open.move_to_end(found.id)
                return held[1]
        opened = OpenedTable(found.path, name=found.name)
        with self._lock:
            self._open[found.id] = version, opened
            self._open.move_to_end(found.id)
            # Who still reads one that is dropped keeps it; the last one closes it.
            while len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
        return opened

    def _look(self) -> None:
        with self._lock:
            if time.monotonic() - self._seen < _FRESH_SECONDS:
                return
            tables, reports = {}, {}
            for path in _files(self._folder):
                if path.suffix == ".parquet":
                    found = self._found(path)
                    tables[found.id] = found
                elif path.suffix == ".html" and _is_report(path):
                    found = self._found(path)
                    reports[found.id] = found
            self._tables, self._reports = tables, reports
            for gone in self._open.keys() - tables.keys():
                del self._open[gone]
            self._seen = time.monotonic()

    def _found(self, path: Path) -> Found:
        name = os.fsencode(path.relative_to(self._folder))
        shown = name.decode("utf-8", "backslashreplace")
        return Found(hashlib.sha256(name).hexdigest()[:16], path, shown)


def _files(top: Path) -> Iterator[Path]:
    left = _MOST_ENTRIES
    folders = [(top, 0)]
    while folders and left > 0:
        folder, depth = folders.pop()
        try:
            entries = list(os.scandir(folder))[:left]
        except OSError:
            continue
        left -= len(entries)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False) and depth < _DEEPEST:
                folders.append((Path(entry.path), depth + 1))
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path)


def _is_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _REPORT_MARK in file.read(_MARK_WITHIN)
    except OSError:
        return False


def _age(found: Found) -> float:
    try:
        return found.path.stat().st_mtime
    except OSError:
        return 0.0

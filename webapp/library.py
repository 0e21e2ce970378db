"""Library: the tables and reports below the served folder; and how a route gets what it works with.

A client names a table or report by an opaque id, never by its path.
"""

import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from flask import Flask, current_app
from werkzeug.exceptions import HTTPException, NotFound

from cxrbatch.errors import TableError
from cxrbatch.webapp.served_table import ServedTable, file_version

_MAX_DEPTH = 3
_MAX_ENTRIES = 100_000
_MAX_OPEN = 8
_FRESH_SECONDS = 1.0
_REPORT_MARK = b'name="generator" content="cxrbatch'
_MARK_WITHIN = 4096

Service = TypeVar("Service")


def add_service(app: Flask, service: object) -> None:
    """Store an object that the routes of an app use, for `get_service`.

    An app has one object of each class name; a second one replaces the first.
    """
    app.extensions[type(service).__name__] = service


def get_service(kind: type[Service], app: Flask | None = None) -> Service:
    """Return the object that `add_service` stored for an app, by the object's class.

    Args:
        kind: The class of the object itself; an object of a subclass is not found.
        app: The app; None for the one that answers the current request.

    Raises:
        KeyError: No object of the class was stored.
        RuntimeError: `app` is None, and no request is being answered.
    """
    return cast(Service, (app or current_app).extensions[kind.__name__])


class InsufficientStorage(HTTPException):
    """The disk cannot take a file; answered with 507 (RFC 4918 section 11.5)."""

    code = 507


@dataclass(frozen=True, slots=True)
class ServedFile:
    """A table or report below the served folder.

    Attributes:
        id: The name that clients use: 16 hexadecimal digits of a hash of the relative path.
        path: Path of the file.
        name: Path relative to the served folder, for a person.
    """

    id: str
    path: Path
    name: str


class Library:
    """The tables and reports in a folder and up to three folders deep in it.

    Tables are the files named *.parquet; reports are those named *.html that begin as this program
    writes them. Hidden files and folders, links and all beyond 100,000 entries are skipped. The
    folder is listed again when a method other than `open` is called and the last listing is a
    second old, so new files appear without a restart.
    """

    def __init__(self, folder: Path) -> None:
        """Store the folder; the first call of a method lists it.

        Args:
            folder: The folder; symbolic links in it are skipped.
        """
        self._folder = folder.resolve()
        self._lock = threading.Lock()
        self._listed_at = -_FRESH_SECONDS
        self._tables: dict[str, ServedFile] = {}
        self._reports: dict[str, ServedFile] = {}
        self._open: OrderedDict[str, ServedTable] = OrderedDict()

    def tables(self) -> list[ServedFile]:
        """Return all tables, damaged ones too, sorted by time of change, the newest first."""
        self._refresh()
        return sorted(self._tables.values(), key=_modified, reverse=True)

    def table(self, id: str) -> ServedFile | None:
        """Return the table with an id; None if none had it when the folder was listed last."""
        self._refresh()
        return self._tables.get(id)

    def report(self, id: str) -> ServedFile | None:
        """Return the report with an id; None if none had it when the folder was listed last."""
        self._refresh()
        return self._reports.get(id)

    def reports_beside(self, table: ServedFile) -> list[ServedFile]:
        """Return the HTML reports that lie in the same folder as a table.

        They are sorted by name, but a report with the table's name before its ending comes first.
        """
        self._refresh()
        beside = [r for r in self._reports.values() if r.path.parent == table.path.parent]
        return sorted(beside, key=lambda r: (r.path.stem != table.path.stem, r.name))

    def open(self, file: ServedFile) -> ServedTable:
        """Open a table for queries; the eight tables used last are kept open.

        Args:
            file: The table.

        Returns:
            The table as it is on the disk now: one that is open already is returned again unless
            its file has changed.

        Raises:
            TableError: The file is damaged, no results table, or gone.
        """
        try:
            version = file_version(file.path.stat())
        except OSError:
            raise TableError(f"{file.name} is not there any more") from None
        with self._lock:
            opened = self._open.get(file.id)
            if opened is not None and opened.version == version:
                self._open.move_to_end(file.id)
                return opened
        table = ServedTable(file.path, name=file.name)
        with self._lock:
            self._open[file.id] = table
            self._open.move_to_end(file.id)
            # A thread that still reads a removed table keeps a reference, and so the open file.
            while len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
        return table

    def _refresh(self) -> None:
        with self._lock:
            if time.monotonic() - self._listed_at < _FRESH_SECONDS:
                return
            files = [self._served(path) for path in _files(self._folder)]
            self._tables = {f.id: f for f in files if f.path.suffix == ".parquet"}
            self._reports = {f.id: f for f in files if f.path.suffix == ".html"}
            for gone in self._open.keys() - self._tables.keys():
                del self._open[gone]
            self._listed_at = time.monotonic()

    def _served(self, path: Path) -> ServedFile:
        name = os.fsencode(path.relative_to(self._folder))
        shown = name.decode("utf-8", "backslashreplace")
        return ServedFile(hashlib.sha256(name).hexdigest()[:16], path, shown)


def requested_table(id: str) -> tuple[ServedFile, ServedTable]:
    """Find and open the table that the address of a request names.

    Args:
        id: Id of the table in the address.

    Returns:
        The file, and the open table.

    Raises:
        NotFound: There is no such table.
        TableError: The table is damaged.
    """
    library = get_service(Library)
    file = library.table(id)
    if file is None:
        raise NotFound("There is no such table any more.")
    return file, library.open(file)


def _files(top: Path) -> Iterator[Path]:
    """Yield the tables and reports below a folder; hidden files and links are skipped."""
    left = _MAX_ENTRIES
    folders = [(top, 0)]
    while folders and left > 0:
        folder, depth = folders.pop()
        try:
            entries = list(os.scandir(folder))[:left]
        except OSError:
            continue
        left -= len(entries)
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False) and depth < _MAX_DEPTH:
                folders.append((path, depth + 1))
            elif entry.is_file(follow_symlinks=False) and _is_served(path):
                yield path


def _is_served(path: Path) -> bool:
    if path.suffix != ".html":
        return path.suffix == ".parquet"
    try:
        with path.open("rb") as file:
            return _REPORT_MARK in file.read(_MARK_WITHIN)
    except OSError:
        return False


def _modified(file: ServedFile) -> float:
    try:
        return file.path.stat().st_mtime
    except OSError:
        return 0.0

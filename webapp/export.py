"""Chosen rows as a file: CSV that a spreadsheet takes for text, or Parquet with all columns.

An export lies on the disk until it is sent, as an answer that has begun can be refused no more. It
is written some rows at a time, and what all of them take of memory and disk is bounded.
"""

import io
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from cxrbatch.errors import CxrbatchError, TableError
from cxrbatch.results.table import PROVENANCE_KEY
from cxrbatch.scoring.table_writer import table_writer
from cxrbatch.webapp.children import Busy, Queue
from cxrbatch.webapp.filters import Filter
from cxrbatch.webapp.opened import OpenedTable

if TYPE_CHECKING:
    from typing_extensions import Buffer

FORMATS = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}
"""File ending -> media type."""

MOST_BYTES = 2 << 30
"""Size of one export at most."""

_MOST_BYTES_TOGETHER = 4 << 30
_PIECE_BYTES = 8 << 20
_FORMULA = r"^[=+\-@\t\r\n]"


class Unwanted(Exception):
    """The client that asked for an export has gone."""


class NoRoom(Exception):
    """The disk takes no more; the message is the system's."""


class Exports:
    """Makes exports, and bounds what those that are not sent yet take of the disk."""

    def __init__(self, queue: Queue) -> None:
        """Make nothing yet.

        Args:
            queue: Whose turn it is.
        """
        self._queue = queue
        self._lock = threading.Lock()
        self._bytes = 0

    def make(
        self, opened: OpenedTable, chosen: Filter, form: str, *, is_wanted: Callable[[], bool]
    ) -> BinaryIO:
        """Write rows, in the table's order, to a file without a name that lasts until closed.

        Args:
            opened: The table.
            chosen: Which rows.
            form: One of `FORMATS`.
            is_wanted: Whether the client still waits.

        Raises:
            Busy: Too many wait, or other exports fill the space for exports.
            CxrbatchError: The export would be larger than `MOST_BYTES`.
            NoRoom: The disk is full.
            TableError: The table is damaged.
            Unwanted: The client has gone.
        """
        write = _write_csv if form == "csv" else _write_parquet
        with self._queue.turn():
            file = _SpooledFile(self)
            try:
                write(opened, chosen, file, is_wanted)
                file.seek(0)
            except BaseException as error:
                with suppress(OSError):  # a full disk takes what is in the buffer no better
                    file.close()
                raise _explained(error) from None
            return file

    def take(self, count: int) -> None:
        """Count bytes that are written.

        Raises:
            Busy: The space for exports is full.
        """
        with self._lock:
            if self._bytes + count > _MOST_BYTES_TOGETHER:
                raise Busy("Exports that are being fetched fill the disk space for exports")
            self._bytes += count

    def release(self, count: int) -> None:
        """Count bytes no more."""
        with self._lock:
            self._bytes -= count


class _SpooledFile(io.BufferedRandom):
    """A file without a name whose size counts until it is closed."""

    def __init__(self, exports: Exports) -> None:
        self._exports = exports
        self._size = 0
        with tempfile.TemporaryFile() as file:
            super().__init__(io.FileIO(os.dup(file.fileno()), "r+"))

    def write(self, data: "Buffer", /) -> int:
        if self.closed:  # a Parquet writer ends its file even where that has failed
            raise ValueError("write to closed file")
        count = memoryview(data).nbytes
        if self._size + count > MOST_BYTES:
            raise CxrbatchError(
                f"the export would be larger than {MOST_BYTES >> 20} MiB: choose fewer rows, or "
                "copy the table's file"
            )
        self._exports.take(count)
        self._size += count
        return super().write(data)

    def close(self) -> None:
        try:
            super().close()
        finally:
            size, self._size = self._size, 0
            self._exports.release(size)


def _explained(error: BaseException) -> BaseException:
    if isinstance(error, MemoryError):
        return Busy("There is too little memory for the export now")
    if isinstance(error, pa.ArrowException):
        return TableError("the table is damaged")
    if isinstance(error, OSError):
        return NoRoom(error.strerror)
    return error


def _chosen_rows(
    opened: OpenedTable, chosen: Filter, is_wanted: Callable[[], bool]
) -> Iterator[pa.Table]:
    ids = opened.ids(chosen)
    first = 0
    for group in opened.table.row_groups():
        if not is_wanted():
            raise Unwanted
        here = ids[ids.searchsorted(first) : ids.searchsorted(first + len(group))]
        yield group.take(pa.array(here - first))
        first += len(group)


def _write_parquet(
    opened: OpenedTable, chosen: Filter, file: BinaryIO, is_wanted: Callable[[], bool]
) -> None:
    told = {
        **opened.table.provenance,
        "rows": opened.count(chosen),
        "filter": {name: text for name, text in chosen.arguments().items() if name != "sort"},
    }
    metadata = {PROVENANCE_KEY: json.dumps(told).encode()}
    writer: pq.ParquetWriter | None = None
    try:
        for group in _chosen_rows(opened, chosen, is_wanted):
            if writer is None:
                schema = group.schema.with_metadata(metadata)
                writer = table_writer(file, schema)
            writer.write_table(group.replace_schema_metadata(metadata))
        if writer is not None:
            writer.close()
    finally:
        if writer is not None:
            writer.is_open = False  # it would end a file that failed once more, and complain


def _write_csv(
    opened: OpenedTable, chosen: Filter, file: BinaryIO, is_wanted: Callable[[], bool]
) -> None:
    is_first = True
    for group in _chosen_rows(opened, chosen, is_wanted):
        for piece in _pieces(group.drop_columns("heatmaps")):
            plain = {_safe_name(name): _safe(piece[name]) for name in piece.column_names}
            pa_csv.write_csv(pa.table(plain), file, pa_csv.WriteOptions(include_header=is_first))
            is_first = False


def _pieces(table: pa.Table) -> Iterator[pa.Table]:
    """Cut rows so that what is made of them takes little memory; one piece where there are none."""
    rows = len(table)
    step = max(1, rows * _PIECE_BYTES // max(1, table.nbytes))
    for start in range(0, max(1, rows), step):
        yield table.slice(start, step)


def _safe(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A quote in front of what a spreadsheet would take for a formula."""
    if pa.types.is_list(column.type):
        column = pc.binary_join(column, " ")
    if not pa.types.is_string(column.type):
        return column
    return pc.replace_substring_regex(column, _FORMULA, r"'\0")


def _safe_name(name: str) -> str:
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name

"""The export of selected rows as CSV, safe for spreadsheets, or as Parquet with all columns.

An export is written to the disk before it is sent, because an answer that has begun can no longer
be refused. Rows are written in pieces, so that memory stays small, and the disk space of all
exports together is limited.
"""

import io
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from flask import Blueprint, Response, request, send_file
from werkzeug.exceptions import NotFound, ServiceUnavailable

from cxrbatch.errors import CxrbatchError, TableError
from cxrbatch.results.columns import PROVENANCE_KEY, SCHEMA_VERSION
from cxrbatch.scoring.table_writer import table_writer
from cxrbatch.webapp.children import ServerBusy, WorkQueue
from cxrbatch.webapp.library import InsufficientStorage, get_service, requested_table
from cxrbatch.webapp.row_filter import RowFilter, parse_filter
from cxrbatch.webapp.served_table import ServedTable

if TYPE_CHECKING:
    from typing_extensions import Buffer

EXPORT_FORMATS = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}
"""File ending -> media type."""

MAX_EXPORT_BYTES = 2 << 30
"""Size of the largest export."""

_MAX_TOTAL_BYTES = 4 << 30
_PIECE_BYTES = 8 << 20
_FORMULA = r"^[=+\-@\t\r\n]"

blueprint = Blueprint("export", __name__)


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows of an export.

    Attributes:
        table: The table.
        row_filter: Selects the rows; they are exported in the table's order.
        is_wanted: Returns whether the client is still connected.
    """

    table: ServedTable
    row_filter: RowFilter
    is_wanted: Callable[[], bool]

    def row_groups(self) -> Iterator[pa.Table]:
        """Yield the selected rows of each part that `Table.row_groups` yields, with all columns.

        For a part without a selected row, and once for a results table without rows, a table
        without rows is yielded.

        Raises:
            ServiceUnavailable: `is_wanted` returned false.
            TableError: The table is damaged.
        """
        numbers = self.table.numbers(self.row_filter)
        first = 0
        table = self.table.table
        for group in table.row_groups() if table.rows else [table.read(table.columns)]:
            if not self.is_wanted():
                raise ServiceUnavailable("The client is gone.")
            start, stop = numbers.searchsorted([first, first + len(group)])
            yield group.take(pa.array(numbers[start:stop] - first))
            first += len(group)


@blueprint.get("/runs/<id>/export.<form>")
def send_export(id: str, form: str) -> Response:
    """Answer with a file of the rows that the query selects, in the table's order.

    Args:
        id: Id of the run's table.
        form: "csv" or "parquet".

    Raises:
        BadRequest: A parameter of the query is invalid.
        NotFound: There is no such table, or `form` is another format.
        CxrbatchError: The export would be larger than `MAX_EXPORT_BYTES` (2 GiB).
        InsufficientStorage: The disk cannot take the temporary file.
        ServerBusy: Too many requests wait, or the server's memory or export space is used up.
        ServiceUnavailable: The client is gone.
        TableError: The table is damaged.
    """
    _, table = requested_table(id)
    if form not in EXPORT_FORMATS:
        raise NotFound("Rows are exported as CSV or Parquet.")
    has_gone = request.environ.get("waitress.client_disconnected", bool)
    selection = Selection(table, parse_filter(request.args, table.table), lambda: not has_gone())
    return send_file(
        get_service(Exporter).write(selection, form),
        mimetype=EXPORT_FORMATS[form],
        as_attachment=True,
        download_name=f"rows.{form}",
    )


class Exporter:
    """Writes exports to temporary files, and limits the disk space of all files not closed yet."""

    def __init__(self) -> None:
        """Create an exporter that has written nothing."""
        self._queue = WorkQueue(running=2, waiting=4)
        self._lock = threading.Lock()
        self._bytes = 0

    def write(self, selection: Selection, form: str) -> BinaryIO:
        """Write rows to a temporary file without a name; the system deletes it when it is closed.

        Args:
            selection: The rows.
            form: A key of `EXPORT_FORMATS`.

        Returns:
            The open file, at its start; to be closed by the caller.

        Raises:
            CxrbatchError: The export would be larger than `MAX_EXPORT_BYTES` (2 GiB).
            InsufficientStorage: The disk cannot take the file.
            ServerBusy: Too many requests wait, other exports fill the space for exports, or memory
                is short.
            ServiceUnavailable: The client is gone.
            TableError: The table is damaged.
        """
        write = _write_csv if form == "csv" else _write_parquet
        with self._queue.turn():
            file = _ExportFile(self)
            try:
                write(selection, file)
                file.seek(0)
            except BaseException as error:
                with suppress(OSError):  # to close writes the buffer, which fails again
                    file.close()
                raise _explained(error) from None
            return file

    def reserve(self, count: int) -> None:
        """Count bytes that are about to be written; all exports together may have 4 GiB.

        `release` takes the bytes of a file off the count when the file is closed.

        Args:
            count: Number of bytes.

        Raises:
            ServerBusy: All exports together would have more than 4 GiB; nothing is counted.
        """
        with self._lock:
            if self._bytes + count > _MAX_TOTAL_BYTES:
                raise ServerBusy("Exports that are being fetched fill the disk space for exports")
            self._bytes += count

    def release(self, count: int) -> None:
        """Take the bytes of a file that was closed off the count of `reserve`.

        Args:
            count: Number of bytes that were reserved for the file.
        """
        with self._lock:
            self._bytes -= count


class _ExportFile(io.BufferedRandom):
    """A temporary file without a name whose bytes are reserved until it is closed."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self._size = 0
        with tempfile.TemporaryFile() as file:
            super().__init__(io.FileIO(os.dup(file.fileno()), "r+"))

    def write(self, data: "Buffer", /) -> int:
        if self.closed:  # a Parquet writer writes its footer even after a write has failed
            raise ValueError("write to closed file")
        count = memoryview(data).nbytes
        if self._size + count > MAX_EXPORT_BYTES:
            raise CxrbatchError(
                f"the export would be larger than {MAX_EXPORT_BYTES >> 20} MiB: choose fewer "
                "rows, or copy the table's file"
            )
        self._exporter.reserve(count)
        self._size += count
        return super().write(data)

    def close(self) -> None:
        try:
            super().close()
        finally:
            size, self._size = self._size, 0
            self._exporter.release(size)


def _explained(error: BaseException) -> BaseException:
    if isinstance(error, MemoryError):
        return ServerBusy("There is too little memory for the export now")
    if isinstance(error, pa.ArrowException):
        return TableError("the table is damaged")
    if isinstance(error, OSError):
        return InsufficientStorage(
            f"The export does not fit on the disk: {error.strerror}. Choose fewer rows."
        )
    return error


def _write_parquet(selection: Selection, file: BinaryIO) -> None:
    arguments = selection.row_filter.arguments()
    provenance = {
        **selection.table.table.provenance,
        "schema_version": SCHEMA_VERSION,
        "rows": selection.table.count(selection.row_filter),
        "filter": {name: text for name, text in arguments.items() if name != "sort"},
    }
    metadata = {PROVENANCE_KEY: json.dumps(provenance).encode()}
    writer = None
    try:
        for group in selection.row_groups():
            if writer is None:
                writer = table_writer(file, group.schema.with_metadata(metadata))
            writer.write_table(group.replace_schema_metadata(metadata))
        if writer is not None:
            writer.close()
    finally:
        if writer is not None:
            writer.is_open = False  # or it would write its footer to the failed file, and complain


def _write_csv(selection: Selection, file: BinaryIO) -> None:
    is_first = True
    for group in selection.row_groups():
        for piece in _pieces(group.drop_columns("heatmaps")):
            safe = {_safe_name(name): _safe_texts(piece[name]) for name in piece.column_names}
            pa_csv.write_csv(pa.table(safe), file, pa_csv.WriteOptions(include_header=is_first))
            is_first = False


def _pieces(table: pa.Table) -> Iterator[pa.Table]:
    """Yield slices of about `_PIECE_BYTES`; one slice where the table has no rows."""
    rows = len(table)
    step = max(1, rows * _PIECE_BYTES // max(1, table.nbytes))
    for start in range(0, max(1, rows), step):
        yield table.slice(start, step)


def _safe_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Put a quote before each text that a spreadsheet would take for a formula."""
    if pa.types.is_list(column.type):
        column = pc.binary_join(column, " ")
    if not pa.types.is_string(column.type):
        return column
    return pc.replace_substring_regex(column, _FORMULA, r"'\0")


def _safe_name(name: str) -> str:
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name

"""Opens results tables: checks schema and provenance, and reads rows within bounds of memory.

Every reader of a table calls `open_table`, which refuses a schema of another major version. Tables
of an older minor version are read as if they had today's columns.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import TableError, UsageError
from cxrbatch.files import shown
from cxrbatch.results.bounded import BoundedParquet, open_bounded
from cxrbatch.results.columns import FOLD_COLUMN, PROVENANCE_KEY, SCHEMA_VERSION, table_schema
from cxrbatch.results.pages import TooLarge

_LARGEST_PROVENANCE = 4 << 20
# A path of 4,096 bytes, Linux's longest, has 16 KiB where every byte is escaped.
_LONGEST_TEXT = 64 << 10
# Besides these, a row takes at least a byte of the file, as all paths differ.
_FEW_ROWS = 100_000
# Bytes that rows may take in memory: some for any table, more for a larger file. Columns that are
# read whole stay in memory together; heat maps are read in parts alone.
_LEAST_WHOLE, _WHOLE_PER_BYTE = 128 << 20, 32
_LEAST_IN_PARTS, _IN_PARTS_PER_BYTE = 256 << 20, 128
_DAMAGE = (OSError, ValueError, KeyError, MemoryError, pa.ArrowException)


class _Older(NamedTuple):
    """How files of an older schema differ: names and types of their own, columns that they lack."""

    names: Mapping[str, str]
    types: Mapping[str, pa.DataType]
    absent: frozenset[str]


_UNTIL_2_1 = _Older(
    {"image_flags": "flags"}, {"dhash": pa.uint64()}, frozenset({"accession_key", "ood_kind"})
)
_OLDER = {"2.0": _UNTIL_2_1, "2.1": _UNTIL_2_1, "2.2": _Older({}, {}, frozenset({"ood_kind"}))}


@dataclass(frozen=True, slots=True)
class Table:
    """A results table whose schema and provenance were checked; its rows are read on demand.

    Attributes:
        path: The file.
        classes: Class names in the order of the logits.
        provenance: How the table was made: the JSON object in the file's metadata.
        rows: Number of rows.
        size: Size of the file in bytes.
    """

    path: Path
    classes: tuple[str, ...]
    provenance: Mapping[str, Any]
    rows: int
    size: int

    @property
    def columns(self) -> list[str]:
        """Names of the table's columns, in order: those of today's schema, also where `is_older`.

        A column that cxrbatch does not write is not among them.
        """
        names: list[str] = schema_of(self.provenance).names
        return names

    @property
    def is_older(self) -> bool:
        """Whether the file was written before schema 2.3.

        Such a file lacks `ood_kind`. Before schema 2.2 `image_flags` has the name `flags`, `dhash`
        is an unsigned number of 64 bits, and there is no `accession_key`. The methods of this class
        convert: they take and return today's names and types, and nulls for what is not there.
        """
        return _older(self.provenance) is not None

    def read(self, columns: Iterable[str]) -> pa.Table:
        """Read some columns of all rows into memory.

        Args:
            columns: Names of columns, of `columns`; the result has them in this order.

        Raises:
            TableError: The file's data is damaged, lacks a column, takes more memory than 128 MiB
                plus 32 times the file's size, or is too large for `BoundedParquet.batches`.
        """
        names = list(columns)
        with _explained(self.path), open_bounded(self.path) as file:
            room = _LEAST_WHOLE + _WHOLE_PER_BYTE * file.size
            batches = [batch for _, batch in file.unpacked(self._stored(names), room=room)]
            return self._joined(batches, file, names)

    def check_texts(self) -> None:
        """Raise TableError if texts of the table are too long, by `BoundedParquet.check_texts`.

        The limit is 64 KiB. The rows are not decoded.

        Raises:
            TableError: Texts are too long, a page is too large, or the file's data is damaged.
        """
        with _explained(self.path), open_bounded(self.path) as file:
            file.check_texts(self._stored(self.columns), most=_LONGEST_TEXT)

    def take(self, rows: Sequence[int], columns: Iterable[str]) -> pa.Table:
        """Read some columns of a few rows; row groups without any of them are not read.

        Args:
            rows: Row numbers, from 0, in any order; a number may occur several times.
            columns: Names of the columns.

        Returns:
            One row for each number, in the order of `rows`.

        Raises:
            UsageError: A number is below 0 or not below the number of rows.
            TableError: The file's data is damaged or lacks a column, the row groups that are read
                take more memory than 256 MiB plus 128 times the file's size, or are too large for
                `BoundedParquet.batches`.
        """
        outside = [row for row in rows if not 0 <= row < self.rows]
        if outside:
            last = self.rows - 1
            raise UsageError(f"row {outside[0]} is not one of the table's rows, 0 to {last}")
        names, wanted = list(columns), np.unique(np.asarray(rows, np.int64))
        batches = []
        with _explained(self.path), open_bounded(self.path) as file:
            room = _LEAST_IN_PARTS + _IN_PARTS_PER_BYTE * file.size
            stored = self._stored(names)
            for first, batch in file.unpacked(stored, room=room, rows=wanted.tolist()):
                inside = wanted[(wanted >= first) & (wanted < first + len(batch))] - first
                batches.append(batch.take(pa.array(inside)))
            places = np.searchsorted(wanted, np.asarray(rows, np.int64))
            return self._joined(batches, file, names).take(pa.array(places))

    def row_groups(self) -> Iterator[pa.Table]:
        """Yield all rows and columns of the table, at most 65,536 rows and about 64 MiB at a time.

        Raises:
            TableError: The file's data is damaged, takes more memory than 256 MiB plus 128 times
                the file's size, or is too large for `BoundedParquet.batches`.
        """
        names = self.columns
        with _explained(self.path), open_bounded(self.path) as file:
            room = _LEAST_IN_PARTS + _IN_PARTS_PER_BYTE * file.size
            for _, batch in file.unpacked(self._stored(names), room=room):
                yield self._joined([batch], file, names)

    def _stored(self, names: Iterable[str]) -> list[str]:
        """Return the names that the columns `names` have in the file; at least one."""
        older = _older(self.provenance)
        if older is None:
            return list(names)
        stored = [older.names.get(name, name) for name in names if name not in older.absent]
        return stored or ["frame"]

    def _joined(
        self, batches: Sequence[pa.RecordBatch], file: BoundedParquet, names: list[str]
    ) -> pa.Table:
        """Join batches to a table with the columns `names`, by today's names and types."""
        stored = pa.schema([file.schema.field(name) for name in self._stored(names)])
        table = pa.Table.from_batches(batches, stored)
        older = _older(self.provenance)
        if older is None:
            return table
        columns = [_renewed(table, name, older) for name in names]
        return pa.table(columns, names)


def open_table(path: Path) -> Table:
    """Open a results table and check its metadata, without reading its rows.

    Raises:
        TableError: The file cannot be opened or is no regular file, is no Parquet file, was not
            written by cxrbatch, has another major schema version, lacks a column or has one of
            another type, its footer or provenance is too large, or states more rows than a file of
            its size may have.
    """
    # Not by `Path.exists`, which raises errors of its own, as for a name that is too long.
    if os.path.exists(path) and not os.path.isfile(path):
        raise TableError(f"cannot open table {path}: it is no regular file; name a file")
    try:
        with open_bounded(path) as file:
            schema, rows, size = file.schema, file.rows, file.size
            stored = (file.metadata.metadata or {}) | (schema.metadata or {})
    except TooLarge as error:
        raise too_large(path, error) from None
    except _DAMAGE as error:
        raise TableError(f"cannot open table {path}: {_first_line(error)}") from None
    if rows > _FEW_ROWS + size:
        raise too_large(path, f"has {rows:,} rows in {size:,} bytes")
    try:
        text = stored[PROVENANCE_KEY]
        if len(text) > _LARGEST_PROVENANCE:
            raise too_large(path, f"tells more than {_LARGEST_PROVENANCE >> 20} MiB of its making")
        provenance = json.loads(text, parse_constant=_no_number)
        version, classes = provenance["schema_version"], tuple(provenance["classes"])
        if len(classes) > len(schema):
            raise ValueError
        expected = _stored_schema(provenance)
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError, pa.ArrowException):
        raise TableError(f"{path} is not a results table of cxrbatch") from None
    if str(version).partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise TableError(
            f"{path} has schema version {str(version)[:20]}; this program reads {SCHEMA_VERSION}"
        )
    for column in expected:
        if schema.get_field_index(column.name) < 0 or schema.field(column.name) != column:
            name = shown(column.name)
            raise TableError(f"{path} lacks the column {name}, or it has another type")
    return Table(path, classes, provenance, rows, size)


def schema_of(provenance: Mapping[str, Any]) -> pa.Schema:
    """Return the names and types of the columns that a table with this provenance has today.

    Raises:
        KeyError, TypeError, ValueError: The provenance lacks classes or the size of a heat map, or
            they are not as `table_schema` takes them.
    """
    schema = table_schema(
        provenance["classes"],
        heatmap_size=provenance["heatmap_size"],
        labelled=provenance.get("labelled") is True,
    )
    by_fold = has_folds(provenance)
    return schema.append(pa.field(FOLD_COLUMN, pa.int32())) if by_fold else schema


def has_folds(provenance: Mapping[str, Any]) -> bool:
    """Return whether several checkpoints scored a table, each the rows of its own fold."""
    return isinstance(provenance.get("checkpoints"), list)


def _stored_schema(provenance: Mapping[str, Any]) -> pa.Schema:
    """Return the columns that a file with this provenance has, by the names and types in it."""
    schema = schema_of(provenance)
    older = _older(provenance)
    if older is None:
        return schema
    return pa.schema(
        [
            (older.names.get(field.name, field.name), older.types.get(field.name, field.type))
            for field in schema
            if field.name not in older.absent
        ]
    )


def _older(provenance: Mapping[str, Any]) -> _Older | None:
    return _OLDER.get(provenance["schema_version"])


def _renewed(table: pa.Table, name: str, older: _Older) -> pa.ChunkedArray:
    """Return a column of an older file by its name and with its type of today."""
    if name in older.absent:
        return pa.chunked_array([pa.nulls(len(table), pa.string())])
    column = table[older.names.get(name, name)]
    if name in older.types:
        return pa.chunked_array(map(_hexadecimal, column.chunks), pa.string())
    return column


def _hexadecimal(numbers: pa.Array) -> pa.Array:
    """Convert unsigned numbers of 64 bits to texts of 16 hexadecimal digits; null stays null."""
    digits = numbers.fill_null(0).to_numpy(zero_copy_only=False).astype(">u8").tobytes().hex()
    offsets = np.arange(0, len(digits) + 1, 16, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(digits.encode())]
    texts = pa.Array.from_buffers(pa.string(), len(numbers), buffers)
    return pc.if_else(numbers.is_valid(), texts, pa.scalar(None, pa.string()))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Convert errors of reading a table to a `TableError` of one line."""
    try:
        yield
    except TooLarge as error:
        raise too_large(path, error) from None
    except _DAMAGE as error:
        raise TableError(f"{path} is damaged: {_first_line(error)}") from None


def too_large(path: Path | str, what: object) -> TableError:
    """Return the error for a table too large for memory; the caller raises it.

    Args:
        path: The table.
        what: What is too large, for the message after the path: "has 9,000 rows in 12 bytes".
    """
    return TableError(f"{path} {what}, more than a table of its size may; score again")


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

"""ServedTable: rows of one results table, selected and sorted by DuckDB.

DuckDB reads the Parquet file and may open no other file. The file stays open and is read through
its descriptor. So a table that is replaced on the disk stays whole for whoever is reading it, and
no file name becomes a pattern or a part of an SQL statement.
"""

import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import numpy as np
import numpy.typing as npt

from cxrbatch.errors import TableError
from cxrbatch.results.table import open_table
from cxrbatch.webapp.row_filter import EQUALITY_COLUMNS, RowFilter, is_labelled, quote_column

_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "threads": 2,
    "memory_limit": "256MB",
    "max_temp_directory_size": "0KB",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
# The columns of a table that was written before schema 2.3, by today's names and types.
_COLUMNS_OF_2_2 = "*, NULL::VARCHAR AS ood_kind"
_OLD_COLUMNS = """* EXCLUDE (flags, dhash), flags AS image_flags, NULL::VARCHAR AS ood_kind,
    format('{:016x}', dhash) AS dhash, NULL::VARCHAR AS accession_key"""
_MAX_CHOICES = 100
_FETCHED_AT_ONCE = 8
# Sizes of texts and bytes: of the rows of one page, and of an answer that is cached.
_MAX_PAGE_BYTES, _MAX_CACHED_BYTES = 8 << 20, 256 << 10
_MAX_CACHED_ANSWERS = 128

RowNumbers = npt.NDArray[np.int64]
"""Numbers of rows in a table, from 0, rising; shape (n,)."""

RowValues = dict[str, Any]
"""Column -> value of one row; `row` is the row's number in the table."""

_Answer: TypeAlias = tuple[list[str], list[tuple[Any, ...]]]


FileVersion = tuple[int, int, int, int]
"""Device, inode, modification time in ns and size of a file, which a write to it changes."""


def file_version(state: os.stat_result) -> FileVersion:
    """Return the version of a file: equal while it is untouched."""
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


class ServedTable:
    """A results table, whose file stays open if it is replaced; several threads may use it.

    Attributes:
        table: The table's provenance, classes and number of rows.
        columns: Names of all columns.
        version: Version of the file that was opened.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        """Open the file.

        Args:
            path: The Parquet file.
            name: Name of the table in error messages.

        Raises:
            TableError: The file cannot be opened, is not a results table, or is damaged.
        """
        self._name = name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise TableError(f"cannot open {name}: {error.strerror}") from None
        weakref.finalize(self, os.close, descriptor)
        self.version = file_version(os.fstat(descriptor))
        own_path = Path(f"/proc/self/fd/{descriptor}")
        try:
            self.table = open_table(own_path)
        except TableError as error:
            raise TableError(str(error).replace(str(own_path), name)) from None
        # The file behind the descriptor does not change, so an answer stays right.
        self._answers: dict[tuple[str, tuple[object, ...]], _Answer] = {}
        self._texts_are_checked = False
        self._database = self._connect(str(own_path))
        described = self._query("DESCRIBE rows", [])[1]
        self.columns = [str(name) for name, *_ in described if name != "file_row_number"]

    def page(
        self, row_filter: RowFilter, columns: Sequence[str], *, first: int, limit: int
    ) -> tuple[list[RowValues], int]:
        """Return a slice of the selected rows.

        Args:
            row_filter: Selects and orders the rows.
            columns: Columns to return besides `row`, the row's number in the table.
            first: Number of selected rows to skip.
            limit: Largest number of rows to return.

        Returns:
            The rows of the slice, each a dict of values by column, none if `first` is beyond the
            last row; and the number of all selected rows.

        Raises:
            TableError: The table is damaged, or these rows have more than 8 MiB.
        """
        numbers, count = self._ordered(row_filter, first=first, limit=limit)
        if not numbers:
            return [], self.count(row_filter)
        # The numbers first, then the columns of these rows alone: to sort whole rows takes much
        # longer.
        marks = ", ".join("?" * len(numbers))
        names = ", ".join(map(quote_column, columns))
        sql = f"SELECT file_row_number AS row, {names} FROM rows WHERE file_row_number IN ({marks})"
        by_number = {row["row"]: row for row in self._rows(sql, numbers)}
        return [by_number[number] for number in numbers], count

    def row(self, number: int) -> RowValues | None:
        """Return the values of a row: those of `columns`, and `row`, its number.

        Args:
            number: The row's number in the table, from 0.

        Returns:
            The values by column; None where the table has no row of this number.

        Raises:
            TableError: The table is damaged, or the row has more than 8 MiB.
        """
        if not 0 <= number < self.table.rows:
            return None
        sql = (
            "SELECT file_row_number AS row, * EXCLUDE (file_row_number) FROM rows "
            "WHERE file_row_number = ?"
        )
        return next(iter(self._rows(sql, [number])), None)

    def neighbours(
        self, row_filter: RowFilter, number: int, *, guess: int
    ) -> tuple[int, list[int | None]]:
        """Find the place of a row among the selected rows, and the rows next to it.

        Args:
            row_filter: Selects and orders the rows.
            number: The row's number in the table, from 0.
            guess: Probable place of the row, from 0; the search is quick where it is right.

        Returns:
            The place, from 0, and the numbers of the rows before and after; a number is None at an
            end of the selection. Where the row is not selected, or the table has no such row, the
            place is -1 and both numbers are None.

        Raises:
            TableError: The table is damaged.
        """
        near = self._near(row_filter, guess)
        if near.get(guess) != number:
            where, values = row_filter.where()
            sql = (
                f"SELECT place FROM (SELECT file_row_number AS row, row_number() OVER "
                f"(ORDER BY {row_filter.order()}) - 1 AS place FROM rows WHERE {where}) "
                "WHERE row = ?"
            )
            places = self._query(sql, [*values, number])[1]
            if not places:
                return -1, [None, None]
            guess = int(places[0][0])
            near = self._near(row_filter, guess)
        return guess, [near.get(guess - 1), near.get(guess + 1)]

    def numbers(self, row_filter: RowFilter) -> RowNumbers:
        """Return the numbers of all rows that a filter selects.

        Returns:
            Shape (n,), int64, from 0, rising; the filter's order does not count.

        Raises:
            TableError: The table is damaged.
        """
        self._check_texts()
        where, values = row_filter.where()
        sql = f"SELECT file_row_number AS row FROM rows WHERE {where}"
        with self._cursor() as cursor:
            numbers: RowNumbers = cursor.execute(sql, values).fetchnumpy()["row"]
        return np.sort(numbers)

    def count(self, row_filter: RowFilter) -> int:
        """Return the number of rows that a filter selects.

        Raises:
            TableError: The table is damaged.
        """
        where, values = row_filter.where()
        if where == "true":
            return self.table.rows
        return int(self._query(f"SELECT count(*) FROM rows WHERE {where}", values)[1][0][0])

    def choices(self) -> dict[str, list[str]]:
        """Return the values from which a user may choose in the form of the filter.

        Returns:
            For each parameter of `EQUALITY_COLUMNS`, and for `flag`, the different values in the
            table, sorted, without empty ones: at most 100 each, any of them if there are more.
            `truth` is absent where the table has no such column.

        Raises:
            TableError: The table is damaged.
        """
        columns = {**EQUALITY_COLUMNS, "flag": "unnest(image_flags)"}
        if not is_labelled(self.table):
            del columns["truth"]
        return {name: self._distinct(expression) for name, expression in columns.items()}

    def outcomes(self) -> dict[str, int]:
        """Return the number of rows of each outcome: by outcome code, the most frequent first.

        Raises:
            TableError: The table is damaged.
        """
        sql = "SELECT outcome, count(*) FROM rows GROUP BY outcome ORDER BY count(*) DESC, outcome"
        return {str(code): int(count) for code, count in self._query(sql, [])[1]}

    def _distinct(self, expression: str) -> list[str]:
        self._check_texts()
        sql = f"SELECT DISTINCT value FROM (SELECT {expression} AS value FROM rows) LIMIT ?"
        values = [value for (value,) in self._query(sql, [_MAX_CHOICES])[1]]
        return sorted(value for value in values if value)

    def _near(self, row_filter: RowFilter, place: int) -> dict[int, int]:
        """Return place -> row number for a place and the ones before and after it."""
        first = max(0, place - 1)
        numbers, _ = self._ordered(row_filter, first=first, limit=place + 2 - first)
        return dict(enumerate(numbers, first))

    def _ordered(self, row_filter: RowFilter, *, first: int, limit: int) -> tuple[list[int], int]:
        """Return numbers of selected rows in order, and the number of all selected rows.

        One statement returns both, so that the filter is applied once.
        """
        self._check_texts()
        where, values = row_filter.where()
        keys = ", ".join(dict.fromkeys(["file_row_number", row_filter.sort_column()]))
        sql = (
            f"WITH chosen AS MATERIALIZED (SELECT {keys} FROM rows WHERE {where}) "
            "SELECT file_row_number, (SELECT count(*) FROM chosen) FROM chosen "
            f"ORDER BY {row_filter.order()} LIMIT ? OFFSET ?"
        )
        pairs = self._query(sql, [*values, limit, first])[1]
        return [int(number) for number, _ in pairs], int(pairs[0][1]) if pairs else 0

    def _connect(self, own_path: str) -> duckdb.DuckDBPyConnection:
        database = duckdb.connect(":memory:", config=_SETTINGS)
        source = f"read_parquet('{own_path}', file_row_number = true)"
        try:
            database.execute(f"SET allowed_paths = ['{own_path}']")
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
            columns = _OLD_COLUMNS if self.table.is_older else "*"
            if self.table.provenance["schema_version"] == "2.2":
                columns = _COLUMNS_OF_2_2
            database.execute(f"CREATE VIEW rows AS SELECT {columns} FROM {source}")
        except duckdb.Error:
            raise TableError(f"{self._name} is damaged") from None
        return database

    def _rows(self, sql: str, values: Sequence[object]) -> list[RowValues]:
        self._check_texts()
        names, answer = self._query(sql, values)
        rows = [dict(zip(names, row, strict=True)) for row in answer]
        if not all(map(self._is_possible, rows)):
            raise TableError(f"{self._name} is damaged: it has a row that no run writes")
        return rows

    def _is_possible(self, row: RowValues) -> bool:
        """Return whether the columns that are read hold the values that the pages rely on."""
        required = (row.get(name, 0) is not None for name in ("path", "frame", "outcome"))
        if not all(required) or row.get("frame", 0) < 0:
            return False
        if row.get("prediction") is None:
            return True
        classes = self.table.classes
        is_scored = all(row.get(f"p_{name}", 0) is not None for name in classes)
        return is_scored and row["prediction"] in classes

    def _query(self, sql: str, values: Sequence[object]) -> _Answer:
        """Return the column names and rows that a statement selects; small answers are cached."""
        key = sql, tuple(values)
        answer = self._answers.get(key)
        if answer is None:
            with self._cursor() as cursor:
                result = cursor.execute(sql, values)
                names = [str(column[0]) for column in result.description or ()]
                rows, size = self._fetch(result)
            answer = names, rows
            if len(self._answers) >= _MAX_CACHED_ANSWERS:
                self._answers.clear()
            if len(rows) <= _MAX_CHOICES and size <= _MAX_CACHED_BYTES:
                self._answers[key] = answer
        return answer

    def _fetch(self, result: duckdb.DuckDBPyConnection) -> tuple[list[tuple[Any, ...]], int]:
        """Return all rows of a result, fetched a few at a time, and their size in bytes."""
        rows: list[tuple[Any, ...]] = []
        size = 0
        while some := result.fetchmany(_FETCHED_AT_ONCE):
            rows += some
            size += sum(map(_size, chain.from_iterable(some)))
            if size > _MAX_PAGE_BYTES:
                raise TableError(
                    f"{self._name} has rows of more than {_MAX_PAGE_BYTES >> 20} MiB on one page"
                )
        return rows, size

    def _check_texts(self) -> None:
        """Raise TableError where the texts of a table would take DuckDB too much memory.

        The check is left out when the file is opened, as the page of all runs opens many tables
        and reads no texts.
        """
        if not self._texts_are_checked:
            try:
                self.table.check_texts()
            except TableError as error:
                raise TableError(str(error).replace(str(self.table.path), self._name)) from None
            self._texts_are_checked = True

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        try:
            with self._database.cursor() as cursor:
                yield cursor
        except duckdb.Error:
            # The text of a DuckDB error may quote the table.
            raise TableError(f"{self._name} is damaged") from None


def _size(value: object) -> int:
    """Return the number of characters or bytes of a value, 8 for a number."""
    if isinstance(value, list):
        return sum(map(_size, value)) + 8 * len(value)
    return len(value) if isinstance(value, str | bytes) else 8

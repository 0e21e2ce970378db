"""One results table, open: its rows by filter, order and page.

DuckDB reads the Parquet file itself and may touch nothing else. The file is held open and read by
its descriptor: one that is replaced meanwhile stays whole for whoever reads it, and no file's name
becomes a pattern or part of a statement.
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
from cxrbatch.webapp.filters import EQUAL, Filter, is_labelled, quoted

_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "threads": 2,
    "memory_limit": "256MB",
    "max_temp_directory_size": "0KB",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}
_MOST_CHOICES = 100
_AT_ONCE = 8
# Of texts and bytes: what a page may be made of, and what of it is worth being remembered.
_MOST_SHOWN, _MOST_KEPT = 8 << 20, 256 << 10
_REMEMBERED = 128

Ids = npt.NDArray[np.int64]
Row = dict[str, Any]
_Answer: TypeAlias = tuple[list[str], list[tuple[Any, ...]]]


class OpenedTable:
    """A table that stays as it was when it was opened; may be used by several threads.

    Attributes:
        table: What it says of itself.
        columns: Names of its columns.
        place: Where other processes find the file as long as this is there.
    """

    def __init__(self, path: Path, *, name: str) -> None:
        """Open the file.

        Args:
            path: Where it is.
            name: What messages call it.

        Raises:
            TableError: It is no results table, or damaged.
        """
        self._name = name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise TableError(f"cannot open {name}: {error.strerror}") from None
        weakref.finalize(self, os.close, descriptor)
        held = Path(f"/proc/self/fd/{descriptor}")
        try:
            self.table = open_table(held)
        except TableError as error:
            raise TableError(str(error).replace(str(held), name)) from None
        self.place = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        # The table does not change, so that an answer stays true.
        self._answers: dict[tuple[str, tuple[object, ...]], _Answer] = {}
        self._is_checked = False
        self._database = self._connected(str(held))
        described = self._fetched("DESCRIBE rows", [])
        self.columns = [str(name) for name, *_ in described if name != "file_row_number"]

    def page(
        self, chosen: Filter, columns: Sequence[str], *, first: int, most: int
    ) -> tuple[list[Row], int]:
        """Give some rows, each with its number in the table as `row`.

        Args:
            chosen: Which rows, in which order.
            columns: What of them.
            first: How many to pass over.
            most: How many to give.

        Returns:
            They, and how many are chosen in all.
        """
        ids, count = self._ordered(chosen, first=first, most=most)
        if not ids:
            return [], self.count(chosen)
        # First the numbers, then these rows alone: sorting all of all rows would take much longer.
        marks = ", ".join("?" * len(ids))
        names = ", ".join(quoted(column) for column in columns)
        sql = f"SELECT file_row_number AS row, {names} FROM rows WHERE file_row_number IN ({marks})"
        found = {row["row"]: row for row in self._rows(sql, ids)}
        return [found[number] for number in ids], count

    def row(self, number: int) -> Row | None:
        """Give one row in full."""
        if not 0 <= number < self.table.rows:
            return None
        sql = "SELECT file_row_number AS row, * FROM rows WHERE file_row_number = ?"
        return next(iter(self._rows(sql, [number])), None)

    def around(self, chosen: Filter, number: int, *, at: int) -> tuple[int, list[int | None]]:
        """Find a row among the chosen ones.

        Args:
            chosen: Which rows, in which order.
            number: The row.
            at: Its place among them, from 0, as far as the asker knows.

        Returns:
            Its place, and the rows before and after it; -1 where it is not among them.
        """
        near = self._near(chosen, at)
        if near.get(at) != number:
            where, values = chosen.where()
            sql = (
                f"SELECT place FROM (SELECT file_row_number AS row, row_number() OVER "
                f"(ORDER BY {chosen.order()}) - 1 AS place FROM rows WHERE {where}) WHERE row = ?"
            )
            found = self._fetched(sql, [*values, number])
            if not found:
                return -1, [None, None]
            at = int(found[0][0])
            near = self._near(chosen, at)
        return at, [near.get(at - 1), near.get(at + 1)]

    def ids(self, chosen: Filter) -> Ids:
        """Give the numbers of all chosen rows, in the table's order."""
        self._check()
        where, values = chosen.where()
        sql = f"SELECT file_row_number AS row FROM rows WHERE {where}"
        with self._cursor() as cursor:
            found: Ids = cursor.execute(sql, values).fetchnumpy()["row"]
        return np.sort(found)

    def count(self, chosen: Filter) -> int:
        """Count the chosen rows."""
        where, values = chosen.where()
        if where == "true":
            return self.table.rows
        return int(self._fetched(f"SELECT count(*) FROM rows WHERE {where}", values)[0][0])

    def choices(self) -> dict[str, list[str]]:
        """Give values that occur, by parameter of `EQUAL` and for `flag`, up to a number."""
        told = {name: column for name, column in EQUAL.items() if self._has(name)}
        found = {name: self._distinct(column) for name, column in told.items()}
        return {**found, "flag": self._distinct("unnest(flags)")}

    def outcomes(self) -> dict[str, int]:
        """Count the rows by outcome, the most frequent first."""
        sql = "SELECT outcome, count(*) FROM rows GROUP BY outcome ORDER BY count(*) DESC, outcome"
        return {str(code): int(count) for code, count in self._fetched(sql, [])}

    def _distinct(self, expression: str) -> list[str]:
        self._check()
        sql = f"SELECT DISTINCT value FROM (SELECT {expression} AS value FROM rows) LIMIT ?"
        values = [value for (value,) in self._fetched(sql, [_MOST_CHOICES])]
        return sorted(value for value in values if value)

    def _has(self, parameter: str) -> bool:
        return parameter != "truth" or is_labelled(self.table)

    def _near(self, chosen: Filter, at: int) -> dict[int, int]:
        first = max(0, at - 1)
        ids, _ = self._ordered(chosen, first=first, most=at + 2 - first)
        return {first + step: number for step, number in enumerate(ids)}

    def _ordered(self, chosen: Filter, *, first: int, most: int) -> tuple[list[int], int]:
        """Numbers of some rows, and how many are chosen; the filter is applied once for both."""
        self._check()
        where, values = chosen.where()
        keys = ", ".join(dict.fromkeys(["file_row_number", chosen.key()]))
        sql = (
            f"WITH chosen AS MATERIALIZED (SELECT {keys} FROM rows WHERE {where}) "
            "SELECT file_row_number, (SELECT count(*) FROM chosen) FROM chosen "
            f"ORDER BY {chosen.order()} LIMIT ? OFFSET ?"
        )
        found = self._fetched(sql, [*values, most, first])
        return [int(number) for number, _ in found], int(found[0][1]) if found else 0

    def _connected(self, held: str) -> duckdb.DuckDBPyConnection:
        database = duckdb.connect(":memory:", config=_SETTINGS)
        try:
            database.execute(f"SET allowed_paths = ['{held}']")
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
            database.execute(
                f"CREATE VIEW rows AS SELECT * FROM read_parquet('{held}', file_row_number = true)"
            )
        except duckdb.Error:
            raise TableError(f"{self._name} is damaged") from None
        return database

    def _rows(self, sql: str, values: Sequence[object]) -> list[Row]:
        self._check()
        names, found = self._answer(sql, values)
        rows = [dict(zip(names, row, strict=True)) for row in found]
        if not all(map(self._is_possible, rows)):
            raise TableError(f"{self._name} is damaged: it has a row that no run writes")
        return rows

    def _is_possible(self, row: Row) -> bool:
        """Whether a row, or what was read of it, has what pages build on."""
        given = (row.get(name, 0) is not None for name in ("path", "frame", "outcome"))
        if not all(given) or row.get("frame", 0) < 0:
            return False
        if row.get("prediction") is None:
            return True
        classes = self.table.classes
        known = all(row.get(f"p_{name}", 0) is not None for name in classes)
        return known and row["prediction"] in classes

    def _fetched(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        return self._answer(sql, values)[1]

    def _answer(self, sql: str, values: Sequence[object]) -> _Answer:
        key = sql, tuple(values)
        answer = self._answers.get(key)
        if answer is None:
            with self._cursor() as cursor:
                found = cursor.execute(sql, values)
                names = [str(column[0]) for column in found.description or ()]
                rows, size = self._shown(found)
            answer = names, rows
            if len(self._answers) >= _REMEMBERED:
                self._answers.clear()
            if len(rows) <= _MOST_CHOICES and size <= _MOST_KEPT:
                self._answers[key] = answer
        return answer

    def _shown(self, found: duckdb.DuckDBPyConnection) -> tuple[list[tuple[Any, ...]], int]:
        """Rows of an answer, and the bytes of their texts, a few rows at a time."""
        rows: list[tuple[Any, ...]] = []
        size = 0
        while some := found.fetchmany(_AT_ONCE):
            rows += some
            size += sum(map(_size, chain.from_iterable(some)))
            if size > _MOST_SHOWN:
                raise TableError(
                    f"{self._name} has rows of more than {_MOST_SHOWN >> 20} MiB on one page"
                )
        return rows, size

    def _check(self) -> None:
        """Refuse a table whose texts DuckDB would need too much memory for.

        Not done as it is opened: the page of all runs opens many, and reads no text.
        """
        if not self._is_checked:
            try:
                self.table.check_texts()
            except TableError as error:
                raise TableError(str(error).replace(str(self.table.path), self._name)) from None
            self._is_checked = True

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        try:
            with self._database.cursor() as cursor:
                yield cursor
        except duckdb.Error:
            # Its text may quote the table.
            raise TableError(f"{self._name} is damaged") from None


def _size(value: object) -> int:
    """Characters or bytes of a value."""
    if isinstance(value, list):
        return sum(map(_size, value)) + 8 * len(value)
    return len(value) if isinstance(value, str | bytes) else 8

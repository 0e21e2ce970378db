"""Rows of a CSV or Parquet file of labels, whatever the file holds: in bounded memory."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import LabelError
from cxrbatch.results.bounded import BoundedParquet
from cxrbatch.results.pages import TooLarge, text_lengths

LONGEST_VALUE = 1 << 16
TOO_LONG = f"a field is longer than {LONGEST_VALUE} characters"

OPTIONAL = ("patient", "split", "source")

_LONGEST_ROW = 1 << 20
_BYTES_OF_A_CHARACTER = 4

Fields = Sequence[str]
"""Of a row what names its image, its label, and the values of `OPTIONAL`; empty for none."""

Rows = Iterator[tuple[int, str, Fields]]
"""Of each row its number, the column that names images, and the fields."""


class _Lines:
    """The lines of a text, none of which is read further than a row may be long."""

    def __init__(self, text: TextIO, file: Path) -> None:
        self._text = text
        self._file = file
        self._left = _LONGEST_ROW

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self._left)
        self._left -= len(line)
        if not self._left:
            raise LabelError(
                f"{self._file} has a row of more than {_LONGEST_ROW:,} characters; "
                "write one image a line"
            )
        if not line:
            raise StopIteration
        return line

    def begin_row(self) -> None:
        """Count the characters of a row anew."""
        self._left = _LONGEST_ROW


def csv_rows(stream: BinaryIO, file: Path, keys: Sequence[str]) -> Rows:
    """Read the rows of a CSV file in UTF-8.

    Args:
        stream: The open file; it is closed at the end.
        file: Its path, for messages.
        keys: Columns that may name images; the first that the file has does.

    Raises:
        LabelError: It is no CSV file in UTF-8, a column is missing or doubled, or a row is too
            long.
    """
    try:
        with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            lines = _Lines(text, file)
            reader = csv.reader(lines)
            header = next(reader, [])
            key = _key_column(header, file, keys)
            places = [header.index(n) if n in header else None for n in _names(key)]
            for row in filter(None, reader):
                lines.begin_row()
                if len(row) > len(header):
                    raise LabelError(
                        f"{file}, line {reader.line_num}: too many fields; "
                        "quote those that hold a comma"
                    )
                width = len(row)
                yield (
                    reader.line_num,
                    key,
                    [
                        row[place].strip() if place is not None and place < width else ""
                        for place in places
                    ],
                )
    except UnicodeDecodeError:
        raise LabelError(f"{file} is not a CSV file in UTF-8") from None
    except csv.Error:
        longest = csv.field_size_limit()
        raise LabelError(
            f"{file} is not a CSV file in UTF-8, or a field has more than {longest:,} characters"
        ) from None


def parquet_rows(stream: BinaryIO, file: Path, keys: Sequence[str]) -> Rows:
    """Read the rows of a Parquet file; the arguments are as for `csv_rows`.

    Raises:
        LabelError: It is damaged or would take too much memory, a column is missing, doubled or of
            another type, or a field is too long.
    """
    try:
        parquet = BoundedParquet(stream)
        schema = parquet.schema
        key = _key_column(schema.names, file, keys)
        columns = [name for name in _names(key) if name in schema.names]
        for name in columns:
            if not _is_text_or_number(schema.field(name).type):
                raise LabelError(f"column {name!r} of {file} is neither text nor numbers")
        for first, batch in parquet.batches(columns):
            _check_lengths(file, first, batch)
            texts = dict(zip(columns, map(_texts, batch.columns), strict=True))
            nothing = [""] * len(batch)
            rows = zip(*(texts.get(name, nothing) for name in _names(key)), strict=True)
            for number, fields in enumerate(rows, first + 1):
                yield number, key, fields
    except LabelError:
        raise
    except TooLarge as error:
        raise LabelError(f"{file} {error}, more than labels may; write it again") from None
    except Exception:
        raise LabelError(f"{file} is not a whole Parquet file; write it again") from None


def _check_lengths(file: Path, first: int, batch: pa.RecordBatch) -> None:
    """Refuse a field that is too long before it is made a text of Python's."""
    for column in batch.columns:
        lengths = text_lengths(column)
        most = LONGEST_VALUE * _BYTES_OF_A_CHARACTER
        if lengths is not None and (pc.max(lengths).as_py() or 0) > most:
            number = first + 1 + pc.index(pc.greater(lengths, most), True).as_py()
            raise LabelError(f"{file}, row {number}: {TOO_LONG}")


def _texts(column: pa.Array) -> list[str]:
    """The texts of a column; those of a dictionary are made once."""
    if not pa.types.is_dictionary(column.type) or len(column.dictionary) > len(column):
        return [_text(value) for value in column.to_pylist()]
    texts = [*map(_text, column.dictionary.to_pylist()), ""]
    return [texts[index] for index in column.indices.fill_null(len(texts) - 1).to_pylist()]


def _names(key: str) -> tuple[str, ...]:
    return (key, "label", *OPTIONAL)


def _key_column(names: Sequence[str], file: Path, keys: Sequence[str]) -> str:
    key = next((key for key in keys if key in names), None)
    if key is None or "label" not in names:
        lacking = keys[0] if key is None else "label"
        needed = " or ".join(keys)
        raise LabelError(f"{file} has no column {lacking!r}; needed: {needed}, and label")
    if doubled := [c for c in _names(key) if list(names).count(c) > 1]:
        raise LabelError(f"{file} has two columns {doubled[0]!r}; rename or remove one")
    return key


def _is_text_or_number(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
    return any(test(kind) for test in (*tests, *numbers))


def _text(value: str | float | None) -> str:
    """The text of a field; a whole number has no point, as a column with gaps holds floats."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()

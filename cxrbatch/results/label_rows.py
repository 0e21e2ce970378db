"""Reads the rows of a CSV or Parquet file of labels, whatever it holds, in bounded memory."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import LabelError
from cxrbatch.results.bounded import BoundedParquet
from cxrbatch.results.pages import TooLarge, portions, text_lengths

if TYPE_CHECKING:
    import _csv

_OPTIONAL = ("patient", "split", "source")

# Characters of a field, and of a row of CSV.
LONGEST_VALUE, _LONGEST_ROW = 1 << 16, 1 << 20
TOO_LONG = f"a field is longer than {LONGEST_VALUE} characters"
# Rows of CSV that are checked together, and their characters.
_CHUNK_ROWS, _CHUNK_CHARACTERS = 1 << 16, 1 << 22
# Bytes of the texts of Parquet rows that are checked together.
_PART_BYTES = 8 << 20
_BYTES_OF_A_CHARACTER = 4

Chunks = Iterator[pd.DataFrame]
"""Yields the rows of a file some at a time, each time as a DataFrame of texts.

Its columns are those of `names_of`; its index is the row's number, or the line of CSV, from 1.
"""


def frame_of(columns: Mapping[str, Sequence[str]], numbers: Sequence[int] | range) -> pd.DataFrame:
    """Make a DataFrame of texts, with the spaces around each text removed.

    Args:
        columns: Column name -> texts.
        numbers: The index: the number of each row in its file.
    """
    texts = pd.DataFrame(columns, numbers, dtype="string")
    return texts.apply(lambda column: column.str.strip())


class _Lines:
    """The lines of a text; no row is read further than it may be long.

    Attributes:
        characters: Number of characters read.
    """

    def __init__(self, text: TextIO, file: Path) -> None:
        self._text = text
        self._file = file
        self._left = _LONGEST_ROW
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self._left)
        self._left -= len(line)
        self.characters += len(line)
        if not self._left:
            raise LabelError(
                f"{self._file} has a row of more than {_LONGEST_ROW:,} characters; "
                "write one image a line"
            )
        if not line:
            raise StopIteration
        return line

    def begin_row(self) -> None:
        """Start to count the characters of the next row."""
        self._left = _LONGEST_ROW


def csv_chunks(stream: BinaryIO, file: Path, keys: Sequence[str]) -> Chunks:
    """Yield the rows of a CSV file in UTF-8, some at a time, and close the stream at the end.

    By `csv` and not `pandas.read_csv`, which has no limit for a row without end and does not say
    on which line of the file a row stands.

    Args:
        stream: The file, opened for reading bytes.
        file: Its path, for messages.
        keys: Columns that may name the images; the first of them that the file has is read.

    Yields:
        See `Chunks`; a column that the file lacks, and a field that its row lacks, is "".

    Raises:
        LabelError: It is no CSV file in UTF-8, a column is missing or doubled, or a row has too
            many fields or characters.
    """
    try:
        with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            lines = _Lines(text, file)
            reader = csv.reader(lines)
            header = next(reader, [])
            key = key_column(header, file, keys)
            places = {n: header.index(n) if n in header else len(header) for n in names_of(key)}
            while rows := list(_some_rows(reader, lines, file, len(header))):
                columns = {
                    name: [row[place] if place < len(row) else "" for _, row in rows]
                    for name, place in places.items()
                }
                yield frame_of(columns, [number for number, _ in rows])
    except UnicodeDecodeError:
        raise LabelError(f"{file} is not a CSV file in UTF-8") from None
    except csv.Error:
        longest = csv.field_size_limit()
        raise LabelError(
            f"{file} is not a CSV file in UTF-8, or a field has more than {longest:,} characters"
        ) from None


def _some_rows(
    reader: "_csv.Reader", lines: _Lines, file: Path, most: int
) -> Iterator[tuple[int, list[str]]]:
    """Read rows, with their line numbers, that are checked together."""
    end = lines.characters + _CHUNK_CHARACTERS
    for count, row in enumerate(filter(None, reader), 1):
        lines.begin_row()
        if len(row) > most:
            raise LabelError(
                f"{file}, line {reader.line_num}: too many fields; quote those that hold a comma"
            )
        yield reader.line_num, row
        if lines.characters > end or count == _CHUNK_ROWS:
            return


def parquet_chunks(stream: BinaryIO, file: Path, keys: Sequence[str]) -> Chunks:
    """Yield the rows of a Parquet file, some at a time; numbers become their text.

    Args:
        stream: The file on disk, opened for reading bytes.
        file: Its path, for messages.
        keys: Columns that may name the images; the first of them that the file has is read.

    Yields:
        See `Chunks`; a column that the file lacks, and a null, is "".

    Raises:
        LabelError: It is damaged or would take too much memory, a column is missing, doubled or of
            another type, or a field is too long.
    """
    try:
        parquet = BoundedParquet(stream)
        schema = parquet.schema
        key = key_column(schema.names, file, keys)
        columns = [name for name in names_of(key) if name in schema.names]
        for name in columns:
            if not _is_text_or_number(schema.field(name).type):
                raise LabelError(f"column {name!r} of {file} is neither text nor numbers")
        for start, batch in parquet.batches(columns):
            _check_lengths(file, start, batch)
            # Rows may share a text in the batch; in a frame each row has its own.
            for first, part in portions(start, batch, _PART_BYTES):
                texts = dict(zip(columns, map(_texts, part.columns), strict=True))
                nothing = [""] * len(part)
                numbers = range(first + 1, first + 1 + len(part))
                yield frame_of({name: texts.get(name, nothing) for name in names_of(key)}, numbers)
    except LabelError:
        raise
    except TooLarge as error:
        raise LabelError(f"{file} {error}, more than labels may; write it again") from None
    except Exception:
        raise LabelError(f"{file} is not a whole Parquet file; write it again") from None


def _check_lengths(file: Path, first: int, batch: pa.RecordBatch) -> None:
    """Refuse a field that is too long while Arrow still shares its text among rows."""
    for column in batch.columns:
        lengths = text_lengths(column)
        most = LONGEST_VALUE * _BYTES_OF_A_CHARACTER
        if lengths is not None and (pc.max(lengths).as_py() or 0) > most:
            number = first + 1 + pc.index(pc.greater(lengths, most), True).as_py()
            raise LabelError(f"{file}, row {number}: {TOO_LONG}")


def _texts(column: pa.Array) -> list[str]:
    """Convert a column to texts; an entry of a dictionary becomes one text for all its rows."""
    if not pa.types.is_dictionary(column.type) or len(column.dictionary) > len(column):
        return [text_of(value) for value in column.to_pylist()]
    texts = [*map(text_of, column.dictionary.to_pylist()), ""]
    return [texts[index] for index in column.indices.fill_null(len(texts) - 1).to_pylist()]


def text_of(value: str | float | None) -> str:
    """Convert a field to text: None and NaN to "", and a float without fraction like 3.0 to "3".

    A column of whole numbers with gaps holds floats.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def names_of(key: str) -> tuple[str, ...]:
    """Return the columns that are read of labels: `key`, label, patient, split and source.

    `key` is the column that names the images.
    """
    return (key, "label", *_OPTIONAL)


def key_column(names: Sequence[str], file: Path | str, keys: Sequence[str]) -> str:
    """Return the name of the column that names the images: the first of `keys` that is in `names`.

    Args:
        names: Names of the columns of a file of labels.
        file: The file's path, for messages.
        keys: Columns that may name the images, the preferred one first.

    Raises:
        LabelError: None of `keys` or no column label is there, or a column to read occurs twice.
    """
    key = next((key for key in keys if key in names), None)
    if key is None or "label" not in names:
        lacking = keys[0] if key is None else "label"
        needed = " or ".join(keys)
        raise LabelError(f"{file} has no column {lacking!r}; needed: {needed}, and label")
    if doubled := [c for c in names_of(key) if list(names).count(c) > 1]:
        raise LabelError(f"{file} has two columns {doubled[0]!r}; rename or remove one")
    return key


def _is_text_or_number(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_null)
    return any(test(kind) for test in (*tests, *numbers))

"""Labels from a CSV or Parquet file of any content, checked and read in bounded memory."""

import csv
import io
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from sys import getsizeof
from typing import TYPE_CHECKING, BinaryIO, TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import LabelError
from cxrbatch.paths import shown
from cxrbatch.reading.containers.listing import open_regular
from cxrbatch.reading.outcomes import reading_error
from cxrbatch.results.bounded import BoundedParquet
from cxrbatch.results.labels import SPLITS, LabelledFile
from cxrbatch.results.pages import TooLarge, text_lengths

if TYPE_CHECKING:
    import _csv

_OPTIONAL = ("patient", "split", "source")

_PARQUET_MAGIC = b"PAR1"
_MOST_DIFFERENT, _MOST_SHOWN = 10_000, 5
# Characters: of a field, of a row of CSV, of the rows that are checked together.
_LONGEST_VALUE, _LONGEST_ROW, _CHUNK_CHARACTERS = 1 << 16, 1 << 20, 1 << 22
_BYTES_OF_A_CHARACTER = 4
_TOO_LONG = f"a field is longer than {_LONGEST_VALUE} characters"
# What all labels of a file may take, so that a command stays below 1 GB: nearly two millions.
_MOST_BYTES = 512 << 20
# Bytes that a label takes beside its texts, in a frame or as a `LabelledFile` with what training
# joins to it; and that a text of several labels takes beside its characters.
_LABEL_BYTES, _SHARED_BYTES = 249, 100

# Paths that `normpath` may change.
_NOT_NORMAL = r"(?:^|/)\.{0,2}(?:/|$)"

_SPLIT = "|".join(("", *SPLITS))

_Chunks = Iterator[pd.DataFrame]
"""Some rows at a time: texts in the columns of `_names`, indexed by the number of the row."""


def read_labels(file: Path) -> list[LabelledFile]:
    """Read a file of labels in which each path stands once.

    Args:
        file: As for `labels_in`.

    Returns:
        The labels, in the file's order.

    Raises:
        LabelError: As for `labels_in`, or a path stands twice, be it with one class or with two.
    """
    frame = read_frame(file, ("path",))
    check_each_once(file, frame["path"], frame["label"])
    return _as_list(frame)


def labels_in(file: Path) -> list[LabelledFile]:
    """Read a file of labels in which a path may stand several times.

    Args:
        file: A CSV or Parquet file with the columns path and label; patient, split and source may
            stand beside them. Its content, not its name, says which of the two it is.

    Returns:
        A label per row, in the file's order.

    Raises:
        LabelError: As for `read_frame`.
    """
    return _as_list(read_frame(file, ("path",)))


def read_frame(labels: Path | pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Read and check labels of a CSV or Parquet file, or of a DataFrame with the same columns.

    Numbers in a Parquet file become their text. Spaces around a text are removed, and paths are
    normalised ("./a" is "a").

    Args:
        labels: The file, whose content, not its name, says whether it is CSV or Parquet; or a
            DataFrame.
        keys: Columns that may name the images; the first of them that there is is read.

    Returns:
        A row per label, in order: that column as text, then label, patient, split and source as
        categories, null where nothing is given.

    Raises:
        LabelError: The file cannot be read as CSV or Parquet, a column is missing or doubled, a
            name or a label is empty, a split is not one of `SPLITS`, there are no rows, or more
            than fit into 512 MiB.
    """
    if isinstance(labels, pd.DataFrame):
        name = "the DataFrame of labels"
        key = _key_column(list(labels.columns), name, keys)
        values = labels.reindex(columns=_names(key)).astype(object)
        texts = values.where(values.notna(), None).map(_text)
        checked = _CheckedLabels(name, "row")
        checked.add(_frame(texts.to_dict("list"), range(1, len(texts) + 1)))
        return checked.frame()
    try:
        with open_regular(labels) as stream:
            is_parquet = stream.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
            stream.seek(0)
            checked = _CheckedLabels(labels, "row" if is_parquet else "line")
            for chunk in (_parquet_chunks if is_parquet else _csv_chunks)(stream, labels, keys):
                checked.add(chunk)
    except LabelError:
        raise
    except Exception as error:
        raise LabelError(f"cannot read labels {labels}: {reading_error(error).detail}") from None
    return checked.frame()


def check_each_once(file: Path | str, names: pd.Series, labels: pd.Series) -> None:
    """Refuse labels of which two have the same name.

    Args:
        file: The file that they come from.
        names: What each label calls its image.
        labels: The class that each label gives.

    Raises:
        LabelError: Lists the first such images, with their labels where these differ.
    """
    doubled = names[names.duplicated()].unique()
    if not len(doubled):
        return
    several = labels.astype(object)[names.isin(doubled[:_MOST_SHOWN])].groupby(names, sort=False)
    listed = ", ".join(_described(name, own.unique()) for name, own in several)
    raise LabelError(f"{file} names {len(doubled)} images more than once: {listed}")


def _described(name: str, labels: Iterable[str]) -> str:
    different = sorted(labels)
    if len(different) == 1:
        return shown(name)
    return f"{shown(name)} (labels {', '.join(map(shown, different[:_MOST_SHOWN]))})"


def _as_list(frame: pd.DataFrame) -> list[LabelledFile]:
    columns = [frame[name].astype(object).where(frame[name].notna(), None) for name in frame]
    return [*map(LabelledFile, *columns)]


def _frame(columns: Mapping[str, Sequence[str]], numbers: Sequence[int] | range) -> pd.DataFrame:
    """Make a chunk of texts, without spaces around them."""
    texts = pd.DataFrame(columns, numbers, dtype="string")
    return texts.apply(lambda column: column.str.strip())


class _CheckedLabels:
    """Checked labels of a file, as far as they fit into `_MOST_BYTES`."""

    def __init__(self, file: Path | str, unit: str) -> None:
        self._file, self._unit = file, unit
        self._parts: list[pd.DataFrame] = []
        self._rows, self._left = 0, _MOST_BYTES
        self._texts, self._classes = set[str](), set[str]()

    def add(self, chunk: pd.DataFrame) -> None:
        """Check the rows of a chunk and keep them.

        Raises:
            LabelError: A row cannot be used, or is one too many.
        """
        if chunk.empty:
            return
        _check_fields(self._file, self._unit, chunk)
        key, *others = chunk.columns
        if key == "path" and (irregular := chunk[key].str.contains(_NOT_NORMAL)).any():
            chunk.loc[irregular, key] = chunk.loc[irregular, key].map(posixpath.normpath)
        self._classes.update(chunk["label"].unique())
        if len(self._classes) > _MOST_DIFFERENT:
            raise LabelError(
                f"{self._file} has more than {_MOST_DIFFERENT:,} different labels; "
                "its column label has to name classes"
            )
        for name in others:
            new = set(chunk[name].unique()) - self._texts
            self._texts |= new
            self._left -= sum(_SHARED_BYTES + getsizeof(text) for text in new)
        taken = (chunk[key].str.len() + _LABEL_BYTES).cumsum()
        if taken.iloc[-1] > self._left:
            count = self._rows + int((taken <= self._left).sum()) + 1
            raise LabelError(
                f"{self._file} has more labels than fit into {_MOST_BYTES >> 20} MiB, "
                f"{count:,} by then; divide it"
            )
        self._left -= int(taken.iloc[-1])
        self._rows += len(chunk)
        self._parts.append(chunk)

    def frame(self) -> pd.DataFrame:
        """Return all labels as `read_frame` does.

        Raises:
            LabelError: There are none.
        """
        if not self._rows:
            raise LabelError(f"{self._file} has no rows")
        labels = pd.concat(self._parts, ignore_index=True)
        for name in labels.columns[1:]:
            labels[name] = labels[name].mask(labels[name] == "").astype("category")
        return labels


def _check_fields(file: Path | str, unit: str, chunk: pd.DataFrame) -> None:
    """Refuse the first row without a name or a label, or with a field that cannot be used.

    Raises:
        LabelError: Names the row and what is wrong with it.
    """
    key, *others = chunk.columns
    lengths = chunk.apply(lambda texts: texts.str.len())
    # NUL is allowed in names: a path that leads to no file is listed as such later.
    nul = chunk[others].apply(lambda texts: texts.str.contains("\0", regex=False))
    problems = pd.DataFrame(
        {
            f"{key} or label is empty": (lengths[[key, "label"]] == 0).any(axis=1),
            _TOO_LONG: (lengths > _LONGEST_VALUE).any(axis=1),
            "a field holds a NUL character; write the file again as text": nul.any(axis=1),
            "split is not train, val or test": ~chunk["split"].str.fullmatch(_SPLIT),
        }
    )
    unusable = problems[problems.any(axis=1)]
    if len(unusable):
        raise LabelError(f"{file}, {unit} {unusable.index[0]}: {unusable.iloc[0].idxmax()}")


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


def _csv_chunks(stream: BinaryIO, file: Path, keys: Sequence[str]) -> _Chunks:
    """Read a CSV file in UTF-8, and close the stream.

    By `csv` and not `pandas.read_csv`, which has no limit for a row without end and does not say
    on which line of the file a row stands.

    Raises:
        LabelError: It is no CSV file in UTF-8, a column is missing or doubled, or a row has too
            many fields or characters.
    """
    try:
        with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            lines = _Lines(text, file)
            reader = csv.reader(lines)
            header = next(reader, [])
            key = _key_column(header, file, keys)
            while rows := list(_some_rows(reader, lines, file, len(header))):
                numbers, fields = zip(*rows, strict=True)
                columns = dict(zip(header, zip_longest(*fields, fillvalue=""), strict=False))
                nothing = [""] * len(rows)
                yield _frame({name: columns.get(name, nothing) for name in _names(key)}, numbers)
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
    """Read rows, with their line numbers, until they have `_CHUNK_CHARACTERS`."""
    end = lines.characters + _CHUNK_CHARACTERS
    for row in filter(None, reader):
        lines.begin_row()
        if len(row) > most:
            raise LabelError(
                f"{file}, line {reader.line_num}: too many fields; quote those that hold a comma"
            )
        yield reader.line_num, row
        if lines.characters > end:
            return


def _parquet_chunks(stream: BinaryIO, file: Path, keys: Sequence[str]) -> _Chunks:
    """Read a Parquet file.

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
            numbers = range(first + 1, first + 1 + len(batch))
            yield _frame({name: texts.get(name, nothing) for name in _names(key)}, numbers)
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
        most = _LONGEST_VALUE * _BYTES_OF_A_CHARACTER
        if lengths is not None and (pc.max(lengths).as_py() or 0) > most:
            number = first + 1 + pc.index(pc.greater(lengths, most), True).as_py()
            raise LabelError(f"{file}, row {number}: {_TOO_LONG}")


def _texts(column: pa.Array) -> list[str]:
    """Convert a column to texts; an entry of a dictionary becomes one text for all its rows."""
    if not pa.types.is_dictionary(column.type) or len(column.dictionary) > len(column):
        return [_text(value) for value in column.to_pylist()]
    texts = [*map(_text, column.dictionary.to_pylist()), ""]
    return [texts[index] for index in column.indices.fill_null(len(texts) - 1).to_pylist()]


def _text(value: str | float | None) -> str:
    """Convert a field to text; a whole number gets no point, as a column with gaps holds floats."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def _names(key: str) -> tuple[str, ...]:
    return (key, "label", *_OPTIONAL)


def _key_column(names: Sequence[str], file: Path | str, keys: Sequence[str]) -> str:
    """Choose the column that names the images; refuse missing and doubled columns."""
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

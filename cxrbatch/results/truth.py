"""Labels: which class an image truly is, as a CSV or Parquet file says."""

import csv
import io
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from cxrbatch.errors import LabelError
from cxrbatch.reading.containers import open_regular
from cxrbatch.reading.outcomes import reading_error
from cxrbatch.results.paths import shown

SPLITS = ("train", "val", "test")
_REQUIRED = ("path", "label")
_OPTIONAL = ("patient", "split", "source")
_SHOWN = 5

_PARQUET_MAGIC = b"PAR1"
_ROWS_AT_ONCE = 1024
# A column of one value costs a Parquet file next to nothing, however many rows it claims.
_MOST_ROWS = 20_000_000
_LONGEST_VALUE = 1 << 16

_Fields = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """One image and its label.

    Attributes:
        path: Path relative to the labels' root, or absolute, with forward slashes.
        label: Class name as written.
        patient: Groups images of one person; None where unknown.
        split: "train", "val" or "test"; None where not given.
        source: The collection that it comes from; None where unknown.
    """

    path: str
    label: str
    patient: str | None = None
    split: str | None = None
    source: str | None = None


def read_labels(file: Path) -> list[LabelledFile]:
    """Read a file of labels in which each path stands once.

    Raises:
        LabelError: As for `labels_in`, or a path stands twice.
    """
    labelled = labels_in(file)
    rows: defaultdict[str, list[str]] = defaultdict(list)
    for item in labelled:
        rows[item.path].append(item.label)
    if doubled := {path: set(labels) for path, labels in rows.items() if len(labels) > 1}:
        listed = ", ".join(_doubled(*pair) for pair in list(doubled.items())[:_SHOWN])
        raise LabelError(f"{file} names {len(doubled)} paths more than once: {listed}")
    return labelled


def labels_in(file: Path) -> list[LabelledFile]:
    """Read the rows of a CSV or Parquet file, told apart by its content, as they stand.

    It has the columns path and label and, optionally, patient, split and source. Numbers in a
    Parquet file count as the text of them.

    Raises:
        LabelError: Not readable as either, a column is missing or doubled, a field is empty, a
            split is unknown, or there are no rows.
    """
    try:
        with open_regular(file) as stream:
            is_parquet = stream.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
            stream.seek(0)
            rows = _parquet_rows(stream, file) if is_parquet else _csv_rows(stream, file)
            labelled = [_labelled(place, fields) for place, fields in rows]
    except LabelError:
        raise
    except Exception as error:
        raise LabelError(f"cannot read labels {file}: {reading_error(error).detail}") from None
    if not labelled:
        raise LabelError(f"{file} has no rows")
    return labelled


def _csv_rows(stream: BinaryIO, file: Path) -> Iterator[tuple[str, _Fields]]:
    try:
        with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text)
            _check_columns(reader.fieldnames or [], file)
            for row in reader:
                place = f"{file}, line {reader.line_num}"
                # Its key is None where a line has more fields than the header.
                if None in row:
                    raise LabelError(f"{place}: too many fields; quote those that hold a comma")
                yield place, {name: (value or "").strip() for name, value in row.items()}
    except (UnicodeDecodeError, csv.Error):
        raise LabelError(f"{file} is not a CSV file in UTF-8") from None


def _parquet_rows(stream: BinaryIO, file: Path) -> Iterator[tuple[str, _Fields]]:
    try:
        parquet = pq.ParquetFile(stream)
        _check_columns(parquet.schema_arrow.names, file)
        columns = [n for n in (*_REQUIRED, *_OPTIONAL) if n in parquet.schema_arrow.names]
        for name in columns:
            if not _is_text_or_number(parquet.schema_arrow.field(name).type):
                raise LabelError(f"column {name!r} of {file} is neither text nor numbers")
        if parquet.metadata.num_rows > _MOST_ROWS:
            raise LabelError(f"{file} has more than {_MOST_ROWS:,} rows; divide it")
        number = 0
        for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", {name: _text(row[name]) for name in columns}
    except LabelError:
        raise
    except Exception:
        raise LabelError(f"{file} is not a whole Parquet file; write it again") from None


def _check_columns(names: Sequence[str], file: Path) -> None:
    if missing := [column for column in _REQUIRED if column not in names]:
        raise LabelError(f"{file} has no column {missing[0]!r}; needed: path, label")
    if doubled := [c for c in (*_REQUIRED, *_OPTIONAL) if list(names).count(c) > 1]:
        raise LabelError(f"{file} has two columns {doubled[0]!r}; rename or remove one")


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


def _labelled(place: str, fields: _Fields) -> LabelledFile:
    path, label = fields["path"], fields["label"]
    if not path or not label:
        raise LabelError(f"{place}: path or label is empty")
    if any(len(value) > _LONGEST_VALUE for value in fields.values()):
        raise LabelError(f"{place}: a field is longer than {_LONGEST_VALUE} characters")
    patient, split, source = (fields.get(name) or None for name in _OPTIONAL)
    if split is not None and split not in SPLITS:
        raise LabelError(f"{place}: split is not train, val or test")
    return LabelledFile(posixpath.normpath(path), label, patient, split, source)


def _doubled(path: str, labels: Iterable[str]) -> str:
    names = sorted(labels)
    if len(names) == 1:
        return shown(path)
    return f"{shown(path)} (labels {', '.join(map(shown, names[:_SHOWN]))})"

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
IMAGE_KEYS = ("path", "sop_instance_uid", "image_hash")
"""By which column of a results table a file of labels may name its images; the first it has."""

_BY_PATH = ("path",)
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
        path: Path relative to the labels' root, or absolute, with forward slashes; of
            `labels_by_key`, what names the image.
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
    check_each_once(file, labelled)
    return labelled


def check_each_once(file: Path, labelled: Iterable[LabelledFile]) -> None:
    """Refuse labels that name an image twice, be it with one class or with two.

    Raises:
        LabelError: Lists them.
    """
    rows: defaultdict[str, list[str]] = defaultdict(list)
    for item in labelled:
        rows[item.path].append(item.label)
    if doubled := {path: set(labels) for path, labels in rows.items() if len(labels) > 1}:
        listed = ", ".join(_doubled(*pair) for pair in list(doubled.items())[:_SHOWN])
        raise LabelError(f"{file} names {len(doubled)} images more than once: {listed}")


def labels_in(file: Path) -> list[LabelledFile]:
    """Read the rows of a CSV or Parquet file, told apart by its content, as they stand.

    It has the columns path and label and, optionally, patient, split and source. Numbers in a
    Parquet file count as the text of them.

    Raises:
        LabelError: Not readable as either, a column is missing or doubled, a field is empty, a
            split is unknown, or there are no rows.
    """
    return _read(file, _BY_PATH)[1]


def labels_by_key(file: Path) -> tuple[str, list[LabelledFile]]:
    """Read the rows of a file of labels that may name images by another column than path.

    Returns:
        The first of `IMAGE_KEYS` that the file has as a column, and the labels.

    Raises:
        LabelError: As for `labels_in`.
    """
    return _read(file, IMAGE_KEYS)


def _read(file: Path, keys: Sequence[str]) -> tuple[str, list[LabelledFile]]:
    try:
        with open_regular(file) as stream:
            is_parquet = stream.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
            stream.seek(0)
            key, labelled = "", []
            for place, key, fields in (_parquet_rows if is_parquet else _csv_rows)(
                stream, file, keys
            ):
                labelled.append(_labelled(place, fields, key))
    except LabelError:
        raise
    except Exception as error:
        raise LabelError(f"cannot read labels {file}: {reading_error(error).detail}") from None
    if not labelled:
        raise LabelError(f"{file} has no rows")
    return key, labelled


_Rows = Iterator[tuple[str, str, _Fields]]
"""Of each row its place for a message, the column that names images, and the fields."""


def _csv_rows(stream: BinaryIO, file: Path, keys: Sequence[str]) -> _Rows:
    try:
        with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text)
            key = _key_column(reader.fieldnames or [], file, keys)
            for row in reader:
                place = f"{file}, line {reader.line_num}"
                # Its key is None where a line has more fields than the header.
                if None in row:
                    raise LabelError(f"{place}: too many fields; quote those that hold a comma")
                yield place, key, {name: (value or "").strip() for name, value in row.items()}
    except UnicodeDecodeError:
        raise LabelError(f"{file} is not a CSV file in UTF-8") from None
    except csv.Error:
        longest = csv.field_size_limit()
        raise LabelError(
            f"{file} is not a CSV file in UTF-8, or a field has more than {longest:,} characters"
        ) from None


def _parquet_rows(stream: BinaryIO, file: Path, keys: Sequence[str]) -> _Rows:
    try:
        parquet = pq.ParquetFile(stream)
        schema = parquet.schema_arrow
        key = _key_column(schema.names, file, keys)
        columns = [name for name in (key, "label", *_OPTIONAL) if name in schema.names]
        for name in columns:
            if not _is_text_or_number(schema.field(name).type):
                raise LabelError(f"column {name!r} of {file} is neither text nor numbers")
        if parquet.metadata.num_rows > _MOST_ROWS:
            raise LabelError(f"{file} has more than {_MOST_ROWS:,} rows; divide it")
        number = 0
        for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", key, {name: _text(row[name]) for name in columns}
    except LabelError:
        raise
    except Exception:
        raise LabelError(f"{file} is not a whole Parquet file; write it again") from None


def _key_column(names: Sequence[str], file: Path, keys: Sequence[str]) -> str:
    key = next((key for key in keys if key in names), None)
    if key is None or "label" not in names:
        lacking = keys[0] if key is None else "label"
        needed = " or ".join(keys)
        raise LabelError(f"{file} has no column {lacking!r}; needed: {needed}, and label")
    if doubled := [c for c in (key, "label", *_OPTIONAL) if list(names).count(c) > 1]:
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


def _labelled(place: str, fields: _Fields, key: str) -> LabelledFile:
    name, label = fields[key], fields["label"]
    if not name or not label:
        raise LabelError(f"{place}: {key} or label is empty")
    if any(len(value) > _LONGEST_VALUE for value in fields.values()):
        raise LabelError(f"{place}: a field is longer than {_LONGEST_VALUE} characters")
    patient, split, source = (fields.get(name) or None for name in _OPTIONAL)
    if split is not None and split not in SPLITS:
        raise LabelError(f"{place}: split is not train, val or test")
    name = posixpath.normpath(name) if key == "path" else name
    return LabelledFile(name, label, patient, split, source)


def _doubled(path: str, labels: Iterable[str]) -> str:
    names = sorted(labels)
    if len(names) == 1:
        return shown(path)
    return f"{shown(path)} (labels {', '.join(map(shown, names[:_SHOWN]))})"

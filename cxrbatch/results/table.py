"""The data contract: names and types of a results table's columns, and its provenance.

A table has one row per file, or per frame of a multi-frame file. Every reader of a table calls
`open_table`, which refuses a schema of another major version.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cxrbatch.errors import TableError
from cxrbatch.paths import shown
from cxrbatch.reading.readings import HeaderFacts
from cxrbatch.results.bounded import BoundedParquet, open_bounded
from cxrbatch.results.pages import TooLarge

SCHEMA_VERSION = "2.1"
PROVENANCE_KEY = b"cxrbatch"

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

_INTEGERS = frozenset({"rows", "columns", "bits_stored"})
# A field without a repr never enters a table: of the id there is a keyed hash, `patient_key`.
FACTS = tuple(f.name for f in fields(HeaderFacts) if f.repr)

Facts: TypeAlias = tuple[str | int | None, ...]
"""Header values that a table may hold, in the order of `FACTS`."""

TRUTH_COLUMNS = ("truth", "split")
"""Further columns of a table that was made with labels: text, null where unknown."""


@dataclass(frozen=True, slots=True)
class ImageScores:
    """Scores of one image by a model of c classes.

    Attributes:
        logits: Shape (c,), float32.
        probabilities: Shape (c,), float32.
        heatmaps: c * h * w bytes.
        heatmap_scale: A heat map is its bytes * `heatmap_scale` / 255.
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    heatmaps: bytes
    heatmap_scale: float


class Row(NamedTuple):
    """The values of one row but its scores; a tuple, as millions of them travel between processes.

    Attributes:
        path: Relative to the archive's root, see `cxrbatch.paths`.
        frame: 0-based.
        file_size: In bytes.
        file_modified_ns: Modification time of the file, nanoseconds since 1970: what an archive
            says of its copy, not a date of the patient's.
        format: "dicom", "png", "jpeg" or "other".
        outcome: An outcome code.
        detail: One line for a person.
        flags: Flag codes.
        image_hash: Hash of the model's input; None without an image.
        dhash: 64-bit difference hash; None without an image.
        patient_key: Keyed hash of the patient id; None where there is none.
        facts: Header values, as `facts_of` gives them.
    """

    path: str
    frame: int
    file_size: int
    file_modified_ns: int
    format: str
    outcome: str
    detail: str
    flags: tuple[str, ...]
    image_hash: str | None
    dhash: int | None
    patient_key: str | None
    facts: Facts


def facts_of(header: HeaderFacts) -> Facts:
    """Select the header values that a table may hold."""
    return cast(Facts, _facts_of(header))


_facts_of = attrgetter(*FACTS)


def table_schema(classes: Sequence[str], *, heatmap_size: int, labelled: bool = False) -> pa.Schema:
    """Return names and types of a table's columns.

    Args:
        classes: Class names in the order of the logits.
        heatmap_size: Height and width of one heat map in cells.
        labelled: Whether the columns `TRUTH_COLUMNS` are among them.

    Raises:
        ValueError: `heatmap_size` is not a positive whole number.
    """
    if type(heatmap_size) is not int or heatmap_size < 1:
        raise ValueError("a heat map has a whole number of cells")
    heatmaps = len(classes) * heatmap_size**2
    columns = [
        ("path", pa.string()),
        ("frame", pa.int32()),
        ("file_size", pa.int64()),
        ("file_modified_ns", pa.int64()),
        ("format", pa.string()),
        ("outcome", pa.string()),
        ("detail", pa.string()),
        ("prediction", pa.string()),
        *((f"p_{name}", pa.float32()) for name in classes),
        *((f"logit_{name}", pa.float32()) for name in classes),
        ("heatmaps", pa.binary(heatmaps)),
        ("heatmap_scale", pa.float32()),
        ("image_hash", pa.string()),
        ("dhash", pa.uint64()),
        ("flags", pa.list_(pa.string())),
        ("ood_score", pa.float32()),
        ("patient_key", pa.string()),
        *((name, pa.int32() if name in _INTEGERS else pa.string()) for name in FACTS),
        *((name, pa.string()) for name in (TRUTH_COLUMNS if labelled else ())),
    ]
    return pa.schema(columns)


def record_batch(
    scored: Sequence[tuple[Row, ImageScores | None]], *, classes: Sequence[str], schema: pa.Schema
) -> pa.RecordBatch:
    """Convert rows with their scores to a batch of a table.

    Args:
        scored: Rows, each with its scores, or None where it was not scored: its columns are null.
        classes: Class names in the order of the logits.
        schema: As `table_schema` returns it.
    """
    rows = [row for row, _ in scored]
    columns: dict[str, list[Any]] = {
        **{name: [row[place] for row in rows] for place, name in enumerate(Row._fields)},
        **{name: [row.facts[place] for row in rows] for place, name in enumerate(FACTS)},
        **_score_columns([score for _, score in scored], classes),
        "ood_score": [None] * len(rows),
    }
    arrays = [column_of(columns[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _score_columns(
    scores: Sequence[ImageScores | None], classes: Sequence[str]
) -> dict[str, list[Any]]:
    # Lists: one by one, Python's numbers are several times as fast as numpy's.
    nothing = [None] * len(classes)
    probabilities = [nothing if s is None else s.probabilities.tolist() for s in scores]
    logits = [nothing if s is None else s.logits.tolist() for s in scores]
    return {
        "prediction": [None if p is nothing else classes[p.index(max(p))] for p in probabilities],
        **{f"p_{name}": [p[i] for p in probabilities] for i, name in enumerate(classes)},
        **{f"logit_{name}": [values[i] for values in logits] for i, name in enumerate(classes)},
        "heatmaps": [s and s.heatmaps for s in scores],
        "heatmap_scale": [s and s.heatmap_scale for s in scores],
    }


def column_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Convert values of rows to an Arrow column; None becomes null.

    Args:
        values: Numbers, texts, bytes of the type's length, or lists of texts, as `kind` asks.
        kind: A number type, string, binary of a fixed length, or list of string.

    Raises:
        OverflowError: A number is out of the type's range.
        UnicodeEncodeError: A text has no UTF-8.
        ValueError: Bytes are not of the type's length.
    """
    # Not by `pyarrow.array`, which imports pandas: 0.4 s, as long as scoring some dozen images.
    nulls = values.count(None)
    if nulls == len(values):
        return pa.nulls(nulls, kind)
    validity = _validity(values) if nulls else None
    if pa.types.is_string(kind):
        encoded = [b"" if value is None else value.encode() for value in values]
        content = [_offsets(encoded), pa.py_buffer(b"".join(encoded))]
    elif pa.types.is_fixed_size_binary(kind):
        nothing = bytes(kind.byte_width)
        cells = [nothing if value is None else value for value in values]
        if any(len(cell) != kind.byte_width for cell in cells):
            raise ValueError(f"bytes are not {kind.byte_width} long")
        content = [pa.py_buffer(b"".join(cells))]
    elif pa.types.is_list(kind):
        lists = [value or () for value in values]
        inner = column_of(list(chain.from_iterable(lists)), kind.value_type)
        buffers = [validity, _offsets(lists)]
        return pa.Array.from_buffers(kind, len(values), buffers, children=[inner])
    else:
        numbers = [0 if value is None else value for value in values]
        content = [pa.py_buffer(np.array(numbers, kind.to_pandas_dtype()))]
    return pa.Array.from_buffers(kind, len(values), [validity, *content])


def _offsets(values: Sequence[Sequence[Any]]) -> pa.Buffer:
    ends = np.zeros(len(values) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, values), np.int32, len(values)), out=ends[1:])
    return pa.py_buffer(ends)


def _validity(values: Sequence[Any]) -> pa.Buffer:
    is_there = np.fromiter((value is not None for value in values), bool, len(values))
    return pa.py_buffer(np.packbits(is_there, bitorder="little"))


@dataclass(frozen=True, slots=True)
class Table:
    """A results table whose schema and provenance were checked; its rows are read on demand.

    Attributes:
        path: The file.
        classes: Class names in the order of the logits.
        provenance: How the table was made, as the file says.
        rows: Number of rows.
        size: Of the file, in bytes.
    """

    path: Path
    classes: tuple[str, ...]
    provenance: Mapping[str, Any]
    rows: int
    size: int

    @property
    def columns(self) -> list[str]:
        """Names of the columns of the data contract, in its order."""
        names: list[str] = _schema_of(self.provenance).names
        return names

    def read(self, columns: Iterable[str]) -> pa.Table:
        """Read some columns of all rows.

        Raises:
            TableError: The file's data is damaged, or expands to more than a table of its size may.
        """
        names = list(columns)
        with _explained(self.path), open_bounded(self.path) as file:
            room = _LEAST_WHOLE + _WHOLE_PER_BYTE * file.size
            batches = [batch for _, batch in file.unpacked(names, room=room)]
            return _joined(batches, file, names)

    def check_texts(self) -> None:
        """Refuse a table with texts over 64 KiB, of which some thousand rows take gigabytes.

        Raises:
            TableError: As for `read`.
        """
        with _explained(self.path), open_bounded(self.path) as file:
            file.check_texts(self.columns, most=_LONGEST_TEXT)

    def take(self, rows: Sequence[int], columns: Iterable[str]) -> pa.Table:
        """Read some columns of a few rows; row groups without any of them are not read.

        Returns:
            The rows in the order of `rows`.

        Raises:
            TableError: As for `read`.
        """
        names, wanted = list(columns), np.unique(np.asarray(rows, np.int64))
        batches = []
        with _explained(self.path), open_bounded(self.path) as file:
            room = _LEAST_IN_PARTS + _IN_PARTS_PER_BYTE * file.size
            for first, batch in file.unpacked(names, room=room, rows=wanted.tolist()):
                inside = wanted[(wanted >= first) & (wanted < first + len(batch))] - first
                batches.append(batch.take(pa.array(inside)))
            places = np.searchsorted(wanted, np.asarray(rows, np.int64))
            return _joined(batches, file, names).take(pa.array(places))

    def row_groups(self) -> Iterator[pa.Table]:
        """Yield all columns of the table, at most 65,536 rows and about 64 MiB at a time.

        Raises:
            TableError: As for `read`.
        """
        names = self.columns
        with _explained(self.path), open_bounded(self.path) as file:
            room = _LEAST_IN_PARTS + _IN_PARTS_PER_BYTE * file.size
            for _, batch in file.unpacked(names, room=room):
                yield _joined([batch], file, names)


def open_table(path: Path) -> Table:
    """Open a results table without reading its rows.

    Raises:
        TableError: The file is no Parquet file, was not written by cxrbatch, has another major
            schema version, or its footer states more rows than a file of its size may have.
    """
    if path.exists() and not path.is_file():
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
        expected = _schema_of(provenance)
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


def _schema_of(provenance: Mapping[str, Any]) -> pa.Schema:
    return table_schema(
        provenance["classes"],
        heatmap_size=provenance["heatmap_size"],
        labelled=provenance.get("labelled") is True,
    )


def _joined(batches: Sequence[pa.RecordBatch], file: BoundedParquet, names: list[str]) -> pa.Table:
    return pa.Table.from_batches(batches, pa.schema([file.schema.field(name) for name in names]))


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
    """Make the error for a table too large for memory; `what` follows the path in its message."""
    return TableError(f"{path} {what}, more than a table of its size may; score again")


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

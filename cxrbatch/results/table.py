"""The data contract: names and types of a results table's columns, and its provenance.

One row per file (one per frame of a multi-frame file). All that reads a table goes through
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


def column_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Make a column; None is null.

    Args:
        values: As the type asks: numbers, text, bytes of the type's length, or lists of text.
        kind: A number type, string, binary of a fixed length, or list of string.

    Raises:
        OverflowError: A number is out of the type's range.
        UnicodeEncodeError: A text has no UTF-8.
        ValueError: Bytes are not of the type's length.
    """
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


SCHEMA_VERSION = "2.1"
PROVENANCE_KEY = b"cxrbatch"

_LARGEST_PROVENANCE = 4 << 20
# A path of 4,096 bytes, Linux's longest, has 16 KiB where every byte is escaped.
_LONGEST_TEXT = 64 << 10
# A row takes a byte of the file at least, as all paths differ.
_FEW_ROWS = 100_000
_DAMAGE = (OSError, ValueError, KeyError, MemoryError, pa.ArrowException)

_INTEGERS = frozenset({"rows", "columns", "bits_stored"})
# What is kept out of a repr never enters a table: of the id there is a keyed hash, `patient_key`.
FACTS = tuple(f.name for f in fields(HeaderFacts) if f.repr)

Facts: TypeAlias = tuple[str | int | None, ...]
"""Header values that may be written down, as `FACTS` names them."""

TRUTH_COLUMNS = ("truth", "split")
"""What a table has beside the usual columns where it came with labels: text, null where unknown."""


@dataclass(frozen=True, slots=True)
class ImageScores:
    """What the model gave for one image of c classes.

    Attributes:
        logits: Shape (c,), float32.
        probabilities: Shape (c,), float32.
        heatmaps: c * h * w bytes.
        heatmap_scale: A heat map is its bytes times this over 255.
    """

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    heatmaps: bytes
    heatmap_scale: float


class Row(NamedTuple):
    """One file, or one frame of it, before it is scored.

    A tuple, as millions of them travel between processes.

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
    """What may be written down of a header."""
    return cast(Facts, _facts_of(header))


_facts_of = attrgetter(*FACTS)


def table_schema(classes: Sequence[str], *, heatmap_size: int, labelled: bool = False) -> pa.Schema:
    """Give the columns of a table.

    Args:
        classes: Class names in the order of the logits.
        heatmap_size: Height and width of one heat map in cells.
        labelled: Whether it has the columns `TRUTH_COLUMNS` too.

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
    """Turn rows into columns; what an unscored row lacks is null."""
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
    # As numbers of Python's, which are several times as fast one by one as numpy's.
    nothing = [None] * len(classes)
    probabilities = [nothing if s is None else s.probabilities.tolist() for s in scores]
    logits = [nothing if s is None else s.logits.tolist() for s in scores]
    return {
        "prediction": [None if p is nothing else classes[p.index(max(p))] for p in probabilities],
        **{f"p_{name}": [p[i] for p in probabilities] for i, name in enumerate(classes)},
        **{f"logit_{name}": [found[i] for found in logits] for i, name in enumerate(classes)},
        "heatmaps": [s and s.heatmaps for s in scores],
        "heatmap_scale": [s and s.heatmap_scale for s in scores],
    }


class _Room(NamedTuple):
    """Bytes that rows may take in memory: some for any table, more for a larger file."""

    least: int
    per_byte: int

    def of(self, size: int) -> int:
        """The room for a file of some size in bytes."""
        return self.least + self.per_byte * size


# Columns that are read whole stay in memory together; heat maps are read in parts alone.
_WHOLE, _IN_PARTS = _Room(128 << 20, 32), _Room(256 << 20, 128)


@dataclass(frozen=True, slots=True)
class Table:
    """A results table that was opened and found to keep the contract.

    Attributes:
        path: Where it is.
        classes: Class names in the order of the logits.
        provenance: What the file says of how it was made.
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
        """Names of the columns that the contract asks for, in its order."""
        names: list[str] = _schema_of(self.provenance).names
        return names

    def read(self, columns: Iterable[str]) -> pa.Table:
        """Read some columns.

        Raises:
            TableError: The file's data is damaged, or expands to more than a table of its size may.
        """
        names = list(columns)
        with _explained(self.path), open_bounded(self.path) as file:
            found = [batch for _, batch in file.unpacked(names, room=_WHOLE.of(file.size))]
            return _joined(found, file, names)

    def check_texts(self) -> None:
        """Refuse a table with texts so long that a reader of some thousand rows takes gigabytes.

        Raises:
            TableError: As for `read`.
        """
        with _explained(self.path), open_bounded(self.path) as file:
            file.check_texts(self.columns, most=_LONGEST_TEXT)

    def take(self, rows: Sequence[int], columns: Iterable[str]) -> pa.Table:
        """Read a few rows, in the order asked for, and no row group that has none of them.

        Raises:
            TableError: As for `read`.
        """
        names, wanted = list(columns), np.unique(np.asarray(rows, np.int64))
        found = []
        with _explained(self.path), open_bounded(self.path) as file:
            room = _IN_PARTS.of(file.size)
            for first, batch in file.unpacked(names, room=room, rows=wanted.tolist()):
                inside = wanted[(wanted >= first) & (wanted < first + len(batch))] - first
                found.append(batch.take(pa.array(inside)))
            places = np.searchsorted(wanted, np.asarray(rows, np.int64))
            return _joined(found, file, names).take(pa.array(places))

    def row_groups(self) -> Iterator[pa.Table]:
        """Read all columns, some rows at a time: at most 65,536, and at most some 64 MiB.

        Raises:
            TableError: As for `read`.
        """
        names = self.columns
        with _explained(self.path), open_bounded(self.path) as file:
            for _, batch in file.unpacked(names, room=_IN_PARTS.of(file.size)):
                yield _joined([batch], file, names)


def open_table(path: Path) -> Table:
    """Open a results table without reading its rows.

    Raises:
        TableError: Not a Parquet file, not written by cxrbatch, of another major version, or larger
            by its footer than a table of its size may be.
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
    """Say in one line what reading a table fails by."""
    try:
        yield
    except TooLarge as error:
        raise too_large(path, error) from None
    except _DAMAGE as error:
        raise TableError(f"{path} is damaged: {_first_line(error)}") from None


def too_large(path: Path | str, what: object) -> TableError:
    """The error of a table that is too large in memory; `what` continues its name."""
    return TableError(f"{path} {what}, more than a table of its size may; score again")


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

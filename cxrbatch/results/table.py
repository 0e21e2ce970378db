"""The data contract: names and types of a results table's columns, and its provenance.

One row per file (one per frame of a multi-frame file). All that reads a table goes through
`open_table`, which refuses a schema of another major version.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cxrbatch.errors import TableError
from cxrbatch.reading.facts import HeaderFacts
from cxrbatch.results.columns import column_of

SCHEMA_VERSION = "2.1"
PROVENANCE_KEY = b"cxrbatch"

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
        path: Relative to the archive's root, see `cxrbatch.results.paths`.
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


@dataclass(frozen=True, slots=True)
class Table:
    """A results table that was opened and found to keep the contract.

    Attributes:
        path: Where it is.
        classes: Class names in the order of the logits.
        provenance: What the file says of how it was made.
        rows: Number of rows.
    """

    path: Path
    classes: tuple[str, ...]
    provenance: Mapping[str, Any]
    rows: int

    def read(self, columns: Iterable[str]) -> pa.Table:
        """Read some columns.

        Raises:
            TableError: The file's data is damaged.
        """
        try:
            return _validated(pq.read_table(self.path, columns=list(columns)))
        except (OSError, pa.ArrowException) as error:
            raise TableError(f"{self.path} is damaged: {_first_line(error)}") from None

    def take(self, rows: Sequence[int], columns: Iterable[str]) -> pa.Table:
        """Read a few rows, in the order asked for, and no row group that has none of them.

        Raises:
            TableError: The file's data is damaged.
        """
        names = list(columns)
        found, places, before, held = [], dict[int, int](), 0, 0
        try:
            with self.path.open("rb") as file, pq.ParquetFile(file) as table:
                for group in range(table.num_row_groups):
                    after = before + table.metadata.row_group(group).num_rows
                    inside = sorted({row for row in rows if before <= row < after})
                    if inside:
                        whole = table.read_row_group(group, columns=names)
                        found.append(_validated(whole.take([row - before for row in inside])))
                        places |= {row: held + i for i, row in enumerate(inside)}
                        held += len(inside)
                    before = after
        except (OSError, pa.ArrowException) as error:
            raise TableError(f"{self.path} is damaged: {_first_line(error)}") from None
        if not found:
            return self.read(names).slice(0, 0)
        return pa.concat_tables(found).take(pa.array([places[row] for row in rows]))

    def row_groups(self) -> Iterator[pa.Table]:
        """Read all columns, some rows at a time.

        Raises:
            TableError: The file's data is damaged.
        """
        try:
            # An open file, not a path: Arrow takes no name that is not UTF-8.
            with self.path.open("rb") as file, pq.ParquetFile(file) as table:
                for group in range(table.num_row_groups):
                    yield table.read_row_group(group).replace_schema_metadata(None)
        except (OSError, pa.ArrowException) as error:
            raise TableError(f"{self.path} is damaged: {_first_line(error)}") from None


def open_table(path: Path) -> Table:
    """Open a results table without reading its rows.

    Raises:
        TableError: Not a Parquet file, not written by cxrbatch, or of another major version.
    """
    if path.exists() and not path.is_file():
        raise TableError(f"cannot open table {path}: it is no regular file; name a file")
    try:
        with pq.ParquetFile(path) as file:
            metadata, schema, rows = file.schema_arrow.metadata, file.schema_arrow, file.metadata
            stored = (rows.metadata or {}) | (metadata or {})
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise TableError(f"cannot open table {path}: {_first_line(error)}") from None
    try:
        provenance = json.loads(stored[PROVENANCE_KEY], parse_constant=_no_number)
        version, classes = provenance["schema_version"], tuple(provenance["classes"])
        expected = table_schema(
            classes,
            heatmap_size=provenance["heatmap_size"],
            labelled=provenance.get("labelled") is True,
        )
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError, pa.ArrowException):
        raise TableError(f"{path} is not a results table of cxrbatch") from None
    if str(version).partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise TableError(
            f"{path} has schema version {version}; this program reads {SCHEMA_VERSION}"
        )
    for column in expected:
        if schema.get_field_index(column.name) < 0 or schema.field(column.name) != column:
            raise TableError(f"{path} lacks the column {column.name!r}, or it has another type")
    return Table(path, classes, provenance, rows.num_rows)


def _validated(table: pa.Table) -> pa.Table:
    """The same table, whose text is known to be UTF-8.

    Raises:
        pa.ArrowInvalid: It is not.
    """
    table.validate(full=True)
    return table


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

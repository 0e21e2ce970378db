"""The finished table, put together from finished rows: the same bytes however they came about."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrbatch.atomic import written_whole
from cxrbatch.errors import TableError
from cxrbatch.results.table import PROVENANCE_KEY

_ROW_GROUP = 65_536
# A page is the least that a reader decompresses: one who looks up few rows, as the web app does,
# passes over most of them with the help of the index.
_PAGE_BYTES = 16 << 10
# A dictionary has to be read before any value. It pays for texts that repeat, not for these.
_ALL_DIFFERENT = frozenset({"path", "image_hash", "sop_instance_uid"})


@dataclass(slots=True)
class Counts:
    """What the rows of a table add up to.

    Attributes:
        files: Files, a multi-frame file counting once.
        rows: Rows.
        outcomes: Rows per outcome code.
        predictions: Scored rows per predicted class.
    """

    files: int = 0
    rows: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    predictions: Counter[str] = field(default_factory=Counter)

    def add(self, rows: pa.Table) -> None:
        """Count some rows."""
        self.rows += rows.num_rows
        # Compared with a number of Python's, it would import pandas: see `results.columns`.
        is_further = pc.cast(rows["frame"], pa.bool_())
        self.files += rows.num_rows - pc.sum(is_further, min_count=0).as_py()
        for column, counter in (("outcome", self.outcomes), ("prediction", self.predictions)):
            for entry in pc.value_counts(rows[column].drop_null()).to_pylist():
                counter[entry["values"]] += entry["counts"]

    def to_provenance(self) -> dict[str, Any]:
        """What a table says of it."""
        return {
            "files": self.files,
            "rows": self.rows,
            "outcomes": dict(sorted(self.outcomes.items())),
        }


def write_table(
    path: Path,
    tables: Iterable[pa.Table],
    *,
    within: Path,
    schema: pa.Schema,
    files: int,
    provenance: Callable[[Counts], Mapping[str, Any]],
) -> Counts:
    """Write a results table and put it in place once it was read back.

    Row groups have one fixed number of rows, whatever portions the rows come in.

    Args:
        path: The table.
        tables: Its rows in their order.
        within: The folder where it is kept until it is whole.
        schema: Its columns.
        files: Files that the rows must add up to.
        provenance: How the table was made, given what its rows add up to.

    Raises:
        TableError: The rows do not add up, or the table does not read back.
        OSError: It cannot be written.
    """
    counts = Counts()
    with written_whole(path, within=within) as file:
        writer = table_writer(file, schema)
        try:
            for group in _regrouped(tables, schema):
                counts.add(group)
                writer.write_table(group, row_group_size=_ROW_GROUP)
            if counts.files != files:
                raise TableError(f"{path} has rows of {counts.files} files, not of {files}")
            text = json.dumps(provenance(counts), sort_keys=True)
            writer.add_key_value_metadata({PROVENANCE_KEY.decode(): text})
        finally:
            writer.close()
        file.flush()
        _verify(Path(file.name), schema, counts)
    return counts


def table_writer(file: BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a writer of a results table."""
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        data_page_size=_PAGE_BYTES,
        use_dictionary=[_leaf(field) for field in schema if _repeats(field)],
        write_page_index=True,
        write_page_checksum=True,
    )


def _repeats(field: pa.Field) -> bool:
    kind = field.type.value_type if pa.types.is_list(field.type) else field.type
    return pa.types.is_string(kind) and field.name not in _ALL_DIFFERENT


def _leaf(field: pa.Field) -> str:
    """How Parquet calls the column that holds a field's values."""
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else str(field.name)


def _regrouped(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterable[pa.Table]:
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        while rows >= _ROW_GROUP:
            whole = pa.concat_tables(waiting)
            # In one piece: where pages end follows from the pieces too.
            yield whole.slice(0, _ROW_GROUP).combine_chunks()
            waiting, rows = [whole.slice(_ROW_GROUP)], rows - _ROW_GROUP
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()


def _verify(path: Path, schema: pa.Schema, counts: Counts) -> None:
    found = Counts()
    try:
        with (
            path.open("rb") as file,
            pq.ParquetFile(file, page_checksum_verification=True) as table,
        ):
            same = table.schema_arrow.equals(schema)
            for group in range(table.num_row_groups):
                found.add(table.read_row_group(group))
    except pa.ArrowException:
        same = False
    if not same or found != counts:
        raise TableError(f"{path} did not read back as it was written; check the disk")

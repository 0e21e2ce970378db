"""Writes shards, and the finished table from them: the same bytes for the same rows."""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrbatch.errors import TableError
from cxrbatch.files import written_whole
from cxrbatch.results.columns import PROVENANCE_KEY, ImageScores, Row, record_batch

_ROW_GROUP = 65_536
# A reader decompresses whole pages: to look up few rows, as the web app does, it skips most pages
# with the help of the index.
_PAGE_BYTES = 16 << 10
# A dictionary is read before any value. It pays for texts that repeat, not for these columns.
_ALL_DIFFERENT = frozenset({"path", "image_hash", "dhash", "sop_instance_uid"})


@dataclass(slots=True)
class Counts:
    """Counts over the rows of a table.

    Attributes:
        files: Files; a multi-frame file counts once.
        rows: Rows.
        outcomes: Rows per outcome code.
        predictions: Scored rows per predicted class.
        flags: Rows per flag of their images.
    """

    files: int = 0
    rows: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    predictions: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)

    def add(self, rows: pa.Table) -> None:
        """Add the counts of further rows to these, in place.

        Args:
            rows: Rows of a results table with the columns `frame`, `outcome`, `prediction` and
                `image_flags`; each row with frame 0 counts as a file.
        """
        self.rows += rows.num_rows
        # A comparison with a Python number would import pandas: see `results.columns`.
        is_further = pc.cast(rows["frame"], pa.bool_())
        self.files += rows.num_rows - pc.sum(is_further, min_count=0).as_py()
        columns = {name: rows[name] for name in ("outcome", "prediction", "image_flags")}
        columns["image_flags"] = pc.list_flatten(columns["image_flags"])
        counters = (self.outcomes, self.predictions, self.flags)
        for values, counter in zip(columns.values(), counters, strict=True):
            for entry in pc.value_counts(values.drop_null()).to_pylist():
                counter[entry["values"]] += entry["counts"]

    def to_provenance(self) -> dict[str, Any]:
        """Return `files`, `rows` and `outcomes`, sorted by code, as JSON values for a table."""
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
    """Write a results table to a temporary file, read it back, then move it to its path.

    Row groups have 65536 rows each but the last, however the rows are divided among `tables`: equal
    rows and metadata give equal bytes.

    Args:
        path: The table; an existing file is replaced.
        tables: Its rows in their order.
        within: The folder, on the same disk, that contains the temporary file.
        schema: Its columns.
        files: Number of files that the rows must have.
        provenance: Makes the table's metadata, JSON values by name, from the counts of all rows.

    Returns:
        The counts of the table.

    Raises:
        TableError: The rows have another number of files, or the table does not read back.
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
    """Open a Parquet writer with the compression, pages and dictionaries of a results table.

    Args:
        file: Opened for writing bytes; the writer does not close it.
        schema: The table's columns.
    """
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
    """Return Parquet's name of the column with a field's values."""
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else str(field.name)


def _regrouped(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterable[pa.Table]:
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        while rows >= _ROW_GROUP:
            whole = pa.concat_tables(waiting)
            # In one piece, as the ends of pages depend on the pieces.
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


ScoredRow = tuple[Row, ImageScores | None]

_RECORD_BATCH = 512
_RUN_KEY = b"run"


def write_shard(
    path: Path,
    pieces: Iterable[ScoredRow | pa.Table],
    *,
    classes: Sequence[str],
    schema: pa.Schema,
    run: str,
) -> None:
    """Write a shard: a file in Arrow's format with the rows of some files of the archive.

    Args:
        path: The shard; it has this name only when it is whole and on the disk.
        pieces: Pairs of a row and its scores (None without scores), or tables of finished rows, in
            their order.
        classes: Class names in the order of the logits.
        schema: The table's columns.
        run: Id of the run that the shard belongs to; stored in the shard, for `shard_holds`.

    Raises:
        OSError: It cannot be written.
    """
    content = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    marked = schema.with_metadata({_RUN_KEY: run.encode()})
    with pa.ipc.new_file(content, marked, options=options) as writer:
        for batch in _packed(pieces, classes, schema):
            writer.write_batch(batch)
    with written_whole(path) as file:
        file.write(content.getbuffer())


def shard_holds(path: Path, *, run: str) -> bool:
    """Whether a file is a shard that `write_shard` wrote with this `run`.

    False if it is missing, no whole Arrow file, or of another run; its rows are not read.
    """
    try:
        with pa.OSFile(bytes(path)) as file, pa.ipc.open_file(file) as shard:
            return bool((shard.schema.metadata or {}).get(_RUN_KEY) == run.encode())
    except (OSError, pa.ArrowException):
        return False


def read_shard(path: Path) -> pa.Table:
    """Read all rows of a shard, without the run's id.

    Raises:
        TableError: The file is missing or damaged.
    """
    try:
        with pa.OSFile(bytes(path)) as file, pa.ipc.open_file(file) as shard:
            return shard.read_all().replace_schema_metadata(None)
    except (OSError, pa.ArrowException):
        raise TableError(f"{path} is damaged; remove it and run again") from None


def _packed(
    pieces: Iterable[ScoredRow | pa.Table], classes: Sequence[str], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Convert rows to columns, which take a tenth of the memory, some hundred at a time."""
    rows: list[ScoredRow] = []
    for piece in pieces:
        if isinstance(piece, tuple):
            rows.append(piece)
        if rows and (len(rows) == _RECORD_BATCH or not isinstance(piece, tuple)):
            yield record_batch(rows, classes=classes, schema=schema)
            rows.clear()
        if not isinstance(piece, tuple):
            yield from piece.to_batches()
    if rows:
        yield record_batch(rows, classes=classes, schema=schema)

"""Shards: the rows of some thousand files, on disk as soon as they are known."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from cxrbatch.atomic import written_whole
from cxrbatch.errors import TableError
from cxrbatch.results.table import ImageScores, Row, record_batch

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
    """Write a shard; it has its name only when it is whole and on the disk.

    Args:
        path: Where.
        pieces: Rows in their order, or tables of rows that are finished.
        classes: Class names in the order of the logits.
        schema: The table's columns.
        run: What the shard belongs to.

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
    """Whether a shard is there and belongs to a run."""
    try:
        with pa.OSFile(bytes(path)) as file, pa.ipc.open_file(file) as shard:
            return bool((shard.schema.metadata or {}).get(_RUN_KEY) == run.encode())
    except (OSError, pa.ArrowException):
        return False


def read_shard(path: Path) -> pa.Table:
    """Read a shard back.

    Raises:
        TableError: It is damaged.
    """
    try:
        with pa.OSFile(bytes(path)) as file, pa.ipc.open_file(file) as shard:
            return shard.read_all().replace_schema_metadata(None)
    except (OSError, pa.ArrowException):
        raise TableError(f"{path} is damaged; remove it and run again") from None


def _packed(
    pieces: Iterable[ScoredRow | pa.Table], classes: Sequence[str], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    # Columns take a tenth of the memory of rows.
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

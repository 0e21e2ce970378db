"""A results table on its way to the disk: there under its name only when it is whole."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cxrbatch.results.table import PROVENANCE_KEY, ImageScores, Row, record_batch, table_schema

_ROW_GROUP = 65_536
_RECORD_BATCH = 512


@contextmanager
def partial_folder(output: Path) -> Iterator[Path]:
    """Give a folder beside the output for what is not whole yet; it is gone afterwards.

    Raises:
        OSError: The folder of the output cannot be written.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class TableWriter:
    """Collects rows and writes them by row groups."""

    def __init__(self, path: Path, *, classes: Sequence[str], heatmap_size: int) -> None:
        """Open the file.

        Args:
            path: The partial file, see `publish`.
            classes: Class names in the order of the logits.
            heatmap_size: Height and width of one heat map in cells.
        """
        self._classes = classes
        self._schema = table_schema(classes, heatmap_size=heatmap_size)
        # An open file, not a path: Arrow takes no name that is not UTF-8.
        self._file = path.open("wb")
        self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        self._rows: list[tuple[Row, ImageScores | None]] = []
        self._batches: list[pa.RecordBatch] = []
        self._batched = 0

    def add(self, row: Row, scores: ImageScores | None) -> None:
        """Take one row; the order of rows is the order of calls."""
        self._rows.append((row, scores))
        if len(self._rows) == _RECORD_BATCH:
            self._pack()
        if self._batched >= _ROW_GROUP:
            self._write_row_group()

    def finish(self, provenance: Mapping[str, Any]) -> None:
        """Write what is left and how the table was made, down to the disk itself."""
        self._pack()
        self._write_row_group()
        text = json.dumps(provenance, sort_keys=True)
        self._writer.add_key_value_metadata({PROVENANCE_KEY.decode(): text})
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close the file without making it whole."""
        # After a failed write, closing fails for the same reason again.
        for part in (self._writer, self._file):
            with suppress(OSError):
                part.close()

    def _pack(self) -> None:
        # Columns take a tenth of the memory of rows, and a row group is many rows.
        if self._rows:
            batch = record_batch(self._rows, classes=self._classes, schema=self._schema)
            self._batches.append(batch)
            self._batched += batch.num_rows
            self._rows.clear()

    def _write_row_group(self) -> None:
        if self._batches:
            table = pa.Table.from_batches(self._batches, self._schema)
            self._writer.write_table(table, row_group_size=self._batched)
            self._batches.clear()
            self._batched = 0


def publish(partial: Path, output: Path) -> None:
    """Give a finished table its name, so that after a power cut it is whole or not there."""
    partial.replace(output)
    folder = os.open(output.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

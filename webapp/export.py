"""Chosen rows as a file: CSV that a spreadsheet takes for text, or Parquet with all columns."""

import json
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from cxrbatch.results.table import PROVENANCE_KEY
from cxrbatch.scoring.writing import table_writer
from cxrbatch.webapp.filters import Filter
from cxrbatch.webapp.opened import OpenedTable

FORMATS = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}
"""File ending -> media type."""

_FORMULA = r"^[=+\-@\t\r\n]"


def exported(opened: OpenedTable, chosen: Filter, form: str) -> BinaryIO:
    """Write rows, in the table's order, to a file that has no name and is there until closed.

    Args:
        opened: The table.
        chosen: Which rows.
        form: One of `FORMATS`.

    Raises:
        TableError: The table is damaged.
    """
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 -- the caller's to close
    write = _write_csv if form == "csv" else _write_parquet
    write(opened, chosen, file)
    file.seek(0)
    return file


def _chosen_rows(opened: OpenedTable, chosen: Filter) -> Iterator[pa.Table]:
    ids = opened.ids(chosen)
    first = 0
    for group in opened.table.row_groups():
        here = ids[ids.searchsorted(first) : ids.searchsorted(first + len(group))]
        yield group.take(pa.array(here - first))
        first += len(group)


def _write_parquet(opened: OpenedTable, chosen: Filter, file: BinaryIO) -> None:
    told = {
        **opened.table.provenance,
        "rows": opened.count(chosen),
        "filter": {name: text for name, text in chosen.arguments().items() if name != "sort"},
    }
    metadata = {PROVENANCE_KEY: json.dumps(told).encode()}
    writer: pq.ParquetWriter | None = None
    for group in _chosen_rows(opened, chosen):
        if writer is None:
            schema = group.schema.with_metadata(metadata)
            writer = table_writer(file, schema)
        writer.write_table(group.replace_schema_metadata(metadata))
    if writer is not None:
        writer.close()


def _write_csv(opened: OpenedTable, chosen: Filter, file: BinaryIO) -> None:
    is_first = True
    for group in _chosen_rows(opened, chosen):
        plain = pa.table(
            {
                _safe_name(name): _safe(group[name])
                for name in group.column_names
                if name != "heatmaps"
            }
        )
        pa_csv.write_csv(plain, file, pa_csv.WriteOptions(include_header=is_first))
        is_first = False


def _safe(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A quote in front of what a spreadsheet would take for a formula."""
    if pa.types.is_list(column.type):
        column = pc.binary_join(column, " ")
    if not pa.types.is_string(column.type):
        return column
    return pc.replace_substring_regex(column, _FORMULA, r"'\0")


def _safe_name(name: str) -> str:
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name

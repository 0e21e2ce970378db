"""Tables of an older schema are handed out in the form of today."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tables import CLASSES, DOCUMENTED, PROVENANCE, SIZE, refused, write

from cxrbatch.errors import TableError
from cxrbatch.results.columns import (
    PROVENANCE_KEY,
    table_schema,
)
from cxrbatch.results.table import Table, open_table


def test_a_table_of_schema_2_2_lacks_only_the_kind(
    tmp_path: Path, write_as_older: Callable[..., None]
) -> None:
    write_as_older(write(tmp_path / "older.parquet"), version="2.2")
    older, today = (
        open_table(p) for p in (tmp_path / "older.parquet", write(tmp_path / "t.parquet"))
    )
    assert (older.is_older, older.columns) == (True, today.columns)
    assert "ood_kind" not in pq.read_schema(older.path).names
    assert older.read(older.columns).to_pylist() == today.read(today.columns).to_pylist()
    assert older.read(["ood_kind"]).to_pydict() == {"ood_kind": [None, None]}
    assert older.take([1], ["accession_key"]) == today.take([1], ["accession_key"])


@pytest.fixture
def twins(tmp_path: Path, write_as_older: Callable[..., None]) -> tuple[Table, Table]:
    """A table of today and the same rows as schema 2.1 had them."""
    write_as_older(write(tmp_path / "older.parquet"))
    return open_table(tmp_path / "older.parquet"), open_table(write(tmp_path / "t.parquet"))


def test_an_older_table_gives_the_rows_of_today_without_the_key(
    twins: tuple[Table, Table],
) -> None:
    older, today = twins
    assert (older.is_older, today.is_older) == (True, False)
    assert older.columns == today.columns
    expected = [{**row, "accession_key": None} for row in today.read(today.columns).to_pylist()]
    assert older.read(older.columns).to_pylist() == expected
    (group,) = older.row_groups()
    assert group.to_pylist() == expected
    assert group.schema.remove_metadata() == table_schema(CLASSES, heatmap_size=SIZE)
    assert older.take([1, 0, 1], DOCUMENTED).to_pylist() == [
        {name: expected[row][name] for name in DOCUMENTED} for row in (1, 0, 1)
    ]
    older.check_texts()


@pytest.mark.parametrize("name", ["accession_key", "dhash", "image_flags", "path"])
def test_one_column_of_an_older_table_is_read_alone(twins: tuple[Table, Table], name: str) -> None:
    found, expected = (table.read([name]).to_pydict() for table in twins)
    assert found == ({name: [None, None]} if name == "accession_key" else expected)


def test_the_old_names_are_no_columns(twins: tuple[Table, Table]) -> None:
    for table in twins:
        assert "flags" not in table.columns
    with pytest.raises(TableError):
        twins[1].read(["flags"])


def test_an_older_table_without_an_old_column_is_refused(twins: tuple[Table, Table]) -> None:
    rows = pq.read_table(twins[0].path)
    pq.write_table(rows.drop_columns("flags"), twins[0].path)
    assert "lacks the column 'flags'" in refused(twins[0].path)
    pq.write_table(rows, twins[1].path)
    made = json.dumps({**PROVENANCE, "schema_version": "2.3"})
    pq.write_table(rows.replace_schema_metadata({PROVENANCE_KEY: made}), twins[1].path)
    assert "dhash, or it has" in refused(twins[1].path).replace("'", "")

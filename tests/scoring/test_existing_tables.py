"""Rows of an earlier table that no run wrote hold for no file, and end nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrbatch.errors import UsageError
from cxrbatch.files import claimed
from cxrbatch.results.columns import PROVENANCE_KEY, SCHEMA_VERSION, table_schema
from cxrbatch.results.table import open_table
from cxrbatch.scoring.archive import ArchiveFile
from cxrbatch.scoring.existing_tables import EarlierRows, merge_parts


def forged(
    path: Path,
    paths: list[str | None],
    *,
    frames: list[int] | None = None,
    outcomes: list[str] | None = None,
    **told: object,
) -> Path:
    schema = table_schema(("A", "B"), heatmap_size=1)
    made = {"schema_version": SCHEMA_VERSION, "classes": ["A", "B"], "heatmap_size": 1, **told}
    rows = len(paths)
    columns = {
        "path": paths,
        "frame": frames or [0] * rows,
        "file_size": [0] * rows,
        "file_modified_ns": [0] * rows,
        "outcome": outcomes or ["corrupt"] * rows,
    }
    arrays = [pa.array(columns.get(field.name, [None] * rows), field.type) for field in schema]
    table = pa.Table.from_arrays(arrays, schema=schema)
    pq.write_table(table.replace_schema_metadata({PROVENANCE_KEY: json.dumps(made)}), path)
    return path


def test_paths_that_no_run_writes_are_passed_over(tmp_path: Path) -> None:
    table = open_table(forged(tmp_path / "t", [None, "a\\q", "a.png"]))
    kept = EarlierRows(table).take(ArchiveFile(b"a.png", 0))
    assert kept is not None
    assert kept["path"].to_pylist() == ["a.png"]


@pytest.mark.parametrize("later", ["corrupt", "out_of_memory"])
def test_any_frame_of_a_file_decides_whether_it_is_read_again(tmp_path: Path, later: str) -> None:
    outcomes = ["corrupt", later]
    table = forged(tmp_path / "t", ["a.dcm", "a.dcm"], frames=[0, 1], outcomes=outcomes)
    kept = EarlierRows(open_table(table)).take(ArchiveFile(b"a.dcm", 0))
    assert (kept is None) == (later == "out_of_memory")


@pytest.mark.parametrize(
    "told", [{"part": "x/y"}, {"part": "1/2x"}, {"part": "1/1"}, {"part": "1/1", "files": "many"}]
)
def test_parts_that_no_run_wrote_are_refused(tmp_path: Path, told: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="is not a part; parts come from score --shard"):
        merge_parts(tmp_path / "out", [forged(tmp_path / "t", ["a.png"], **told)])


def test_parts_of_an_older_schema_become_a_table_of_today(
    tmp_path: Path, write_as_older: Callable[..., None]
) -> None:
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, part in enumerate(parts, 1):
        forged(part, [f"{number}.png"], part=f"{number}/2", files=1)
        write_as_older(part)
    with claimed(tmp_path / "t"):
        merge_parts(tmp_path / "t", parts)
    merged = open_table(tmp_path / "t")
    assert (merged.is_older, merged.rows) == (False, 2)
    with pytest.raises(UsageError, match=r"schema version \(2\.1, now 2\.3\)"):
        merge_parts(tmp_path / "u", [forged(parts[0], ["1.png"], part="1/2", files=1), parts[1]])

"""The data contract: columns as documented, rows that come back, and tables that are refused."""

import json
import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import CLASSES, DOCUMENTED, PROVENANCE, SIZE, refused, scored_row, write

from cxrbatch.errors import TableError, UsageError
from cxrbatch.reading.readings import HeaderFacts
from cxrbatch.results.columns import (
    FACTS,
    PROVENANCE_KEY,
    ImageScores,
    record_batch,
    table_schema,
)
from cxrbatch.results.table import open_table


def test_columns_are_those_of_the_design() -> None:
    names = table_schema(CLASSES, heatmap_size=7).names
    assert sorted(names) == sorted(DOCUMENTED)


def test_types_of_columns() -> None:
    schema = table_schema(CLASSES, heatmap_size=7)
    assert schema.field("heatmaps").type == pa.binary(3 * 7 * 7)
    assert schema.field("logit_COVID-19").type == schema.field("p_Normal").type == pa.float32()
    assert schema.field("dhash").type == pa.string()
    assert schema.field("file_size").type == pa.int64()
    assert schema.field("image_flags").type == pa.list_(pa.string())
    assert schema.field("rows").type == schema.field("bits_stored").type == pa.int32()
    assert schema.field("patient_age_bin").type == pa.string()


def test_every_header_fact_is_a_column_but_those_that_identify() -> None:
    names = set(table_schema(CLASSES, heatmap_size=1).names)
    facts = {field.name for field in fields(HeaderFacts)}
    assert facts - names == {"patient_id", "patient_issuer", "accession_number"}


def test_a_scored_row_comes_back(tmp_path: Path) -> None:
    table = open_table(write(tmp_path / "t.parquet"))
    found = table.read(DOCUMENTED).to_pylist()[0]
    assert found["prediction"] == "COVID-19"
    assert found["p_COVID-19"] == np.float32(0.7)
    assert [found[f"logit_{name}"] for name in CLASSES] == list(
        map(float, np.array([-1.5, 3.25, 0.1], np.float32))
    )
    assert found["heatmaps"] == bytes(range(12))
    assert (found["heatmap_scale"], found["dhash"], found["frame"]) == (0.5, "f" * 16, 3)
    assert (found["path"], found["file_size"]) == ("a/b\\xff.dcm", 2**40)
    assert found["image_flags"] == ["lateral", "lossy"]
    assert (found["modality"], found["rows"], found["bits_stored"]) == ("DX", 2500, 12)
    assert (found["patient_key"], found["accession_key"]) == ("k1", "k2")
    assert found["body_part"] is None
    assert b"SECRET" not in (tmp_path / "t.parquet").read_bytes()


def test_an_unscored_row_comes_back_with_nulls(tmp_path: Path) -> None:
    found = open_table(write(tmp_path / "t.parquet")).read(DOCUMENTED).to_pylist()[1]
    present = {name: value for name, value in found.items() if value is not None}
    assert present == {
        "path": "notes.txt",
        "frame": 0,
        "file_size": 0,
        "file_modified_ns": 0,
        "format": "other",
        "outcome": "not_an_image",
        "detail": "the file is empty",
        "image_flags": [],
    }


def test_what_names_the_patient_does_not_enter_a_row() -> None:
    row, _ = scored_row()
    assert dict(zip(FACTS, row.facts, strict=True))["modality"] == "DX"
    assert not {"SECRET", "SECRET-2"} & {*row.facts}


def test_a_score_of_zero_is_not_taken_for_missing() -> None:
    row, scores = scored_row()
    zero = ImageScores(np.zeros(3, np.float32), scores.probabilities, bytes(12), 0.0)
    schema = table_schema(CLASSES, heatmap_size=SIZE)
    (found,) = record_batch([(row, zero)], classes=CLASSES, schema=schema).to_pylist()
    assert (found["logit_Normal"], found["heatmap_scale"]) == (0.0, 0.0)
    assert found["heatmaps"] == bytes(12)


def test_no_rows_are_a_batch_too() -> None:
    schema = table_schema(CLASSES, heatmap_size=SIZE)
    batch = record_batch([], classes=CLASSES, schema=schema)
    assert batch.num_rows == 0
    assert batch.schema == schema


def test_heatmaps_of_another_size_do_not_enter_a_table() -> None:
    row, scores = scored_row()
    schema = table_schema(CLASSES, heatmap_size=SIZE + 1)
    with pytest.raises(ValueError, match="long"):
        record_batch([(row, scores)], classes=CLASSES, schema=schema)


def test_provenance_is_given_back(tmp_path: Path) -> None:
    table = open_table(write(tmp_path / "t.parquet"))
    assert table.classes == CLASSES
    assert table.rows == 2
    assert table.provenance == PROVENANCE
    assert table.path == tmp_path / "t.parquet"


def test_provenance_may_be_added_when_the_file_is_closed(tmp_path: Path) -> None:
    """As the scorer does: its counts are known at the end."""
    schema = table_schema(CLASSES, heatmap_size=SIZE)
    with pq.ParquetWriter(tmp_path / "t.parquet", schema) as writer:
        writer.add_key_value_metadata({PROVENANCE_KEY.decode(): json.dumps(PROVENANCE)})
    table = open_table(tmp_path / "t.parquet")
    assert (table.rows, table.provenance) == (0, PROVENANCE)


def test_a_later_minor_version_is_read(tmp_path: Path) -> None:
    later = {**PROVENANCE, "schema_version": "2.9", "new": 1}
    assert open_table(write(tmp_path / "t.parquet", provenance=later)).rows == 2


@pytest.mark.parametrize("folder", ["p_Normal=1", "with space", "_hidden", ".dot", "é"])
def test_the_folders_name_means_nothing(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    found = open_table(write(tmp_path / folder / "t.parquet")).read(["p_Normal"])
    assert found.column_names == ["p_Normal"]
    assert found.column("p_Normal").to_pylist() == [pytest.approx(0.1), None]


# Refusals


def test_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none.parquet")
    refused(tmp_path)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"path,label\n" * 9, b"PAR1" + bytes(99) + b"PAR1"])
def test_what_is_not_parquet_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(data)
    assert "cannot open table" in refused(tmp_path / "t.parquet")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "t.parquet").read_bytes()
    for kept in (5, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.parquet").write_bytes(data[:kept])
        refused(tmp_path / "cut.parquet")


def test_parquet_of_another_tool_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "t.parquet")
    assert "is not a results table" in refused(tmp_path / "t.parquet")
    pq.write_table(
        pa.table({"path": ["a"]}).replace_schema_metadata({"pandas": "{}"}), tmp_path / "t.parquet"
    )
    assert "is not a results table" in refused(tmp_path / "t.parquet")


@pytest.mark.parametrize("version", ["3.0", "1.0", "20.0", "", None, "one"])
def test_another_major_version_is_refused(tmp_path: Path, version: str | None) -> None:
    path = write(tmp_path / "t.parquet", provenance={**PROVENANCE, "schema_version": version})
    assert f"has schema version {version}" in refused(path)


@pytest.mark.parametrize(
    "provenance",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"null",
        b"[]",
        b'"text"',
        *(
            {name: value for name, value in PROVENANCE.items() if name != missing}
            for missing in ("schema_version", "classes", "heatmap_size")
        ),
        {**PROVENANCE, "classes": None},
        {**PROVENANCE, "classes": 3},
        {**PROVENANCE, "classes": "Normal"},
        {**PROVENANCE, "classes": ["Normal", "Other"]},
        {**PROVENANCE, "classes": [1, 2]},
        {**PROVENANCE, "classes": []},
        {**PROVENANCE, "heatmap_size": None},
        {**PROVENANCE, "heatmap_size": "2"},
        {**PROVENANCE, "heatmap_size": 2.5},
        {**PROVENANCE, "heatmap_size": 10**9},
        {**PROVENANCE, "heatmap_size": -2},
        {**PROVENANCE, "heatmap_size": 3},
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, bytes) else None,
)
def test_edited_provenance_is_refused(tmp_path: Path, provenance: object) -> None:
    refused(write(tmp_path / "t.parquet", provenance=provenance))


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    full = table_schema(CLASSES, heatmap_size=SIZE)
    for name in ("path", "p_COVID-19", "voi_source"):
        short = pa.schema([field for field in full if field.name != name])
        assert f"lacks the column '{name}'" in refused(write(tmp_path / name, schema=short))


def test_a_table_with_a_column_of_another_type_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet")
    table = pq.read_table(path)
    index = table.column_names.index("p_Normal")
    texts = pa.array(["high", None])
    pq.write_table(table.set_column(index, "p_Normal", texts), path)
    assert "p_Normal" in refused(path)


def test_damaged_data_is_an_error_in_one_line(tmp_path: Path) -> None:
    """One byte at a time is changed, in the pages and in the footer."""
    data = write(tmp_path / "whole.parquet").read_bytes()
    rng = np.random.default_rng(3)
    path, messages = tmp_path / "t.parquet", []
    for position in rng.choice(len(data), 250, replace=False):
        damaged = bytearray(data)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            open_table(path).read(DOCUMENTED)
        except TableError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert all(len(message.splitlines()) == 1 for message in messages)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TableError, match="no regular file"):
        open_table(tmp_path / "pipe")


def test_a_name_that_no_file_can_have_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot open table"):
        open_table(tmp_path / ("n" * 300))


def test_a_table_that_vanished_is_an_error(tmp_path: Path) -> None:
    table = open_table(write(tmp_path / "t.parquet"))
    os.unlink(table.path)
    with pytest.raises(TableError, match="is damaged"):
        table.read(["path"])


def test_a_few_rows_come_in_the_order_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet")
    rows = pq.read_table(path)
    many = pa.concat_tables([rows] * 50)
    numbers = pa.array(range(100), pa.int32())
    many = many.set_column(many.column_names.index("frame"), "frame", numbers)
    pq.write_table(many, path, row_group_size=7)
    table = open_table(path)
    assert table.take([99, 0, 8, 7, 50], ["frame"])["frame"].to_pylist() == [99, 0, 8, 7, 50]
    assert table.take([], ["frame", "path"]).num_rows == 0
    for rows, wrong in (([0, -1], -1), ([100], 100)):
        with pytest.raises(UsageError, match=f"row {wrong} is not one of the table's rows, 0 to 9"):
            table.take(rows, ["frame"])

"""Results and labels as DataFrames: exact types, provenance, and tables that are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrbatch.errors import LabelError, TableError, UsageError
from cxrbatch.reading.readings import HeaderFacts
from cxrbatch.results.columns import (
    PROVENANCE_KEY,
    SCHEMA_VERSION,
    ImageScores,
    Row,
    facts_of,
    record_batch,
    table_schema,
)
from cxrbatch.results.frames import FRAME_NAMES, heatmaps, load_labels, load_results

CLASSES = ("Normal", "COVID-19")
# No 64-bit float tells these apart.
HASHES = ("ffffffffffffffff", "fffffffffffffffe")


def write(folder: Path, **made: object) -> Path:
    facts = facts_of(HeaderFacts(patient_sex="F", rows=400, columns=300))
    rows: list[tuple[Row, ImageScores | None]] = []
    for number, value in enumerate(HASHES):
        p = np.array([0.25, 0.75], np.float32)
        scores = ImageScores(np.log(p), p, bytes(range(number, 8 + number)), 0.5)
        row = Row(f"{number}.dcm", 0, 9, 1, "dicom", "scored", "", "h", value, ("lossy",) * number,
                  None, None, facts)  # fmt: skip
        rows.append((row, scores))
    empty = facts_of(HeaderFacts())
    rows.append(
        (
            Row(
                "notes",
                0,
                0,
                0,
                "other",
                "not_an_image",
                "empty",
                None,
                None,
                (),
                None,
                None,
                empty,
            ),
            None,
        )
    )
    schema = table_schema(CLASSES, heatmap_size=2)
    batch = record_batch(rows, classes=CLASSES, schema=schema)
    provenance = {"schema_version": SCHEMA_VERSION, "classes": CLASSES, "heatmap_size": 2, **made}
    table = pa.Table.from_batches([batch]).replace_schema_metadata(
        {PROVENANCE_KEY: json.dumps(provenance)}
    )
    pq.write_table(table, folder / "results.parquet")
    return folder / "results.parquet"


def test_columns_are_typed_and_exact(tmp_path: Path) -> None:
    frame = load_results(str(write(tmp_path)))
    schema = table_schema(CLASSES, heatmap_size=2).names
    expected = [FRAME_NAMES.get(name, name) for name in schema if not name.startswith("heatmap")]
    assert list(frame.columns) == expected
    assert frame["dhash"].tolist()[:2] == list(HASHES)
    assert frame["dhash"].isna().tolist() == [False, False, True]
    assert frame["p_COVID-19"].dtype == np.float32
    assert frame["p_COVID-19"].tolist()[:2] == [0.75, 0.75]
    assert np.isnan(frame["logit_Normal"][2])
    assert list(frame["prediction"].cat.categories) == list(CLASSES)
    assert frame["prediction"].tolist()[:2] == ["COVID-19"] * 2
    assert frame["outcome"].tolist() == ["scored", "scored", "not_an_image"]
    assert frame["patient_sex"].isna().tolist() == [False, False, True]
    assert frame["image_columns"].dtype == pd.Int32Dtype()
    assert frame["image_columns"].tolist()[:2] == [300, 300]
    assert frame["path"].tolist() == ["0.dcm", "1.dcm", "notes"]


def test_no_column_is_hidden_by_an_attribute_of_pandas(tmp_path: Path) -> None:
    frame = load_results(write(tmp_path))
    hidden = [name for name in frame.columns if name in dir(pd.DataFrame())]
    assert hidden == []
    assert frame.image_flags.tolist() == [[], ["lossy"], []]


def test_attrs_say_how_the_table_was_made(tmp_path: Path) -> None:
    path = write(tmp_path, device="cpu")
    frame = load_results(path)
    assert frame.attrs["classes"] == CLASSES
    assert frame.attrs["provenance"]["device"] == "cpu"
    assert frame.attrs["path"] == str(path)


def test_heat_maps_come_on_demand_by_row_number(tmp_path: Path) -> None:
    frame = load_results(write(tmp_path))
    some = frame[frame["path"] == "1.dcm"]
    maps = heatmaps(some, some.index[0])
    assert maps is not None
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, np.arange(1, 9).reshape(2, 2, 2) * 0.5 / 255, rtol=1e-6)
    assert heatmaps(frame, 2) is None
    for row in (-1, 3):
        with pytest.raises(UsageError, match=f"row {row} is not one of the table's rows, 0 to 2"):
            heatmaps(frame, row)
    with pytest.raises(UsageError, match="load_results"):
        heatmaps(pd.DataFrame({"path": ["a"]}), 0)


def test_heat_maps_of_a_table_that_was_replaced_are_refused(tmp_path: Path) -> None:
    frame = load_results(write(tmp_path))
    write(tmp_path, manifest_sha256="of another archive")
    with pytest.raises(TableError, match="changed since it was loaded"):
        heatmaps(frame, 0)


@pytest.mark.parametrize("version", ["1.9", "3.0"])
def test_a_table_of_another_major_schema_is_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(TableError, match=f"has schema version {version}"):
        load_results(write(tmp_path, schema_version=version))


def test_a_text_times_rows_is_refused_before_it_is_expanded(tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path))
    rows = 24_000
    columns = [
        pa.DictionaryArray.from_arrays(np.zeros(rows, np.int8), pa.array(["x" * (1 << 20)]))
        if field.name == "detail"
        else pa.nulls(rows, field.type)
        for field in table.schema
    ]
    forged = pa.table(columns, table.schema.names)
    with pq.ParquetWriter(tmp_path / "t", forged.schema, store_schema=False) as writer:
        writer.write_table(forged)
        writer.add_key_value_metadata(
            {PROVENANCE_KEY.decode(): table.schema.metadata[PROVENANCE_KEY].decode()}
        )
    with pytest.raises(TableError, match="expands to more than"):
        load_results(tmp_path / "t")


def test_labels_of_any_key(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("image_hash,label,split\nh1,Normal,test\nh2,COVID-19,\n")
    labels = load_labels(str(tmp_path / "l.csv"))
    assert list(labels.columns) == ["image_hash", "label", "patient", "split", "source"]
    assert labels["label"].tolist() == ["Normal", "COVID-19"]
    assert labels["split"].isna().tolist() == [False, True]
    assert labels["patient"].isna().all()


def test_labels_without_a_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path,label\n,Normal\n")
    with pytest.raises(LabelError, match="line 2: it has a label, but path is empty"):
        load_labels(tmp_path / "l.csv")


@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_an_older_table_is_loaded_with_the_columns_of_today(
    tmp_path: Path, write_as_older: Callable[..., None], version: str
) -> None:
    path = write(tmp_path)
    today = load_results(path)
    write_as_older(path, version)
    assert pq.read_schema(path).field("dhash").type == pa.uint64()
    older = load_results(path)
    pd.testing.assert_frame_equal(older, today)
    assert older.attrs["provenance"]["schema_version"] == version


@pytest.mark.parametrize("path", [None, 5, b"r.parquet", "", "a\0b"])
def test_what_is_no_path_is_no_table(path: str) -> None:
    with pytest.raises(UsageError, match=r"^path "):
        load_results(path)

"""A folder with a small table, and an app that serves it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flask import Flask
from flask.testing import FlaskClient

from cxrbatch.model.card import Card
from cxrbatch.reading.facts import HeaderFacts
from cxrbatch.results.table import (
    PROVENANCE_KEY,
    SCHEMA_VERSION,
    ImageScores,
    Row,
    record_batch,
    table_schema,
)
from cxrbatch.webapp.access import allowed_hosts
from cxrbatch.webapp.app import create_app

TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ROWS = 12

WriteTable = Callable[..., Path]


@pytest.fixture(scope="session")
def write_table(tiny_card: Card) -> WriteTable:
    """Write a labelled table; each third row is not scored, and names can be given."""

    def write(path: Path, *, rows: int = ROWS, names: dict[int, str] | None = None) -> Path:
        schema = table_schema(tiny_card.classes, heatmap_size=2, labelled=True)
        scored = [_row(number, (names or {}).get(number)) for number in range(rows)]
        batch = record_batch(scored, classes=tiny_card.classes, schema=_unlabelled(schema))
        truth = pa.array([tiny_card.classes[i % 2] for i in range(rows)])
        columns = [*batch.columns, truth, pa.array(["test"] * rows)]
        provenance = {
            "schema_version": SCHEMA_VERSION,
            "classes": list(tiny_card.classes),
            "heatmap_size": 2,
            "labelled": True,
            "card": tiny_card.to_json(),
            "recipe": tiny_card.recipe.to_card(),
            "archive_root": "/nowhere",
        }
        metadata = {PROVENANCE_KEY: json.dumps(provenance).encode()}
        table = pa.table(columns, schema=schema.with_metadata(metadata))
        pq.write_table(table, path, row_group_size=5)
        return path

    return write


def _unlabelled(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in schema if field.name not in ("truth", "split")])


def _row(number: int, name: str | None) -> tuple[Row, ImageScores | None]:
    is_scored = number % 3 != 2
    row = Row(
        path=name or f"Folder/{number:03d}.dcm",
        frame=0,
        file_size=1000 + number,
        file_modified_ns=0,
        format="dicom",
        outcome="scored" if is_scored else "corrupt",
        detail="" if is_scored else "a bad checksum",
        flags=("lateral",) if number % 4 == 0 else (),
        image_hash=f"{number:032x}" if is_scored else None,
        dhash=number if is_scored else None,
        patient_key=f"{number:032x}",
        facts=HeaderFacts(patient_sex="FM"[number % 2], manufacturer="Maker"),
    )
    if not is_scored:
        return row, None
    first = np.float32((number + 1) / (ROWS + 1))
    scores = np.array([first, 1 - first, 0], np.float32)
    return row, ImageScores(scores - 1, scores, bytes(range(12)), 1.0)


@pytest.fixture
def folder(tmp_path: Path, write_table: WriteTable) -> Path:
    """A folder with one table."""
    served = tmp_path / "served"
    served.mkdir()
    write_table(served / "results.parquet")
    return served


@pytest.fixture
def app(folder: Path) -> Flask:
    """An app that serves `folder`."""
    return create_app(folder, token=TOKEN, hosts=allowed_hosts("127.0.0.1"))


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A browser that was let in."""
    client = app.test_client()
    assert client.get(f"/?token={TOKEN}").status_code == 303
    return client


@pytest.fixture
def run_id(client: FlaskClient) -> str:
    """The id of the table in `folder`."""
    (run,) = client.get("/api/v1/runs").get_json()["runs"]
    return str(run["id"])

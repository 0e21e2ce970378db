"""Exports keep their limits of disk and memory, and stop when the client is gone."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from flask import Flask
from flask.testing import FlaskClient

from cxrbatch.webapp import export
from cxrbatch.webapp.library import get_service

FORMS = pytest.mark.parametrize("form", ["csv", "parquet"])


def bytes_on_disk(app: Flask) -> int:
    count: int = get_service(export.Exporter, app)._bytes
    return count


@FORMS
def test_an_export_over_the_size_limit_is_refused(
    app: Flask, client: FlaskClient, run_id: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client.get(f"/runs/{run_id}/export.{form}") as answer:
        size = len(answer.data)
    monkeypatch.setattr(export, "MAX_EXPORT_BYTES", size)
    with client.get(f"/runs/{run_id}/export.{form}") as answer:
        assert answer.status_code == 200
    monkeypatch.setattr(export, "MAX_EXPORT_BYTES", size - 1)
    answer = client.get(f"/runs/{run_id}/export.{form}")
    assert answer.status_code == 422
    assert "larger than 0 MiB" in answer.text
    assert bytes_on_disk(app) == 0


def test_all_unsent_exports_share_a_limit(
    app: Flask, client: FlaskClient, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"/runs/{run_id}/export.csv"
    waiting = client.get(address)
    size = bytes_on_disk(app)
    assert size > 1000
    monkeypatch.setattr(export, "_MAX_TOTAL_BYTES", 2 * size - 1)
    refused = client.get(address)
    assert refused.status_code == 503
    assert refused.headers["Retry-After"].isdigit()
    waiting.close()
    assert bytes_on_disk(app) == 0
    with client.get(address) as answer:
        assert answer.status_code == 200


@FORMS
def test_a_full_disk_is_answered_with_507(
    app: Flask, client: FlaskClient, run_id: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.Exporter, "reserve", fail)
    answer = client.get(f"/runs/{run_id}/export.{form}")
    assert answer.status_code == 507
    assert "No space left" in answer.text


@FORMS
def test_an_export_stops_when_the_client_is_gone(
    app: Flask, client: FlaskClient, run_id: str, form: str
) -> None:
    asked = iter([False])

    def has_gone() -> bool:
        return next(asked, True)

    overrides = {"waitress.client_disconnected": has_gone}
    answer = client.get(f"/runs/{run_id}/export.{form}", environ_overrides=overrides)
    assert answer.status_code == 503
    assert bytes_on_disk(app) == 0


def test_the_size_of_pieces_does_not_change_the_csv(
    client: FlaskClient, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client.get(f"/runs/{run_id}/export.csv") as answer:
        whole = answer.text
    monkeypatch.setattr(export, "_PIECE_BYTES", 1)
    with client.get(f"/runs/{run_id}/export.csv") as answer:
        assert answer.text == whole
    assert len(list(csv.reader(io.StringIO(whole)))) == 13


@pytest.mark.parametrize("rows", [0, 12])
def test_an_export_without_rows_has_all_columns(
    folder: Path, write_table: Callable[..., Path], client: FlaskClient, rows: int
) -> None:
    write_table(folder / "results.parquet", rows=rows)
    (run,) = client.get("/api/v1/runs").get_json()["runs"]
    address = f"/runs/{run['id']}/export"
    with client.get(f"{address}.parquet?path=absent") as answer:
        exported = pq.read_table(io.BytesIO(answer.data))
    expected = pq.read_schema(folder / "results.parquet").names
    assert (exported.num_rows, exported.column_names) == (0, expected)
    with client.get(f"{address}.csv?path=absent") as answer:
        (header,) = csv.reader(io.StringIO(answer.text))
    assert header == [name for name in expected if name != "heatmaps"]

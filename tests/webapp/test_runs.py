"""Runs and rows show what the table holds, while files appear, change and go."""

import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sklearn.metrics import roc_auc_score

from cxrbatch.results.columns import PROVENANCE_KEY
from cxrbatch.results.evaluation import evaluate
from cxrbatch.results.table import open_table
from cxrbatch.webapp import library
from cxrbatch.webapp.app import openapi_document
from cxrbatch.webapp.row_filter import PARAMETERS
from cxrbatch.webapp.runs import PENDING

MOST_SECONDS = 120.0
"""Time in which a small table is evaluated, on a machine that is busy with others."""

HOSTILE = ["=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "\t=1", "<script>alert(1)</script>"]


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library list its folder at each call."""
    monkeypatch.setattr(library, "_FRESH_SECONDS", 0.0)


def rows_of(client: FlaskClient, id: str, query: str) -> list[dict[str, object]]:
    answer = client.get(f"/api/v1/runs/{id}/rows?{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, object]] = answer.get_json()["rows"]
    return found


def evaluated_page(client: FlaskClient, bearer: dict[str, str]) -> str:
    """Return the page of all runs once no table is being evaluated."""
    end = time.monotonic() + MOST_SECONDS
    while PENDING in (page := client.get("/", headers=bearer).text):
        assert time.monotonic() < end, "an evaluation never ended"
        time.sleep(0.1)  # between two looks; the evaluation runs in a process of its own
    return page


QUERIES = [
    ("", lambda row: True),
    ("outcome=corrupt", lambda row: row["outcome"] == "corrupt"),
    ("prediction=Normal", lambda row: row["prediction"] == "Normal"),
    ("truth=COVID-19&sex=M", lambda r: r["truth"] == "COVID-19" and r["patient_sex"] == "M"),
    ("right=yes", lambda r: r["prediction"] and r["prediction"] == r["truth"]),
    ("right=no", lambda r: r["prediction"] and r["prediction"] != r["truth"]),
    ("flag=lateral", lambda row: "lateral" in row["image_flags"]),
    ("path=fOLDER/00", lambda row: "Folder/00" in row["path"]),
    ("path=%25", lambda row: False),
    ("manufacturer=%27+OR+1=1+--", lambda row: False),
    ("ood=12", lambda r: r["ood_score"] is not None and r["ood_score"] >= 12),
    ("min[Normal]=0.3&max[Normal]=0.7", lambda r: r["p_Normal"] and 0.3 <= r["p_Normal"] <= 0.7),
]


@pytest.mark.parametrize(("query", "fits"), QUERIES)
def test_a_filter_selects_the_matching_rows(
    client: FlaskClient, folder: Path, run_id: str, query: str, fits: object
) -> None:
    assert callable(fits)
    everything = pq.read_table(folder / "results.parquet").to_pylist()
    expected = [number for number, row in enumerate(everything) if fits(row)]
    assert [row["row"] for row in rows_of(client, run_id, query)] == expected
    page = client.get(f"/runs/{run_id}/rows?{query}")
    assert f"<strong>{len(expected)}</strong>" in page.text


def test_links_of_a_page_keep_all_digits_of_a_bound(client: FlaskClient, run_id: str) -> None:
    page = client.get(f"/runs/{run_id}/rows?min[Normal]=0.123456789&max[Normal]=1").text
    assert "=0.123456789" in page
    assert "=0.123457" not in page


@pytest.mark.parametrize("column", ["p_Normal", "path", "prediction", "file_size"])
@pytest.mark.parametrize("sign", ["", "-"])
def test_rows_are_sorted_and_split_into_pages(
    client: FlaskClient, run_id: str, column: str, sign: str
) -> None:
    found = []
    for page in (1, 2, 3):
        found += rows_of(client, run_id, f"sort={sign}{column}&page={page}&per_page=5")
    assert sorted(row["row"] for row in found) == list(range(12))
    values = [row[column] for row in found]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=bool(sign))  # type: ignore[type-var]
    assert values[len(known) :] == [None] * (12 - len(known))


@pytest.mark.parametrize(
    "query",
    [
        *("absent=1", "sort=absent", "sort=heatmaps", "sort=path;DROP", "page=0", "page=x"),
        *("right=maybe", "min[Absent]=0.5", "min[Normal]=2", "min[Normal]=nan", "min[]=1"),
        *("ood=101", "ood=-1", "ood=much"),
        *("sex=M&sex=F", "path=" + "x" * 501, "page=99999999999999", "layout=absent"),
    ],
)
def test_an_invalid_filter_is_refused(client: FlaskClient, run_id: str, query: str) -> None:
    assert client.get(f"/runs/{run_id}/rows?{query}").status_code == 400


def test_the_evaluation_equals_that_of_the_table(evaluating_app: Flask, folder: Path) -> None:
    client = evaluating_app.test_client()
    bearer = {"Authorization": "Bearer a-token-of-the-tests"}
    evaluated_page(client, bearer)
    (run,) = client.get("/api/v1/runs", headers=bearer).get_json()["runs"]
    everything = pq.read_table(folder / "results.parquet").to_pylist()
    scored = [
        row
        for row in everything
        if row["outcome"] == "scored" and "lateral" not in row["image_flags"]
    ]
    right = [row["prediction"] == row["truth"] for row in scored]
    told = run["accuracy"]
    assert told["n"] == len(right) == 6
    assert told["value"] == pytest.approx(sum(right) / len(right))
    # Wilson's bounds are where the distance is 1.96 standard errors of the bound itself.
    for bound in (told["low"], told["high"]):
        distance = abs(told["value"] - bound) / (bound * (1 - bound) / told["n"]) ** 0.5
        assert distance == pytest.approx(1.96, abs=1e-3)
    truth = [row["truth"] == "Normal" for row in scored]
    expected = roc_auc_score(truth, [row["p_Normal"] for row in scored])
    assert told["auc"]["Normal"] == pytest.approx(expected)
    assert told["auc"]["Viral Pneumonia"] is None
    scored = [row for row in everything if row["outcome"] == "scored"]
    right = [row["prediction"] == row["truth"] for row in scored]
    assert told["all_images"]["n"] == len(right) == 8
    assert told["all_images"]["value"] == pytest.approx(sum(right) / len(right))
    assert run["rows"] == 12


def test_the_evaluation_equals_that_of_a_report(
    evaluating_app: Flask, folder: Path, write_table: Callable[..., Path]
) -> None:
    path = write_table(folder / "results.parquet", rows=40)
    table = pq.read_table(path)
    at = table.schema.get_field_index("patient_key")
    keys = pa.array([f"{row // 4:032x}" for row in range(len(table))])  # several images of each
    table = table.set_column(at, table.schema.field(at), keys)
    at = table.schema.get_field_index("image_hash")
    hashes = table["image_hash"].to_pylist()
    first, second = [
        row
        for row, flags in enumerate(table["image_flags"].to_pylist())
        if hashes[row] is not None and "lateral" not in flags
    ][:2]
    hashes[second] = hashes[first]
    table = table.set_column(at, table.schema.field(at), pa.array(hashes))
    pq.write_table(table, path)
    client = evaluating_app.test_client()
    bearer = {"Authorization": "Bearer a-token-of-the-tests"}
    evaluated_page(client, bearer)
    (run,) = client.get("/api/v1/runs", headers=bearer).get_json()["runs"]
    expected = evaluate(path)
    accuracy = expected.accuracy
    assert accuracy.method == "patient bootstrap"
    whole_json = run["accuracy"].pop("all_images")
    assert run["accuracy"] == {
        "n": accuracy.n,
        "value": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "auc": {part.name: part.auc.value for part in expected.classes},
    }
    page = client.get(f"/runs/{run['id']}", headers=bearer).text
    area = expected.classes[0].auc
    assert f'{area.value:.3f} <span class="soft">({area.low:.3f} – {area.high:.3f})' in page
    assert "Scored images of 10 patients" in page
    whole = expected.all_images
    assert whole is not None
    # Of 27 scored images seven are laterals, and one is a copy.
    assert (whole.images, expected.images) == (27, 19)
    assert (whole_json["n"], whole_json["value"]) == (27, whole.accuracy.value)
    assert re.search(
        rf"and with copies: {100 * (whole.accuracy.value or 0):.1f} .*n = {whole.images}", page
    )


def test_a_table_that_cannot_be_evaluated_says_why(evaluating_app: Flask, folder: Path) -> None:
    path = folder / "results.parquet"
    table = pq.read_table(path)
    at = table.schema.get_field_index("p_Normal")
    halves = pa.array([0.5] * len(table), pa.float32())
    pq.write_table(table.set_column(at, table.schema.field(at), halves), path)
    client = evaluating_app.test_client()
    bearer = {"Authorization": "Bearer a-token-of-the-tests"}
    page = evaluated_page(client, bearer)
    assert "the table was changed after it was written" in page
    assert "accuracy" not in client.get("/api/v1/runs", headers=bearer).get_json()["runs"][0]


def test_exported_parquet_is_a_results_table(
    client: FlaskClient, run_id: str, folder: Path, tmp_path: Path
) -> None:
    answer = client.get(f"/runs/{run_id}/export.parquet?outcome=scored&sort=-path", buffered=True)
    (tmp_path / "out.parquet").write_bytes(answer.data)
    table = open_table(tmp_path / "out.parquet")
    whole = pq.read_table(folder / "results.parquet").to_pylist()
    expected = [row for row in whole if row["outcome"] == "scored"]
    assert table.read(whole[0].keys()).to_pylist() == expected
    assert table.provenance["filter"] == {"outcome": "scored"}


def test_exported_csv_has_no_formula_and_no_page_has_markup(
    client: FlaskClient, folder: Path, run_id: str, write_table: object
) -> None:
    assert callable(write_table)
    write_table(folder / "results.parquet", names=dict(enumerate(HOSTILE)))
    answer = client.get(f"/runs/{run_id}/export.csv", buffered=True)
    read = pyarrow.csv.read_csv(io.BytesIO(answer.data)).to_pylist()
    assert [row["path"] for row in read[: len(HOSTILE)]] == [
        name if name.startswith("<") else f"'{name}" for name in HOSTILE
    ]
    assert read[0]["p_Normal"] == pytest.approx(1 / 13)
    assert read[0]["logit_Normal"] < 0
    page = client.get(f"/runs/{run_id}/rows").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_changes_in_the_folder_show_without_a_restart(
    client: FlaskClient, folder: Path, run_id: str, write_table: object
) -> None:
    assert callable(write_table)
    address = f"/runs/{run_id}/rows"
    assert "<strong>12</strong>" in client.get(address).text
    write_table(folder / "new.parquet", rows=30)
    (folder / "new.parquet").replace(folder / "results.parquet")
    assert "<strong>30</strong>" in client.get(address).text
    (folder / "results.parquet").write_bytes(b"PAR1 broken PAR1")
    assert client.get(address).status_code == 409
    assert "Broken" in client.get("/").text
    (folder / "results.parquet").unlink()
    assert client.get(address).status_code == 404
    assert "No tables yet" in client.get("/").text
    write_table(folder / "results.parquet", rows=3)
    assert "<strong>3</strong>" in client.get(address).text


def test_a_damaged_table_is_answered_with_409(
    client: FlaskClient, folder: Path, run_id: str
) -> None:
    path = folder / "results.parquet"
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = b"\xff" * (len(data) // 2 - 4)
    path.write_bytes(data)
    for address in ("/", f"/runs/{run_id}", f"/runs/{run_id}/rows", f"/runs/{run_id}/export.csv"):
        assert client.get(address, buffered=True).status_code in (200, 409)


def test_a_report_is_sandboxed_and_other_html_is_not_served(
    client: FlaskClient, folder: Path, run_id: str
) -> None:
    mark = '<!DOCTYPE html><meta name="generator" content="cxrbatch 1">'
    (folder / "results.html").write_text(mark + "<p>the report</p>")
    (folder / "other.html").write_text("<script>alert(1)</script>")
    page = client.get(f"/runs/{run_id}").text
    assert "other.html" not in page
    address = page.partition('href="/reports/')[2].partition('"')[0]
    answer = client.get(f"/reports/{address}", buffered=True)
    assert "the report" in answer.text
    policy = answer.headers["Content-Security-Policy"]
    assert policy.endswith("sandbox")
    assert "script-src" not in policy


def test_links_and_hidden_files_are_skipped(
    client: FlaskClient, folder: Path, tmp_path: Path, run_id: str
) -> None:
    (folder / "results.parquet").rename(tmp_path / "outside.parquet")
    (folder / "link.parquet").symlink_to(tmp_path / "outside.parquet")
    (folder / ".hidden.parquet").write_bytes(b"x")
    assert client.get("/api/v1/runs").get_json() == {"runs": []}


def test_openapi_describes_every_call_and_filter(client: FlaskClient) -> None:
    told = client.get("/api/v1/openapi.json").get_json()
    assert told == openapi_document()
    assert told["openapi"].startswith("3.1")
    routes = {
        (rule.rule.replace("<", "{").replace(">", "}"), method.lower())
        for rule in client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint.startswith("api.")
    }
    assert {(path, method) for path, ways in told["paths"].items() for method in ways} == routes
    rows = told["paths"]["/api/v1/runs/{id}/rows"]["get"]["parameters"]
    in_query = {parameter["name"] for parameter in rows if parameter["in"] == "query"}
    assert in_query == {*PARAMETERS, "page", "per_page"}


def test_openapi_describes_the_answers_about_runs_and_rows(
    client: FlaskClient, run_id: str
) -> None:
    calls = openapi_document()["paths"]
    for address, path in [("/api/v1/runs", "/api/v1/runs"), (f"/api/v1/runs/{run_id}/rows",) * 2]:
        answer = client.get(address).get_json()
        told = calls[path.replace(run_id, "{id}")]["get"]["responses"]["200"]["content"]
        assert set(answer) == set(told["application/json"]["schema"]["properties"])


def test_an_older_table_is_served_as_one_of_today(
    client: FlaskClient, folder: Path, run_id: str, write_as_older: Callable[..., None]
) -> None:
    queries = ["flag=lateral", "", "sort=-path"]
    pages = ["images/4", *(f"rows?{query}" for query in queries)]
    today = [rows_of(client, run_id, query) for query in queries]
    shown = [client.get(f"/runs/{run_id}/{page}").text for page in pages]
    assert "lateral" in shown[0]
    write_as_older(folder / "results.parquet")
    assert [rows_of(client, run_id, query) for query in queries] == today
    assert [client.get(f"/runs/{run_id}/{page}").text for page in pages] == shown
    with client.get(f"/runs/{run_id}/export.parquet?flag=lateral") as exported:
        (folder.parent / "rows.parquet").write_bytes(exported.data)
    rows = open_table(folder.parent / "rows.parquet")
    assert not rows.is_older
    assert rows.read(["path"])["path"].to_pylist() == [row["path"] for row in today[0]]
    with client.get(f"/runs/{run_id}/export.csv") as exported:
        sheet = pa.csv.read_csv(io.BytesIO(exported.data))
    assert sheet["dhash"].to_pylist()[:3] == [f"{0:016x}", f"{1:016x}", ""]


def test_the_page_of_a_cross_validation_names_the_checkpoint_of_each_fold(
    folder: Path, client: FlaskClient
) -> None:
    table = pq.read_table(folder / "results.parquet")
    made = json.loads(table.schema.metadata[PROVENANCE_KEY])
    numbers = pa.array([row % 2 + 1 for row in range(table.num_rows)], pa.int32())
    text = json.dumps({**made, "checkpoints": ["a" * 64, "b" * 64]})
    folds = table.append_column("fold", numbers).replace_schema_metadata({PROVENANCE_KEY: text})
    pq.write_table(folds, folder / "results.parquet")
    (run,) = client.get("/api/v1/runs").get_json()["runs"]
    page = client.get(f"/runs/{run['id']}").text
    assert f"fold 1: {'a' * 16}, fold 2: {'b' * 16}" in page
    assert len(rows_of(client, run["id"], "")) == table.num_rows

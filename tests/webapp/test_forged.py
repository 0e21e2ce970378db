"""A forged table shows no file that its author has not had, and breaks no page."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flask.testing import FlaskClient
from PIL import Image

from cxrbatch.model.card import Card
from cxrbatch.model.preprocessing import Recipe, image_hash
from cxrbatch.reading.radiograph import read_radiographs
from cxrbatch.results.columns import PROVENANCE_KEY
from cxrbatch.webapp import library, served_table

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>\\"

Forge = Callable[..., None]


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_FRESH_SECONDS", 0.0)


@pytest.fixture
def forge(folder: Path, write_table: Callable[[Path], Path]) -> Forge:
    """Write the table in `folder` with other columns and other provenance."""

    def change(columns: dict[str, object] | None = None, **told: object) -> None:
        path = write_table(folder / "results.parquet")
        table = pq.read_table(path)
        made = json.loads(table.schema.metadata[PROVENANCE_KEY]) | told
        for name, value in (columns or {}).items():
            at = table.schema.get_field_index(name)
            values = pa.array([value] * len(table), table.schema.field(at).type)
            table = table.set_column(at, table.schema.field(at), values)
        text = json.dumps(made).replace("Infinity", "1e999")
        pq.write_table(table.replace_schema_metadata({PROVENANCE_KEY: text.encode()}), path)

    return change


def pictures_of(client: FlaskClient, run_id: str) -> list[bytes]:
    """Return the image and thumbnail of the first row, as far as the server sends them."""
    found = []
    for name in ("film.png", "thumbnail.webp"):
        answer = client.get(f"/runs/{run_id}/images/0/{name}", buffered=True)
        assert answer.status_code in (200, 404)
        found += [answer.data] if answer.mimetype in ("image/png", "image/webp") else []
        assert b"root:" not in answer.data
        assert b"PRIVATE" not in answer.data
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the served one, with a radiograph, a text and an empty archive."""
    (tmp_path / "outside/archive").mkdir(parents=True)
    grey = np.random.default_rng(5).integers(0, 256, (40, 50), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "outside/film.png")
    (tmp_path / "outside/key").write_text("PRIVATE")
    return tmp_path / "outside"


def hash_of(path: Path, recipe: Recipe) -> str:
    (reading,) = read_radiographs(path)
    assert reading.image is not None
    return image_hash(recipe.prepare(reading.image))


ELSEWHERE = [
    *(("/etc", "passwd"), ("/", "etc/passwd"), ("/etc", "../etc/passwd")),
    *(("/proc/self", "environ"), ("/proc/self", "mem"), ("/dev", "zero"), ("/dev", "stdin")),
    *(("{outside}", "key"), ("{outside}", "film.png"), ("{outside}", "film.png!/x")),
    *(("{outside}/archive", "../../etc/passwd"), ("{outside}/archive", "../key")),
]


def test_a_forged_row_shows_no_file_without_its_hash(
    client: FlaskClient, run_id: str, forge: Forge, outside: Path
) -> None:
    for root, path in ELSEWHERE:
        for known in (None, "", "0" * 32):
            for outcome in ("scored", "not_a_radiograph"):
                columns = {"path": path, "image_hash": known, "outcome": outcome}
                told = {"archive_root": root.format(outside=outside), "follow_links": True}
                forge(columns, **told)
                assert pictures_of(client, run_id) == [], (columns, told)
                assert client.get(f"/runs/{run_id}/images/0").status_code == 200


def test_no_path_or_link_leads_out_of_the_archive(
    client: FlaskClient, run_id: str, forge: Forge, outside: Path, tiny_card: Card
) -> None:
    hashed = hash_of(outside / "film.png", tiny_card.recipe)
    (outside / "archive/file.png").symlink_to(outside / "film.png")
    (outside / "archive/up").symlink_to(outside)
    (outside / "archive/own.png").write_bytes((outside / "film.png").read_bytes())
    os.mkfifo(outside / "archive/pipe.png")
    leaving = ("../film.png", str(outside / "film.png"), "file.png", "up/film.png", "pipe.png")
    for path in (*leaving, "own.png"):
        forge({"path": path, "image_hash": hashed}, archive_root=str(outside / "archive"))
        assert len(pictures_of(client, run_id)) == (2 if path == "own.png" else 0), path


ODD_PROVENANCE: list[dict[str, object]] = [
    *({"archive_root": value} for value in (None, 3, [], "", ".", "\x00", "é" * 9999, EVIL)),
    *({"recipe": value} for value in (None, 1e999, [], EVIL, {"size": 10**9}, {EVIL: EVIL})),
    *({"card": value} for value in (None, 7, [], "{}", EVIL)),
    *({"versions": value} for value in ([], {EVIL: [EVIL]}, EVIL)),
    *({"max_pixels": 1e999}, {"max_pixels": -1}, {"passed_over": {EVIL: {}}}, {"device": []}),
    {"labelled": "yes"},
    {"checkpoint_sha256": {EVIL: 1}, "precision": EVIL, "follow_links": EVIL},
]


def test_odd_provenance_breaks_no_page(client: FlaskClient, run_id: str, forge: Forge) -> None:
    for told in ODD_PROVENANCE:
        forge(**told)
        assert 409 not in answers_of(client, run_id), told


ODD_ROWS: list[dict[str, object]] = [
    *({"path": value} for value in ("", EVIL, "\x00", "../" * 999, "\u202egnp.exe")),
    *({"frame": 2**31 - 1}, {"outcome": ""}, {"outcome": EVIL}, {"prediction": None}),
    *({"p_Normal": value} for value in (float("nan"), float("inf"), -1.0)),
    *({"image_flags": value} for value in (None, [None], [EVIL, ""])),
    *({"image_hash": EVIL}, {"heatmaps": None}, {"heatmap_scale": float("nan")}),
    *({"truth": None}, {"truth": EVIL}, {"detail": None}, {"detail": EVIL}),
    {"manufacturer": EVIL, "view_position": EVIL, "patient_sex": EVIL, "modality": EVIL},
    {"patient_age_bin": "", "columns": -1, "rows": None, "file_size": None},
]


def test_odd_rows_break_no_page(client: FlaskClient, run_id: str, forge: Forge) -> None:
    for columns in ODD_ROWS:
        forge(columns)
        assert 409 not in answers_of(client, run_id), columns


IMPOSSIBLE: list[dict[str, object]] = [
    *({"path": None}, {"outcome": None}, {"frame": None}, {"frame": -1}),
    *({"prediction": value} for value in ("", EVIL, "Lung Opacity")),
    {"p_Normal": None},
]


def test_a_row_that_no_run_writes_makes_the_table_damaged(
    client: FlaskClient, run_id: str, forge: Forge
) -> None:
    for columns in IMPOSSIBLE:
        forge(columns)
        assert 409 in answers_of(client, run_id), columns


def answers_of(client: FlaskClient, run_id: str) -> set[int]:
    """Return the status codes of all pages of a run; check that none fails or has markup."""
    codes = set()
    run = f"/runs/{run_id}"
    query = "sort=-p_Normal&min[Normal]=0&right=yes&flag=x&truth=y&path=z"
    for address in (
        *("/", run, f"{run}/rows", f"{run}/rows?layout=sheet", f"{run}/rows?{query}"),
        *(f"{run}/images/{number}" for number in (0, 2)),
        *(f"{run}/images/0/{name}" for name in ("film.png", "heat/0.png")),
        *(f"{run}/export.csv", f"{run}/export.parquet", f"{run}/export.csv?{query}"),
        *("/api/v1/runs", f"/api/v1{run}/rows", f"/api/v1{run}/rows?{query}"),
    ):
        answer = client.get(address, buffered=True)
        assert answer.status_code in (200, 400, 404, 409), address
        codes.add(answer.status_code)
        if answer.mimetype == "text/html":
            assert "<script>alert" not in answer.text
            assert "<img src=x" not in answer.text
    return codes


TOO_LONG: list[dict[str, object]] = [
    *({name: "x" * 2_000_000} for name in ("path", "outcome", "manufacturer", "detail")),
    {"image_flags": ["x" * 2_000_000]},
]


def test_a_table_with_overlong_texts_is_refused_unread(
    client: FlaskClient, run_id: str, forge: Forge
) -> None:
    for columns in TOO_LONG:
        forge(columns)
        assert client.get("/").status_code == 200
        run = f"/runs/{run_id}"
        for page in ("rows", "rows?sort=-path", "images/0"):
            answer = client.get(f"{run}/{page}", buffered=True)
            assert answer.status_code == 409, (columns.keys(), page)
            assert "has texts of more than 64 KiB in " in answer.text
        assert client.get(run).status_code in (200, 409)


def test_a_page_that_is_too_large_is_refused(
    client: FlaskClient, run_id: str, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_table, "_MAX_PAGE_BYTES", 100_000)
    forge({"path": "x" * 20_000})
    answer = client.get(f"/runs/{run_id}/rows")
    assert answer.status_code == 409
    assert "rows of more than 0 MiB on one page" in answer.text
    assert client.get(f"/runs/{run_id}/images/0").status_code == 200

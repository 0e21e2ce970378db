"""The page of an image shows the image that was scored, or nothing if it has changed."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from flask.testing import FlaskClient
from PIL import Image

from cxrbatch.model.card import Card
from cxrbatch.reading.radiograph import read_radiographs
from cxrbatch.results.columns import PROVENANCE_KEY
from cxrbatch.webapp import library
from cxrbatch.webapp.images import heat_map_png


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_FRESH_SECONDS", 0.0)


def run_of(client: FlaskClient) -> str:
    (run,) = client.get("/api/v1/runs").get_json()["runs"]
    return f"/runs/{run['id']}"


@pytest.mark.parametrize(("number", "name"), [(0, "a.png"), (1, "b.dcm")])
def test_the_image_sent_is_the_display_image(
    scored: FlaskClient, scored_folder: Path, number: int, name: str
) -> None:
    answer = scored.get(f"{run_of(scored)}/images/{number}/film.png")
    with Image.open(io.BytesIO(answer.data)) as film:
        shown = np.asarray(film)
    (reading,) = read_radiographs(scored_folder / "archive" / name)
    assert reading.display is not None
    assert np.array_equal(shown, np.rint(reading.display * 255))


def test_the_thumbnail_is_a_small_webp(scored: FlaskClient) -> None:
    answer = scored.get(f"{run_of(scored)}/images/0/thumbnail.webp", buffered=True)
    with Image.open(io.BytesIO(answer.data)) as small:
        assert small.format == "WEBP"
        assert small.size == (120, 90)


@pytest.mark.parametrize("number", [2, 3])
def test_a_row_without_an_image_says_why(scored: FlaskClient, number: int) -> None:
    run = run_of(scored)
    page = scored.get(f"{run}/images/{number}").text
    assert "Not scored" in page
    assert scored.get(f"{run}/images/{number}/film.png").status_code == 404
    assert scored.get(f"{run}/images/{number}/heat/0.png").status_code == 404
    assert scored.get(f"{run}/images/{number}/thumbnail.webp", buffered=True).status_code == 200


def test_a_missing_file_is_answered_with_404(client: FlaskClient, run_id: str) -> None:
    as_script = {"Accept": "image/png, application/json"}
    answer = client.get(f"/runs/{run_id}/images/0/film.png", headers=as_script)
    assert answer.status_code == 404
    assert "not in the archive" in answer.get_json()["error"]
    small = client.get(f"/runs/{run_id}/images/0/thumbnail.webp", buffered=True)
    assert small.mimetype == "image/svg+xml"


def test_a_heat_map_sent_equals_the_table(scored: FlaskClient, scored_folder: Path) -> None:
    stored = pq.read_table(scored_folder / "results.parquet")["heatmaps"][0].as_py()
    cells = np.frombuffer(stored, np.uint8).reshape(3, 2, 2)
    for number in range(3):
        answer = scored.get(f"{run_of(scored)}/images/0/heat/{number}.png")
        with Image.open(io.BytesIO(answer.data)) as layer:
            strength = np.asarray(layer)[..., 3]
        # Between two cells it is linear, and beyond the middle of the outer ones constant.
        corners = strength[::255, ::255]
        assert np.abs(corners.astype(int) - cells[number]).max() <= 1
    assert scored.get(f"{run_of(scored)}/images/0/heat/3.png").status_code == 404


def test_a_uniform_heat_map_is_drawn_uniform() -> None:
    with Image.open(io.BytesIO(heat_map_png(np.full((7, 7), 51, np.uint8)))) as layer:
        assert set(np.asarray(layer)[..., 3].ravel()) == {51}


def test_links_go_to_the_neighbours_in_the_selected_rows(client: FlaskClient, run_id: str) -> None:
    query = "outcome=scored&sort=-p_Normal"
    answer = client.get(f"/api/v1/runs/{run_id}/rows?{query}").get_json()
    numbers = [row["row"] for row in answer["rows"]]
    assert len(numbers) == 8
    for at, number in enumerate(numbers):
        for told in (at, 0, 99):  # a place that is not true any more is found again
            page = client.get(f"/runs/{run_id}/images/{number}?{query}&at={told}").text
            assert f"{at + 1} of 8" in page
            for way, step in (("prev", -1), ("next", 1)):
                link = page.partition(f'rel="{way}" href="/runs/{run_id}/images/')[2]
                expected = str(numbers[at + step]) if 0 <= at + step < 8 else ""
                assert link.partition("?")[0] == expected


def test_a_row_outside_the_selection_says_so(client: FlaskClient, run_id: str) -> None:
    page = client.get(f"/runs/{run_id}/images/0?outcome=corrupt").text
    assert "not among the selected rows" in page
    assert 'rel="next"' not in page


@pytest.mark.parametrize("number", ["12", "99999999999999999999", "-1", "x"])
def test_an_absent_row_is_answered_with_404(client: FlaskClient, run_id: str, number: str) -> None:
    assert client.get(f"/runs/{run_id}/images/{number}").status_code == 404


def test_probabilities_are_compared_with_the_operating_points(
    folder: Path, tiny_card: Card, client: FlaskClient, run_id: str
) -> None:
    table = pq.read_table(folder / "results.parquet")
    told = json.loads(table.schema.metadata[PROVENANCE_KEY])
    rates = {"sensitivity": 0.95, "specificity": 0.5}
    card = json.loads(told["card"])
    card["operating_points"] = {
        "Normal": {"low": {"threshold": 0.07, **rates}, "high": {"threshold": 0.08, **rates}}
    }
    told["card"] = json.dumps(card)
    metadata = {PROVENANCE_KEY: json.dumps(told).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "results.parquet")
    page = client.get(f"/runs/{run_id}/images/0").text  # p(Normal) is 1/13
    assert "reaches <strong>low</strong> at 0.0700" in page
    assert "is below <strong>high</strong> at 0.0800" in page


def test_the_page_shows_no_identifier(scored: FlaskClient) -> None:
    page = scored.get(f"{run_of(scored)}/images/1").text
    for secret in ("Canary", "1.2.3.40719", "1944", "20240719"):
        assert secret not in page
    assert "&lt;b&gt;Maker" in page

"""Makers of labelled tables with an archive of small films beside them."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cxrbatch.model.preprocessing import Recipe, difference_hash, image_hash
from cxrbatch.reading.radiograph import read_radiographs
from cxrbatch.reading.readings import HeaderFacts
from cxrbatch.results.columns import (
    PROVENANCE_KEY,
    SCHEMA_VERSION,
    TRUTH_COLUMNS,
    ImageScores,
    Row,
    facts_of,
    record_batch,
    table_schema,
)

sys.path.insert(0, str(Path(__file__).parent))

CLASSES = ("Normal", "COVID-19", "Viral Pneumonia", "Lung Opacity")
CELLS = 2
RECIPE = Recipe(size=32)

TableMaker = Callable[..., Path]


def scores_for(predicted: int, *, classes: int, sure: float = 0.7) -> ImageScores:
    p = np.full(classes, (1 - sure) / (classes - 1), np.float32)
    p[predicted] = sure
    return ImageScores(np.log(p), p, bytes(range(classes * CELLS**2)), 0.5)


def write_film(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng(seed).integers(0, 256, (40, 48), np.uint8)
    Image.fromarray(grey).save(path, format="PNG")


def write_results(
    folder: Path,
    pairs: Sequence[tuple[int, int]],
    *,
    classes: Sequence[str] = CLASSES,
    labelled: bool = True,
    films: int = 0,
    rename: Callable[[int], str] = lambda number: f"films/{number}.png",
    provenance: dict[str, Any] | None = None,
    facts: HeaderFacts | None = None,
    patients: Callable[[int], str | None] = lambda number: None,
    edit: Callable[[dict[str, list[Any]]], None] = lambda columns: None,
) -> Path:
    """Write a table with a row per (truth, prediction); the first `films` have files."""
    scored: list[tuple[Row, ImageScores | None]] = []
    for number, (_, predicted) in enumerate(pairs):
        path = rename(number)
        hashes: tuple[str | None, int | None] = (f"{number:032x}", number * 0x9E3779B97F4A7C15)
        if number < films:
            write_film(folder / "archive" / path, number)
            (reading,) = read_radiographs(folder / "archive" / path)
            assert reading.image is not None
            prepared = RECIPE.prepare(reading.image)
            hashes = image_hash(prepared), difference_hash(prepared)
        row = Row(
            path, 0, 1, 0, "png", "scored", "", hashes[0],
            None if hashes[1] is None else f"{hashes[1] % 2**64:016x}",
            ("lossy",) if number % 2 else (), patients(number), None,
            facts_of(facts or HeaderFacts(patient_sex="F")),
        )  # fmt: skip
        scored.append(
            (row, scores_for(predicted, classes=len(classes), sure=0.5 + number % 40 / 100))
        )
    scored.append(
        (Row("notes.txt", 0, 0, 0, "other", "not_an_image", "the file is empty", None, None, (),
             None, None, facts_of(HeaderFacts())), None)
    )  # fmt: skip
    plain = table_schema(classes, heatmap_size=CELLS)
    columns = record_batch(scored, classes=classes, schema=plain).to_pydict()
    if labelled:
        columns["truth"] = [*(classes[truth] for truth, _ in pairs), None]
        columns["split"] = [None] * len(scored)
    edit(columns)
    schema = table_schema(classes, heatmap_size=CELLS, labelled=labelled)
    made = {
        "schema_version": SCHEMA_VERSION,
        "classes": list(classes),
        "heatmap_size": CELLS,
        "labelled": labelled,
        "archive_root": str(folder / "archive"),
        "recipe": RECIPE.to_card(),
        **(provenance or {}),
    }
    table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema})
    assert set(TRUTH_COLUMNS) <= set(table.column_names) or not labelled
    path = folder / "results.parquet"
    pq.write_table(table.replace_schema_metadata({PROVENANCE_KEY: json.dumps(made)}), path)
    return path


SEED_STUDY = ((99, 0, 0, 1), (8, 92, 0, 0), (2, 0, 96, 2), (11, 0, 0, 89))


def pairs_of(counts: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    return [
        (truth, predicted)
        for truth, row in enumerate(counts)
        for predicted, count in enumerate(row)
        for _ in range(count)
    ]


@pytest.fixture(name="write_results")
def write_results_fixture() -> TableMaker:
    """`write_results` itself."""
    return write_results


@pytest.fixture
def make_table(tmp_path: Path) -> TableMaker:
    """`write_results` in a folder of its own."""
    return lambda *args, **options: write_results(tmp_path, *args, **options)


@pytest.fixture
def seed_study() -> list[tuple[int, int]]:
    """Truth and prediction of the 400 images of the study that came first."""
    return pairs_of(SEED_STUDY)


@pytest.fixture(scope="session")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the study, with some films at hand."""
    from cxrbatch import cli

    folder = tmp_path_factory.mktemp("study")
    table = write_results(folder, pairs_of(SEED_STUDY), films=110)
    assert cli.main(["report", str(table), "-o", str(folder / "page.html")]) == 0
    return folder / "page.html"

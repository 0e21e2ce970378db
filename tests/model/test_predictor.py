"""One image by itself, as a path, an array or a Reading, scores as its row of a table does."""

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cxrbatch.cli import main
from cxrbatch.errors import NotFiniteError, UsageError
from cxrbatch.model.prediction import Prediction, dequantise
from cxrbatch.model.predictor import Predictor, load_model
from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.reading.radiograph import read_radiographs
from cxrbatch.results.table import open_table
from cxrbatch.sample.archive_writer import write_sample


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "archive"
    write_sample(folder)
    return folder


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint: Path) -> Predictor:
    return load_model(tiny_checkpoint)


@pytest.fixture(scope="module")
def table(archive: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "results.parquet"
    command = ["score", str(archive), "-o", str(path), "--checkpoint", str(tiny_checkpoint)]
    assert main(command) in (0, 3)
    return path


def assert_equal(found: Prediction, row: dict[str, object], classes: tuple[str, ...]) -> None:
    assert found.label == row["prediction"]
    assert list(found.probabilities) == list(found.logits) == list(found.heatmaps) == list(classes)
    for name in classes:
        assert found.probabilities[name] == row[f"p_{name}"]
        assert found.logits[name] == row[f"logit_{name}"]
    stored, scale = row["heatmaps"], row["heatmap_scale"]
    assert isinstance(stored, bytes)
    assert isinstance(scale, float)
    maps = dequantise(stored, scale=scale, classes=len(classes), size=(2, 2))
    assert np.array_equal(np.stack(list(found.heatmaps.values())), maps)


def test_every_row_is_the_prediction_of_its_file(
    archive: Path, table: Path, predictor: Predictor
) -> None:
    opened = open_table(table)
    columns = pq.read_schema(table).names
    rows = [
        r for r in opened.read(columns).to_pylist() if r["frame"] == 0 and "!/" not in r["path"]
    ]
    found = predictor.predict_batch(archive / row["path"] for row in rows)
    assert sum(row["outcome"] == "scored" for row in rows) > predictor.batch_size
    for prediction, row in zip(found, rows, strict=True):
        assert prediction.outcome.value == row["outcome"]
        assert prediction.detail == (row["detail"] or "")
        assert [flag.value for flag in prediction.flags] == (row["image_flags"] or [])
        if row["outcome"] == "scored":
            assert_equal(prediction, row, opened.classes)
        else:
            assert prediction.label is None
            assert not prediction.probabilities
            assert not prediction.logits
            assert not prediction.heatmaps


def test_path_array_and_reading_agree_to_the_last_bit(archive: Path, predictor: Predictor) -> None:
    path = next(p for p in sorted(archive.rglob("*.dcm")) if scores(predictor.predict(p)))
    (reading,) = read_radiographs(path)
    assert reading.display is not None
    by_path = predictor.predict(path)
    for item in (str(path), reading, np.asarray(reading.display), by_path.image):
        assert item is not None
        found = predictor.predict(item)
        assert scores(found) == scores(by_path)
        assert np.array_equal(found.heatmap(), by_path.heatmap())


def scores(prediction: Prediction) -> dict[str, float]:
    return {**prediction.logits}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_array_of_integers_is_the_png_of_them(
    tmp_path: Path, predictor: Predictor, dtype: type[np.unsignedinteger]
) -> None:
    rng = np.random.default_rng(2)
    array = rng.integers(0, np.iinfo(dtype).max, (300, 200), dtype, endpoint=True)
    Image.fromarray(array).save(tmp_path / "film.png")
    assert scores(predictor.predict(array)) == scores(predictor.predict(tmp_path / "film.png"))
    as_floats = array / np.iinfo(dtype).max
    assert scores(predictor.predict(as_floats)) == pytest.approx(
        scores(predictor.predict(array)), rel=1e-2
    )


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"shape \(4, 4, 3\)"),
        (np.zeros((0, 4), np.uint8), r"shape \(0, 4\)"),
        (np.zeros((4, 4), np.int16), "int16"),
        (np.zeros((4, 4), bool), "bool"),
        (np.full((4, 4), 1.1), "outside"),
        (np.full((4, 4), -0.1, np.float32), "outside"),
        (np.full((4, 4), np.nan), "outside"),
    ],
)
def test_what_is_no_display_image_is_refused(
    predictor: Predictor, array: np.ndarray, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        predictor.predict(array)


def test_a_broken_file_has_its_outcome_and_no_scores(tmp_path: Path, predictor: Predictor) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    image = np.random.default_rng(0).random((64, 64))
    broken, missing, fine = predictor.predict_batch([tmp_path / "cut.png", tmp_path / "no", image])
    assert missing.outcome is Outcome.UNREADABLE_FILE
    assert fine.outcome is Outcome.SCORED
    assert fine.label in fine.probabilities
    assert repr(missing) == "<Prediction unreadable_file: No such file or directory>"
    assert f"<Prediction {fine.label}: Normal " in repr(fine)
    for found in (broken, missing):
        assert found.outcome is not Outcome.SCORED
        assert found.detail
        assert found.image is None
        for draw in (found.heatmap, found.overlay):
            for name in (None, "Normal"):
                with pytest.raises(UsageError, match=found.outcome.value):
                    draw(name)


def test_an_image_that_cannot_be_prepared_has_an_outcome(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("cxrbatch.model.preprocessing.area_resize", fail)
    found = predictor.predict(np.zeros((64, 64)))
    assert found.outcome is Outcome.OUT_OF_MEMORY
    assert not found.logits


@pytest.mark.parametrize("item", [None, 5, [1.0], {"path": "a"}, Image.new("L", (9, 9))])
def test_what_is_no_path_array_or_reading_is_refused(predictor: Predictor, item: object) -> None:
    with pytest.raises(UsageError, match="give a path, an array"):
        predictor.predict(item)


@pytest.mark.parametrize("items", ["a.dcm", Path("a.dcm"), np.zeros((9, 9)), None, 5])
def test_one_image_is_no_batch(predictor: Predictor, items: object) -> None:
    with pytest.raises(UsageError, match="give a list, or call predict"):
        predictor.predict_batch(items)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *(({"batch_size": size}, "batch_size is") for size in (0, 1.5, "8", None, True, [1])),
        *(({"device": device}, "device") for device in ("x", None, 0, "cuda:x", "")),
        *(({"path": path}, "path") for path in (5, b"a", "", "a\0b", "\ud800")),
    ],
)
def test_arguments_of_load_model_are_checked(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        load_model(**arguments)
    assert "--" not in str(raised.value)


def test_scores_that_are_not_finite_name_an_argument(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrbatch.model.batch_scores.BatchScores.are_finite", False)
    with pytest.raises(NotFiniteError, match="try a wider precision, or another checkpoint"):
        predictor.predict(np.zeros((64, 64)))


def test_a_pickle_holds_no_patient_and_no_study(archive: Path, predictor: Predictor) -> None:
    """The facts that a table may hold come through; a copy identifies nobody either."""
    films = (read_radiographs(path)[0] for path in sorted(archive.rglob("*.dcm")))
    film = next(film for film in films if film.outcome is Outcome.SCORED)
    ids = {"patient_id": "Zq7Canary-1", "patient_issuer": "Zq7Canary-2"}
    facts = replace(film.facts, **ids, accession_number="Zq7Canary-3")
    prediction = predictor.predict(replace(film, facts=facts))
    content = pickle.dumps(prediction)
    assert b"Zq7Canary" not in content
    found = pickle.loads(content)
    assert found.probabilities == prediction.probabilities
    assert repr(found.reading.facts) == repr(facts)
    assert found.reading.facts.patient_id is found.reading.facts.accession_number is None
    assert copy.deepcopy(facts).patient_issuer is None
    assert facts.patient_id == "Zq7Canary-1"


def test_a_batch_of_nothing_is_nothing(predictor: Predictor) -> None:
    assert predictor.predict_batch([]) == []


def test_heat_maps_and_overlay_lie_on_the_image(predictor: Predictor) -> None:
    found = predictor.predict(np.random.default_rng(1).random((90, 120)))
    assert found.label is not None
    grown = found.heatmap()
    assert (grown.shape, grown.dtype) == ((90, 120), np.float32)
    assert np.array_equal(grown, found.heatmap(found.label))
    raw = found.heatmaps[found.label]
    assert grown.max() == pytest.approx(raw.max())
    assert grown[0, 0] == pytest.approx(raw[0, 0])
    assert grown[-1, -1] == pytest.approx(raw[-1, -1])
    assert found.overlay().size == (120, 90)
    with pytest.raises(UsageError, match="no class 'Pneumonia'; the classes are Normal"):
        found.heatmap("Pneumonia")


def test_flags_are_those_of_the_reading(archive: Path, predictor: Predictor) -> None:
    found = predictor.predict_batch(sorted(archive.rglob("*.jpg"))[:3])
    assert found
    assert all(Flag.LOSSY in prediction.flags for prediction in found)

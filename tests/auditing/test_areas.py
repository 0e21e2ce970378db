"""Areas rank by log odds; baselines and attributes are told by models new to the patient."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from cxrbatch.auditing.areas import (
    Question,
    area_figures,
    log_odds,
    lower_bound,
    mean_area_figure,
)
from cxrbatch.auditing.attributes import attribute, attribute_columns
from cxrbatch.auditing.baselines import (
    FILE,
    FILE_FACTS,
    HEADER,
    HEADER_FACTS,
    baseline,
    file_frame,
    header_frame,
    out_of_fold,
)
from cxrbatch.auditing.heat import heat_outside, heat_shares

CLASSES = ("a", "b")
ALONE = np.arange(120, dtype=np.int32)


def test_log_odds_rank_as_probabilities_do_and_do_not_saturate() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4)) * 3
    p = softmax(logits, axis=1)
    assert np.allclose(log_odds(logits), np.log(p / (1 - p)))
    sure = np.array([[0, 200], [0, 300], [0, 100]], np.float32)
    assert log_odds(sure)[:, 1].tolist() == [200, 300, 100]


def test_areas_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 120)
    scores = rng.normal(size=(120, 2)) + np.eye(2)[truth]
    figures = area_figures(truth, scores, ALONE, classes=CLASSES)
    for number, name in enumerate(CLASSES):
        expected = roc_auc_score(truth == number, scores[:, number])
        assert figures.auc[name].value == pytest.approx(expected)
        assert figures.auc[name].low < expected < figures.auc[name].high
    assert figures.accuracy.value == np.mean(scores.argmax(axis=1) == truth)


def test_films_of_one_class_have_an_accuracy_and_no_area() -> None:
    scores = np.random.default_rng(1).normal(size=(120, 2))
    figures = area_figures(np.zeros(120, int), scores, ALONE, classes=CLASSES)
    assert figures.macro_auc.value is None
    assert figures.auc["a"].undefined == "every image is of this class"
    assert figures.accuracy.value == np.mean(scores[:, 0] > scores[:, 1])
    nothing = area_figures(np.zeros(0, int), scores[:0], ALONE[:0], classes=CLASSES)
    assert (nothing.films, nothing.macro_auc.undefined) == (0, "no film is left")


def test_an_area_of_one_bounds_itself_and_few_patients_bound_nothing() -> None:
    truth = np.arange(120) % 2
    perfect = np.stack([1 - truth, truth], axis=1).astype(float)
    assert lower_bound(area_figures(truth, perfect, ALONE, classes=CLASSES).macro_auc) == 1.0
    one = area_figures(truth, perfect[:, ::-1], ALONE, classes=CLASSES).macro_auc
    assert lower_bound(one) is None


def test_a_mean_of_questions_is_the_mean_of_their_areas() -> None:
    rng = np.random.default_rng(2)
    rows = [np.arange(0, 60), np.arange(60, 120)]
    asked = [Question(r, rng.random(60) < 0.5, rng.random(60)) for r in rows]
    figure = mean_area_figure(asked, ALONE, "nothing")
    expected = np.mean([roc_auc_score(q.positive, q.score) for q in asked])
    assert figure.value == pytest.approx(expected)
    assert figure.low < expected < figure.high
    assert mean_area_figure([], ALONE, "nothing").undefined == "nothing"


def table_columns(count: int, **given: object) -> pd.DataFrame:
    """Columns of a results table, empty but for those that are given."""
    columns = {name: [None] * count for name in HEADER_FACTS} | {
        "format": ["png"] * count,
        "file_size": [1000] * count,
    }
    return pd.DataFrame(columns | given)


TRUTH = np.arange(120) % 2
NOTHING_MEASURED = np.full((120, 4), np.nan)


def test_a_header_fact_that_goes_with_the_class_is_found_and_named() -> None:
    maker = np.where(TRUTH, "X", "Y")
    sex = np.random.default_rng(0).choice(["F", "M"], 120)
    columns = table_columns(120, manufacturer=maker, patient_sex=sex)
    found = baseline(HEADER, header_frame(columns), TRUTH, ALONE, classes=CLASSES)
    assert found.figures.macro_auc.value == 1.0
    assert found.leading == ("manufacturer", 1.0)
    assert found.facts == ("sex", "manufacturer")


def test_a_header_that_goes_with_nothing_tells_nothing() -> None:
    sex = np.random.default_rng(0).choice(["F", "M"], 120)
    columns = table_columns(120, patient_sex=sex)
    found = baseline(HEADER, header_frame(columns), TRUTH, ALONE, classes=CLASSES)
    assert found.figures.macro_auc.value == pytest.approx(0.5, abs=0.1)
    assert found.leading is None


def test_a_fact_that_names_the_patient_does_not_tell_the_class() -> None:
    """Ten films a patient: a model that learned from nine of them would know the tenth."""
    patients = np.repeat(np.arange(12, dtype=np.int32), 10)
    truth = np.random.default_rng(5).permutation(np.repeat([0, 1], 6))[patients]
    columns = table_columns(120, model_name=[f"D{number}" for number in patients])
    found = baseline(HEADER, header_frame(columns), truth, patients, classes=CLASSES)
    assert (found.figures.macro_auc.value or 0) < 0.6


def test_files_without_a_header_say_so() -> None:
    found = baseline(HEADER, header_frame(table_columns(120)), TRUTH, ALONE, classes=CLASSES)
    assert found.probabilities is None
    assert found.figures.macro_auc.undefined == "no fact is known that differs between the films"


def test_file_properties_are_derived() -> None:
    numbers = np.tile([0.1, 100.0, 200.0, 30.0], (120, 1))
    frame = file_frame(table_columns(120, file_size=np.where(TRUTH, 4000, 1000)), numbers)
    assert list(frame) == [*FILE_FACTS]
    assert frame["aspect"].tolist() == [2.0] * 120
    assert frame["bytes_per_pixel"].tolist() == np.where(TRUTH, 0.2, 0.05).tolist()
    found = baseline(FILE, frame, TRUTH, ALONE, classes=CLASSES)
    assert found.figures.macro_auc.value == 1.0
    assert set(found.facts) == {"file size", "bytes per pixel"}


def test_too_few_patients_and_one_value_are_reasons() -> None:
    features = np.zeros((4, 1))
    few = out_of_fold(features, np.array([0, 0, 0, 1]), np.arange(4), count=2, are_categories=False)
    assert "fewer than two patients" in str(few)
    one = out_of_fold(features, np.zeros(4, int), np.arange(4), count=2, are_categories=False)
    assert one == "all films have one value"


def attribute_of(values: list[str | None], logits: np.ndarray) -> object:
    return attribute(
        "source",
        pd.Series(values, dtype="string"),
        logits=logits.astype(np.float32),
        truth=TRUTH,
        patients=ALONE,
        classes=CLASSES,
    )


def test_scores_that_tell_the_source_within_a_class_are_seen() -> None:
    rng = np.random.default_rng(0)
    source = rng.integers(0, 2, 120)
    logits = np.stack([rng.normal(size=120), 3 * source + rng.normal(size=120)], axis=1)
    told = attribute_of([f"s{number}" for number in source], logits)
    assert told.told_within_classes.low > 0.8
    assert told.tells_truth.value == pytest.approx(0.5, abs=0.12)
    assert dict(told.values) == {f"s{n}": int((source == n).sum()) for n in (0, 1)}


def test_scores_that_tell_the_class_alone_do_not_tell_the_source_within_it() -> None:
    rng = np.random.default_rng(0)
    source = np.where(rng.random(120) < 0.8, TRUTH, 1 - TRUTH)
    logits = np.stack([-3.0 * TRUTH, 3.0 * TRUTH], axis=1) + rng.normal(size=(120, 2))
    told = attribute_of([f"s{number}" for number in source], logits)
    assert told.told_by_scores.low > 0.55
    assert told.told_within_classes.value < 0.65
    assert told.tells_truth.low > 0.55


def test_a_source_for_each_class_cannot_be_told_from_the_class() -> None:
    told = attribute_of([f"s{number}" for number in TRUTH], np.eye(2)[TRUTH])
    assert told.tells_truth.value == 1.0
    assert told.told_within_classes.value is None
    rare = attribute_of(["s"] * 118 + [None, "t"], np.eye(2)[TRUTH])
    assert [name for name, _ in rare.values] == ["s", "other values"]
    same = attribute_of(["s"] * 120, np.eye(2)[TRUTH])
    assert same.tells_truth.undefined == "all films have one value"


def test_attributes_come_from_header_and_labels() -> None:
    columns = table_columns(2, manufacturer=["A", None], model_name=["1", None])
    columns["transfer_syntax"] = ["1.2", None]
    found = attribute_columns(columns, pd.Series(["x", None], dtype="string"))
    assert list(found) == ["source", "view", "sex", "age", "device", "format"]
    assert found["device"].to_list() == ["A 1", pd.NA]
    assert found["format"].to_list() == ["png 1.2", "png"]
    assert found["source"].to_list() == ["x", pd.NA]


def test_heat_outside_is_the_area_for_a_map_without_form() -> None:
    lungs = np.zeros((2, 32, 32), np.bool_)
    lungs[:, :, :8] = True
    heat = np.full((2, 4, 4), 9, np.uint8)
    heat[1] = 0
    outside = heat_outside(heat, lungs)
    assert outside[0] == pytest.approx(0.75)
    assert np.isnan(outside[1])
    corner = np.zeros((1, 4, 4), np.uint8)
    corner[0, 0, 3] = 200
    assert heat_outside(corner, lungs[:1])[0] > 0.99


def test_heat_is_averaged_by_predicted_class_with_intervals() -> None:
    rng = np.random.default_rng(0)
    outside, area = rng.random(120), np.full(120, 0.6)
    outside[0] = np.nan
    found = heat_shares(outside, area, TRUTH, ALONE, classes=CLASSES)
    assert [each.name for each in found] == ["all", "a", "b"]
    assert found[0].outside.n == 119
    assert found[0].outside.value == pytest.approx(np.nanmean(outside))
    assert found[2].outside.low < found[2].outside.value < found[2].outside.high
    nothing = heat_shares(outside * np.nan, area, TRUTH, ALONE, classes=CLASSES)
    assert nothing[0].outside.value is None

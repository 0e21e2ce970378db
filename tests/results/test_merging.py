"""Labels that stand for several classes: the task, its scores, and its figures by scikit-learn."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score

import cxrbatch
from cxrbatch.cli import main
from cxrbatch.errors import LabelError, UsageError
from cxrbatch.results.columns import PROVENANCE_KEY, SCHEMA_VERSION, table_schema
from cxrbatch.results.evaluation import headline
from cxrbatch.results.figures import Evaluation
from cxrbatch.results.label_files import LabelOptions
from cxrbatch.results.label_joining import describe_labels
from cxrbatch.results.merging import make_task

CLASSES = ("Normal", "COVID-19", "Viral Pneumonia", "Lung Opacity")
ILL = ["Lung Opacity", "Viral Pneumonia", "COVID-19"]
PNEUMONIA = {"Pneumonia": ILL}


def test_a_class_of_several_and_those_that_stay() -> None:
    task = make_task(CLASSES, {"Pneumonia": "lung opacity, Viral_Pneumonia"}, merge=True)
    assert task.classes == ("Normal", "COVID-19", "Pneumonia")
    assert task.matrix.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
    assert task.parts == {"Pneumonia": ("Viral Pneumonia", "Lung Opacity")}
    assert task.unchanged() == {"Normal", "COVID-19"}
    assert task.numbers(["pneumonia", "Lung Opacity", "covid", "fracture"]) == {
        "pneumonia": 2,
        "Lung Opacity": 2,
        "covid": 1,
        "fracture": -1,
    }


@pytest.mark.parametrize(
    ("given", "classes", "texts"),
    [
        ({}, CLASSES, {}),
        ({"1": "COVID-19"}, CLASSES, {"1": "COVID-19"}),
        ({"1": ["COVID-19"]}, CLASSES, {"1": "COVID-19"}),
        ({"1": "COVID-19,covid 19"}, CLASSES, {"1": "COVID-19"}),
        ({"ill": ILL, "1": "ill"}, ("Normal", "ill"), {"ill": "ill", "1": "ill"}),
        ({"ill": ILL, "sick": ILL[::-1]}, ("Normal", "ill"), {"ill": "ill", "sick": "ill"}),
        ({"covid19": ILL}, ("Normal", "COVID-19"), {"covid19": "COVID-19"}),
    ],
)
def test_what_a_map_means(
    given: Mapping[str, str | Sequence[str]], classes: tuple[str, ...], texts: dict[str, str]
) -> None:
    task = make_task(CLASSES, given, merge=True)
    assert (task.classes, dict(task.texts)) == (classes, texts)
    assert set(task.numbers(task.texts.values()).values()) <= {*range(len(classes))}


def test_a_class_whose_name_has_a_comma_is_one() -> None:
    task = make_task(("Normal", "COVID, mild", "COVID"), {"1": "COVID, mild"})
    assert not task.is_merged


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"P": "Flu,Viral Pneumonia,TB", "q": "Cold"}, LabelError, "'Flu', 'TB', 'Cold'"),
        ({"P": "Flu,COVID-19"}, LabelError, "'Normal', 'COVID-19', 'Viral Pneumonia', 'Lung Op"),
        ({"P": "COVID-19,,Normal"}, UsageError, "empty name"),
        ({"a": ILL, "b": ["COVID-19", "Normal"]}, UsageError, "'COVID-19' to two texts"),
        ({"Normal": ILL}, UsageError, "which is a class of the model"),
        ({"all": CLASSES}, UsageError, "one class of all"),
        ({"a b": ILL[:2], "A_B": ["COVID-19", "Normal"]}, UsageError, "two meanings"),
    ],
)
def test_a_map_that_cannot_be_used_is_refused(
    given: Mapping[str, str | Sequence[str]], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        make_task(CLASSES, given, merge=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{"P": []}, {"P": [""]}, {"P": [1]}, {"P": " "}, {1: "Normal"}])
def test_options_are_texts(given: Mapping[str, Sequence[str]]) -> None:
    with pytest.raises(UsageError, match="--map"):
        LabelOptions(class_map=given)


def test_scores_are_summed() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (50, 4)).astype(np.float32)
    probabilities = softmax(logits.astype(np.float64), axis=1).astype(np.float32)
    task = make_task(CLASSES, {"lungs": ILL[:2]}, merge=True)
    merged = task.merge_probabilities(probabilities)
    expected = np.stack([*probabilities.T[:2], probabilities.T[2] + probabilities.T[3]], axis=1)
    assert merged == pytest.approx(expected, abs=1e-6)
    assert softmax(task.merge_logits(logits), axis=1) == pytest.approx(expected, abs=1e-6)
    plain = make_task(CLASSES, {})
    assert plain.merge_probabilities(probabilities) is probabilities
    assert plain.merge_logits(logits) is logits


IMAGES = 80


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of 80 scored images of 40 patients, with labels Pneumonia and Normal in l.csv."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 4, IMAGES)
    logits = (rng.normal(size=(IMAGES, 4)) + 1.5 * np.eye(4)[truth]).astype(np.float32)
    p = softmax(logits / 1.5, axis=1)
    columns = {
        "path": [f"a/{n}.png" for n in range(IMAGES)],
        "frame": [0] * IMAGES,
        "outcome": ["scored"] * IMAGES,
        "prediction": [CLASSES[c] for c in p.argmax(axis=1)],
        **{f"p_{name}": p[:, c] for c, name in enumerate(CLASSES)},
        **{f"logit_{name}": logits[:, c] for c, name in enumerate(CLASSES)},
    }
    schema = table_schema(CLASSES, heatmap_size=1)
    arrays = [
        pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(IMAGES, f.type)
        for f in schema
    ]
    points = {name: {"youden": {"threshold": 0.3}} for name in ("Normal", "COVID-19")}
    card = json.dumps({"temperature": 1.5, "operating_points": points})
    made = {"schema_version": SCHEMA_VERSION, "classes": CLASSES, "heatmap_size": 1, "card": card}
    written = pa.Table.from_arrays(arrays, schema=schema)
    pq.write_table(
        written.replace_schema_metadata({PROVENANCE_KEY: json.dumps(made)}), tmp_path / "t.parquet"
    )
    rows = [f"a/{n}.png,{'Pneumonia' if c else 'Normal'},{n // 2}" for n, c in enumerate(truth)]
    (tmp_path / "l.csv").write_text("path,label,patient\n" + "\n".join(rows))
    return tmp_path / "t.parquet"


def by_hand(table: Path) -> tuple[pd.Series, pd.DataFrame, pd.DataFrame]:
    """Return the labels, the summed probabilities and the table."""
    results = cxrbatch.load_results(table)
    ill = results[[f"p_{name}" for name in ILL]].astype(float).sum(axis=1)
    labels = pd.read_csv(table.with_name("l.csv"))["label"]
    summed = pd.DataFrame({"Normal": results["p_Normal"].astype(float), "Pneumonia": ill})
    return labels, summed, results


def test_figures_are_those_of_scikit_learn_on_summed_probabilities(table: Path) -> None:
    found = cxrbatch.evaluate(table, table.with_name("l.csv"), class_map=PNEUMONIA)
    labels, summed, results = by_hand(table)
    predicted = summed.idxmax(axis=1)
    assert [each.name for each in found.classes] == ["Normal", "Pneumonia"]
    ill = labels == "Pneumonia"
    assert found.triage is not None
    assert found.triage.auc.value == pytest.approx(roc_auc_score(ill, summed["Pneumonia"]))
    assert found.balanced_accuracy.value == pytest.approx(
        balanced_accuracy_score(labels, predicted)
    )
    names = ["Normal", "Pneumonia"]
    assert np.array_equal(found.confusion, confusion_matrix(labels, predicted, labels=names))
    shares = pd.crosstab(labels, results["prediction"].astype(str), normalize="index")
    for each in found.predicted:
        assert [*each.shares] == [*CLASSES]
        for name, figure in each.shares.items():
            assert figure.value == pytest.approx(shares.loc[each.name, name])
            assert figure.n == (labels == each.name).sum()
    # The largest sum decides, not the model's most probable class.
    assert (predicted == "Normal").sum() < (results["prediction"] == "Normal").sum()


def test_calibration_before_the_temperature_is_that_of_the_logits(table: Path) -> None:
    found = cxrbatch.evaluate(table, table.with_name("l.csv"), class_map=PNEUMONIA)
    labels, summed, results = by_hand(table)
    plain = softmax(results[[f"logit_{name}" for name in CLASSES]].to_numpy(float), axis=1)[:, 0]
    truth = (labels == "Normal").to_numpy(float)
    for p, calibration in ((summed["Normal"], found.calibration), (plain, found.uncalibrated)):
        assert calibration is not None
        assert calibration.brier.value == pytest.approx(2 * ((p - truth) ** 2).mean(), abs=1e-6)


def test_a_threshold_of_the_card_holds_for_classes_that_stay(table: Path) -> None:
    def on_validation(found: Evaluation) -> set[str]:
        of = {each.name: {p.chosen_on for p in each.points} for each in found.classes}
        return {name for name, chosen in of.items() if "validation" in chosen}

    labels = table.with_name("l.csv")
    assert on_validation(cxrbatch.evaluate(table, labels, class_map=PNEUMONIA)) == {"Normal"}


def test_the_share_of_normal_called_covid_is_in_the_frame(table: Path) -> None:
    frame = cxrbatch.evaluate(table, table.with_name("l.csv"), class_map=PNEUMONIA).to_frame()
    row = frame[(frame["name"] == "predicted if Normal") & (frame["class"] == "COVID-19")]
    labels, _, results = by_hand(table)
    expected = (results["prediction"][labels == "Normal"] == "COVID-19").mean()
    assert row["value"].tolist() == pytest.approx([expected])


def test_one_patient_per_image_has_wilson_intervals(table: Path) -> None:
    labels = pd.read_csv(table.with_name("l.csv"))[["path", "label"]]
    found = cxrbatch.evaluate(table, labels, class_map=PNEUMONIA)
    figure = found.predicted[0].shares["COVID-19"]
    from statsmodels.stats.proportion import proportion_confint

    assert figure.value is not None
    bounds = proportion_confint(round(figure.value * figure.n), figure.n, method="wilson")
    assert (figure.low, figure.high) == pytest.approx(bounds)


def test_commas_and_lists_are_one_and_the_headline_agrees(table: Path) -> None:
    labels = table.with_name("l.csv")
    whole = cxrbatch.evaluate(table, labels, class_map={"Pneumonia": ", ".join(ILL)})
    assert whole == cxrbatch.evaluate(table, labels, class_map=PNEUMONIA)
    short = headline(table, labels, class_map=PNEUMONIA)
    assert short.balanced_accuracy == whole.balanced_accuracy
    assert [*short.auc] == ["Normal", "Pneumonia"]


def test_class_folders_name_the_classes_of_the_task(table: Path) -> None:
    labels = pd.read_csv(table.with_name("l.csv"))["label"]
    stored = pq.read_table(table)
    paths = [f"{name.lower()}/{n}.png" for n, name in enumerate(labels)]
    place = stored.schema.get_field_index("path")
    changed = stored.set_column(place, stored.schema.field(place), pa.array([paths]).flatten())
    pq.write_table(changed, table)
    found = cxrbatch.evaluate(table, class_map={**PNEUMONIA, "infiltrate": "Pneumonia"})
    assert np.sum(found.confusion, axis=1).tolist() == [
        (labels == name).sum() for name in ("Normal", "Pneumonia")
    ]


def test_what_cannot_merge_names_what_can(table: Path) -> None:
    labels, options = table.with_name("l.csv"), LabelOptions(class_map=PNEUMONIA)
    for call in (
        lambda: cxrbatch.load_labels(labels, class_map=PNEUMONIA),
        lambda: [*describe_labels(table, labels, options)],
    ):
        with pytest.raises(UsageError, match="evaluate") as caught:
            call()
        assert "\n" not in str(caught.value)
    counts = pd.read_csv(labels)["label"].value_counts()
    expected = f"'Normal' {counts['Normal']}, 'Pneumonia' {counts['Pneumonia']}"
    assert ("classes", expected) in [*describe_labels(table, labels, options, merge=True)]


def test_a_report_refuses_several_classes(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["report", str(table), "--labels", str(table.with_name("l.csv"))]
    output = table.with_name("r.html")
    command += ["--map", f"Pneumonia={','.join(ILL)}", "-o", str(output)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "cxrbatch evaluate" in error
    assert len(error.splitlines()) == 1
    assert not output.exists()

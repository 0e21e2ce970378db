"""The evaluation of a table: from a path, an open table or a DataFrame, and as a DataFrame."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrbatch.errors import CxrbatchError, LabelError, TableError
from cxrbatch.results.columns import PROVENANCE_KEY, SCHEMA_VERSION, table_schema
from cxrbatch.results.evaluation import evaluate, headline
from cxrbatch.results.figures import Headline
from cxrbatch.results.frames import Results, load_labels, load_results
from cxrbatch.results.label_files import LabelOptions
from cxrbatch.results.label_names import JOINS
from cxrbatch.results.table import open_table
from cxrbatch.results.truth import find_truth

CLASSES = ("Normal", "COVID-19", "Lung Opacity")
IMAGES = 60


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of 60 scored images of 20 patients, without a truth."""
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 3, IMAGES)
    logits = (rng.normal(size=(IMAGES, 3)) + 1.2 * np.eye(3)[truth]).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    schema = table_schema(CLASSES, heatmap_size=1)
    columns = {
        "path": [f"{n}.png" for n in range(IMAGES)],
        "frame": [0] * IMAGES,
        "outcome": ["scored"] * IMAGES,
        "prediction": [CLASSES[c] for c in p.argmax(axis=1)],
        "patient_key": [f"k{n // 3}" for n in range(IMAGES)],
        "view_position": ["PA", "AP"] * (IMAGES // 2),
        **{f"p_{name}": p[:, c] for c, name in enumerate(CLASSES)},
        **{f"logit_{name}": logits[:, c] for c, name in enumerate(CLASSES)},
    }
    arrays = [
        pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(IMAGES, f.type)
        for f in schema
    ]
    made = {"schema_version": SCHEMA_VERSION, "classes": CLASSES, "heatmap_size": 1}
    written = pa.Table.from_arrays(arrays, schema=schema)
    pq.write_table(
        written.replace_schema_metadata({PROVENANCE_KEY: json.dumps(made)}), tmp_path / "t.parquet"
    )
    rows = [f"{n}.png,{CLASSES[c]},{'test' if n % 4 else 'val'}" for n, c in enumerate(truth)]
    (tmp_path / "l.csv").write_text("path,label,split\n" + "\n".join(rows))
    return tmp_path / "t.parquet"


def test_path_table_and_frame_give_equal_figures(table: Path) -> None:
    labels = table.with_name("l.csv")
    expected = evaluate(str(table), str(labels))
    assert expected.images == 45
    assert expected.patients == 20
    for results in (table, open_table(table), load_results(table)):
        assert evaluate(results, load_labels(labels)) == expected


def test_some_rows_of_a_frame_are_evaluated_alone(table: Path) -> None:
    frame = load_results(table)
    some = frame[frame["view_position"] == "PA"]
    found = evaluate(some, table.with_name("l.csv"))
    whole = evaluate(frame, table.with_name("l.csv"))
    assert 0 < found.images < whole.images
    rest = evaluate(frame[frame["view_position"] == "AP"], table.with_name("l.csv"))
    assert found.images + rest.images == whole.images
    assert np.add(found.confusion, rest.confusion).tolist() == [*map(list, whole.confusion)]


def test_the_headline_has_the_numbers_of_the_evaluation(table: Path) -> None:
    found, whole = (call(table, table.with_name("l.csv")) for call in (headline, evaluate))
    assert isinstance(found, Headline)
    for name in ("images", "patients", "accuracy", "balanced_accuracy", "macro_f1", "macro_auc"):
        assert getattr(found, name) == getattr(whole, name)
    assert found.accuracy.method == "patient bootstrap"
    assert found.auc == {of.name: of.auc for of in whole.classes}
    assert found.side == "test"


def test_every_figure_is_a_row_of_the_frame(table: Path) -> None:
    whole = evaluate(table, table.with_name("l.csv"), prevalence={"covid 19": 0.1})
    frame = whole.to_frame()
    names = ["name", "class", "value", "low", "high", "n", "method", "undefined"]
    assert list(frame.columns) == names

    def count(value: object) -> int:
        if isinstance(value, dict):
            return int("undefined" in value) + sum(map(count, value.values()))
        return sum(map(count, value)) if isinstance(value, list | tuple) else 0

    assert len(frame) == count(asdict(whole))
    assert not frame[["name", "class"]].duplicated().any()
    (auc,) = frame[(frame["name"] == "auc") & (frame["class"] == "COVID-19")].itertuples()
    assert (auc.value, auc.low, auc.n) == (
        whole.classes[1].auc.value,
        whole.classes[1].auc.low,
        whole.classes[1].auc.n,
    )
    assert "youden (these images) ppv_at_prevalence" in set(frame["name"])
    assert "triage sensitivity 0.95 ruled_out" in set(frame["name"])


def test_an_undefined_figure_says_why_in_the_frame(table: Path) -> None:
    labels = pd.DataFrame({"path": ["1.png", "2.png"], "label": ["Normal", "Normal"]})
    frame = evaluate(table, labels).to_frame().set_index("name")
    assert np.isnan(frame.loc["macro_auc", "value"])
    assert frame.loc["macro_auc", "undefined"] == "no class has images while another has some too"


def test_without_a_truth_there_is_no_evaluation(table: Path) -> None:
    with pytest.raises(LabelError, match="nothing tells the truth"):
        evaluate(table)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"path": ["1.png"], "label": [None]}, "none of its 1 rows has a label"),
        (
            {"path": ["1.png", "1.png"], "label": ["Normal", "covid"]},
            "label of 1 images, as in its rows 1, 2",
        ),
        ({"films": ["1.png"], "label": ["Normal"]}, "no column names the images"),
        ({"path": ["1.png"], "label": ["Normal"], "split": ["all"]}, "split is not train, val"),
    ],
)
def test_a_frame_of_labels_is_checked_as_a_file_is(
    table: Path, labels: dict[str, list[str | None]], expected: str
) -> None:
    with pytest.raises(LabelError, match=expected):
        evaluate(table, pd.DataFrame(labels))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"prevalence": [("Normal", 0.1)]}, "prevalence is no dict of class names"),
        ({"prevalence": {1: 0.1}}, "prevalence is no dict of class names"),
        ({"prevalence": {"Normal": "0.1"}}, "a prevalence is not between 0 and 1"),
        ({"prevalence": {"Normal": None}}, "a prevalence is not between 0 and 1"),
        ({"seed": -1}, "seed is -1; give a whole number from 0"),
        ({"seed": "a"}, "seed is 'a'; give a whole number"),
        ({"seed": None}, "seed is None; give a whole number"),
        (
            {"labels": pd.Series(["Normal"] * 99)},
            "labels is of the type Series; give a path",
        ),
        ({"labels": ["Normal"]}, "labels is of the type list; give a path"),
        ({"results": 5}, "results is of the type int; give a text or a Path"),
    ],
)
def test_an_argument_of_another_type_is_one_line(
    table: Path, arguments: dict[str, object], expected: str
) -> None:
    given = {"results": table, "labels": table.with_name("l.csv"), **arguments}
    with pytest.raises(CxrbatchError) as caught:
        evaluate(**given)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_frame_of_another_origin_is_refused(table: Path) -> None:
    with pytest.raises(TableError, match="load it with load_results"):
        evaluate(pd.DataFrame({"path": ["a"]}))
    with pytest.raises(TableError, match="has no column 'outcome'"):
        evaluate(load_results(table).drop(columns="outcome"), table.with_name("l.csv"))


def of_path(path: object) -> pd.DataFrame:
    return pd.DataFrame({"path": [path], "label": ["Normal"]}, dtype=object)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label_column": 1}, "label_column is 1; give the name of a column"),
        ({"path_column": " "}, "path_column is ' '; give the name of a column"),
        ({"by": ["path"]}, "by "),
        ({"class_map": ["a"]}, r"class_map has to .* as in class_map={TEXT: CLASS}"),
        ({"class_map": {0: "Normal"}}, "class_map has to give"),
        ({"class_map": {"x": 0}}, "class_map has to give"),
        ({"class_map": {"Lung Opacity": None}}, "class_map has to give"),
        ({"class_map": {"_": "Normal"}}, "class_map has an empty text"),
        ({"class_map": {"x": " "}}, "class_map has an empty text"),
        ({"class_map": {"x": "Nrmal"}}, "class_map names 'Nrmal', which is no class of the model"),
        ({"keep_copies": "no"}, "keep_copies is 'no'; give True or False"),
        ({"keep_flagged": 1}, "keep_flagged is 1; give True or False"),
        ({"labels": of_path(b"\xff")}, "the DataFrame of labels has bytes that are not UTF-8"),
        ({"labels": of_path("\udcfc")}, "or a text with half a surrogate pair"),
    ],
)
def test_wrong_types_of_labels_are_told_by_the_name_of_the_argument(
    table: Path, wrong: dict[str, Any], message: str
) -> None:
    for figures in (evaluate, headline):
        with pytest.raises(CxrbatchError, match=message) as caught:
            figures(table, **{"labels": table.with_name("l.csv"), **wrong})
        assert "--" not in str(caught.value)


def test_a_blank_label_and_a_text_that_no_label_has_are_not_mapped(table: Path) -> None:
    labels = load_labels(table.with_name("l.csv"))
    labels["label"] = labels["label"].astype(object).where(labels.index > 11)
    truth = find_truth(Results(table), labels, LabelOptions(class_map={"COVID": "Normal"}))
    assert truth is not None
    assert (truth.labels, int((truth.classes < 0).sum())) == (50, 10)
    assert "texts that are given a class, and that no label has: 'COVID'" in truth.notes


@pytest.mark.parametrize(("by", "key"), [("study", "study_instance_uid"), ("sop", None)])
def test_a_named_column_is_that_of_the_key_that_is_named(
    table: Path, by: str, key: str | None
) -> None:
    stored = pq.read_table(table)
    uids = pa.array([f"1.2.{n}" for n in range(IMAGES)])
    place = stored.schema.get_field_index(JOINS[by])
    pq.write_table(stored.set_column(place, stored.schema.field(place), uids), table)
    labels = load_labels(table.with_name("l.csv")).assign(Exam=uids.to_pylist())
    expected = evaluate(table, labels)
    named = evaluate(table, labels.drop(columns="path"), by=by, path_column="Exam")
    assert named == expected
    # A column of the usual name stands back behind the one that is named.
    if key is not None:
        assert evaluate(table, labels.assign(**{key: "9"}), by=by, path_column="exam") == expected
    with pytest.raises(LabelError, match="no column 'Exma', which path_column names"):
        evaluate(table, labels, by=by, path_column="Exma")

"""Truth: each way of joining, and labels that are refused."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrbatch.errors import LabelError
from cxrbatch.results.columns import PROVENANCE_KEY, SCHEMA_VERSION, table_schema
from cxrbatch.results.frames import Results
from cxrbatch.results.label_names import find_classes
from cxrbatch.results.table import Table, open_table
from cxrbatch.results.truth import UNKNOWN, class_numbers, find_truth

CLASSES = ("Normal", "Viral Pneumonia", "COVID-19")


def table_of(folder: Path, paths: list[str], *, unscored: tuple[int, ...] = ()) -> Table:
    schema = table_schema(CLASSES, heatmap_size=1)
    columns = {
        "path": paths,
        "sop_instance_uid": [f"1.2.{n % 3}" for n in range(len(paths))],
        "image_hash": [f"h{n}" for n in range(len(paths))],
        "prediction": [None if n in unscored else "Normal" for n in range(len(paths))],
    }
    made = {
        "schema_version": SCHEMA_VERSION,
        "classes": list(CLASSES),
        "heatmap_size": 1,
        "archive_root": "/films",
    }
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(len(paths), field.type)
        for field in schema
    ]
    table = pa.Table.from_arrays(arrays, schema=schema)
    pq.write_table(
        table.replace_schema_metadata({PROVENANCE_KEY: json.dumps(made)}), folder / "t.parquet"
    )
    return open_table(folder / "t.parquet")


def joined(folder: Path, table: Table, text: str) -> list[int]:
    (folder / "l.csv").write_text(text)
    truth = find_truth(Results(table), folder / "l.csv")
    assert truth is not None
    return truth.classes.tolist()


def test_by_path_relative_or_below_the_root_and_for_every_frame(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["a.png", "a.png", "b/c.png", "d\\\\e.png", "f.zip!/g.png", "h"])
    text = "path,label,split,patient\na.png,normal,test,p\n/films/b/c.png,viral_pneumonia,val,\n"
    text += "d\\e.png,covid 19,,\nf.zip!/g.png,COVID-19,,\nabsent,Normal,,\n"
    assert joined(tmp_path, table, text) == [0, 0, 1, 2, 2, UNKNOWN]
    truth = find_truth(Results(table), tmp_path / "l.csv")
    assert truth is not None
    assert (truth.labels, truth.without_row) == (5, 1)
    assert truth.splits.tolist() == [2, 2, 1, UNKNOWN, UNKNOWN, UNKNOWN]
    assert truth.patients.tolist()[:2] == ["p", "p"]
    assert truth.patients.isna().tolist() == [False] * 2 + [True] * 4


def test_by_uid_and_by_hash(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["a", "b", "c", "d"])
    assert joined(tmp_path, table, "sop_instance_uid,label\n1.2.0,Normal\n1.2.2,COVID-19\n") == [
        0,
        UNKNOWN,
        2,
        0,
    ]
    assert joined(tmp_path, table, "label,image_hash\nNormal,h3\n") == [UNKNOWN] * 3 + [0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "path,label\na,Cold\nb,Flu\nc,Normal\n",
            "labels name no class of the model, 2 different texts, as in lines 2, 3; the",
        ),
        (
            "path,label\na,Normal\na,COVID-19\n",
            "contradicts itself in the label of 1 images, as in its lines 2, 3",
        ),
        ("path,label\na,Normal\n/films/a,COVID-19\n", "as in its lines 2, 3: correct them"),
        ("path,label\nx,Normal\n", "none of the 1 labels"),
        (
            "label\nNormal\n",
            "1 column: 'label': no column names the images; name one with --path-column",
        ),
        ("path\na\n", "no column names the class; name one with --label-column"),
        ("image_hash,label\n,Normal\n", "line 2: it has a label, but image_hash is empty"),
    ],
)
def test_labels_that_do_not_fit_are_one_line(tmp_path: Path, text: str, expected: str) -> None:
    table = table_of(tmp_path, ["a", "b", "c"])
    with pytest.raises(LabelError) as caught:
        joined(tmp_path, table, text)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_class_folders_of_two_classes(tmp_path: Path) -> None:
    paths = ["x/NORMAL/1", "x/viral-pneumonia/deep/2", "x/Normal/3", "readme"]
    truth = find_truth(Results(table_of(tmp_path, paths, unscored=(3,))))
    assert truth is not None
    assert truth.classes.tolist() == [0, 1, 0, UNKNOWN]
    assert truth.source == "the class folders of the archive"


@pytest.mark.parametrize(
    "paths",
    [
        ["normal/1", "normal/2"],
        ["normal/1", "COVID-19/2", "other/3"],
        ["normal/COVID-19/1", "normal/viral pneumonia/2"],
        ["1", "Normal"],
        [],
    ],
    ids=["one class", "a third without", "two classes each", "no folders", "no rows"],
)
def test_folders_that_leave_a_doubt_are_no_truth(tmp_path: Path, paths: list[str]) -> None:
    assert find_truth(Results(table_of(tmp_path, paths))) is None


def test_classes_that_differ_by_a_hyphen_alone_are_told_apart() -> None:
    classes = ("Stage-A", "Stage A", "Normal")
    found = class_numbers(["Stage-A", "Stage A", "normal"], classes)
    assert found == {"Stage-A": 0, "Stage A": 1, "normal": 2}
    with pytest.raises(LabelError, match="name no class of the model: 'stage_a'"):
        class_numbers(["stage_a"], classes)


@pytest.mark.parametrize(
    ("label", "number"),
    [
        *((text, 2) for text in ("COVID+", "SARS-CoV-2 (+)", "Covid-19 positiv", "COVID-positive")),
        *((text, -1) for text in ("COVID-", "COVID-19 -", "SARS-CoV-2 (-)", "COVID \u2212")),
        *((text, -1) for text in ("COVID negative", "covid-négatif", "COVID neg.", "COVID +/-")),
        *((text, -1) for text in ("COVID?", "~COVID", "- COVID", "COVID ±", "Viral Pneumonia -")),
        *((text, 1) for text in ("viral pneumonia +", "Viruspneumonie", "pneumonia (viral)")),
        *((text, 0) for text in ("kein Befund", "NORMAL", "normal.")),
        *((text, 3) for text in ("Tuberculosis", "tuberculosis pos", "Tuberculosis+")),
        *((text, -1) for text in ("Tuberculosis-", "tuberculosis negative", "positive", "-", "")),
    ],
)
def test_a_sign_behind_a_word_counts(label: str, number: int) -> None:
    assert find_classes([label], (*CLASSES, "Tuberculosis")) == {label: number}


def test_classes_that_differ_by_their_sign_are_told_apart() -> None:
    labels = ["COVID positive", "covid NEGATIVE", "Covid-positive", "covid_negative"]
    assert list(find_classes(labels, ("COVID negative", "COVID positive")).values()) == [1, 0, 1, 0]


def test_a_column_of_what_is_not_there_is_not_passed_over(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["a", "b", "c"])
    for sign in ("-", " negative"):
        text = f"path,COVID+,COVID{sign},Normal\na,1,0,0\nb,0,1,0\nc,0,0,1\n"
        with pytest.raises(LabelError, match="no class of the model, 1 different"):
            joined(tmp_path, table, text)

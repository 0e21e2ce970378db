"""One set of labels in many forms: the figures are the same to the last digit."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrbatch.results.columns import PROVENANCE_KEY, SCHEMA_VERSION, table_schema
from cxrbatch.results.evaluation import evaluate
from cxrbatch.results.frames import load_labels
from cxrbatch.results.label_files import LabelOptions
from cxrbatch.results.label_joining import describe_labels
from cxrbatch.results.patient_keys import accession_key, patient_secret, secret_id

CLASSES = ("Normal", "COVID-19", "Viral Pneumonia", "Lung Opacity")
GERMAN = {
    "Normal": "kein Befund",
    "COVID-19": "Covid 19",
    "Viral Pneumonia": "Virale Pneumonie",
    "Lung Opacity": "VERSCHATTUNG",
}
FILMS = 48


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Labels of 48 films of 24 studies of 12 patients, and a table of their scores beside them."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    rng = np.random.default_rng(3)
    truth = np.repeat(rng.integers(0, 4, FILMS // 2), 2)
    films = pd.DataFrame(
        {
            "path": [f"Müller/Größe {n // 8}/{n:02}.png" for n in range(FILMS)],
            "label": [CLASSES[c] for c in truth],
            "patient": [f"0{n // 4}" for n in range(FILMS)],
            "study": [f"1.2.3.{n // 2}" for n in range(FILMS)],
            "accession": [f"00{100 + n // 2}" for n in range(FILMS)],
            "sop": [f"1.2.3.{n // 2}.{n}" for n in range(FILMS)],
        }
    )
    write_table(tmp_path / "t.parquet", films, truth, rng)
    return films


def write_table(
    file: Path, films: pd.DataFrame, truth: np.ndarray, rng: np.random.Generator
) -> None:
    logits = (rng.normal(size=(len(films), 4)) + 1.5 * np.eye(4)[truth]).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    secret = patient_secret()
    assert secret is not None
    columns = {
        # As macOS and some servers write names.
        "path": [unicodedata.normalize("NFD", path) for path in films["path"]],
        "frame": [0] * len(films),
        "outcome": ["scored"] * len(films),
        "prediction": [CLASSES[c] for c in p.argmax(axis=1)],
        "sop_instance_uid": films["sop"],
        "study_instance_uid": films["study"],
        "accession_key": [accession_key(number, secret) for number in films["accession"]],
        "image_hash": [f"h{n}" for n in range(len(films))],
        **{f"p_{name}": p[:, c] for c, name in enumerate(CLASSES)},
        **{f"logit_{name}": logits[:, c] for c, name in enumerate(CLASSES)},
    }
    schema = table_schema(CLASSES, heatmap_size=1)
    arrays = [
        pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(len(films), f.type)
        for f in schema
    ]
    made = {
        "schema_version": SCHEMA_VERSION,
        "classes": CLASSES,
        "heatmap_size": 1,
        "archive_root": "/archive",
        "patient_secret_id": secret_id(secret),
    }
    table = pa.Table.from_arrays(arrays, schema=schema)
    pq.write_table(table.replace_schema_metadata({PROVENANCE_KEY: json.dumps(made)}), file)


def by_path(films: pd.DataFrame) -> pd.DataFrame:
    return films[["path", "label", "patient"]]


def csv(encoding: str = "utf-8", **options: str) -> Callable[[pd.DataFrame, Path], None]:
    def write(films: pd.DataFrame, file: Path) -> None:
        file.write_bytes(by_path(films).to_csv(index=False, **options).encode(encoding))

    return write


def separator_line(films: pd.DataFrame, file: Path) -> None:
    file.write_text("sep=;\n" + by_path(films).to_csv(index=False, sep=";"))


def old_mac(films: pd.DataFrame, file: Path) -> None:
    file.write_bytes(by_path(films).to_csv(index=False, lineterminator="\r").encode())


def excel(films: pd.DataFrame, file: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["Export of the register"])
    sheet = book.create_sheet("Films")
    sheet.append(["Register of films, 2024"])
    for row in [[*by_path(films).columns], *by_path(films).to_numpy().tolist()]:
        sheet.append(row)
    book.save(file)


def parquet(films: pd.DataFrame, file: Path) -> None:
    by_path(films).astype({"label": "category"}).to_parquet(file)


def study(films: pd.DataFrame, file: Path) -> None:
    studies = films.drop_duplicates("study")
    names = {"study": "Study Instance UID", "label": "Diagnosis", "patient": "Patient ID"}
    studies[[*names]].rename(columns=names).to_csv(file, index=False)


def accession(films: pd.DataFrame, file: Path) -> None:
    studies = films.drop_duplicates("study")
    studies = studies.assign(accession=studies["accession"].map("{} ".format))
    names = {"accession": "Accession Number", "label": "Finding", "patient": "Patient ID"}
    studies[[*names]].rename(columns=names).to_csv(file, index=False)


def german(films: pd.DataFrame, file: Path) -> None:
    names = {"path": "Dateiname", "label": "Befund", "patient": "Patientennummer"}
    rows = by_path(films).assign(label=films["label"].map(GERMAN)).rename(columns=names)
    file.write_bytes(rows.to_csv(index=False, sep=";", lineterminator="\r\n").encode("cp1252"))


def one_hot(films: pd.DataFrame, file: Path) -> None:
    flags = {name: films["label"].eq(name).map({True: "x", False: ""}) for name in CLASSES}
    films[["path", "patient"]].assign(**flags).to_csv(file, index=False)


def windows_paths(films: pd.DataFrame, file: Path) -> None:
    paths = [f"C:\\Export\\{path.replace('/', chr(92))}" for path in films["path"]]
    by_path(films).assign(path=paths).to_csv(file, index=False)


def names_alone(films: pd.DataFrame, file: Path) -> None:
    paths = [path.rpartition("/")[2] for path in films["path"]]
    by_path(films).assign(path=paths).rename(columns={"path": "Image Index"}).to_csv(file)


def numbers(films: pd.DataFrame, file: Path) -> None:
    rows = by_path(films).assign(label=films["label"].map(CLASSES.index))
    rows.rename(columns={"label": "class"}).to_csv(file, index=False, sep="|")


FORMS = {
    "comma": csv(),
    "semicolon": csv(sep=";", lineterminator="\r\n"),
    "tab": csv(sep="\t"),
    "sep line": separator_line,
    "UTF-16": csv("utf-16", sep="\t"),
    "UTF-16 without mark": csv("utf-16-le"),
    "Windows-1252": csv("cp1252", sep=";"),
    "byte order mark": csv("utf-8-sig"),
    "carriage returns": old_mac,
    "Excel": excel,
    "Parquet": parquet,
    "study": study,
    "accession": accession,
    "German": german,
    "one-hot": one_hot,
    "backslashes": windows_paths,
    "file names": names_alone,
    "numbers": numbers,
}
NUMBERS = {str(number): name for number, name in enumerate(CLASSES)}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_the_labels_gives_the_same_figures(
    tmp_path: Path, films: pd.DataFrame, form: str
) -> None:
    table, file = tmp_path / "t.parquet", tmp_path / "labels"
    exact = by_path(films).assign(path=[unicodedata.normalize("NFD", p) for p in films["path"]])
    expected = evaluate(table, exact)
    assert (expected.images, expected.patients) == (FILMS, FILMS // 4)
    FORMS[form](films, file)
    class_map = NUMBERS if form == "numbers" else None
    found = evaluate(table, file, class_map=class_map)
    pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame(), check_exact=True)
    if form != "one-hot":
        again = evaluate(table, load_labels(file, class_map=class_map))
        pd.testing.assert_frame_equal(again.to_frame(), expected.to_frame(), check_exact=True)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("Windows-1252", "CSV in Windows-1252, separated by semicolons"),
        ("UTF-16 without mark", "CSV in UTF-16, separated by commas"),
        ("Excel", "Excel, sheet 2"),
        ("Parquet", "Parquet"),
    ],
)
def test_the_check_tells_form_columns_and_counts(
    tmp_path: Path, films: pd.DataFrame, form: str, expected: str
) -> None:
    FORMS[form](films, tmp_path / "labels")
    lines = dict(describe_labels(tmp_path / "t.parquet", tmp_path / "labels", LabelOptions()))
    assert lines["labels"] == f"{tmp_path / 'labels'}: {expected}"
    assert lines["columns"] == "path = 'path', label = 'label', patient = 'patient'; 3 in all"
    assert lines["joined"] == "48 of 48 labels by path (path 48)"
    assert lines["images"].startswith("48 of 48 scored images have a label, and 0 rows")


def test_a_label_of_a_study_is_that_of_its_films(tmp_path: Path, films: pd.DataFrame) -> None:
    study(films, tmp_path / "labels")
    lines = [*describe_labels(tmp_path / "t.parquet", tmp_path / "labels", LabelOptions())]
    assert ("joined", "24 of 24 labels by study (study 24)") in lines
    assert ("", "one label per study is given to each of its images: 24 labels, 48 images") in lines


def test_rows_without_what_joins_are_counted(tmp_path: Path, films: pd.DataFrame) -> None:
    half = films[["path", "sop", "label"]].copy()
    half.loc[::3, "path"] = ""
    half["sop"] = half["sop"].where(half["path"] == "", "")
    half.to_csv(tmp_path / "labels", index=False)
    lines = [*describe_labels(tmp_path / "t.parquet", tmp_path / "labels", LabelOptions())]
    assert ("joined", "32 of 32 labels by path (path 32, name 32, sop 16)") in lines
    assert ("", "rows whose path is blank or a placeholder, which are not used: 16") in lines


def test_accession_numbers_under_another_secret_are_told(
    tmp_path: Path, films: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    accession(films, tmp_path / "labels")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    with pytest.raises(Exception, match="under another patient secret") as caught:
        evaluate(tmp_path / "t.parquet", tmp_path / "labels")
    assert "\n" not in str(caught.value)
    frame = load_labels(tmp_path / "labels")
    assert list(frame.columns[:2]) == ["accession_key", "label"]
    assert not frame["accession_key"].isin(films["accession"]).any()

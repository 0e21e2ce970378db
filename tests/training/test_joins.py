"""Labels as an office writes them, joined with files by path, name, UID or accession number."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from calls import FAST, collect, one_error
from films import write_film

from cxrbatch.cli import main
from cxrbatch.errors import LabelError, UsageError
from cxrbatch.results.label_files import LabelOptions
from cxrbatch.training.labelled_files import CollectedLabels
from cxrbatch.training.mismatches import MismatchReason, refuse_mismatches
from cxrbatch.training.train import train

CANARY = "ACC-4711"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty films, two a study, half of them in a zip, each with an id of every kind."""
    root = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    for number in range(40):
        level = 60 if number < 20 else 180
        grey = level + rng.integers(-30, 31, (32, 32))
        path = write_film(root / f"p{number // 2}" / f"f{number:02}.dcm", grey)
        film = pydicom.dcmread(path)
        film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        film.SeriesInstanceUID = f"1.2.4.{number // 2}"
        film.StudyInstanceUID = f"1.2.5.{number // 2}"
        film.AccessionNumber = f"{CANARY}-{number // 2}"
        film.save_as(path)
    with zipfile.ZipFile(root / "some.zip", "w") as archive:
        for path in sorted(root.glob("p1*/*.dcm")):
            archive.write(path, path.relative_to(root).as_posix())
            path.unlink()
    return root


def where(number: int) -> str:
    path = f"p{number // 2}/f{number:02}.dcm"
    return f"some.zip!/{path}" if path.startswith("p1") else path


def label(number: int) -> str:
    return "dark" if number < 20 else "white"


def by_film(value: Callable[[int], str]) -> pd.DataFrame:
    rows = [(value(n), label(n)) for n in range(40)]
    return pd.DataFrame(rows, columns=["key", "label"])


def by_study(value: Callable[[int], str]) -> pd.DataFrame:
    return by_film(lambda n: value(n // 2)).drop_duplicates()


KINDS = {
    "path": ("path", by_film(where)),
    "backslashes": ("Datei", by_film(lambda n: where(n).replace("/", "\\"))),
    "name": ("filename", by_film(lambda n: f"f{n:02}.dcm")),
    "sop": ("SOPInstanceUID", by_film(lambda n: f"1.2.3.{n}")),
    "series": ("SeriesInstanceUID", by_study(lambda n: f"1.2.4.{n}")),
    "study": ("Study Instance UID", by_study(lambda n: f"1.2.5.{n}")),
    "accession": ("Accession Number", by_study(lambda n: f"{CANARY}-{n}")),
}


def expected(found: CollectedLabels) -> None:
    assert found.mismatches == ()
    names = {file.path: file.label for file in found.files}
    assert names == {where(number): label(number) for number in range(40)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["csv", "excel"])
def test_each_way_to_name_a_film_finds_it(
    films: Path, tmp_path: Path, kind: str, form: str
) -> None:
    column, rows = KINDS[kind]
    rows = rows.rename(columns={"key": column})
    labels = tmp_path / "labels"
    if form == "csv":
        labels.write_bytes(rows.to_csv(index=False, sep=";").encode("utf-16"))
    else:
        rows.to_excel(labels.with_suffix(".xlsx"), index=False)
        labels = labels.with_suffix(".xlsx")
    found = collect([labels], roots=[films])
    expected(found)
    by = {"backslashes": "path"}.get(kind, kind)
    notes = dict(found.notes)
    assert f"labels by {by}, 40 files" in notes["joined"]
    assert column in notes["columns"]
    assert CANARY not in str(found.notes)


def test_a_label_of_a_study_without_films_names_its_line_alone(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = KINDS["accession"][1].rename(columns={"key": "accession"})
    rows.loc[99] = [f"{CANARY}-gone", "dark"]
    labels = tmp_path / "labels.csv"
    rows.to_csv(labels, index=False)
    listing = tmp_path / "list.csv"
    command = ["train", str(labels), "--root", str(films), "-o", str(tmp_path / "m.safetensors")]
    assert main([*command, *FAST, "--mismatches", str(listing)]) == 1
    printed = capsys.readouterr()
    row = f"{labels}, line 22"
    missing = "no DICOM file below the roots has this accession"
    assert f"label without a file: {row} ({missing})" in printed.err
    (listed,) = pd.read_csv(listing, keep_default_na=False).to_dict("records")
    assert (listed["path"], listed["row"], listed["detail"]) == ("", row, missing)
    for text in (printed.out, printed.err, listing.read_text()):
        assert CANARY not in text


def test_two_files_of_one_name_are_a_mismatch(films: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("filename,label\nf00.dcm,A\nf01.dcm,B\n")
    other = tmp_path / "other"
    other.mkdir()
    (other / "f00.dcm").write_bytes((films / where(0)).read_bytes())
    found = collect([tmp_path / "labels.csv"], roots=[films, other], options=LabelOptions("name"))
    assert [m.reason for m in found.mismatches] == [MismatchReason.TWO_FILES]
    assert [file.path for file in found.files] == [where(1)]
    with pytest.raises(LabelError, match="label of several files: write its path in full"):
        refuse_mismatches(found.mismatches)


def test_image_hashes_are_refused_with_what_to_do(films: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image_hash,label\n00ff,A\n00fe,B\n")
    for options in (LabelOptions("image_hash"), LabelOptions()):
        with pytest.raises(UsageError, match=r"image_hash joins rows of a table.*sop"):
            collect([tmp_path / "labels.csv"], roots=[films], options=options)


@pytest.mark.parametrize(
    ("text", "options", "classes"),
    [
        ("path;Befund\n{};kein Befund\n{};COVID\n", LabelOptions(), ["Normal", "COVID-19"]),
        ("path,label\n{},0\n{},1\n", LabelOptions(class_map={"0": "Normal", "1": "COVID-19"}), []),
        ("path,Normal,COVID-19\n{},1,0\n{},0,1\n", LabelOptions(), ["Normal", "COVID-19"]),
        ("path,x,y\n{},Normal,p\n{},COVID-19,q\n", LabelOptions(label_column="x"), []),
    ],
    ids=["German", "map", "one-hot", "column"],
)
def test_classes_are_found_as_in_a_report(
    films: Path, tmp_path: Path, text: str, options: LabelOptions, classes: Sequence[str]
) -> None:
    (tmp_path / "l.csv").write_text(text.format(where(0), where(30)))
    found = collect([tmp_path / "l.csv"], roots=[films], options=options, classes=classes)
    assert [(file.path, file.label) for file in found.files] == [
        (where(0), "Normal"),
        (where(30), "COVID-19"),
    ]


def test_a_check_shows_what_fits_and_writes_nothing(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = KINDS["study"][1].rename(columns={"key": "StudyInstanceUID"})
    rows["Patienten-ID"] = [f"{CANARY}{number // 2}" for number in range(len(rows))]
    labels = tmp_path / "labels.csv"
    rows.to_csv(labels, index=False)
    output = str(tmp_path / "m.safetensors")
    command = ["train", str(labels), "--root", str(films), "-o", output, *FAST, "--check-labels"]
    assert main(command) == 0
    printed = capsys.readouterr()
    for line in (
        "joined       20 of 20 labels by study, 40 files; a label holds for each file that has it",
        "classes      'dark' 20, 'white' 20",
        "patients     10, named by the labels for 40 files",
    ):
        assert line in printed.out
    assert CANARY not in printed.out + printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]
    result = train(labels, output, root=films, check_labels=True, progress=False, workers=0)
    assert result.card is None
    with labels.open("a") as file:
        file.write("1.2.9,dark,x\n")
    assert main(command) == 1
    assert "1 x label without a file" in one_error(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.csv"]


def test_nothing_that_a_training_writes_or_prints_names_a_patient_or_a_study(
    films: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = KINDS["accession"][1].rename(columns={"key": "accession"})
    rows["Patienten-ID"] = [f"{CANARY}-p{number // 2}" for number in range(len(rows))]
    labels = tmp_path / "labels.csv"
    rows.to_csv(labels, index=False)
    work = tmp_path / "work"
    work.mkdir()
    command = ["train", str(labels), "--root", str(films), "-o", str(work / "m.safetensors"), *FAST]
    assert main([*command, "--mismatches", str(work / "list.csv")]) == 0
    printed = capfd.readouterr()
    written = [path for path in work.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} >= {".safetensors", ".csv", ".parquet", ".svg"}
    for text in [(printed.out + printed.err).encode(), *(path.read_bytes() for path in written)]:
        assert CANARY.encode() not in text
    table = pd.read_parquet(work / "m.results.parquet")
    assert set(table["path"]) <= {where(number) for number in range(40)}
    split = pd.read_csv(work / "m.split.csv")
    assert split.groupby("patient")["split"].nunique().max() == 1
    assert split["patient"].nunique() == 10

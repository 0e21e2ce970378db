"""Rows of files of labels: stray quotes, headers, separators, sheets, formulas and flags."""

from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from cxrbatch.errors import LabelError
from cxrbatch.results.frames import load_labels

CANARY = "CANARYNAME Hans"


def message_of(file: Path) -> str:
    with pytest.raises(LabelError) as caught:
        load_labels(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(folder: Path, text: str) -> Path:
    (folder / "l.csv").write_text(text)
    return folder / "l.csv"


def rows(notes: dict[int, str]) -> str:
    """Ten rows, on lines 2 to 11, with a note in some."""
    lines = [f"a/{n}.png;Normal;{notes.get(n, '')}" for n in range(2, 12)]
    return "\n".join(["path;label;note", *lines]) + "\n"


@pytest.mark.parametrize(
    ("notes", "line"),
    [
        ({3: '"12 cm big'}, 3),
        ({11: '"12 cm big'}, 11),
        ({4: '"12 cm big', 9: '"5 cm'}, 4),
        ({4: '"12 cm big', 9: 'tube of 5"'}, 4),
        ({4: '"'}, 4),
    ],
)
def test_a_stray_quote_loses_no_row_in_silence(
    tmp_path: Path, notes: dict[int, str], line: int
) -> None:
    assert f"line {line}: a field begins with a quote" in message_of(written(tmp_path, rows(notes)))


def test_notes_of_several_lines_with_quotes_and_separators_are_read(tmp_path: Path) -> None:
    note = '"Lungs clear;\nheart: ""large""\n\n1; 2; 3\nno effusion;"'
    file = written(tmp_path, rows({3: note, 5: 'a 5" tube', 7: '"quoted" twice'}))
    assert len(load_labels(file)) == len(pd.read_csv(file, sep=";")) == 10


def test_rows_without_a_path_are_not_one_image(tmp_path: Path) -> None:
    text = "path,sop,label\na.png,,Normal\n,1.2.3,Normal\n,1.2.4,COVID\n"
    frame = load_labels(written(tmp_path, text))
    assert frame["path"].tolist() == ["a.png", "", ""]


@pytest.mark.parametrize(
    "text",
    [
        f"{CANARY};Normal\nFritz;COVID\n",
        f"{CANARY};female;Verschattung basal\n",
        f"{CANARY};Normal;m;Befund\n" * 3,
        f"{CANARY};a/1.png;Befund\n" * 3,
        f"List of {CANARY}\n\nfilm;Ergebnis\na.png;Normal\n",
        f"Patient;{CANARY};CANARYNAME Fritz\nBefund;Normal;COVID\nDatei;a;b\n",
        f"path,label\v{CANARY}/1.dcm,Lung Opacity\n",
        "Patient,Age,CANARYNAME123\na,b,c\n",
        "Patient,split,CANARYNAME123\na,b,c\n",
    ],
    ids=range(9),
)
def test_texts_that_may_be_of_rows_are_not_shown(tmp_path: Path, text: str) -> None:
    assert "CANARY" not in message_of(written(tmp_path, text))


def test_unknown_names_of_columns_are_shown_where_they_are_words(tmp_path: Path) -> None:
    message = message_of(written(tmp_path, "image_file_x;outcome_y\na/1.png;Normal\n"))
    assert "separated by semicolons" in message
    assert "'image_file_x', 'outcome_y'" in message


def test_a_separator_line_that_does_not_fit_is_ignored(tmp_path: Path) -> None:
    text = "path;label\na,1.png;Normal\nb.png;COVID\n"
    for line in ("sep=,", "sep=", "sep=;", '"sep=\t"'):
        frame = load_labels(written(tmp_path, f"{line}\n{text}"))
        assert frame["path"].tolist() == ["a,1.png", "b.png"]


def book_of(folder: Path, sheets: dict[str, list[list[object]]], *, hidden: str = "") -> Path:
    """A workbook whose last sheet is the active one."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, cells in sheets.items():
        sheet = book.create_sheet(name)
        for row in cells:
            sheet.append(row)
        sheet.sheet_state = "hidden" if name == hidden else "visible"
    book.active = len(sheets) - 1
    book.save(folder / "l.xlsx")
    return folder / "l.xlsx"


HEADER = ["path", "label"]


def test_a_hidden_sheet_is_not_read(tmp_path: Path) -> None:
    sheets = {"old": [HEADER, ["a", "COVID"]], "new": [HEADER, ["a", "Normal"]]}
    frame = load_labels(book_of(tmp_path, sheets, hidden="old"))
    assert frame["label"].tolist() == ["Normal"]


def test_labels_in_two_sheets_are_refused(tmp_path: Path) -> None:
    sheets = {
        "Legend": [["Patient", "Klasse"], ["x", "y"]],
        CANARY: [HEADER, ["a", "Normal"]],
        "B": [HEADER, ["b", "COVID"]],
    }
    message = message_of(book_of(tmp_path, sheets))
    assert "sheets 2 and 3 all have columns of labels; put" in message
    assert "CANARY" not in message
    del sheets["B"]
    assert load_labels(book_of(tmp_path, sheets))["path"].tolist() == ["a"]


def test_the_name_of_a_sheet_is_not_shown(tmp_path: Path) -> None:
    sheets = {CANARY: [["path", "x"], ["a", "b"]], f"{CANARY} 2": [["film"], ["b"]]}
    message = message_of(book_of(tmp_path, sheets))
    assert "Excel, sheet 1" in message
    assert "CANARY" not in message


def test_a_formula_without_its_value_is_no_blank_label(tmp_path: Path) -> None:
    cells = [[*HEADER, "note"], ["a", "Normal", "=1+1"], ["b", '=IF(1>0,"COVID","")', ""]]
    message = message_of(book_of(tmp_path, {"A": cells}))
    assert "row 3: a formula has no stored value; open the file in Excel" in message
    cells[2][1] = "COVID"
    assert load_labels(book_of(tmp_path, {"A": cells}))["label"].tolist() == ["Normal", "COVID"]


FLAGS = "path,Normal,COVID-19,Viral Pneumonia,label\n"


def test_flags_beside_an_empty_label_name_the_class(tmp_path: Path) -> None:
    file = written(tmp_path, FLAGS + "a,1,0,0,\nb,0,1,0,\nc,0,0,1,virale Pneumonie\nd,,,,\n")
    labels = load_labels(file)["label"]
    assert labels.tolist()[:3] == ["Normal", "COVID-19", "virale Pneumonie"]
    assert labels.isna().tolist() == [False, False, False, True]


def test_a_label_that_contradicts_the_flags_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, FLAGS + "a,1,0,0,kein Befund\nb,0,1,0,Normal\n")
    assert "line 3: the label and the columns of classes contradict" in message_of(file)


def test_probabilities_beside_a_label_are_not_read_as_flags(tmp_path: Path) -> None:
    file = written(tmp_path, FLAGS + "a,0.9,0.1,0,COVID-19\nb,1,1,0,Normal\nc,0,0,0,Normal\n")
    assert load_labels(file)["label"].tolist() == ["COVID-19", "Normal", "Normal"]

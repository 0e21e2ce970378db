"""Labels: every row of a CSV or Parquet file, or an error that names the row."""

import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrbatch.errors import LabelError
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.results.label_lists import labels_in, read_labels


def csv_file(folder: Path, content: str | bytes) -> Path:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "labels.csv").write_bytes(data)
    return folder / "labels.csv"


def refused(folder: Path, content: str | bytes) -> str:
    with pytest.raises(LabelError) as caught:
        read_labels(csv_file(folder, content))
    assert str(folder / "labels.csv") in str(caught.value)
    return str(caught.value)


def test_all_columns_in_any_order(tmp_path: Path) -> None:
    text = "split,label,note,path,patient,source\n"
    text += "train,A,x,a.png,p1,s\nval, B ,y, b/c.png ,,\n,A,,d.png,p1, t \n"
    assert read_labels(csv_file(tmp_path, text)) == [
        LabelledFile("a.png", "A", "p1", "train", "s"),
        LabelledFile("b/c.png", "B", None, "val", None),
        LabelledFile("d.png", "A", "p1", None, "t"),
    ]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_spreadsheets_ways_of_writing(tmp_path: Path, newline: str, bom: str) -> None:
    text = newline.join([f"{bom}path,label", '"a, b.png","Größe ""x"""', "c.png,B", ""])
    assert read_labels(csv_file(tmp_path, text)) == [
        LabelledFile("a, b.png", 'Größe "x"'),
        LabelledFile("c.png", "B"),
    ]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_known_splits(tmp_path: Path, split: str) -> None:
    (found,) = read_labels(csv_file(tmp_path, f"path,label,split\na,A, {split} \n"))
    assert found.split == split


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "(CSV in UTF-8) with no columns: no column names the images"),
        ("\n", "with no columns: no column names the images"),
        ("films,label\na,A\n", "2 columns: 'films', 'label': no column names the images"),
        ("path,name\na,A\n", "no column names the class; name one with --label-column"),
        ("path,label\n", "has no rows"),
        ("path,label\na,A\n,B\n", "line 3: it has a label, but path is empty"),
        ("path,label\na,\n,\n", "none of its 1 rows has a label"),
        ("path,label\na,A\n  ,A\n", "line 3: it has a label, but path is empty"),
        ("path,label,split\na,A,all\n", "line 2: split is not train, val or test"),
        ("path,label,split\na,A,train\nb,A,Fold 2\n", "line 3: split is not train"),
        ("path,label\na,b,A\n", "line 2: more fields than the header; quote those that hold ','"),
        ("path;label\na;b;A\n", "line 2: more fields than the header; quote those that hold ';'"),
        ("path,label,path\na,A,b\n", "both 'path' and 'path' may be the column path; rename"),
        ("file,image,label\na,b,A\n", "'file' and 'image' may be the column path; name one with"),
        ("path,label\na,A\nb,A\na,B\n", "in the label of 1 images, as in its lines 2, 4: correct"),
        ("path,label\n" + "a,A\nb,A\n" * 2 + "a,B\nb,B\n", "of 2 images, as in its lines 2, 4, 6"),
    ],
)
def test_unusable_labels_are_refused_with_their_line(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert expected in refused(tmp_path, text)


def test_many_doubled_paths_are_not_all_listed(tmp_path: Path) -> None:
    rows = [f"file{i},{label}\n" for label in "ABCDEFG" for i in range(100)]
    message = refused(tmp_path, "path,label\n" + "".join(rows))
    assert "in the label of 100 images, as in its lines 2, 102, 202, 302, 402: " in message


def test_rows_that_say_the_same_count_once_and_fill_each_other(tmp_path: Path) -> None:
    text = "path,label,patient\na,A,\nb,B,q\n./a,A,p\na,,\na,A,\n"
    assert read_labels(csv_file(tmp_path, text)) == [
        LabelledFile("a", "A", "p"),
        LabelledFile("b", "B", "q"),
    ]
    assert "in the patient of 1 images" in refused(tmp_path, text.replace("a,A,\n", "a,A,r\n"))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"path,label\n\xff\x81,A\n", "is neither Excel nor Parquet, nor text in UTF-8, UTF-16 or"),
        ("path,label\na,A\n".encode("utf-16")[:-1], "nor text in UTF-8, UTF-16 or Windows-1252"),
        (
            b"path,label\n" + b"x" * 200_000 + b",A\n",
            "line 2: a field has more than 131,072 characters",
        ),
        (b"\x1f\x8b\x08\0", "is gzip-compressed; unpack it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is an old or protected Excel file; save it as .xlsx"),
    ],
    ids=["binary", "half a character", "huge field", "gzip", "xls"],
)
def test_what_is_no_text_of_rows_is_told_by_its_form(
    tmp_path: Path, data: bytes, expected: str
) -> None:
    assert expected in refused(tmp_path, data)


def test_labels_that_cannot_be_opened_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(LabelError, match="cannot read labels"):
            read_labels(path)


def test_rows_stand_as_they_are_where_paths_may_be_doubled(tmp_path: Path) -> None:
    rows = labels_in(csv_file(tmp_path, "path,label\na,A\n./a,B\n"))
    assert rows == [LabelledFile("a", "A"), LabelledFile("a", "B")]


# Parquet: pyarrow writes it, and the rows must be those of the same labels as CSV.


def parquet_file(folder: Path, columns: dict[str, object], name: str = "labels.csv") -> Path:
    """Its name says CSV: the content must tell."""
    pq.write_table(pa.table(columns), folder / name)
    return folder / name


def refused_parquet(folder: Path, columns: dict[str, object]) -> str:
    with pytest.raises(LabelError) as caught:
        read_labels(parquet_file(folder, columns))
    assert str(folder / "labels.csv") in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_parquet_file_gives_the_rows_of_its_csv(tmp_path: Path) -> None:
    columns = {
        "path": ["a.png", " b/./c.png ", "Größe"],
        "label": ["A", " B ", "A"],
        "patient": ["p", None, ""],
        "split": [None, "val", "test"],
        "source": ["s", "t", None],
        "note": [[1], [], [2, 3]],
    }
    (tmp_path / "as.csv").write_text(
        "path,label,patient,split,source\na.png,A,p,,s\n b/./c.png , B ,,val,t\nGröße,A,,test,\n"
    )
    assert read_labels(parquet_file(tmp_path, columns)) == read_labels(tmp_path / "as.csv")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([7, None]), ["7", None]),
        (pa.array([7.0, None]), ["7", None]),
        (pa.array([float("nan"), 1.5]), [None, "1.5"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array(["x", "y"], pa.large_string()), ["x", "y"]),
        (pa.array([None, None]), [None, None]),
    ],
    ids=["int", "float", "nan", "categories", "large", "null"],
)
def test_columns_of_other_types_are_their_text(
    tmp_path: Path, values: pa.Array, expected: list[str | None]
) -> None:
    file = parquet_file(tmp_path, {"path": ["a", "b"], "label": ["A", "B"], "patient": values})
    assert [item.patient for item in read_labels(file)] == expected


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"films": ["a"], "label": ["A"]}, "(Parquet) with 2 columns: 'films', 'label': no column"),
        ({"path": ["a"]}, "no column names the class"),
        ({"path": pa.array([], pa.string()), "label": pa.array([], pa.string())}, "has no rows"),
        ({"path": ["a", None], "label": ["A", "A"]}, "row 2: it has a label, but path is empty"),
        ({"path": ["a"], "label": [" "]}, "none of its 1 rows has a label"),
        ({"path": ["a"], "label": ["A"], "split": ["all"]}, "row 1: split is not train, val"),
        (
            {"path": ["a", "a"], "label": ["A", "B"]},
            "in the label of 1 images, as in its rows 1, 2",
        ),
        ({"path": ["a"], "label": [["A"]]}, "column 'label' of"),
        ({"path": [b"\xff"], "label": ["A"]}, "is not a whole Parquet file"),
        ({"path": ["a"], "label": ["A" * 70_000]}, "row 1: a field is longer than"),
    ],
)
def test_unusable_parquet_files_are_refused_with_their_row(
    tmp_path: Path, columns: dict[str, object], expected: str
) -> None:
    assert expected in refused_parquet(tmp_path, columns)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["A"]), pa.array(["b"])], ["path", "label", "path"])
    pq.write_table(table, tmp_path / "l")
    with pytest.raises(LabelError, match="both 'path' and 'path' may be the column path"):
        read_labels(tmp_path / "l")


def test_a_parquet_file_that_is_cut_or_damaged_gives_labels_or_one_line(tmp_path: Path) -> None:
    paths = [f"{number}.png" for number in range(50)]
    whole = parquet_file(tmp_path, {"path": paths, "label": ["A", "B"] * 25}).read_bytes()
    damaged = [whole[:length] for length in range(4, len(whole))]
    rng = random.Random(0)
    for _ in range(400):
        spoilt = bytearray(whole)
        spoilt[rng.randrange(4, len(whole))] = rng.randrange(256)
        damaged.append(bytes(spoilt))
    messages = []
    for content in damaged:
        (tmp_path / "l").write_bytes(content)
        try:
            read_labels(tmp_path / "l")
        except LabelError as error:
            messages.append(str(error))
    assert len(messages) >= len(whole) - 4  # all that are cut, and many others
    assert not any("\n" in message for message in messages)


def test_invalid_text_in_a_parquet_file_is_one_line(tmp_path: Path) -> None:
    text = pa.array([b"\xff"]).view(pa.string())
    assert "not a whole Parquet file" in refused_parquet(tmp_path, {"path": text, "label": ["A"]})


def test_rows_of_many_widths_take_no_more_memory_than_their_fields(tmp_path: Path) -> None:
    width = 200_000
    text = "path,label" + "," * width + "\n" + "a,A" + "," * width + "\n"
    text += "".join(f"{number},B\n" for number in range(20_000))
    labels = labels_in(csv_file(tmp_path, text))
    assert [len(labels), labels[0], labels[-1].label] == [20_001, LabelledFile("a", "A"), "B"]


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(LabelError, match=r"cannot read labels .*: not a regular file"):
        read_labels(tmp_path / "labels.csv")


def test_hostile_names_are_escaped_in_messages(tmp_path: Path) -> None:
    assert "'\\x1b[m'" in refused(tmp_path, 'path,"\x1b[m"\na,A\n')


@pytest.mark.parametrize(
    ("content", "hole"),
    [
        (b"", 20 << 30),
        (b"path,label\na,A\n", 20 << 30),
        (b'path,label\n"' + b"x\n" * 999_999, 0),
        (b"path,label\n" + b'"x\n",' * 300_000, 0),
        (b"path,label\na,A\n" + b"\n" * 2_100_000, 0),
    ],
    ids=["a hole", "a hole behind a row", "a field without end", "a row without end", "blank rows"],
)
def test_what_is_no_text_of_rows_is_refused_at_once(
    tmp_path: Path, content: bytes, hole: int
) -> None:
    file = csv_file(tmp_path, content)
    if hole:
        os.truncate(file, hole)
    with pytest.raises(LabelError, match=r"more than (1,048,576|131,072|2,000,000) "):
        labels_in(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path,label\na,A\0b\n", "line 2: a field holds a NUL character"),
        ("path,label\na,A\nb,A\0\n", "line 3: a field holds a NUL character"),
        (
            "path,label\n" + "".join(f"{n},{n}\n" for n in range(10_001)),
            "more than 10,000 different labels; the column of labels has to name classes",
        ),
    ],
)
def test_rows_that_name_no_class_or_file_are_refused(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert expected in refused(tmp_path, text)

"""Labels: every line of a file and every file of a folder, or an error that names the line."""

from pathlib import Path

import pytest

from cxrbatch.errors import LabelError
from cxrbatch.results.truth import LabelledFile, labels_from_folders, read_labels


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
    text = "split,label,note,path,patient\ntrain,A,x,a.png,p1\nval, B ,y, b/c.png ,\n,A,,d.png,p1\n"
    assert read_labels(csv_file(tmp_path, text)) == [
        LabelledFile("a.png", "A", "p1", "train"),
        LabelledFile("b/c.png", "B", None, "val"),
        LabelledFile("d.png", "A", "p1", None),
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
        ("", "has no column 'path'"),
        ("\n", "has no column 'path'"),
        ("file,label\na,A\n", "has no column 'path'"),
        ("path,class\na,A\n", "has no column 'label'"),
        ("path;label\na;A\n", "has no column 'path'"),
        ("path,label\n", "has no rows"),
        ("path,label\na,A\n,B\n", "line 3: path or label is empty"),
        ("path,label\na,\n", "line 2: path or label is empty"),
        ("path,label\na,A\nb\n", "line 3: path or label is empty"),
        ("path,label\n'  ',A\n  ,A\n", "line 3: path or label is empty"),
        ("path,label,split\na,A,training\n", "line 2: split is not train, val or test"),
        ("path,label,split\na,A,train\nb,A,Test\n", "line 3: split is not train"),
        ("path,label\na,A\nb,A\na,B\n", "names 1 paths more than once: a"),
        ("path,label\n" + "a,A\nb,A\n" * 3, "names 2 paths more than once: a, b"),
    ],
)
def test_unusable_labels_are_refused_with_their_line(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert expected in refused(tmp_path, text)


def test_many_doubled_paths_are_not_all_listed(tmp_path: Path) -> None:
    text = "path,label\n" + "".join(f"file{i},A\n" for i in range(100)) * 2
    message = refused(tmp_path, text)
    assert "names 100 paths more than once" in message
    assert message.count("file") == 5


@pytest.mark.parametrize(
    "data",
    [
        "path,label\na,A\n".encode("utf-16"),
        b"path,label\n\xff,A\n",
        b"path,label\n" + b"x" * 200_000 + b",A\n",
    ],
    ids=["utf-16", "latin-1", "huge field"],
)
def test_what_is_no_csv_in_utf8_is_refused(tmp_path: Path, data: bytes) -> None:
    assert "is not a CSV file in UTF-8" in refused(tmp_path, data)


def test_labels_that_cannot_be_opened_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(LabelError, match="cannot read labels"):
            read_labels(path)


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_are_classes_and_the_order_is_sorted(tmp_path: Path) -> None:
    make(tmp_path, "B/2.png", "B/10.png", "A/deep/er/x", "A/a.png", "A/deep/b", "loose.png")
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    assert labels_from_folders(tmp_path) == [
        LabelledFile("A/a.png", "A"),
        LabelledFile("A/deep/b", "A"),
        LabelledFile("A/deep/er/x", "A"),
        LabelledFile("B/10.png", "B"),
        LabelledFile("B/2.png", "B"),
    ]


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    (tmp_path / "A").mkdir()
    with pytest.raises(LabelError, match="has no class folders with files"):
        labels_from_folders(tmp_path)


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "file")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(LabelError, match="cannot list"):
            labels_from_folders(path)

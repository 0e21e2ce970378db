"""Labels and files: each label finds its one file, and whatever does not fit is listed."""

import os
from pathlib import Path

import pytest
from calls import collect

from cxrbatch.errors import LabelError
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.training.labelled_files import CollectedLabels
from cxrbatch.training.mismatches import (
    Mismatch,
    MismatchReason,
    order_classes,
    refuse_mismatches,
)


def labelled(*labels: str) -> list[LabelledFile]:
    return [LabelledFile(f"{i}.png", label) for i, label in enumerate(labels)]


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write_labels(file: Path, *rows: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("path,label\n" + "".join(f"{row}\n" for row in rows))
    return file


def paths(found: CollectedLabels) -> list[Path]:
    return [Path(os.fsdecode(file.path)) for file in found.located]


def reasons(found: CollectedLabels) -> list[tuple[str, MismatchReason]]:
    return [(mismatch.path, mismatch.reason) for mismatch in found.mismatches]


def test_class_folders(tmp_path: Path) -> None:
    make(tmp_path, "A/x", "A/y")
    (tmp_path / os.fsdecode(b"A/\xff\\")).touch()
    found = collect([tmp_path])
    assert found.files == tuple(LabelledFile(f"A/{n}", "A") for n in ("x", "y", "\\xff\\\\"))
    assert [file.path for file in found.located] == [
        os.fsencode(tmp_path) + b"/A/" + name for name in (b"x", b"y", b"\xff\\")
    ]
    assert found.mismatches == ()


def test_a_file_of_labels_whose_paths_are_relative_to_it(tmp_path: Path) -> None:
    make(tmp_path, "images/x.png", "y.png")
    labels = write_labels(tmp_path / "l.csv", "images/x.png,A", f"{tmp_path}/y.png,B")
    found = collect([labels])
    assert [file.path for file in found.files] == ["images/x.png", f"{tmp_path}/y.png"]
    assert paths(found) == [tmp_path / "images/x.png", tmp_path / "y.png"]
    assert found.root == tmp_path
    assert found.mismatches == ()


def test_several_sources_and_roots(tmp_path: Path) -> None:
    make(tmp_path, "one/a.png", "two/b.png", "folders/C/c.png", "own/a.png")
    labels = write_labels(tmp_path / "own" / "l.csv", "a.png,A", "b.png,B")
    found = collect(
        [labels, tmp_path / "folders"], roots=[tmp_path / "one", tmp_path / "two", tmp_path / "one"]
    )
    assert [path.relative_to(tmp_path).as_posix() for path in paths(found)] == [
        "one/a.png",
        "two/b.png",
        "folders/C/c.png",
    ]
    assert [file.label for file in found.files] == ["A", "B", "C"]
    assert found.mismatches == ()


def test_one_path_in_two_sources_is_told_apart(tmp_path: Path) -> None:
    make(tmp_path, "one/A/x.png", "two/A/x.png", "two/A/y.png")
    found = collect([tmp_path / "one", tmp_path / "two"])
    assert [file.path for file in found.files] == [
        f"{tmp_path}/one/A/x.png",
        f"{tmp_path}/two/A/x.png",
        "A/y.png",
    ]


def test_paths_with_the_escapes_of_a_table_find_their_files(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.png")).touch()
    make(tmp_path, "a\\x62.png")
    found = collect([write_labels(tmp_path / "l.csv", "\\xff.png,A", "a\\x62.png,B")])
    names = [os.path.basename(file.path) for file in found.located]
    assert names == [b"\xff.png", b"a\\x62.png"]
    assert [file.path for file in found.files] == ["\\xff.png", "a\\\\x62.png"]


def test_every_label_without_a_file_is_listed(tmp_path: Path) -> None:
    make(tmp_path, "there.png")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    lost = ["folder", "fifo", "loop", "nul\0", "x" * 300, *(f"gone{i}.png" for i in range(99))]
    labels = write_labels(tmp_path / "l.csv", "there.png,A", *(f"{name},A" for name in lost))
    found = collect([labels])
    assert [file.path for file in found.files] == ["there.png"]
    assert reasons(found) == [(name, MismatchReason.NO_FILE) for name in lost]
    assert [m.detail.rpartition(": ")[2] for m in found.mismatches[:6]] == [
        "not a regular file",
        "not a regular file",
        "Too many levels of symbolic links",
        "no possible path",
        "File name too long",
        "No such file or directory",
    ]
    with pytest.raises(LabelError, match=r"104 x label without a file: correct .*--root"):
        refuse_mismatches(found.mismatches)


def test_a_path_under_two_roots_is_listed_with_both(tmp_path: Path) -> None:
    make(tmp_path, "one/a.png", "two/a.png", "two/b.png", "l/x")
    (tmp_path / "one" / "b.png").symlink_to(tmp_path / "two" / "b.png")
    labels = write_labels(tmp_path / "l" / "l.csv", "a.png,A", "b.png,B")
    found = collect([labels], roots=[tmp_path / "one", tmp_path / "two"])
    assert found.mismatches[0] == Mismatch(
        f"{labels}, line 2",
        "a.png",
        MismatchReason.TWO_FILES,
        f"'{tmp_path}/one/a.png' and '{tmp_path}/two/a.png'",
    )
    assert [file.path for file in found.files] == ["b.png"]


def test_one_file_by_several_names_has_one_label(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.png", "c.png", "d.png", "sub/x")
    (tmp_path / "link.png").symlink_to("a.png")
    os.link(tmp_path / "b.png", tmp_path / "hard.png")
    rows = ["a.png,A,,", "link.png,B,,", "b.png,A,,val", f"{tmp_path}/hard.png,A,p,"]
    rows += ["c.png,A,p,", "c.png,A,q,", "d.png,A,p,", "d.png,A,p,"]
    labels = tmp_path / "l.csv"
    labels.write_text("path,label,patient,split\n" + "\n".join(rows))
    found = collect([labels])
    assert found.files == (
        LabelledFile("b.png", "A", "p", "val"),
        LabelledFile("d.png", "A", "p"),
    )
    lines = [f"{labels}, line {number}" for number in range(9)]
    assert found.mismatches == (
        Mismatch(
            lines[2], "a.png", MismatchReason.TWO_LABELS, f"label differ: {lines[2]}; {lines[3]}"
        ),
        Mismatch(
            lines[6], "c.png", MismatchReason.TWO_ROWS, f"patient differ: {lines[6]}; {lines[7]}"
        ),
    )


def test_images_that_no_label_names_are_counted(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "sub/B.PNG", "sub/c.jpeg", "sub/deep/d.jpg", "e.dcm", ".hidden.png")
    make(tmp_path, "notes.txt", "named.png")
    (tmp_path / "film").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "text").write_text("no image")
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "loop").symlink_to(".", target_is_directory=True)
    os.mkfifo(tmp_path / "fifo.png")
    for i in range(3):
        make(tmp_path, f"z{i}.png")
    labels = write_labels(tmp_path / "l.csv", "a.png,A", "named.png,B")
    names = ["e.dcm", "film", *(f"z{i}.png" for i in range(3))]
    names += ["sub/B.PNG", "sub/c.jpeg", "sub/deep/d.jpg"]
    everything = collect([labels], all_unlabelled=True)
    assert everything.unlabelled_paths == tuple(f"{tmp_path}/{name}" for name in names)
    found = collect([labels])
    assert found.unlabelled == everything.unlabelled == 8
    assert found.unlabelled_paths == everything.unlabelled_paths[:5]
    assert found.mismatches == ()
    assert len(found.files) == 2


def test_images_beside_class_folders_have_no_label(tmp_path: Path) -> None:
    make(tmp_path, "A/a.png", "B/b.png", "loose.png")
    assert collect([tmp_path]).unlabelled_paths == (f"{tmp_path}/loose.png",)


def test_sources_and_roots_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"cannot read labels .*none: No such file"):
        collect([tmp_path / "none"])
    make(tmp_path, "a.png")
    with pytest.raises(LabelError, match=r"--root .*a\.png is not a folder"):
        collect([write_labels(tmp_path / "l.csv", "a.png,A")], roots=[tmp_path / "a.png"])


def test_classes_come_in_the_alphabets_order_or_as_wanted() -> None:
    files = labelled("b", "a", "b", "C")
    assert order_classes(files, []) == ("C", "a", "b")
    assert order_classes(files, ["b", "C", "a"]) == ("b", "C", "a")


@pytest.mark.parametrize(
    ("labels", "wanted", "expected"),
    [
        ("A A", "", "all images are 'A'; training needs"),
        ("A A", "A", "all images are 'A'"),
        ("COVID Covid COVID", "", r"two spellings: 'COVID' \(2 images\) and 'Covid' \(1\)"),
        ("A B", "A,C", "no image of 'C'; label some, or take the name out of --classes"),
        ("A B", "A,B,C,D", "no image of 'C', 'D'"),
        ("A B C", "A,B", "the label 'C' is not in --classes; add it there, or remove"),
        ("A B", "A,B,A", "twice"),
    ],
)
def test_unusable_classes_are_refused(labels: str, wanted: str, expected: str) -> None:
    with pytest.raises(LabelError, match=expected):
        order_classes(labelled(*labels.split()), [c for c in wanted.split(",") if c])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Lung Opacity", "LungOpacity"),
        ("Lung Opacity", "lung_opacity"),
        ("COVID-19", "Covid 19"),
        ("COVID-19", "COVID19"),
        ("COVID-19", "covid-19 "),
        ("Gr\u00f6\u00dfe", "gro\u0308SSE"),
    ],
)
def test_two_spellings_of_one_class_are_refused(one: str, other: str) -> None:
    with pytest.raises(LabelError, match="two spellings"):
        order_classes(labelled(one, other), [])


@pytest.mark.parametrize(("one", "other"), [("A", "A-"), ("1-1", "11"), ("T1 2", "T12")])
def test_what_means_something_is_no_spelling(one: str, other: str) -> None:
    assert set(order_classes(labelled(one, other), [])) == {one, other}


@pytest.mark.parametrize("name", ["x" * 65, "two\nlines", "\udcff"], ids=["long", "lines", "bytes"])
def test_names_that_no_card_can_hold_are_refused_before_any_work(name: str) -> None:
    with pytest.raises(LabelError, match="rename its folder"):
        order_classes(labelled("A", name), [])


def test_more_classes_than_a_card_can_hold_are_refused() -> None:
    with pytest.raises(LabelError):
        order_classes(labelled(*(f"class {i}" for i in range(257))), [])

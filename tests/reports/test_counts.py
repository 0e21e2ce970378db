"""Copies, laterals and unlabelled images: on the page, in JSON, in the terminal, in Python."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pages import TableMaker, report, text_of

from cxrbatch import cli
from cxrbatch.reports.gallery import _in_children
from cxrbatch.results.evaluation import evaluate, headline
from cxrbatch.results.frames import load_results

Columns = dict[str, list[Any]]
Pairs = list[tuple[int, int]]

# Ten films predicted rightly and two wrongly, then two copies and three laterals, all wrong.
RIGHT, WRONG = [(n % 4, n % 4) for n in range(10)], [(0, 1), (1, 2)]
PAIRS = [*RIGHT, *WRONG, (0, 1), (1, 2), (0, 2), (0, 2), (0, 2)]


def edit(columns: Columns) -> None:
    """Rows 13 and 14 are copies of 11 and 12, by the picture and by the UID; then laterals."""
    columns["image_hash"][12] = columns["image_hash"][10]
    columns["sop_instance_uid"][11] = columns["sop_instance_uid"][13] = "1.2.3"
    for row in (14, 15, 16):
        columns["image_flags"][row] = ["lateral", "lossy"]


def test_figures_stand_beside_those_of_all_images(
    make_table: TableMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    table = make_table(PAIRS, edit=edit)
    page = report(table, "--json", str(table.with_name("f.json")))
    found = json.loads(table.with_name("f.json").read_text())
    flow, evaluation = found["flow"], found["evaluation"]
    assert (flow["scored"], flow["analysed"]) == (17, 12)
    assert [(step["name"], step["count"]) for step in flow["flagged"]] == [("lateral", 3)]
    assert [(step["name"], step["count"]) for step in flow["copies"]] == [
        ("same_picture", 1),
        ("same_uid", 1),
    ]
    assert evaluation["accuracy"]["value"] == 10 / 12
    assert evaluation["all_images"]["accuracy"]["value"] == 10 / 17
    assert evaluation["all_images"]["images"] == 17
    captured = capsys.readouterr()
    assert "flagged      3 (lateral 3) left out; --keep-flagged counts them" in captured.out
    assert "copies       2 (same picture 1, same uid 1) left out" in captured.out
    assert "accuracy     0.8333 (n=12), all 0.5882 (n=17)" in captured.out
    assert re.search(r"warning: .* share a SOP Instance UID with another picture: 2;", captured.err)
    text = text_of(page)
    assert "3 flagged: no frontal chest radiographs 3 lateral" in text
    assert "2 copies of an image that counts 1 same picture" in text
    assert re.search(r"Accuracy 0\.833 .*? n 12 all images 0\.588 \(0\.\d+–0\.\d+\), n 17", text)
    assert "All 17 images with a truth" in text


@pytest.mark.parametrize(
    ("words", "images"),
    [
        ([], 12),
        (["--keep-copies"], 14),
        (["--keep-flagged"], 15),
        (["--keep-copies", "--keep-flagged"], 17),
    ],
)
def test_the_command_and_python_keep_the_same(
    make_table: TableMaker, capsys: pytest.CaptureFixture[str], words: list[str], images: int
) -> None:
    table = make_table(PAIRS, edit=edit)
    keep = {word[2:].replace("-", "_"): True for word in words}
    for results in (table, load_results(table)):
        found = evaluate(results, **keep)
        assert found.images == images
        assert (found.all_images is None) == (images == 17)
        assert found.all_images is None or found.all_images.images == 17
        short = headline(results, **keep)
        assert (short.accuracy, short.all_images) == (found.accuracy, found.all_images)
    report(table, *words)
    assert f"analysed     {images} of 17 scored images" in capsys.readouterr().out


def test_all_images_are_rows_of_the_frame(make_table: TableMaker) -> None:
    found = evaluate(make_table(PAIRS, edit=edit))
    frame = found.to_frame()
    assert not frame[["name", "class"]].duplicated().any()
    accuracy = frame.set_index("name").loc["all_images accuracy"]
    assert (accuracy["value"], accuracy["n"]) == (10 / 17, 17)
    assert (frame["name"] == "all_images auc").sum() == 4


def test_rows_that_stand_twice_in_a_frame_count_once(make_table: TableMaker) -> None:
    frame = load_results(make_table(RIGHT))
    twice = frame.iloc[[*range(len(frame)), *range(6)]]
    assert evaluate(twice).accuracy == evaluate(frame).accuracy
    assert evaluate(twice, keep_copies=True).images == 16


def test_copies_with_two_truths_are_told(
    make_table: TableMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    def alike(columns: Columns) -> None:
        columns["image_hash"][1] = columns["image_hash"][0]

    report(make_table(RIGHT, edit=alike))
    assert (
        "warning: groups of equal images with several true classes: 1;" in capsys.readouterr().err
    )


def test_where_all_images_are_flagged_there_is_one_line(
    make_table: TableMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    def flag(columns: Columns) -> None:
        columns["image_flags"] = [["not_chest_tag"]] * len(columns["image_flags"])

    table = make_table(RIGHT, edit=flag)
    with pytest.raises(Exception, match=r"are flagged .*; keep_flagged counts them") as caught:
        evaluate(table)
    assert type(caught.value).__name__ == "LabelError"
    assert cli.main(["compare", str(table), str(table)]) == 1
    assert "--keep-flagged compares them" in capsys.readouterr().err
    assert "undefined: no images" in text_of(report(table))


@pytest.fixture
def tables(write_results: TableMaker, tmp_path: Path) -> Callable[..., list[str]]:
    """Writes the same table twice, in two folders."""

    def write(**options: object) -> list[str]:
        paths = []
        for name in "ab":
            (tmp_path / name).mkdir()
            paths.append(str(write_results(tmp_path / name, PAIRS, **options)))
        return paths

    return write


def test_compare_counts_on_both_sides_alike(
    tables: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unlabelled(columns: Columns) -> None:
        edit(columns)
        columns["truth"] = [None if n in (0, 1, 2, 3, 4) else t for n, t in enumerate(
            columns["truth"]
        )]  # fmt: skip

    page, figures = tmp_path / "p.html", tmp_path / "f.json"
    words = ["compare", *tables(edit=unlabelled), "-o", str(page), "--json", str(figures)]
    assert cli.main(words) == 0
    found = json.loads(figures.read_text())
    flow = found["flow"]
    assert (found["unpaired"], flow["scored"], flow["unlabelled"]) == ([0, 0], 17, 5)
    assert [sum(s["count"] for s in flow[name]) for name in ("flagged", "copies")] == [3, 2]
    assert found["images"] == flow["analysed"] == 7
    for evaluation in found["evaluations"]:
        assert evaluation["accuracy"]["value"] == 5 / 7
        assert evaluation["all_images"]["accuracy"]["value"] == 5 / 12
    out = capsys.readouterr().out
    assert "unpaired     0 of the first, 0 of the second" in out
    assert "unlabelled   5 scored images have no truth" in out
    assert "all images   accuracy 0.4167 -> 0.4167 (n=12)" in out
    assert re.search(r"5 without a truth .* 7 images compared", text_of(page))
    assert cli.main([*words, "--overwrite", "--keep-copies", "--keep-flagged"]) == 0
    assert json.loads(figures.read_text())["images"] == 12


def test_compare_finds_the_copies_of_the_second_table_too(
    write_results: TableMaker, tmp_path: Path
) -> None:
    """Another recipe may make one input of two pictures: the order of the tables is no matter."""

    def alike(columns: Columns) -> None:
        columns["image_hash"] = [h and f"f{h[1:]}" for h in columns["image_hash"]]
        columns["image_hash"][4] = columns["image_hash"][0]

    paths = []
    for name, options in (("a", {}), ("b", {"edit": alike, "provenance": {"fast_decode": True}})):
        (tmp_path / name).mkdir()
        paths.append(str(write_results(tmp_path / name, RIGHT, **options)))
    figures = tmp_path / "f.json"
    for order in (paths, paths[::-1]):
        assert cli.main(["compare", *order, "--json", str(figures), "--overwrite"]) == 0
        assert json.loads(figures.read_text())["images"] == 9


def test_a_wrong_archive_is_told(
    make_table: TableMaker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cxrbatch.reports.gallery._SECONDS", 300.0)

    def burned_in(columns: Columns) -> None:
        columns["image_flags"][0] = ["burned_in_risk"]

    table = make_table(RIGHT, films=len(RIGHT), edit=burned_in)
    report(table)
    assert "warning" not in capsys.readouterr().err
    other = tmp_path / "other"
    (other / "films").mkdir(parents=True)
    films = tmp_path / "archive" / "films"
    (other / "films" / "1.png").write_bytes((films / "2.png").read_bytes())
    report(table, "--archive", str(other))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert re.fullmatch(
        r"warning: 9 of 10 wanted pictures are not shown: not in the archive any more \(8\), "
        r"changed since it was scored \(1\); name the folder where the archive is now by --archive",
        line,
    )
    assert cli.main(["compare", str(table), str(table), "--archive", str(other)]) == 0
    assert "wanted pictures" not in capsys.readouterr().err  # the two do not differ


def test_no_picture_waits_for_an_import() -> None:
    loaded = f"{_in_children.__module__!r} in __import__('sys').modules"
    assert [*_in_children(partial(eval), [loaded, loaded], workers=2)] == [True, True]

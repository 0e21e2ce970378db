"""The command `report`: figures on the page and in JSON, and what it refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import TableMaker, report, text_of

from cxrbatch import cli
from cxrbatch.results.columns import SCHEMA_VERSION

Pairs = list[tuple[int, int]]


def test_the_study_has_its_accuracy_with_wilsons_interval(study_page: Path) -> None:
    text = text_of(study_page)
    assert re.search(r"Accuracy 0\.940 95 % interval 0\.912–0\.959, Wilson, n 400", text)
    assert "99 99.0 %" in text
    assert "401 images or other files" in text
    assert "400 images analysed" in text


def test_json_has_the_figures_of_the_page(make_table: TableMaker, seed_study: Pairs) -> None:
    table = make_table(seed_study)
    report(table, "--json", str(table.with_name("f.json")), "--prevalence", "covid 19=0.05")
    found = json.loads(table.with_name("f.json").read_text())
    assert found["evaluation"]["accuracy"]["value"] == pytest.approx(376 / 400, abs=1e-12)
    assert [round(found["evaluation"]["accuracy"][bound], 3) for bound in ("low", "high")] == [
        0.912,
        0.959,
    ]
    assert found["evaluation"]["classes"][1]["prevalence"] == 0.05
    flow = found["flow"]
    assert flow["rows"] == flow["scored"] + sum(s["count"] for s in flow["excluded"]) == 401
    assert "path" not in json.dumps(found["gallery"])
    assert found["gallery"][0]["images"][0]["not_shown"] == "the archive is not at hand"
    assert "lossy" in json.dumps(found["gallery"])
    assert "archive_root" not in found


def test_json_says_of_the_model_what_the_page_says(make_table: TableMaker) -> None:
    card = json.dumps({"name": "m", "architecture": "net", "limits": ["one", "two"]})
    table = make_table([(0, 0), (1, 1)], provenance={"card": card})
    report(table, "--json", str(table.with_name("f.json")), "--show-paths")
    found = json.loads(table.with_name("f.json").read_text())
    told = found["model"], found["architecture"], found["limits"], found["table"]["recipe"]["size"]
    assert told == ("m", "net", ["one", "two"], "32")
    assert found["archive_root"] == str(table.parent / "archive")


@pytest.mark.parametrize("fast", [True, False, None])
def test_the_page_says_of_images_that_they_were_decoded_at_a_reduced_size(
    make_table: TableMaker, fast: bool | None
) -> None:
    made = {} if fast is None else {"fast_decode": fast}
    text = text_of(report(make_table([(0, 0), (1, 1)], provenance=made)))
    assert ("--fast-decode" in text) == bool(fast)


def test_without_a_truth_there_is_a_page_without_figures(
    make_table: TableMaker, seed_study: Pairs
) -> None:
    text = text_of(report(make_table(seed_study, labelled=False)))
    assert "without a truth to compare them with" in text
    assert "Confusion matrix" not in text
    assert "Surest" in text


@pytest.mark.parametrize(
    "pairs",
    [[(0, 0)], [(0, 1)], [(0, 0)] * 30, [(0, 0), (1, 0), (0, 0)], []],
    ids=["one right", "one wrong", "one class", "never predicted", "no image"],
)
def test_what_is_undefined_says_why(make_table: TableMaker, pairs: Pairs) -> None:
    page = report(make_table(pairs))
    assert "undefined: " in text_of(page)
    assert "nan" not in text_of(page).lower().split()


def test_of_a_split_test_alone_is_analysed(
    make_table: TableMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    def side(columns: dict[str, list[Any]]) -> None:
        columns["split"] = ["val"] * 6 + ["test"] * 4 + [None]

    page = report(make_table([(0, 0), (1, 1)] * 5, edit=side))
    assert "4 images analysed, side test" in text_of(page)
    assert re.search(r"6 on another side of the split 6 val", text_of(page))
    assert "test alone; 6 images of other sides" in capsys.readouterr().out


def test_tables_have_captions_and_scopes(study_page: Path) -> None:
    for table in re.findall(r"<table.*?</table>", study_page.read_text(), flags=re.S):
        assert "<caption>" in table
        assert not re.findall(r"<th(?! scope=)[ >]", table)


def test_every_class_is_named_and_a_long_name_is_cut(make_table: TableMaker) -> None:
    classes = (*(f"Disease number {number}" for number in range(30)), "x" * 100_000)
    page = report(make_table([(0, 0), (30, 30)] * 4, classes=classes))
    assert ", Disease number 29, xxx" in text_of(page)
    assert len(page.read_text()) < 500_000


@pytest.mark.parametrize("given", ["COVID-19", "COVID-19=2", "COVID-19=nan", "=0.1"])
def test_a_prevalence_that_is_none_is_wrong_usage(
    make_table: TableMaker, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    table = make_table([(0, 0)])
    assert cli.main(["report", str(table), "--prevalence", given]) == 2
    assert cli.main(["report", str(table), "--prevalence", "Cold=0.1"]) == 1
    assert "name no class of the model" in capsys.readouterr().err


@pytest.mark.parametrize(("again", "code"), [("Normal", 2), ("normal", 1)])
def test_two_prevalences_of_a_class_are_refused(
    make_table: TableMaker, capsys: pytest.CaptureFixture[str], again: str, code: int
) -> None:
    words = ["--prevalence", "Normal=0.1", "--prevalence", f"{again}=0.2"]
    assert cli.main(["report", str(make_table([(0, 0)])), *words]) == code
    assert "two prevalences; give one" in capsys.readouterr().err


def test_images_that_are_not_held_out_are_told(
    make_table: TableMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    def side(columns: dict[str, list[Any]]) -> None:
        columns["split"] = ["train", "val", None, None, None]

    page = report(make_table([(0, 0), (1, 1)] * 2, edit=side))
    assert "put 2 of the analysed images on the side train or val" in text_of(page)
    assert "2 analysed images are of its side train or val" in capsys.readouterr().out


def test_the_page_never_takes_the_place_of_what_is_read(
    make_table: TableMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    table = make_table([(0, 0)])
    read = table.rename(table.with_name("page.html.tmp"))
    assert cli.main(["report", str(read), "-o", str(table.with_name("page.html"))]) == 2
    assert "is the file that is to be read" in capsys.readouterr().err
    assert read.exists()
    (table.parent / "sub").mkdir()
    page, same = table.with_name("p.html"), table.parent / "sub" / ".." / "p.html"
    assert cli.main(["report", str(read), "-o", str(page), "--json", str(same)]) == 2
    assert "name one file" in capsys.readouterr().err


def test_the_page_is_not_written_through_a_link(make_table: TableMaker) -> None:
    table = make_table([(0, 0)])
    other = table.with_name("other")
    other.write_text("mine")
    table.with_name("page.html.tmp").symlink_to(other)
    assert "Research use only" in report(table).read_text()
    assert other.read_text() == "mine"


def test_nothing_is_replaced_unasked(
    make_table: TableMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    table = make_table([(0, 0)])
    assert cli.main(["report", str(table), "-o", str(table), "--overwrite"]) == 2
    page = report(table)
    assert cli.main(["report", str(table), "-o", str(page)]) == 2
    assert "give --overwrite" in capsys.readouterr().err


def test_an_older_table_has_the_figures_of_one_of_today(
    make_table: TableMaker, seed_study: Pairs, write_as_older: Callable[..., None]
) -> None:
    table, figures = make_table(seed_study), []
    for age in (lambda _: None, write_as_older):
        age(table)
        report(table, "--json", str(table.with_name("f.json")), "--overwrite")
        figures.append(json.loads(table.with_name("f.json").read_text()))
    versions = [found["table"].pop("schema_version") for found in figures]
    assert versions == [SCHEMA_VERSION, "2.1"]
    assert figures[0] == figures[1]

"""The command `report`: figures on the page and in JSON, and what it refuses."""

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrbatch import cli
from cxrbatch.reading.facts import HeaderFacts
from cxrbatch.results.table import PROVENANCE_KEY

TableMaker = Callable[..., Path]
Pairs = list[tuple[int, int]]


def text_of(page: Path) -> str:
    """The page's words, one space apart."""
    words = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page.read_text(), flags=re.S)
    return re.sub(r"\s+", " ", words)


def report(table: Path, *words: str) -> Path:
    page = table.with_name("page.html")
    assert cli.main(["report", str(table), "-o", str(page), "--overwrite", *words]) == 0
    return page


class Nodes(HTMLParser):
    """Counts elements by name and by the attributes that they have."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, tuple[str, ...]]] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[tag, tuple(sorted(name for name, _ in attrs))] += 1


def nodes(page: Path) -> Counter[tuple[str, tuple[str, ...]]]:
    parser = Nodes()
    parser.feed(page.read_text())
    return parser.found


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


def test_the_policy_has_the_hash_of_the_only_style(study_page: Path) -> None:
    text = study_page.read_text()
    (style,) = re.findall(r"<style>(.*?)</style>", text, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = re.findall(
        r'Content-Security-Policy" content="([^"]*)"', text.replace("&#39;", "'")
    )
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    assert not re.search(r"<script|\sstyle=|\son\w+=|https?://", text)


def test_tables_have_captions_and_scopes(study_page: Path) -> None:
    for table in re.findall(r"<table.*?</table>", study_page.read_text(), flags=re.S):
        assert "<caption>" in table
        assert not re.findall(r"<th(?! scope=)[ >]", table)


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</title><svg onload=alert(1)>",
    "</style><style>*{display:none}",
    "\"><iframe src='javascript:alert(1)'>",
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}",
    "{% include '/etc/passwd' %}",
    "{# gone #}",
    "${7*7}",
    "<!-- ",
    "-->",
    "]]>",
    "&lt;b&gt;",
    "\u202eevil\u202c",
    "\u2066x\u2069",
    "\u200b",
    "\x1b[31m",
    "javascript:alert(1)",
    "<b>bold</b>",
    "<table><tr><td>",
    "</table></main>",
    "a" * 60,
    "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    "'; DROP TABLE x; --",
    "../../etc/passwd",
    "<meta http-equiv=refresh content=0>",
    "<base href=//evil>",
    "<link rel=stylesheet href=//evil>",
    "%3Cscript%3E",
]


@pytest.mark.parametrize("evil", HOSTILE)
def test_a_hostile_text_is_shown_as_text(make_table: TableMaker, evil: str) -> None:
    def page_with(name: str) -> Path:
        classes = ("Normal", f"x{name}")
        facts = HeaderFacts(
            manufacturer=name, patient_sex=name, view_position=name, photometric=name
        )
        card = json.dumps({"name": name, "architecture": name, "limits": [name]})
        return report(
            make_table(
                [(0, 0), (1, 1), (1, 0), (0, 0)],
                classes=classes,
                facts=facts,
                rename=lambda number: f"{number}{name}.png",
                provenance={"card": card, "device": name, "versions": {name: name}},
            ),
            "--show-paths",
        )

    expected = nodes(page_with("benign"))
    page = page_with(evil)
    assert nodes(page) == expected
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x1b]", page.read_text())
    assert "root:x:" not in page.read_text()


def test_no_path_uid_or_patient_is_told_unless_asked_for(
    make_table: TableMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = HeaderFacts(
        sop_instance_uid="1.2.CANARY", series_instance_uid="1.3.CANARY",
        study_instance_uid="1.4.CANARY", patient_sex="M",
    )  # fmt: skip
    table = make_table(
        [(0, 0), (1, 0)] * 4,
        films=8,
        facts=facts,
        rename=lambda number: f"CANARY/{number % 8}.png",
        patients=lambda number: f"keyCANARY{number}",
    )
    figures = table.with_name("f.json")
    page = report(table, "--json", str(figures))
    told = page.read_text() + figures.read_text() + "".join(capsys.readouterr())
    assert "CANARY" not in told
    assert str(table.parent / "archive") not in told
    assert "data:image/webp" in told
    shown = report(table, "--show-paths").read_text()
    assert "CANARY/0.png" in shown
    assert "1.2.CANARY" not in shown
    assert "keyCANARY" not in shown


def test_every_class_is_named_and_a_long_name_is_cut(make_table: TableMaker) -> None:
    classes = (*(f"Disease number {number}" for number in range(30)), "x" * 100_000)
    page = report(make_table([(0, 0), (30, 30)] * 4, classes=classes))
    assert ", Disease number 29, xxx" in text_of(page)
    assert len(page.read_text()) < 500_000


def set_at(name: str, value: object) -> Callable[[dict[str, list[Any]]], None]:
    def edit(columns: dict[str, list[Any]]) -> None:
        columns[name][0] = value

    return edit


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"edit": set_at("prediction", "COVID-19")}, "prediction of row 1 is not its most"),
        ({"edit": set_at("prediction", "Other")}, "the prediction 'Other' is no class"),
        ({"edit": set_at("prediction", None)}, "a scored row has no prediction"),
        ({"edit": set_at("p_Normal", float("nan"))}, "a score is not finite"),
        ({"edit": set_at("p_Normal", 0.9)}, "do not add up to 1"),
        ({"edit": set_at("p_Normal", None)}, "a scored row lacks a score"),
        ({"edit": set_at("logit_Normal", float("inf"))}, "a score is not finite"),
        ({"edit": set_at("outcome", "fine")}, "the outcome 'fine' is unknown"),
        ({"edit": set_at("outcome", "corrupt")}, "has no prediction, or another row has one"),
        ({"edit": set_at("truth", "Cold")}, "name no class of the model: 'Cold'"),
        ({"provenance": {"rows": 4}}, "its count of rows is not that of its rows"),
        ({"provenance": {"files": -1}}, "its count of files"),
        ({"provenance": {"outcomes": {"scored": -2}}}, "its count of outcomes"),
        ({"provenance": {"passed_over": {"link": -1}}}, "passed over are no counts"),
        ({"provenance": {"passed_over": 7}}, "passed over are no counts"),
        ({"provenance": {"schema_version": "3.0"}}, "schema version 3.0"),
    ],
)
def test_a_table_that_was_edited_is_one_line(
    make_table: TableMaker,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, Any],
    expected: str,
) -> None:
    table = make_table([(0, 0), (1, 1)], **options)
    page = table.with_name("page.html")
    assert cli.main(["report", str(table), "-o", str(page)]) == 1
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not page.exists()


def test_a_table_cut_short_is_one_line(
    make_table: TableMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    table = make_table([(0, 0)])
    table.write_bytes(table.read_bytes()[:-20])
    assert cli.main(["report", str(table), "-o", str(table.with_name("p.html"))]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"recipe": "abc", "card": "[1]", "archive_root": 7, "versions": [], "device": None},
        {"recipe": {}, "versions": {"x": 1e308 * 10}, "device": 1e308 * 10},
        {"card": '{"temperature": "hot", "operating_points": 3, "limits": "none", "name": 3}'},
        {"card": '{"temperature": 1e999, "name": 1e999, "limits": [[1e999]]}'},
        {"card": '{"operating_points": {"Normal": {"youden": {"threshold": 1e999}}}}'},
        {"max_pixels": 1e308 * 10},
        {"card": "{"},
        {"card": 4},
    ],
)
def test_odd_provenance_is_no_traceback(make_table: TableMaker, odd: dict[str, Any]) -> None:
    table = make_table([(0, 0), (1, 1)])
    rows = pq.read_table(table)
    made = json.loads(rows.schema.metadata[PROVENANCE_KEY]) | odd
    metadata = {PROVENANCE_KEY: json.dumps(made).replace("Infinity", "1e999")}
    pq.write_table(rows.replace_schema_metadata(metadata), table)
    report(table, "--json", str(table.with_name("f.json")))


def test_text_that_is_no_utf8_is_one_line(
    make_table: TableMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    table = make_table([(0, 0), (1, 1)])
    rows = pq.read_table(table)
    bad = pa.array([b"\xff", b"\xfe", None]).view(pa.string())
    spoilt = rows.set_column(rows.column_names.index("patient_sex"), "patient_sex", bad)
    pq.write_table(spoilt.replace_schema_metadata(rows.schema.metadata), table)
    assert cli.main(["report", str(table), "-o", str(table.with_name("p.html"))]) == 1
    assert "is damaged" in capsys.readouterr().err


def test_a_missing_and_a_changed_film_are_told(make_table: TableMaker) -> None:
    table = make_table([(0, 0), (1, 1), (2, 2)], films=3)
    films = sorted((table.parent / "archive" / "films").iterdir())
    films[0].unlink()
    films[1].write_bytes(films[2].read_bytes())
    page = report(table).read_text()
    assert "not in the archive any more" in page
    assert "changed since it was scored" in page
    moved = table.parent / "moved"
    (table.parent / "archive").rename(moved)
    assert "the archive is not at hand" in report(table).read_text()
    assert "data:image/webp" in report(table, "--archive", str(moved)).read_text()


@pytest.mark.parametrize("path", ["../secret.png", "a/../../secret.png", "{outside}"])
def test_nothing_outside_the_archive_gets_onto_the_page(make_table: TableMaker, path: str) -> None:
    table = make_table([(0, 0)], films=1)
    outside = table.parent / "secret.png"
    outside.write_bytes((table.parent / "archive/films/0.png").read_bytes())
    rows = pq.read_table(table)
    named = [path.format(outside=outside), "notes.txt"]
    changed = rows.set_column(rows.column_names.index("path"), "path", [named])
    pq.write_table(changed.replace_schema_metadata(rows.schema.metadata), table)
    assert "data:image/webp" not in report(table).read_text()


def test_a_film_with_text_burned_in_is_withheld(make_table: TableMaker) -> None:
    page = report(make_table([(0, 0)], films=1, edit=set_at("flags", ["burned_in_risk"])))
    assert "text may be burned into it" in page.read_text()
    assert "data:image/webp" not in page.read_text()


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

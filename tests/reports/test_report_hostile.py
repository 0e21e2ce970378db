"""Hostile, edited and private tables: text stays text on the page, and nothing is told."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pages import TableMaker, nodes, report

from cxrbatch import cli
from cxrbatch.reading.readings import HeaderFacts
from cxrbatch.results.columns import PROVENANCE_KEY


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
        ({"edit": set_at("p_Normal", float("nan"))}, "a score is missing or not finite"),
        ({"edit": set_at("p_Normal", 0.9)}, "do not add up to 1"),
        ({"edit": set_at("p_Normal", None)}, "a score is missing or not finite"),
        ({"edit": set_at("logit_Normal", float("inf"))}, "a score is missing or not finite"),
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


@pytest.mark.parametrize("column", ["outcome", "prediction", "path", "truth", "patient_sex"])
def test_a_text_in_every_row_is_one_line(
    make_table: TableMaker, capsys: pytest.CaptureFixture[str], column: str
) -> None:
    table = make_table([(0, 0), (1, 1)] * 200)
    rows = pq.read_table(table)
    long = pa.DictionaryArray.from_arrays(pa.array([0] * len(rows), pa.int8()), ["x" * 1_000_000])
    forged = rows.set_column(rows.column_names.index(column), column, long)
    with pq.ParquetWriter(table, forged.schema, store_schema=False) as writer:
        writer.write_table(forged)
        made = rows.schema.metadata[PROVENANCE_KEY].decode()
        writer.add_key_value_metadata({PROVENANCE_KEY.decode(): made})
    assert cli.main(["report", str(table), "-o", str(table.with_name("p.html"))]) == 1
    error = capsys.readouterr().err
    assert re.search(r"expands to more than \d{3} MiB, more than a table of its size may", error)
    assert error.count("\n") == 1


def test_a_process_that_reads_pictures_imports_little() -> None:
    """Its first picture has 20 seconds, of which a busy machine needs many for scikit-learn."""
    code = "import sys, cxrbatch.reports.gallery\n"
    code += "print({'torch', 'pandas', 'scipy', 'sklearn'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


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
    page = report(make_table([(0, 0)], films=1, edit=set_at("image_flags", ["burned_in_risk"])))
    assert "text may be burned into it" in page.read_text()
    assert "data:image/webp" not in page.read_text()

"""Runs are evaluated with a file of labels, as a report is, or say in one line why not."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flask import Flask

from cxrbatch.cli import main
from cxrbatch.results.analysis import analyse
from cxrbatch.results.evaluation import headline
from cxrbatch.results.label_files import AS_USUAL, LabelOptions
from cxrbatch.webapp.app import close_app, create_app
from cxrbatch.webapp.library import get_service
from cxrbatch.webapp.runs import Evaluations
from cxrbatch.webapp.security import allowed_hosts

TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PATIENT = "Zq7Canary"
SECONDS = 120
"""Time in which a small table is evaluated, on a machine that is busy with others."""


def written(path: Path, rows: range, *, first: str = "Normal", column: str = "Datei") -> Path:
    """Write labels as an office does: a German header and semicolons; a patient in each row."""
    lines = [
        f"Folder/{row:03d}.dcm;{first if row % 3 == 0 else 'COVID-19'};{PATIENT}{row}"
        for row in rows
    ]
    path.write_text("\n".join([f"{column};Befund;Patient", *lines]))
    return path


@contextmanager
def labelled_app(folder: Path, labels: Path, options: LabelOptions = AS_USUAL) -> Iterator[Flask]:
    """An app that evaluates its tables with a file of labels."""
    app = create_app(
        folder,
        token=TOKEN,
        hosts=allowed_hosts("127.0.0.1"),
        labels=labels,
        label_options=options,
    )
    try:
        yield app
    finally:
        close_app(app)


def page_of(app: Flask) -> str:
    """Return the page of the one run, once it is evaluated."""
    client = app.test_client()
    (run,) = client.get("/api/v1/runs", headers=BEARER).get_json()["runs"]
    for future in [*get_service(Evaluations, app)._futures.values()]:
        future.result(timeout=SECONDS)
    answer = client.get(f"/runs/{run['id']}", headers=BEARER)
    assert answer.status_code == 200
    return answer.text


def test_a_run_shows_the_figures_of_its_report_with_these_labels(
    folder: Path, tmp_path: Path
) -> None:
    labels, table = written(tmp_path / "labels.csv", range(2, 15)), folder / "results.parquet"
    expected, flow = headline(table, labels), analyse(table, labels).flow
    with labelled_app(folder, labels) as app:
        page = page_of(app)
        (run,) = app.test_client().get("/api/v1/runs", headers=BEARER).get_json()["runs"]
    whole = expected.all_images
    assert whole is not None
    main, whole_json = (
        {
            "n": figures.images,
            "value": figures.accuracy.value,
            "low": figures.accuracy.low,
            "high": figures.accuracy.high,
            "auc": {name: area.value for name, area in figures.auc.items()},
        }
        for figures in (expected, whole)
    )
    assert expected.accuracy != headline(table).accuracy
    assert run["accuracy"] == {**main, "all_images": whole_json}
    assert f"n = {flow.analysed}" in page
    assert "a file of labels, joined by path" in page
    assert "13, of which 3 name no row of the table" in page
    assert f"<dd>{flow.unlabelled} without a label; 1: " in page
    assert whole.images == expected.images + 1
    assert f"n = {whole.images}" in page
    assert PATIENT not in page


def test_a_run_of_flagged_films_alone_says_so(folder: Path, tmp_path: Path) -> None:
    labels = written(tmp_path / "labels.csv", range(0, 5, 4))
    with labelled_app(folder, labels) as app:
        page = page_of(app)
    assert "All scored images with a truth are flagged as lateral or as no chest." in page


def test_labels_that_are_replaced_are_read_again(folder: Path, tmp_path: Path) -> None:
    labels = written(tmp_path / "labels.csv", range(12))
    with labelled_app(folder, labels) as app:
        assert "12; each names a row" in page_of(app)
        written(labels, range(5))
        assert "5; each names a row" in page_of(app)
        labels.unlink()
        page = page_of(app)
    assert "The labels cannot be used: cannot read labels labels.csv: " in page
    assert str(tmp_path) not in page


@pytest.mark.parametrize(
    ("rows", "first", "said"),
    [(range(100, 110), "Normal", "names a row of the table"), (range(12), "Fracture", "no class")],
)
def test_labels_that_do_not_fit_a_table_are_told_on_its_page(
    folder: Path, tmp_path: Path, rows: range, first: str, said: str
) -> None:
    labels = written(tmp_path / "labels.csv", rows, first=first)
    with labelled_app(folder, labels) as app:
        page = page_of(app)
    (line,) = [line for line in page.splitlines() if said in line]
    assert "The labels cannot be used: " in line
    assert "labels.csv" in line
    assert str(tmp_path) not in page
    assert PATIENT not in page


def test_options_say_which_columns_are_read(folder: Path, tmp_path: Path) -> None:
    labels = written(tmp_path / "labels.csv", range(12), column="Spalte 7")
    with labelled_app(folder, labels, LabelOptions(path_column="Spalte 7", by="path")) as app:
        assert "12; each names a row" in page_of(app)


@pytest.mark.parametrize(
    ("content", "words", "code"),
    [
        (b"nothing;here\n1;2\n", (), 1),
        (b"", (), 1),
        (b"\x00" * 500, (), 1),
        (None, (), 1),
        (b"Datei;Befund\na;Normal\n", ("--path-column", "other"), 1),
        (b"Datei;Befund\na;Normal\n", ("--by", "colour"), 2),
    ],
)
def test_labels_that_cannot_be_read_end_the_command_at_once(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    words: tuple[str, ...],
    code: int,
) -> None:
    labels = tmp_path / "labels.csv"
    if content is not None:
        labels.write_bytes(content)
    assert main(["serve", str(folder), "--port", "0", "--labels", str(labels), *words]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1


def test_check_labels_prints_how_they_join_each_table(
    folder: Path,
    tmp_path: Path,
    write_table: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_table(folder / "other.parquet", names={row: f"{row}.dcm" for row in range(12)})
    (folder / "broken.parquet").write_bytes(b"no table")
    labels = written(tmp_path / "labels.csv", range(12))
    assert main(["serve", str(folder), "--check-labels", "--labels", str(labels)]) == 0
    printed = capsys.readouterr().out
    for said in ("results.parquet", "12 of 12 labels by path", "0 of 12 labels", "broken.parquet"):
        assert said in printed
    assert PATIENT not in printed
    assert main(["serve", str(folder), "--check-labels"]) == 2


def test_a_server_without_labels_does_not_load_pandas(folder: Path) -> None:
    """It takes a second and 50 MB; tables are evaluated in a child process."""
    code = f"""
        import sys
        from cxrbatch.cli import main
        from cxrbatch.webapp import server
        def ask(app, *_, **__):
            answer = app.test_client().get("/api/v1/runs", headers={BEARER!r})
            print(answer.status_code, "pandas" in sys.modules)
        server.serve_app = ask
        sys.exit(main(["serve", {str(folder)!r}, "--port", "0", "--token", {TOKEN!r}]))
    """
    words = [sys.executable, "-c", "if True:" + code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "200 False\n"

"""The command `audit`: outputs, exit codes, and what it says at a terminal."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_films import FINDER, write_films

import cxrbatch
from cxrbatch import cli
from cxrbatch.auditing.audit import Audit
from cxrbatch.scoring.score import score

Printed = pytest.CaptureFixture[str]
SMALL = ["--workers", "0", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture(autouse=True)
def drawn_lungs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lungs of drawn films are known; the bundled finder has tests of its own."""
    monkeypatch.setattr("cxrbatch.reports.audit_page.bundled_finder", lambda: FINDER)


def call(checkpoint: Path, data: Path, folder: Path, *more: str) -> int:
    page = str(folder / "audit.html")
    return cli.main(["audit", str(checkpoint), str(data), "-o", page, *SMALL, *more])


def test_it_writes_page_table_and_figures(
    labels: Path, checkpoint: Path, tmp_path: Path, capsys: Printed
) -> None:
    figures = tmp_path / "f.json"
    more = ["--labels", str(labels), "--json", str(figures)]
    assert call(checkpoint, labels.parent, tmp_path, *more) == 0
    printed = capsys.readouterr().out
    for words in ("audited      24 of 24 scored films", "lungs black", "verdict      On 24 films"):
        assert words in printed
    found = json.loads(figures.read_text())
    assert found["verdict"]["text"] in (tmp_path / "audit.html").read_text()
    assert found["baselines"][0]["leading"] == ["manufacturer", 1.0]
    assert found["treatments"][0]["name"] == "lungs black"
    assert (tmp_path / "audit.parquet").is_file()
    page = re.sub('data:[^"]*', "", (tmp_path / "audit.html").read_text())
    assert "P60" not in page, "no patient id"
    assert ".dcm" not in page, "no path"


def test_a_shortcut_is_exit_code_4_if_asked_for(
    labels: Path, checkpoint: Path, tmp_path: Path, capsys: Printed
) -> None:
    more = ["--labels", str(labels), "--fail-if-shortcut"]
    assert call(checkpoint, labels.parent, tmp_path, *more) == 4
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith("error: the verdict names shortcuts: ")
    assert "header facts" in printed.err
    assert (tmp_path / "audit.html").is_file()


def test_films_without_an_area_cannot_be_judged(
    labels: Path, checkpoint: Path, tmp_path: Path, capsys: Printed
) -> None:
    lines = labels.read_text().splitlines()
    one = tmp_path / "one.csv"
    one.write_text("\n".join([lines[0], *(line for line in lines if "Normal" in line)]) + "\n")
    more = ["--labels", str(one), "--fail-if-shortcut"]
    assert call(checkpoint, labels.parent, tmp_path, *more) == 1
    assert "nothing to judge" in capsys.readouterr().err
    assert (tmp_path / "audit.html").is_file()


def test_wrong_usage_is_one_line(
    labels: Path, checkpoint: Path, tmp_path: Path, capsys: Printed
) -> None:
    more = ["--labels", str(labels)]
    page = str(tmp_path / "audit.parquet")
    words = ["audit", str(checkpoint), str(labels.parent), "-o", page, *more]
    assert cli.main(words) == 2
    assert "would be the page and the table" in capsys.readouterr().err
    assert call(checkpoint, tmp_path / "none", tmp_path, *more) == 2
    assert "cannot read" in capsys.readouterr().err
    assert call(checkpoint, labels.parent, tmp_path, "--archive", str(tmp_path), *more) == 2
    assert "--archive goes with a results table" in capsys.readouterr().err
    assert call(checkpoint, labels.parent, tmp_path, "--check-labels", *more) == 2
    assert "needs --labels and a results table" in capsys.readouterr().err
    assert call(tmp_path / "none.safetensors", labels.parent, tmp_path, *more) == 1
    assert [*tmp_path.iterdir()] == []


def test_check_labels_only_says_how_they_are_read(
    labels: Path, checkpoint: Path, tmp_path: Path, capsys: Printed
) -> None:
    table = tmp_path / "r.parquet"
    score(labels.parent, table, checkpoint=checkpoint, workers=0, progress=False)
    more = ["--check-labels", "--labels", str(labels)]
    assert call(checkpoint, table, tmp_path, *more) == 0
    assert "joined       64 of 64 labels by path" in capsys.readouterr().out
    assert not (tmp_path / "audit.html").exists()


def test_python_makes_the_same_files(
    labels: Path, checkpoint: Path, tmp_path: Path, audited_films: Callable[..., Audit]
) -> None:
    assert call(checkpoint, labels.parent, tmp_path, "--labels", str(labels)) == 0
    page = tmp_path / "python.html"
    audit = cxrbatch.audit(
        checkpoint, labels.parent, labels, page, batch_size=8, workers=0, device="cpu"
    )
    assert page.read_bytes() == (tmp_path / "audit.html").read_bytes()
    assert page.with_suffix(".parquet").is_file()
    assert audit.verdict.accused[0].name == "header facts"
    with pytest.raises(cxrbatch.CxrbatchError, match="overwrite=True"):
        cxrbatch.audit(checkpoint, labels.parent, labels, page)


def test_films_are_read_by_worker_processes_too(
    labels: Path, checkpoint: Path, tmp_path: Path
) -> None:
    for name, workers in (("a", "0"), ("b", "2")):
        (tmp_path / name).mkdir()
        more = ["--labels", str(labels), "--workers", workers]
        assert call(checkpoint, labels.parent, tmp_path / name, *more) == 0
    for file in ("audit.html", "audit.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_class_folders_need_no_labels(checkpoint: Path, tmp_path: Path) -> None:
    labels = write_films(tmp_path / "drawn", "nothing", train=0, test=0)
    for line in labels.read_text().splitlines()[1:]:
        name, label = line.split(",")[:2]
        (tmp_path / "films" / label).mkdir(parents=True, exist_ok=True)
        (labels.parent / name).rename(tmp_path / "films" / label / name)
    assert call(checkpoint, tmp_path / "films", tmp_path) == 0
    assert "the class folders of the archive" in (tmp_path / "audit.html").read_text()

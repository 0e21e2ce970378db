"""What the report says about images that the input gate flags."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SEED_STUDY, pairs_of, write_results
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from cxrbatch.cli import main
from cxrbatch.results.analysis import analyse
from cxrbatch.results.gated import UNKNOWN_KIND, evaluate_gate, strangest
from cxrbatch.results.table import open_table

PAIRS = pairs_of(SEED_STUDY)
FLAG = "out_of_distribution"


def gated(is_foreign: Callable[[int], bool]) -> Callable[[dict[str, list[Any]]], None]:
    """An edit: rows that are foreign are flagged, every third as of no known kind."""

    def edit(columns: dict[str, list[Any]]) -> None:
        for row in range(len(PAIRS)):
            foreign = is_foreign(row)
            columns["ood_score"][row] = 100.0 if foreign else row / 10
            if foreign:
                columns["image_flags"][row] = [*columns["image_flags"][row], FLAG]
                columns["ood_kind"][row] = (None, "hand", "photograph")[row % 3]

    return edit


def report_of(table: Path, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    page, figures = tmp_path / "r.html", tmp_path / "r.json"
    assert main(["report", str(table), "-o", str(page), "--json", str(figures)]) == 0
    return page.read_text(), json.loads(figures.read_text())


def test_figures_of_all_and_of_those_not_flagged_stand_side_by_side(tmp_path: Path) -> None:
    """Every wrong prediction is flagged but one, so that the two columns differ."""
    wrong = [row for row, (truth, predicted) in enumerate(PAIRS) if truth != predicted]
    table = write_results(tmp_path, PAIRS, edit=gated(lambda row: row in wrong[1:]))
    page, figures = report_of(table, tmp_path)
    gate = figures["gate"]
    kept = [pair for row, pair in enumerate(PAIRS) if row not in wrong[1:]]
    assert (gate["images"], gate["flagged"]) == (len(PAIRS), len(wrong) - 1)
    assert sum(gate["kinds"].values()) == len(wrong) - 1
    assert set(gate["kinds"]) == {UNKNOWN_KIND, "hand", "photograph"}
    truth, predicted = zip(*kept, strict=True)
    inside = gate["inside"]
    assert inside["accuracy"]["value"] == pytest.approx(accuracy_score(truth, predicted))
    expected = balanced_accuracy_score(truth, predicted)
    assert inside["balanced_accuracy"]["value"] == pytest.approx(expected)
    truth, predicted = zip(*PAIRS, strict=True)
    assert figures["evaluation"]["accuracy"]["value"] == pytest.approx(
        accuracy_score(truth, predicted)
    )
    assert f"takes {len(wrong) - 1} of the analysed images for foreign" in page
    assert "Foreign images." in page
    assert "The strangest flagged images" in page
    assert "ood score 100.0, like hand" in page


def test_a_table_without_a_gate_says_so(tmp_path: Path) -> None:
    page, figures = report_of(write_results(tmp_path, PAIRS), tmp_path)
    assert figures["gate"] is None
    assert "has no input gate" in page
    assert "for foreign" not in page


@pytest.mark.parametrize("all_flagged", [False, True])
def test_without_two_groups_there_is_one_column(all_flagged: bool, tmp_path: Path) -> None:
    table = write_results(tmp_path, PAIRS, edit=gated(lambda row: all_flagged))
    page, figures = report_of(table, tmp_path)
    assert figures["gate"]["flagged"] == all_flagged * len(PAIRS)
    assert figures["gate"]["inside"] is None
    assert "not flagged</th>" not in page


def test_shown_are_the_strangest_of_each_kind_in_turn(tmp_path: Path) -> None:
    def edit(columns: dict[str, list[Any]]) -> None:
        gated(lambda row: row < 9)(columns)
        columns["ood_score"][:9] = [99.1, 99.9, 99.5, 99.8, 99.2, 99.7, 99.3, 99.6, 99.4]

    analysis = analyse(open_table(write_results(tmp_path, PAIRS, edit=edit)))
    found = strangest(analysis, most=5)
    assert found.tolist() == [1, 3, 5, 7, 2]
    assert len(strangest(analysis, most=50)) == 9
    gate = evaluate_gate(analysis)
    assert gate is not None
    assert dict(gate.kinds) == {UNKNOWN_KIND: 3, "hand": 3, "photograph": 3}

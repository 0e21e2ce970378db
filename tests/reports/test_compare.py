"""The command `compare`: two tables of the same images, joined, compared, judged."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from cxrbatch import cli

Write = Callable[..., Path]
Pairs = list[tuple[int, int]]


@pytest.fixture
def write(write_results: Write, tmp_path: Path) -> Write:
    """Write a table in a folder of its own, named first."""

    def in_folder(name: str, pairs: Pairs, **options: object) -> Path:
        (tmp_path / name).mkdir()
        return write_results(tmp_path / name, pairs, **options)

    return in_folder


def worse(pairs: Pairs) -> Pairs:
    """Ten right predictions of the third class become wrong."""
    places = [i for i, (truth, predicted) in enumerate(pairs) if truth == predicted == 2][:10]
    return [(t, 3 if i in places else p) for i, (t, p) in enumerate(pairs)]


def test_figures_of_both_and_their_differences(
    write: Write, seed_study: Pairs, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, second = write("a", seed_study), write("b", worse(seed_study))
    figures = tmp_path / "f.json"
    assert cli.main(["compare", str(first), str(second), "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    by_hand = [
        balanced_accuracy_score([t for t, _ in pairs], [p for _, p in pairs])
        for pairs in (seed_study, worse(seed_study))
    ]
    assert [e["balanced_accuracy"]["value"] for e in found["evaluations"]] == pytest.approx(by_hand)
    difference = found["differences"]["balanced_accuracy"]
    assert difference["value"] == pytest.approx(by_hand[1] - by_hand[0])
    assert difference["low"] < difference["value"] < difference["high"] < 0
    # Ten against none: two-sided, 2 / 2 ** 10.
    assert found["differences"]["first_only_right"] == 10
    assert found["differences"]["mcnemar_p"] == pytest.approx(2 / 2**10)
    assert found["flips"]["Only the first is right"] == 10
    assert found["images"] == 400
    text = capsys.readouterr().out
    assert re.search(r"balanced +0\.9400 -> 0\.9150, -0\.0250", text)
    assert "400 in both, joined by path and frame" in text


@pytest.mark.parametrize(("margin", "code"), [("0.02", 4), ("0.03", 0)])
def test_a_pipeline_can_stop(
    write: Write,
    seed_study: Pairs,
    capsys: pytest.CaptureFixture[str],
    margin: str,
    code: int,
) -> None:
    first, second = write("a", seed_study), write("b", worse(seed_study))
    words = ["compare", str(first), str(second), "--fail-if-worse", margin]
    assert cli.main(words) == code
    assert ("error: " in capsys.readouterr().err) is bool(code)
    assert cli.main(["compare", str(second), str(first), "--fail-if-worse", "0"]) == 0


def test_the_page_shows_the_flips(write: Write, seed_study: Pairs, tmp_path: Path) -> None:
    first, second = write("a", seed_study, films=400), write("b", worse(seed_study), films=400)
    page = tmp_path / "page.html"
    assert cli.main(["compare", str(first), str(second), "-o", str(page)]) == 0
    text = page.read_text()
    assert "Only the first is right: 10" in text
    assert text.count('class="film"') == 8
    assert "<script" not in text
    assert "films/" not in text


def test_tables_in_another_order_and_with_other_images_are_joined(
    write: Write, seed_study: Pairs, tmp_path: Path
) -> None:
    turned = seed_study[50:][::-1]
    first = write("a", seed_study)
    second = write("b", turned, rename=lambda number: f"films/{399 - number}.png")
    figures = tmp_path / "f.json"
    assert cli.main(["compare", str(first), str(second), "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert found["images"] == 350
    assert found["unpaired"] == [50, 0]
    assert found["differences"]["accuracy"]["value"] == 0.0


def test_moved_images_are_known_by_their_hash(
    write: Write, seed_study: Pairs, tmp_path: Path
) -> None:
    second = write("b", seed_study, rename=lambda number: f"elsewhere/{number}.png")
    figures = tmp_path / "f.json"
    assert (
        cli.main(["compare", str(write("a", seed_study)), str(second), "--json", str(figures)]) == 0
    )
    assert json.loads(figures.read_text())["joined_by"] == ["image_hash"]


def test_classes_may_stand_in_another_order(
    write: Write, seed_study: Pairs, tmp_path: Path
) -> None:
    names = ("Normal", "COVID-19", "Viral Pneumonia", "Lung Opacity")
    turned = [(3 - truth, 3 - predicted) for truth, predicted in seed_study]
    second = write("b", turned, classes=names[::-1])
    figures = tmp_path / "f.json"
    assert (
        cli.main(["compare", str(write("a", seed_study)), str(second), "--json", str(figures)]) == 0
    )
    found = json.loads(figures.read_text())
    values = [found["differences"][name]["value"] for name in ("accuracy", "macro_auc")]
    assert np.abs(values).max() < 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("A", "B", "C", "D")}, "only models of the same classes"),
        ({"rename": lambda number: f"other/{number}", "edit": "hashes"}, "no image in common"),
    ],
)
def test_what_does_not_fit_is_one_line(
    write: Write,
    seed_study: Pairs,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, object],
    message: str,
) -> None:
    if change.get("edit"):
        change = {**change, "edit": lambda columns: columns.update(image_hash=[None] * 401)}
    second = write("b", seed_study, **change)
    assert cli.main(["compare", str(write("a", seed_study)), str(second)]) == 1
    assert re.fullmatch(rf"error: .*{message}.*\n", capsys.readouterr().err)


def test_without_a_truth_there_is_nothing_to_compare(
    write: Write, seed_study: Pairs, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = [str(write(name, seed_study, labelled=False)) for name in "ab"]
    assert cli.main(["compare", *tables]) == 1
    assert "give --labels" in capsys.readouterr().err

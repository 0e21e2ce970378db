"""The command `compare`: two tables of the same images, joined, compared, judged."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import balanced_accuracy_score

from cxrbatch import cli
from cxrbatch.results.columns import PROVENANCE_KEY

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
    second = write(
        "b",
        turned,
        rename=lambda number: f"films/{399 - number}.png",
        edit=lambda c: c.update(image_hash=[*(f"{399 - n:032x}" for n in range(350)), None]),
    )
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


def test_fast_decoding_is_compared_with_full(
    write: Write, seed_study: Pairs, tmp_path: Path
) -> None:
    """It changes the hash of every image; that of a table made alike tells another image."""
    figures = tmp_path / "f.json"
    others = [f"{number + 1000:032x}" for number in range(400)]
    tables = [
        write(name, seed_study, provenance=made, edit=lambda c, of=of: c.update(image_hash=of))
        for name, made, of in (
            ("full", {}, [f"{number:032x}" for number in range(400)] + [None]),
            ("fast", {"fast_decode": True}, [*others, None]),
            ("other", {}, [*others, None]),
        )
    ]
    words = ["compare", str(tables[0]), str(tables[1]), "--json", str(figures)]
    assert cli.main(words) == 0
    assert json.loads(figures.read_text())["images"] == 400
    assert cli.main(["compare", str(tables[0]), str(tables[2])]) == 1


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


@pytest.mark.parametrize("pairs", [[(0, 1)], [(0, 0)] * 6, [(0, 0), (1, 0), (0, 0)]])
def test_what_is_undefined_says_why_on_the_page(write: Write, tmp_path: Path, pairs: Pairs) -> None:
    page = tmp_path / "page.html"
    tables = [str(write(name, pairs)) for name in "ab"]
    assert cli.main(["compare", *tables, "-o", str(page)]) == 0
    assert "undefined: no image is of this class" in page.read_text()


def test_a_margin_that_is_no_number_is_wrong_usage(
    write: Write, seed_study: Pairs, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = [str(write("a", seed_study)), str(write("b", worse(seed_study)))]
    assert cli.main(["compare", *tables, "--fail-if-worse", "nan"]) == 2
    assert "nan is no margin" in capsys.readouterr().err


def test_a_loss_of_the_margin_itself_is_allowed(
    write: Write, seed_study: Pairs, tmp_path: Path
) -> None:
    tables, figures = [write("a", seed_study), write("b", worse(seed_study))], tmp_path / "f.json"
    words = ["compare", *map(str, tables), "--json", str(figures), "--overwrite"]
    assert cli.main(words) == 0
    loss = json.loads(figures.read_text())["loss"]
    # Rounding alone is no loss, as of the same figures summed in another order.
    assert cli.main([*words, "--fail-if-worse", repr(loss - 1e-15)]) == 0
    assert cli.main([*words, "--fail-if-worse", repr(loss - 1e-9)]) == 4


def test_another_picture_of_the_same_name_is_not_compared(
    write: Write, seed_study: Pairs, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(columns: dict[str, list[object]]) -> None:
        columns["image_hash"][:300] = [f"f{number:031x}" for number in range(300)]

    tables = [str(write("a", seed_study)), str(write("b", seed_study, edit=other))]
    assert cli.main(["compare", *tables]) == 0
    told = capsys.readouterr().out
    assert "100 in both, joined by path and frame" in told
    assert "300 of the first, 300 of the second" in told


def test_copies_of_one_image_leave_nothing_less_than_none_out(
    write: Write, seed_study: Pairs, tmp_path: Path
) -> None:
    def copies(columns: dict[str, list[object]]) -> None:
        columns["image_hash"][:3] = columns["image_hash"][:1] * 3

    first = write("a", seed_study, edit=copies)
    second = write("b", seed_study, rename=lambda number: f"elsewhere/{number}.png")
    figures = tmp_path / "f.json"
    assert cli.main(["compare", str(first), str(second), "--json", str(figures)]) == 0
    assert json.loads(figures.read_text())["unpaired"] == [0, 2]
    assert (
        cli.main(["compare", str(second), str(first), "--json", str(figures), "--overwrite"]) == 0
    )
    assert json.loads(figures.read_text())["unpaired"] == [2, 2]


def test_a_name_does_nothing_to_a_terminal(
    write: Write, seed_study: Pairs, capsys: pytest.CaptureFixture[str]
) -> None:
    card = json.dumps({"name": "\x1b[2Jgood\naccuracy 1.0" + "x" * 9999})
    classes = ("Normal", "\x1b[31m", "\u202eevil", "line\nline")
    table = str(write("a", seed_study, provenance={"card": card}, classes=classes))
    assert cli.main(["compare", table, table]) == 0
    told = capsys.readouterr().out
    assert not [c for c in told if not c.isprintable() and c != "\n"]
    assert len(told) < 3000
    assert not re.search("^(accuracy 1.0|line)", told, flags=re.M)


def test_an_edited_provenance_is_written_as_text(
    write: Write, seed_study: Pairs, tmp_path: Path
) -> None:
    table, figures = write("a", seed_study), tmp_path / "f.json"
    rows = pq.read_table(table)
    made = json.loads(rows.schema.metadata[PROVENANCE_KEY]) | {"device": 7, "max_pixels": 8}
    metadata = json.dumps(made).replace('"device": 7', '"device": 1e999')
    metadata = metadata.replace('"max_pixels": 8', '"max_pixels": 1e999')
    pq.write_table(rows.replace_schema_metadata({PROVENANCE_KEY: metadata}), table)
    assert cli.main(["compare", str(table), str(table), "--json", str(figures)]) == 0
    assert json.loads(figures.read_text())["tables"][0]["device"] == "inf"


def test_images_that_are_not_held_out_are_told(
    write: Write, seed_study: Pairs, tmp_path: Path
) -> None:
    def side(columns: dict[str, list[object]]) -> None:
        columns["split"][:100] = ["train"] * 100

    table, page = str(write("a", seed_study, edit=side)), tmp_path / "page.html"
    assert cli.main(["compare", table, table, "-o", str(page)]) == 0
    assert "put 100 images of the first table on the side train or val" in page.read_text()

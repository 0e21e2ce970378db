"""Two files of one film: found, scored by the final network, and compared pair by pair."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from calls import FAST, labels_csv, one_error, ordinary
from PIL import Image
from statsmodels.stats.proportion import proportion_confint

from cxrbatch.cli import main
from cxrbatch.errors import LabelError
from cxrbatch.model.checkpoint import load_checkpoint, read_card
from cxrbatch.training.dataset import ImageSubset
from cxrbatch.training.model_evaluation import Logits
from cxrbatch.training.twins import TwinInputs, evaluate_twins, locate_twins

PngMaker = Callable[[Path, np.ndarray], Path]
GREY = np.zeros((32, 32), np.uint8)


@pytest.fixture
def films(tmp_path: Path, write_png: PngMaker) -> Path:
    """Files a, b, c and d in a folder."""
    for name in "abcd":
        write_png(tmp_path / "films" / f"{name}.png", GREY)
    return tmp_path / "films"


def test_pairs_are_found_once_and_missing_ones_counted(films: Path) -> None:
    rows = ["twin;split;Path", "b.png;train;a.png", "a.png;;b.png", "c.png;;c.png", "x.png;;a.png"]
    (films / "twins.csv").write_text("\n".join([*rows, f"{films}/d.png;;c.png"]))
    twins = locate_twins(films / "twins.csv", [])
    names = [tuple(Path(file.path.decode()).name for file in pair) for pair in twins.pairs]
    assert (names, twins.missing) == ([("a.png", "b.png"), ("c.png", "d.png")], 2)
    assert twins.seen_in([twins.pairs[1][1]]).tolist() == [False, True]
    assert "2 rows name a missing file" in twins.summary()


def test_paths_are_below_the_roots_if_there_are_some(films: Path, tmp_path: Path) -> None:
    (tmp_path / "twins.csv").write_text("path,twin\na.png,b.png\n")
    assert len(locate_twins(tmp_path / "twins.csv", [films]).pairs) == 1
    with pytest.raises(LabelError, match="1 pairs of twins, and no two files of a pair exist"):
        locate_twins(tmp_path / "twins.csv", [])


@pytest.mark.parametrize(
    "text", ["", "path,other\na,b\n", "path,twin,path\na,b,c\n", "\0\1", 'path,twin\n"a,b\n']
)
def test_a_file_of_other_content_is_refused(films: Path, text: str) -> None:
    (films / "twins.csv").write_text(text)
    with pytest.raises(LabelError):
        locate_twins(films / "twins.csv", [])


def test_figures_are_those_of_the_pairs() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 40, 3)).astype(np.float32)
    second[:30] = first[:30] + rng.normal(size=(30, 3)) / 50
    sides = [ImageSubset(np.full((40, 2, 2), n, np.uint8), np.zeros(40, int)) for n in (0, 1)]
    answers: dict[int, Logits] = {id(sides[0]): first, id(sides[1]): second}
    found = evaluate_twins(
        TwinInputs(*sides, trained=7, missing=2, unreadable=1),
        lambda side: answers[id(side)],
        classes=("A", "B", "C"),
        temperature=2.0,
    )
    one, other = (
        np.exp(logits / 2.0) / np.exp(logits / 2.0).sum(1, keepdims=True)
        for logits in (first, second)
    )
    changes = np.abs(one - other).mean(axis=0)
    counts = [found[name] for name in ("n", "of_training", "missing", "unreadable")]
    assert counts == [40, 7, 2, 1]
    for name, value in zip("ABC", changes, strict=True):
        assert found["mean_change"][name]["value"] == pytest.approx(value, rel=1e-5)
        low, high = found["mean_change"][name]["interval"]
        assert low < value < high
    assert found["largest_change"]["class"] == "ABC"[changes.argmax()]
    assert found["largest_change"]["value"] == pytest.approx(changes.max(), rel=1e-5)
    same = int((first.argmax(1) == second.argmax(1)).sum())
    assert found["same_class"]["value"] == same / 40
    assert found["same_class"]["interval"] == pytest.approx(
        proportion_confint(same, 40, method="wilson")
    )


def test_a_training_writes_them_into_the_card_and_prints_a_line(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The twin of each film is the film as a JPEG; one is no picture, and one is missing."""
    films = sorted(level_archive.glob("*/*.png"))[::4]
    rows = ["path,twin,split", "none.jpg,nowhere.jpg,test"]
    for number, film in enumerate(films):
        twin = tmp_path / f"{number}.jpg"
        Image.open(film).save(twin, quality=60)
        rows.append(f"{twin},{film},train")
    (tmp_path / "0.jpg").write_text("no picture")
    (tmp_path / "twins.csv").write_text("\n".join(rows))
    labels = labels_csv(level_archive, tmp_path, split=ordinary)
    words = ["train", str(labels), *FAST, "--twins", str(tmp_path / "twins.csv")]
    assert main([*words, "-o", str(tmp_path / "m.safetensors")]) == 0
    printed = capsys.readouterr()
    twins = read_card(tmp_path / "m.safetensors").training["controls"]["twins"]
    trained = sum(int(film.stem) < 12 for film in films[1:])
    assert [twins[name] for name in ("n", "of_training", "missing", "unreadable")] == [
        len(films) - 1,
        trained,
        1,
        1,
    ]
    assert set(twins["mean_change"]) == {"dark lung", "white lung"}
    assert "twins: 10 pairs in" in printed.err
    assert tomllib.loads((tmp_path / "m.toml").read_text())["twins"] == str(tmp_path / "twins.csv")
    assert f"control, twins: 9 pairs ({trained} of training films, 1 missing" in printed.out
    assert main([*words[:-2], "-o", str(tmp_path / "n.safetensors")]) == 0
    one, other = (load_checkpoint(tmp_path / f"{name}.safetensors").tensors for name in "mn")
    assert all(np.array_equal(value, other[name]) for name, value in one.items())


def test_twins_without_a_file_are_refused_in_one_line(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "twins.csv").write_text("path,twin\na.png,b.png\n")
    words = ["train", str(level_archive), *FAST, "--twins", str(tmp_path / "twins.csv")]
    assert main([*words, "-o", str(tmp_path / "m.safetensors")]) == 1
    assert "give the folder of their paths as --root" in one_error(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["twins.csv"]

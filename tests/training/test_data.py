"""Labels to arrays: nothing is mixed up, nothing unreadable is hidden."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrbatch.errors import LabelError
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.results.truth import LabelledFile
from cxrbatch.training.data import Unreadable, collect, decode_sides, order_classes

PngMaker = Callable[[Path, np.ndarray], Path]
RECIPE = Recipe(size=32)


def labelled(*labels: str) -> list[LabelledFile]:
    return [LabelledFile(f"{i}.png", label) for i, label in enumerate(labels)]


def test_collects_class_folders(tmp_path: Path) -> None:
    (tmp_path / "A").mkdir()
    (tmp_path / "A" / "x").touch()
    assert collect(tmp_path) == (tmp_path, [LabelledFile("A/x", "A")])


def test_collects_a_csv_whose_paths_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").touch()
    (tmp_path / "labels.csv").write_text("path,label\nimages/x.png,A\n")
    assert collect(tmp_path / "labels.csv") == (tmp_path, [LabelledFile("images/x.png", "A")])


def test_labelled_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "there.png").touch()
    (tmp_path / "folder").mkdir()
    rows = ["there.png", "folder", "nul\0", *(f"gone{i}.png" for i in range(9))]
    (tmp_path / "l.csv").write_text("path,label\n" + "".join(f"{row},A\n" for row in rows))
    with pytest.raises(LabelError, match="11 labelled files are not below") as caught:
        collect(tmp_path / "l.csv")
    assert str(caught.value).count("gone") == 3


def test_missing_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="neither a folder nor a CSV file"):
        collect(tmp_path / "none.csv")


def test_classes_come_in_the_alphabets_order_or_as_wanted() -> None:
    files = labelled("b", "a", "b", "C")
    assert order_classes(files, []) == ("C", "a", "b")
    assert order_classes(files, ["b", "C", "a"]) == ("b", "C", "a")


@pytest.mark.parametrize(
    ("labels", "wanted", "expected"),
    [
        ("A A", "", "one class only"),
        ("A A", "A", "one class only"),
        ("COVID Covid", "", "one class in two spellings: 'COVID' and 'Covid'"),
        ("A B", "A,C", "class 'B' is not both"),
        ("A B", "A,B,C", "class 'C' is not both"),
        ("A B C", "A,B", "class 'C' is not both"),
        ("A B", "A,B,A", "twice"),
    ],
)
def test_unusable_classes_are_refused(labels: str, wanted: str, expected: str) -> None:
    with pytest.raises(LabelError, match=expected):
        order_classes(labelled(*labels.split()), [c for c in wanted.split(",") if c])


def test_spellings_that_differ_by_space_are_one_class() -> None:
    with pytest.raises(LabelError, match="two spellings"):
        order_classes(labelled("Lung Opacity", "LungOpacity"), [])


@pytest.mark.parametrize("name", ["x" * 65, "two\nlines", "\udcff"], ids=["long", "lines", "bytes"])
def test_names_that_no_card_can_hold_are_refused_before_any_work(name: str) -> None:
    with pytest.raises(LabelError):
        order_classes(labelled("A", name), [])


def test_more_classes_than_a_card_can_hold_are_refused() -> None:
    with pytest.raises(LabelError):
        order_classes(labelled(*(f"class {i}" for i in range(257))), [])


@pytest.fixture
def films(tmp_path: Path, write_png: PngMaker) -> list[LabelledFile]:
    """Six flat films, the level of film i is 20 i, two of them on each side of the split."""
    files = []
    for i in range(6):
        write_png(tmp_path / f"{i}.png", np.full((40, 50), 20 * i, np.uint8))
        files.append(LabelledFile(f"{i}.png", "AB"[i % 2], None, ("train", "val", "test")[i // 2]))
    return files


@pytest.mark.parametrize("workers", [0, 1])
def test_each_side_holds_its_images_in_order(
    tmp_path: Path, films: list[LabelledFile], workers: int
) -> None:
    steps: list[int] = []
    sides, unreadable = decode_sides(
        tmp_path, films, classes=("B", "A"), recipe=RECIPE, workers=workers, progress=steps.append
    )
    assert unreadable == []
    assert steps == [1] * 6
    for number, side in enumerate(("train", "val", "test")):
        assert sides[side].inputs.shape == (2, 32, 32)
        assert sides[side].inputs.dtype == np.uint8
        assert sides[side].inputs[:, 5, 5].tolist() == [40 * number, 40 * number + 20]
        assert sides[side].truth.tolist() == [1, 0]


def test_files_that_give_no_image_are_listed_with_their_outcome(
    tmp_path: Path, films: list[LabelledFile]
) -> None:
    (tmp_path / "1.png").write_text("a text, whatever its name says")
    whole = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "5.png").unlink()
    sides, unreadable = decode_sides(
        tmp_path, films, classes=("A", "B"), recipe=RECIPE, workers=0, progress=lambda n: None
    )
    assert [item.path for item in unreadable] == ["1.png", "3.png", "5.png"]
    assert unreadable[0] == Unreadable("1.png", Outcome.NOT_AN_IMAGE)
    assert unreadable[2] == Unreadable("5.png", Outcome.UNREADABLE_FILE)
    assert unreadable[1].outcome in (Outcome.TRUNCATED, Outcome.CORRUPT)
    assert [side.truth.tolist() for side in sides.values()] == [[0], [0], [0]]


def test_a_side_without_an_image_is_an_empty_array(
    tmp_path: Path, films: list[LabelledFile]
) -> None:
    sides, _ = decode_sides(
        tmp_path, films[:4], classes=("A", "B"), recipe=RECIPE, workers=0, progress=lambda n: None
    )
    assert sides["test"].inputs.shape == (0, 32, 32)
    assert sides["test"].truth.shape == (0,)


def test_inputs_are_those_of_the_recipe(tmp_path: Path) -> None:
    """A tall white film on a padded square keeps its black borders; JPEG is read too."""
    Image.fromarray(np.full((64, 32), 255, np.uint8)).save(tmp_path / "film.jpeg")
    shutil.move(tmp_path / "film.jpeg", tmp_path / "film.dcm")
    item = LabelledFile("film.dcm", "A", None, "train")
    sides, _ = decode_sides(
        tmp_path,
        [item],
        classes=("A",),
        recipe=Recipe(size=32, geometry="pad"),
        workers=0,
        progress=lambda n: None,
    )
    image = sides["train"].inputs[0]
    assert image[:, 8:24].min() == 255
    assert image[:, :8].max() == image[:, 24:].max() == 0

"""One run from labels to a checkpoint, without the command around it."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from calls import collect

from cxrbatch.errors import CxrbatchError, LabelError
from cxrbatch.model.checkpoint import Checkpoint, load_checkpoint
from cxrbatch.model.network import model_of, save_checkpoint
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.results.label_files import LabelledFile
from cxrbatch.results.label_names import SPLITS
from cxrbatch.results.statistics import intervals as metrics
from cxrbatch.training.cache import UnreadableFile, prepare_inputs
from cxrbatch.training.dataset import ImageSubset, TrainingData, divide_inputs
from cxrbatch.training.fitting import LIMITS, new_card, train_network
from cxrbatch.training.initial import InitialWeights, read_initial
from cxrbatch.training.mismatches import order_classes
from cxrbatch.training.model_evaluation import logits_to_probabilities, predict
from cxrbatch.training.split import split_files
from cxrbatch.training.trainer import TrainingOptions, TrainingSetup

PngMaker = Callable[[Path, np.ndarray], Path]
RECIPE = Recipe(size=32)
CPU = torch.device("cpu")
OPTIONS = TrainingOptions(size=32, epochs=1, draws=8, batch_size=8)


def side(*counts: int, seed: int = 0) -> ImageSubset:
    """Pictures of as many levels of grey as there are classes."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    base = (60 + 120 * truth)[:, None, None]
    return ImageSubset((base + rng.integers(-30, 31, (len(truth), 32, 32))).astype(np.uint8), truth)


def data(*, test: ImageSubset | None = None, unreadable: int = 0) -> TrainingData:
    drawn = [side(8, 10), side(4, 4, seed=1)] + ([test] if test else [])
    inputs = np.concatenate([held.inputs for held in drawn])
    truth = np.concatenate([held.truth for held in drawn])
    names = ["train"] * 18 + ["val"] * 8 + ["test"] * (len(truth) - 26)
    files = [
        LabelledFile(f"{i}", "AB"[label], f"{i}" if i % 2 else None, split, "one place")
        for i, (label, split) in enumerate(zip(truth.tolist(), names, strict=True))
    ]
    sides = {}
    for name in SPLITS:
        rows = np.flatnonzero(np.array(names) == name)
        sides[name] = ImageSubset(inputs, truth[rows], rows)
    bad = [UnreadableFile(f"bad{i}", Outcome.CORRUPT) for i in range(unreadable)]
    return TrainingData(("A", "B"), split_files(files, [], seed=0), sides, bad)


def save(made: Checkpoint, path: Path) -> None:
    model = model_of(made.tensors, made.card.architecture)
    save_checkpoint(path, model=model, card=made.card, features=made.features)


def run(
    given: TrainingData,
    options: TrainingOptions = OPTIONS,
    *,
    initial: InitialWeights | None = None,
) -> Checkpoint:
    card = new_card(given, options, name="trial", limits=["The images are drawn."])
    setup = TrainingSetup(card=card, options=options, device=CPU)
    made = train_network(given, setup, initial=initial)
    assert made is not None
    return made


@pytest.fixture(scope="module")
def given() -> TrainingData:
    return data(test=side(3, 3, seed=2), unreadable=2)


@pytest.fixture(scope="module")
def made(given: TrainingData) -> Checkpoint:
    return run(given)


def test_the_card_says_how_it_was_made(
    tmp_path: Path, given: TrainingData, made: Checkpoint
) -> None:
    save(made, tmp_path / "m.safetensors")
    card = load_checkpoint(tmp_path / "m.safetensors").card
    assert card == made.card
    assert (card.name, card.architecture, card.classes) == ("trial", "resnet18", ("A", "B"))
    assert card.recipe == RECIPE
    assert card.limits == (*LIMITS, "The images are drawn.")
    pixels = given.subsets["train"].images(np.arange(18)) / 255
    assert card.normalisation.mean == pytest.approx(pixels.mean(), abs=1e-4)
    assert card.normalisation.std == pytest.approx(pixels.std(), abs=1e-4)
    summary = card.training
    assert summary["images"] == {
        "train": {"A": 8, "B": 10},
        "val": {"A": 4, "B": 4},
        "test": {"A": 3, "B": 3},
    }
    assert summary["unreadable"] == {"corrupt": 2}
    assert summary["options"] == asdict(OPTIONS)
    assert summary["initial_weights"] == "random"
    assert summary["split"]["given"] is True
    assert summary["split"]["sha256"] == given.split.sha256
    assert summary["controls"]["within sources"]["one place"]["classes"] == ["A", "B"]
    assert [epoch["number"] for epoch in summary["history"]] == [1]
    assert summary["chosen_epoch"] == 1
    assert summary["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_figures_are_those_of_the_weights_that_are_kept(
    given: TrainingData, made: Checkpoint
) -> None:
    for name, recorded in (("val", "validation"), ("test", "test")):
        held = given.subsets[name]
        model = model_of(made.tensors, made.card.architecture)
        logits = predict(model, card=made.card, subset=held, device=CPU)
        probabilities = logits_to_probabilities(logits, temperature=made.card.temperature)
        figures = made.card.training[recorded]
        assert figures["n"] == len(held.truth)
        area = metrics.macro_auc(held.truth, probabilities)
        assert figures["macro_auc"]["value"] == pytest.approx(area, rel=1e-12)
        recalls = metrics.recalls(held.truth, logits.argmax(1), classes=2)
        assert [figure["value"] for figure in figures["recall"].values()] == recalls
        assert figures["balanced_accuracy"]["value"] == pytest.approx(np.mean(recalls))


def test_without_test_images_there_are_no_test_figures() -> None:
    assert run(data()).card.training["test"] is None


def test_a_test_side_of_one_class_does_not_lose_the_run() -> None:
    """An area under the curve is undefined there, and the rest is not."""
    figures = run(data(test=side(4, 0, seed=2))).card.training["test"]
    assert figures["n"] == 4
    assert figures["macro_auc"] is None
    assert figures["recall"]["B"] is None


def test_images_with_next_to_no_contrast_can_be_trained_on() -> None:
    given = data()
    flat = given.subsets["train"]
    flat.inputs[:18] = 0
    flat.inputs[0, 0, 0] = 1
    assert run(given).card.normalisation.std > 0


def test_a_run_can_start_from_a_checkpoint(tmp_path: Path, made: Checkpoint) -> None:
    save(made, tmp_path / "m.safetensors")
    initial = read_initial(tmp_path / "m.safetensors", architecture="resnet18")
    before = {name: value.clone() for name, value in initial.model.state_dict().items()}
    # So small a step changes no weight by more than itself: the start shows in the end.
    made = run(data(), replace(OPTIONS, learning_rate=1e-9, seed=7), initial=initial)
    assert made.card.training["initial_weights"] == initial.sha256
    difference = made.tensors["fc.weight"] - before["fc.weight"]
    assert float(difference.detach().abs().max()) < 1e-6
    after = initial.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def prepared(root: Path, cache: Path) -> TrainingData:
    labelled = collect([root])
    inputs = prepare_inputs(
        labelled.located, recipe=RECIPE, workers=0, folder=cache, progress=lambda n: None
    )
    split = split_files(labelled.files, [], seed=0)
    return divide_inputs(inputs, split, classes=order_classes(labelled.files, ()))


def test_folders_are_split_and_decoded(tmp_path: Path, write_png: PngMaker) -> None:
    for label in "AB":
        for i in range(10):
            write_png(tmp_path / "films" / label / f"{i}.png", np.full((32, 32), 10 * i, np.uint8))
    found = prepared(tmp_path / "films", tmp_path / "cache")
    assert found.classes == ("A", "B")
    assert not found.split.report.given
    assert {name: len(held.truth) for name, held in found.subsets.items()} == {
        "train": 16,
        "val": 2,
        "test": 2,
    }


def test_a_class_that_cannot_be_read_is_refused(tmp_path: Path, write_png: PngMaker) -> None:
    for i in range(10):
        write_png(tmp_path / "films" / "A" / f"{i}.png", np.full((32, 32), 10 * i, np.uint8))
        (tmp_path / "films" / "B").mkdir(exist_ok=True)
        (tmp_path / "films" / "B" / f"{i}.png").write_text("no image")
    with pytest.raises(LabelError, match="no image of 'B' in the train split could be read"):
        prepared(tmp_path / "films", tmp_path / "cache")


def test_features_beyond_what_can_be_described_end_the_run_in_one_line(
    monkeypatch: pytest.MonkeyPatch, given: TrainingData
) -> None:
    huge = np.full((18, 512), 1e25, np.float32)
    monkeypatch.setattr("cxrbatch.model.predictor.Predictor.features", lambda *_: huge)
    with pytest.raises(CxrbatchError, match="try a lower --learning-rate"):
        run(given)

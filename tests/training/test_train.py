"""One run from labels to a checkpoint, without the command around it."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrbatch.errors import CheckpointError, LabelError
from cxrbatch.model.checkpoint import Checkpoint, load_checkpoint
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.results import metrics
from cxrbatch.results.truth import LabelledFile
from cxrbatch.training.data import Side, Unreadable, prepare_inputs
from cxrbatch.training.fit import logits_to_probabilities, predict
from cxrbatch.training.labelled import collect, order_classes
from cxrbatch.training.options import TrainingOptions
from cxrbatch.training.train import LIMITS, Data, prepare_data, save, train

PngMaker = Callable[[Path, np.ndarray], Path]
RECIPE = Recipe(size=32)
CPU = torch.device("cpu")
OPTIONS = TrainingOptions(size=32, epochs=1, draws=8, batch_size=8)


def side(*counts: int, seed: int = 0) -> Side:
    """Pictures of as many levels of grey as there are classes."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    base = (60 + 120 * truth)[:, None, None]
    return Side((base + rng.integers(-30, 31, (len(truth), 32, 32))).astype(np.uint8), truth)


def data(*, test: Side | None = None, unreadable: int = 0) -> Data:
    empty = Side(np.empty((0, 32, 32), np.uint8), np.empty(0, np.int64))
    sides = {"train": side(8, 10), "val": side(4, 4, seed=1), "test": test or empty}
    files = [
        LabelledFile(f"{name}/{i}", "AB"[label], f"p{i}" if i % 2 else None, name)
        for name, held in sides.items()
        for i, label in enumerate(held.truth.tolist())
    ]
    bad = [Unreadable(f"bad{i}", Outcome.CORRUPT) for i in range(unreadable)]
    return Data(("A", "B"), files, sides, bad, True)


def run(
    given: Data, options: TrainingOptions = OPTIONS, *, initial: Checkpoint | None = None
) -> Checkpoint:
    return train(
        given,
        name="trial",
        limits=["The images are drawn."],
        recipe=RECIPE,
        options=options,
        initial=initial,
        device=CPU,
        on_step=lambda n: None,
        on_epoch=lambda epoch: None,
    )


@pytest.fixture(scope="module")
def given() -> Data:
    return data(test=side(3, 3, seed=2), unreadable=2)


@pytest.fixture(scope="module")
def made(given: Data) -> Checkpoint:
    return run(given)


def test_the_card_says_how_it_was_made(tmp_path: Path, given: Data, made: Checkpoint) -> None:
    save(made, tmp_path / "m.safetensors")
    card = load_checkpoint(tmp_path / "m.safetensors").card
    assert card == made.card
    assert (card.name, card.architecture, card.classes) == ("trial", "resnet18", ("A", "B"))
    assert card.recipe == RECIPE
    assert card.limits == (*LIMITS, "The images are drawn.")
    pixels = given.sides["train"].inputs / 255
    assert card.normalisation.mean == pytest.approx(pixels.mean(), abs=1e-4)
    assert card.normalisation.std == pytest.approx(pixels.std(), abs=1e-4)
    summary = card.training
    assert summary["images"] == {
        "train": {"A": 8, "B": 10},
        "val": {"A": 4, "B": 4},
        "test": {"A": 3, "B": 3},
    }
    assert summary["unreadable"] == {"corrupt": 2}
    assert summary["patients_known"] == sum(f.patient is not None for f in given.files)
    assert summary["options"] == asdict(OPTIONS)
    assert summary["initial_weights"] == "random"
    assert summary["split"] == "given with the labels"
    assert [epoch["number"] for epoch in summary["history"]] == [1]
    assert summary["chosen_epoch"] == 1
    assert summary["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_figures_are_those_of_the_weights_that_are_kept(given: Data, made: Checkpoint) -> None:
    for name, recorded in (("val", "validation"), ("test", "test")):
        held = given.sides[name]
        logits = predict(made.model, card=made.card, inputs=held.inputs, device=CPU)
        probabilities = logits_to_probabilities(logits, temperature=made.card.temperature)
        figures = made.card.training[recorded]
        assert figures["n"] == len(held.truth)
        assert figures["macro_auc"] == metrics.macro_auc(held.truth, probabilities)
        recalls = metrics.recalls(held.truth, logits.argmax(1), classes=2)
        assert list(figures["recall"].values()) == recalls
        assert figures["balanced_accuracy"] == pytest.approx(np.mean(recalls))


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
    flat = given.sides["train"]
    flat.inputs[:] = 0
    flat.inputs[0, 0, 0] = 1
    assert run(given).card.normalisation.std > 0


def test_a_run_can_start_from_a_checkpoint(tmp_path: Path, made: Checkpoint) -> None:
    save(made, tmp_path / "m.safetensors")
    initial = load_checkpoint(tmp_path / "m.safetensors")
    before = {name: value.clone() for name, value in initial.model.state_dict().items()}
    # So small a step changes no weight by more than itself: the start shows in the end.
    made = run(data(), replace(OPTIONS, learning_rate=1e-9, seed=7), initial=initial)
    assert made.card.training["initial_weights"] == initial.sha256
    difference = made.model.fc.weight - before["fc.weight"]
    assert float(difference.detach().abs().max()) < 1e-6
    after = initial.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_start_of_other_classes_or_architecture_is_refused(tiny_checkpoint: Path) -> None:
    initial = load_checkpoint(tiny_checkpoint)
    with pytest.raises(CheckpointError, match="Viral Pneumonia; this run trains a resnet18"):
        run(data(), initial=initial)
    renamed = replace(initial, card=replace(initial.card, classes=("A", "B")))
    with pytest.raises(CheckpointError, match="this run trains a resnet34"):
        run(data(), replace(OPTIONS, architecture="resnet34"), initial=renamed)


def prepared(root: Path, cache: Path) -> Data:
    labelled = collect([root])
    inputs = prepare_inputs(
        labelled, recipe=RECIPE, workers=0, folder=cache, progress=lambda n: None
    )
    return prepare_data(labelled, inputs, classes=order_classes(labelled.files, ()), seed=0)


def test_folders_are_split_and_decoded(tmp_path: Path, write_png: PngMaker) -> None:
    for label in "AB":
        for i in range(10):
            write_png(tmp_path / "films" / label / f"{i}.png", np.full((32, 32), 10 * i, np.uint8))
    found = prepared(tmp_path / "films", tmp_path / "cache")
    assert found.classes == ("A", "B")
    assert not found.split_given
    assert {name: len(held.truth) for name, held in found.sides.items()} == {
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

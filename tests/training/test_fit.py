"""The loop learns what is easy, draws classes evenly, repeats itself and keeps its best epoch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cxrbatch.errors import CxrbatchError
from cxrbatch.model.card import Card, Normalisation
from cxrbatch.model.checkpoint import build_model
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.model.resnet import RadiographResNet
from cxrbatch.results.metrics import macro_auc
from cxrbatch.training import fit as fitting
from cxrbatch.training.data import Side
from cxrbatch.training.fit import Epoch, fit, logits_to_probabilities, predict
from cxrbatch.training.options import TrainingOptions

CPU = torch.device("cpu")
CARD = Card("t", "resnet18", ("dark", "bright"), Recipe(32), Normalisation(0.5, 0.25))
OPTIONS = TrainingOptions(size=32, epochs=2, draws=24, batch_size=8, learning_rate=1e-3)


def side(dark: int, bright: int, *, seed: int = 0, levels: tuple[int, int] = (60, 180)) -> Side:
    """Noisy pictures of two levels of grey."""
    rng = np.random.default_rng(seed)
    truth = np.array([0] * dark + [1] * bright, dtype=np.int64)
    base = np.array(levels)[truth][:, None, None]
    return Side((base + rng.integers(-30, 31, (len(truth), 32, 32))).astype(np.uint8), truth)


def new_model(seed: int = 0) -> RadiographResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(CARD)


def run(
    model: RadiographResNet, train: Side, val: Side, options: TrainingOptions = OPTIONS
) -> tuple[list[Epoch], list[int]]:
    steps: list[int] = []
    seen: list[Epoch] = []
    history = fit(
        model,
        card=CARD,
        train=train,
        val=val,
        options=options,
        device=CPU,
        on_step=steps.append,
        on_epoch=seen.append,
    )
    assert history == seen
    return history, steps


def test_two_levels_of_grey_are_learned() -> None:
    model = new_model()
    history, steps = run(model, side(20, 20), side(8, 8, seed=1))
    assert [epoch.number for epoch in history] == [1, 2]
    assert steps == [8] * 6
    assert max(epoch.val_auc for epoch in history) == 1.0
    unseen = side(10, 10, seed=2)
    logits = predict(model, card=CARD, inputs=unseen.inputs, device=CPU)
    assert macro_auc(unseen.truth, logits_to_probabilities(logits)) == 1.0
    assert not model.training


def test_a_seed_gives_the_same_weights_to_the_last_bit() -> None:
    train, val = side(12, 12), side(4, 4, seed=1)
    options = replace(OPTIONS, epochs=1, draws=8)
    states = []
    for seed in (3, 3, 4):
        model = new_model()
        torch.manual_seed(len(states))  # the run depends on its own seed alone
        run(model, train, val, replace(options, seed=seed))
        states.append(model.state_dict())
    first, again, other = states
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_the_weights_are_those_of_the_best_epoch() -> None:
    """Labels without a pattern: the validation AUC goes up and down."""
    rng = np.random.default_rng(0)
    noise = side(16, 16, levels=(120, 121))
    train = Side(noise.inputs, rng.permutation(noise.truth))
    val = side(10, 10, seed=4, levels=(120, 121))
    model = new_model()
    history, _ = run(model, train, val, replace(OPTIONS, epochs=3, draws=8))
    logits = predict(model, card=CARD, inputs=val.inputs, device=CPU)
    found = macro_auc(val.truth, logits_to_probabilities(logits))
    assert len({epoch.val_auc for epoch in history}) > 1
    assert found == max(epoch.val_auc for epoch in history)


def test_classes_are_drawn_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 dark and 60 bright pictures, half of those that are seen are dark."""
    seen: list[Tensor] = []

    def spy(images: Tensor, *, generator: torch.Generator, flip: bool) -> Tensor:
        seen.append(images.mean((1, 2, 3)))
        return images

    monkeypatch.setattr(fitting, "augment", spy)
    run(new_model(), side(4, 60), side(2, 2), replace(OPTIONS, epochs=1, draws=192, batch_size=96))
    levels = torch.cat(seen)
    assert len(levels) == 192
    assert 0.4 < float((levels < 0.5).float().mean()) < 0.6


def test_draws_default_to_the_number_of_images() -> None:
    _, steps = run(new_model(), side(9, 7), side(2, 2), replace(OPTIONS, epochs=1, draws=None))
    assert steps == [8] * 2


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    with pytest.raises(CxrbatchError, match="learning-rate"):
        run(new_model(), side(8, 8), side(4, 4), replace(OPTIONS, learning_rate=1e30))


def test_predictions_do_not_depend_on_the_batches() -> None:
    inputs = side(40, 40).inputs
    model = new_model()
    whole = predict(model, card=CARD, inputs=inputs, device=CPU)
    assert whole.shape == (80, 2)
    alone = np.concatenate(
        [predict(model, card=CARD, inputs=inputs[i : i + 1], device=CPU) for i in (0, 63, 64, 79)]
    )
    np.testing.assert_array_equal(whole[[0, 63, 64, 79]], alone)


def test_probabilities_are_a_softmax() -> None:
    logits = np.array([[1.0, 2.0], [1000.0, -1000.0]], np.float32)
    expected = 1 / (1 + np.exp(0.5))
    found = logits_to_probabilities(logits, temperature=2.0)
    np.testing.assert_allclose(found, [[expected, 1 - expected], [1.0, 0.0]])

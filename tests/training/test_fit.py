"""The loop learns what is easy, keeps its best epoch and goes on to the same end."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from trainees import CARD, CPU, OPTIONS, new_model, run, side

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.model.network import RadiographResNet
from cxrbatch.results.statistics.intervals import macro_auc
from cxrbatch.training import states
from cxrbatch.training.dataset import ImageSubset
from cxrbatch.training.loop import EpochMetrics
from cxrbatch.training.model_evaluation import logits_to_probabilities, predict
from cxrbatch.training.trainer import Trainer, TrainingOptions


def same(a: RadiographResNet, b: RadiographResNet) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def noise() -> tuple[ImageSubset, ImageSubset]:
    """Labels without a pattern: the validation AUC goes up and down."""
    flat = side(16, 16, levels=(120, 121))
    train = ImageSubset(flat.inputs, np.random.default_rng(0).permutation(flat.truth))
    return train, side(10, 10, seed=4, levels=(120, 121))


def test_two_levels_of_grey_are_learned() -> None:
    """The averaged weights are good after thirty steps, so their start is not averaged in."""
    model = new_model()
    history, steps = run(model, side(20, 20), side(8, 8, seed=1), replace(OPTIONS, epochs=10))
    assert [epoch.number for epoch in history] == list(range(1, 11))
    assert steps == [8] * 30
    assert history[-1].macro_auc == 1.0
    assert history[-1].val_loss < 0.6  # where nothing is known it is 0.69
    unseen = side(10, 10, seed=2)
    logits = predict(model, card=CARD, subset=unseen, device=CPU)
    assert macro_auc(unseen.truth, logits_to_probabilities(logits)) == 1.0
    assert not model.training


def test_the_weights_are_those_of_the_best_epoch() -> None:
    train, val = noise()
    model = new_model()
    history, _ = run(model, train, val, replace(OPTIONS, epochs=3, draws=8))
    logits = predict(model, card=CARD, subset=val, device=CPU)
    found = macro_auc(val.truth, logits_to_probabilities(logits))
    assert len({epoch.macro_auc for epoch in history}) > 1
    assert found == max(epoch.macro_auc for epoch in history)


def test_training_stops_when_it_gets_no_better(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([(0.5, 1.0), (0.8, 1.0), (0.8, 1.1), (0.7, 0.1), (0.9, 1.0)])
    monkeypatch.setattr("cxrbatch.training.loop._Fit._validate", lambda _: next(found))
    train, val = noise()
    options = replace(OPTIONS, epochs=9, draws=8, patience=2)
    history, _ = run(new_model(), train, val, options)
    assert [epoch.macro_auc for epoch in history] == [0.5, 0.8, 0.8, 0.7]


def test_draws_default_to_the_number_of_images() -> None:
    _, steps = run(new_model(), side(9, 7), side(2, 2), replace(OPTIONS, epochs=1, draws=None))
    assert steps == [8] * 2


def test_a_file_mapped_into_memory_gives_the_same_weights(tmp_path: Path) -> None:
    train, val = side(12, 12), side(4, 4, seed=1)
    rows = np.random.default_rng(1).permutation(40)[:24]
    mapped = np.memmap(tmp_path / "inputs", np.uint8, "w+", shape=(40, 32, 32))
    mapped[rows] = train.inputs
    models = []
    for given in (train, ImageSubset(mapped, train.truth, rows)):
        models.append(new_model())
        run(models[-1], given, val, replace(OPTIONS, epochs=1))
    assert same(*models)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopped_after_any_epoch_it_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Stopped in the middle of the epoch after, which is done again."""
    train, val = noise()
    options = replace(OPTIONS, epochs=3, precision=precision)
    unbroken = new_model()
    expected, _ = run(unbroken, train, val, options)
    step = Trainer.step
    for _ in range(2):  # in the second epoch, then in the third
        left = iter(range(4))

        def stopping(trainer: Trainer, *args: object, left: Iterator[int] = left) -> Tensor:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return step(trainer, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(Trainer, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(new_model(), train, val, options, folder=tmp_path, resume=True)
    monkeypatch.setattr(Trainer, "step", step)
    model = new_model()
    history, steps = run(model, train, val, options, folder=tmp_path, resume=True)
    assert history == expected
    assert sum(steps) == 3 * 24
    assert same(model, unbroken)
    again = new_model()
    assert run(again, train, val, options, folder=tmp_path, resume=True)[0] == expected
    assert same(again, unbroken)


def test_a_run_with_other_options_data_or_weights_is_not_gone_on_with(tmp_path: Path) -> None:
    train, val = side(8, 8), side(4, 4, seed=1)
    options = replace(OPTIONS, epochs=1, draws=8)
    run(new_model(), train, val, options, folder=tmp_path)
    other = ImageSubset(train.inputs, train.truth[::-1].copy())
    for given, changed, seed, expected in (
        (train, replace(options, learning_rate=0.5), 0, "learning rate was 0.001, now 0.5;"),
        (other, options, 0, "other training images or labels;"),
        (train, options, 9, "other initial weights;"),
    ):
        with pytest.raises(UsageError, match=expected):
            run(new_model(seed), given, val, changed, folder=tmp_path, resume=True)


def test_a_state_of_before_the_later_switches_is_gone_on_with(tmp_path: Path) -> None:
    """Its fingerprint has none of their names; one of a training with a switch differs."""
    train, val = noise()
    run(new_model(), train, val, replace(OPTIONS, epochs=1), folder=tmp_path)
    newest = max(tmp_path.glob("state-*.pt"))
    state = states._whole(newest)
    assert state is not None
    stored = dict(state.pop("fingerprint"))
    for name in ("freeze trunk", "class weights"):
        assert stored.pop(name) is None
    states.write_state(tmp_path, state, epoch=1, fingerprint=stored)
    options = replace(OPTIONS, epochs=1)
    assert run(new_model(), train, val, options, folder=tmp_path, resume=True)[1] == [24]
    for changed in ({"freeze_trunk": True}, {"class_weights": True}):
        other = replace(options, **changed)
        with pytest.raises(UsageError, match="the training to go on with is another one"):
            run(new_model(), train, val, other, folder=tmp_path, resume=True)


def test_a_training_with_another_augmentation_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was stopped under another version of this program."""
    train, val = side(8, 8), side(4, 4, seed=1)
    options = replace(OPTIONS, epochs=1, draws=8)
    run(new_model(), train, val, options, folder=tmp_path)
    monkeypatch.setattr("cxrbatch.training.augment.NOISE", 0.03)
    with pytest.raises(UsageError, match="other version of the augmentation; give"):
        run(new_model(), train, val, options, folder=tmp_path, resume=True)


@pytest.mark.parametrize("part", ["model", "best", "history", "generator", "variances"])
def test_a_state_that_does_not_fit_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    train, val = side(8, 8), side(4, 4, seed=1)
    options = replace(OPTIONS, epochs=1, draws=8)
    kept: dict[str, Any] = {}
    monkeypatch.setattr(
        "cxrbatch.training.loop.write_state", lambda _, state, **__: kept.update(state)
    )
    run(new_model(), train, val, options, folder=tmp_path)
    damaged = {**kept, part: {"conv1.weight": torch.zeros(1)}}
    if part == "variances":
        kept["best"]["bn1.running_var"][3] = -1.0
    monkeypatch.setattr("cxrbatch.training.loop.read_state", lambda *_, **__: damaged)
    with pytest.raises(UsageError, match="damaged; give --overwrite"):
        run(new_model(), train, val, options, folder=tmp_path, resume=True)


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_best_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val = side(8, 8), side(4, 4, seed=1)
    with pytest.raises(CxrbatchError, match="epoch 1; try a lower --learning-rate"):
        run(new_model(), train, val, replace(OPTIONS, learning_rate=1e30))
    step = Trainer.step

    def failing(trainer: Trainer, *args: object) -> Tensor:
        loss = step(trainer, *args)  # type: ignore[arg-type]
        return loss * float("nan") if states.holds_run(tmp_path) else loss

    monkeypatch.setattr(Trainer, "step", failing)
    with pytest.raises(CxrbatchError, match=r"best checkpoint so far, of epoch 1, is .*best\.saf"):
        run(new_model(), train, val, OPTIONS, folder=tmp_path)
    best = load_checkpoint(states.best_checkpoint(tmp_path))
    assert "not finished" in best.card.limits[-1]


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e38])
def test_scores_that_are_not_finite_end_the_run_too(
    monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """Weights that are not finite, or so large that logits overflow in validation."""

    def spoilt(model: RadiographResNet, **given: object) -> np.ndarray:
        torch.nn.init.constant_(model.fc.weight, value)
        return predict(model, **given)

    monkeypatch.setattr("cxrbatch.training.loop.predict", spoilt)
    with pytest.raises(CxrbatchError, match="epoch 1; try a lower --learning-rate"):
        run(new_model(), side(8, 8), side(4, 4, seed=1))


def test_epochs_are_told_again_where_a_run_goes_on(tmp_path: Path) -> None:
    train, val = side(8, 8), side(4, 4, seed=1)
    options = TrainingOptions(size=32, epochs=1, draws=8, batch_size=8)
    first, _ = run(new_model(), train, val, options, folder=tmp_path)
    again, steps = run(new_model(), train, val, options, folder=tmp_path, resume=True)
    assert first == again
    assert isinstance(again[0], EpochMetrics)
    assert steps == [8]


def test_predictions_do_not_depend_on_the_batches() -> None:
    given = side(40, 40)
    model = new_model()
    whole = predict(model, card=CARD, subset=given, device=CPU)
    assert whole.shape == (80, 2)
    alone = np.concatenate(
        [
            predict(
                model,
                card=CARD,
                subset=ImageSubset(given.inputs, given.truth[:1], np.array([i])),
                device=CPU,
            )
            for i in (0, 63, 64, 79)
        ]
    )
    np.testing.assert_array_equal(whole[[0, 63, 64, 79]], alone)


def test_probabilities_are_a_softmax() -> None:
    logits = np.array([[1.0, 2.0], [1000.0, -1000.0]], np.float32)
    expected = 1 / (1 + np.exp(0.5))
    found = logits_to_probabilities(logits, temperature=2.0)
    np.testing.assert_allclose(found, [[expected, 1 - expected], [1.0, 0.0]])

"""A trunk that is held stays that of the initial weights, to the last bit; the head learns."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from calls import FAST, one_error
from torch import Tensor
from trainees import CARD, CPU, OPTIONS, new_model, run, side

from cxrbatch.cli import main
from cxrbatch.errors import UsageError
from cxrbatch.model.card import Normalisation
from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.model.network import RadiographResNet, save_checkpoint
from cxrbatch.training.train import train
from cxrbatch.training.trainer import Trainer, TrainingSetup

HELD = replace(OPTIONS, freeze_trunk=True)


def trunk(model: RadiographResNet) -> dict[str, Tensor]:
    return {n: v.clone() for n, v in model.state_dict().items() if not n.startswith("fc.")}


def test_only_the_head_has_a_gradient_and_changes() -> None:
    model, held = new_model(), side(4, 4)
    before, head = trunk(model), model.fc.weight.detach().clone()
    setup = TrainingSetup(card=CARD, options=HELD, device=CPU)
    trainer = Trainer(model, setup, steps=3)
    images, truth = torch.from_numpy(held.inputs)[:, None] / 255, torch.from_numpy(held.truth)
    for _ in range(3):
        trainer.step(images, truth, torch.ones(8))
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        "fc.weight",
        "fc.bias",
    }
    for network in (model, trainer.averaged):
        after = trunk(network)
        assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not torch.equal(model.fc.weight, head)
    assert not torch.equal(trainer.averaged.fc.weight, head)


def test_the_head_learns_and_a_stopped_training_goes_on_to_the_same(tmp_path: Path) -> None:
    data, options = (side(20, 20), side(8, 8, seed=1)), replace(HELD, epochs=3, learning_rate=0.01)
    whole, model = new_model(), new_model()
    history, _ = run(whole, *data, options)
    assert history[-1].loss < history[0].loss
    seen = iter(range(3))  # the first epoch has three steps
    step = Trainer.step

    def stopping(trainer: Trainer, *batch: Tensor) -> Tensor:
        if next(seen, None) is None:
            raise KeyboardInterrupt
        return step(trainer, *batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(new_model(), *data, options, folder=tmp_path)
    again, _ = run(model, *data, options, folder=tmp_path, resume=True)
    assert again == history
    assert torch.equal(model.fc.weight, whole.fc.weight)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the classes "grey" and "other", with its own normalisation."""
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    card = replace(CARD, classes=("grey", "other"), normalisation=Normalisation(0.3, 0.4))
    save_checkpoint(path, model=new_model(5), card=card)
    return path


def test_the_checkpoint_has_the_trunk_and_the_normalisation_of_its_start(
    level_archive: Path, tmp_path: Path, start: Path
) -> None:
    output = tmp_path / "m.safetensors"
    words = ["train", str(level_archive), "-o", str(output), *FAST, "--init", str(start)]
    assert main([*words, "--freeze-trunk", "--class-weights"]) == 0
    before, after = load_checkpoint(start), load_checkpoint(output)
    assert before.tensors.keys() == after.tensors.keys()
    for name, value in before.tensors.items():
        same = np.array_equal(np.asarray(value), np.asarray(after.tensors[name]))
        assert same is not name.startswith("fc."), name
    assert after.card.normalisation == Normalisation(0.3, 0.4)
    options = after.card.training["options"]
    assert (options["freeze_trunk"], options["class_weights"]) == (True, True)


def test_without_weights_to_keep_it_is_refused_in_one_line(
    level_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(level_archive), "-o", str(tmp_path / "m.safetensors"), *FAST]
    assert main([*words, "--freeze-trunk"]) == 2
    assert "give --init as well" in one_error(capsys)
    with pytest.raises(UsageError, match="give init as well"):
        train(level_archive, tmp_path / "m.safetensors", freeze_trunk=True, progress=False)
    assert list(tmp_path.iterdir()) == []

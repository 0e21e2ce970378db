"""Teachers see the images that are trained on, at their own size, and pull the loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from trainees import CARD, CPU, OPTIONS, new_model, side

from cxrbatch.errors import CheckpointError
from cxrbatch.model.card import Normalisation
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.network import model_of
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.training.dataset import ImageSubset
from cxrbatch.training.initial import Teachers
from cxrbatch.training.trainer import Trainer, TrainingSetup


def teacher(seed: int, size: int, temperature: float = 1.0) -> Checkpoint:
    card = replace(
        CARD,
        recipe=Recipe(size),
        normalisation=Normalisation(0.4, 0.2),
        temperature=temperature,
    )
    return Checkpoint.of(new_model(seed), card)


def floats(held: ImageSubset) -> torch.Tensor:
    return torch.from_numpy(held.inputs)[:, None] / 255


def test_opinions_are_the_mean_of_calibrated_probabilities() -> None:
    images = torch.rand(3, 1, 32, 32)
    given = [teacher(1, 32, 2.0), teacher(2, 64)]
    networks = [model_of(one.tensors, one.card.architecture) for one in given]
    larger = interpolate(images, size=(64, 64), mode="bilinear", antialias=True)
    with torch.no_grad():
        one = (networks[0]((images - 0.4) / 0.2) / 2.0).softmax(1)
        other = networks[1]((larger - 0.4) / 0.2).softmax(1)
    found = Teachers(given, card=CARD, device=CPU).probabilities(images)
    torch.testing.assert_close(found, (one + other) / 2)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_loss_is_shared_between_labels_and_teachers(weight: float) -> None:
    held = side(2, 2)
    options = replace(OPTIONS, teacher_weight=weight, label_smoothing=0.0)
    losses = {}
    images, truth = floats(held), torch.from_numpy(held.truth)
    sure = teacher(1, 32, 0.01)  # of one class: a label
    for name, teachers in (("labels", []), ("both", [sure])):
        setup = TrainingSetup(card=CARD, options=options, device=CPU, teachers=teachers)
        trainer = Trainer(new_model(), setup, steps=1)
        losses[name] = float(trainer.step(images, truth, torch.ones(4)))
    assert (losses["both"] == pytest.approx(losses["labels"])) is (weight == 0.0)
    assert np.isfinite(losses["both"])


def test_a_student_of_teachers_alone_comes_to_think_as_they_do() -> None:
    held = side(8, 8)
    sure = teacher(1, 32)
    options = replace(OPTIONS, teacher_weight=1.0)
    setup = TrainingSetup(card=CARD, options=options, device=CPU, teachers=[sure])
    trainer = Trainer(new_model(), setup, steps=24)
    wrong = torch.from_numpy(1 - held.truth)
    losses = [float(trainer.step(floats(held), wrong, torch.ones(16))) for _ in range(24)]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])


def test_class_weights_weigh_the_opinions_too() -> None:
    """Of images of one class alone the whole loss is as many times as large as its weight."""
    held = side(4, 0)
    setup = TrainingSetup(card=CARD, options=OPTIONS, device=CPU, teachers=[teacher(1, 32)])
    losses = []
    for weights in (None, torch.tensor([3.0, 1.0])):
        trainer = Trainer(new_model(), setup, steps=1, class_weights=weights)
        batch = floats(held), torch.from_numpy(held.truth), torch.ones(4)
        losses.append(float(trainer.step(*batch)))
    assert losses[1] == pytest.approx(3 * losses[0])


def test_a_teacher_of_other_classes_or_geometry_is_refused() -> None:
    given = teacher(1, 32)
    for card, expected in (
        (replace(CARD, classes=("bright", "dark")), "give both the same --classes"),
        (replace(CARD, recipe=Recipe(32, "pad")), "--geometry squeeze"),
    ):
        with pytest.raises(CheckpointError, match=expected):
            Teachers([given], card=card, device=CPU)

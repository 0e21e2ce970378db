"""What the tests of the loop share: noisy pictures of two levels of grey, and a short run."""

from pathlib import Path

import numpy as np
import torch

from cxrbatch.model.card import Card, Normalisation
from cxrbatch.model.network import RadiographResNet, build_model
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.training.augment import draw_changes, draw_shares
from cxrbatch.training.dataset import Side, draw_epoch
from cxrbatch.training.distributed import ALONE, World
from cxrbatch.training.loop import Epoch, fit
from cxrbatch.training.options import TrainingOptions
from cxrbatch.training.trainer import Trainer

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
    """Random weights that leave the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(CARD)


def run(
    model: RadiographResNet,
    train: Side,
    val: Side,
    options: TrainingOptions = OPTIONS,
    *,
    folder: Path | None = None,
    resume: bool = False,
    world: World = ALONE,
) -> tuple[list[Epoch], list[int]]:
    """Fit; gives the epochs and the images of each step."""
    steps: list[int] = []
    seen: list[Epoch] = []
    history = fit(
        model,
        card=CARD,
        train=train,
        val=val,
        options=options,
        device=CPU,
        folder=folder,
        resume=resume,
        world=world,
        on_step=steps.append,
        on_epoch=seen.append,
    )
    assert history == seen
    return history, steps


def losses_of_steps(model: RadiographResNet, world: World) -> list[float]:
    """Train a dozen steps; gives each one's loss over all processes, and leaves the weights."""
    train = side(24, 24)
    trainer = Trainer(
        model, card=CARD, options=OPTIONS, teachers=[], steps=12, device=CPU, world=world
    )
    own, losses = world.part(8), []
    for order in draw_epoch(train.truth, count=96, generator=trainer.generator).reshape(12, 8):
        changes = draw_changes(8, generator=trainer.generator, flip=False).of(own)
        shares = draw_shares(8, generator=trainer.generator)[own]
        inputs = torch.from_numpy(train.images(order[own]))
        loss = trainer.step(inputs, torch.from_numpy(train.truth[order[own]]), changes, shares)
        losses.append(float(world.mean(loss)))
    model.load_state_dict(trainer.averaged.state_dict())
    return losses

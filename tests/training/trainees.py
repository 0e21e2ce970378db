"""What the tests of the loop share: noisy pictures of two levels of grey, and a short run."""

from pathlib import Path

import numpy as np
import torch

from cxrbatch.model.card import Card, Normalisation
from cxrbatch.model.network import RadiographResNet, build_model
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.training.dataset import ImageSubset, training_loader
from cxrbatch.training.distributed import ALONE, ProcessGroup
from cxrbatch.training.loop import EpochMetrics, TrainingListener, fit
from cxrbatch.training.sampling import DrawSampler
from cxrbatch.training.trainer import Trainer, TrainingOptions, TrainingSetup

CPU = torch.device("cpu")
CARD = Card("t", "resnet18", ("dark", "bright"), Recipe(32), Normalisation(0.5, 0.25))
OPTIONS = TrainingOptions(size=32, epochs=2, draws=24, batch_size=8, learning_rate=1e-3)


def side(
    dark: int, bright: int, *, seed: int = 0, levels: tuple[int, int] = (60, 180)
) -> ImageSubset:
    """Noisy pictures of two levels of grey."""
    rng = np.random.default_rng(seed)
    truth = np.array([0] * dark + [1] * bright, dtype=np.int64)
    base = np.array(levels)[truth][:, None, None]
    return ImageSubset((base + rng.integers(-30, 31, (len(truth), 32, 32))).astype(np.uint8), truth)


def new_model(seed: int = 0) -> RadiographResNet:
    """Random weights that leave the global generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(CARD)


class Listener(TrainingListener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.epochs: list[EpochMetrics] = []

    def stepped(self, images: int) -> None:
        self.steps.append(images)

    def epoch_done(self, metrics: EpochMetrics) -> None:
        self.epochs.append(metrics)


def run(
    model: RadiographResNet,
    train: ImageSubset,
    val: ImageSubset,
    options: TrainingOptions = OPTIONS,
    *,
    folder: Path | None = None,
    resume: bool = False,
    group: ProcessGroup = ALONE,
) -> tuple[list[EpochMetrics], list[int]]:
    """Fit; gives the epochs and the images of each step."""
    listener = Listener()
    setup = TrainingSetup(
        card=CARD, options=options, device=CPU, folder=folder, resume=resume, group=group
    )
    history = fit(model, train, val, setup, listener)
    assert history == listener.epochs
    return history, listener.steps


def losses_of_steps(model: RadiographResNet, group: ProcessGroup) -> list[float]:
    """Train a dozen steps; gives each one's loss over all processes, and leaves the weights."""
    train = side(24, 24)
    setup = TrainingSetup(card=CARD, options=OPTIONS, device=CPU, group=group)
    trainer = Trainer(model, setup, steps=12)
    sampler = DrawSampler(
        train.truth, steps=12, batch_size=8, generator=trainer.generator, group=group
    )
    loader = training_loader(train, sampler, flip=False, device=CPU, workers=0)
    losses = [float(group.mean(trainer.step(*batch))) for batch in loader]
    model.load_state_dict(trainer.averaged.state_dict())
    return losses

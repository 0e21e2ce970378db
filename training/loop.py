"""The loop over epochs: train, validate, keep the best weights, stop early, resume."""

import copy
import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cxrbatch.errors import CxrbatchError, NotFiniteError, UsageError
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.network import RadiographResNet, round_as_stored
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.model.soundness import weight_fault
from cxrbatch.process import keep_freed_memory
from cxrbatch.results.statistics.intervals import macro_auc
from cxrbatch.training.augment import augmentation
from cxrbatch.training.dataset import ImageSubset, training_loader
from cxrbatch.training.model_evaluation import (
    calibrate,
    log_loss,
    logits_to_probabilities,
    predict,
)
from cxrbatch.training.sampling import DrawSampler, class_weights
from cxrbatch.training.states import (
    Fingerprint,
    TrainingState,
    best_checkpoint,
    read_state,
    write_best,
    write_state,
)
from cxrbatch.training.trainer import Trainer, TrainingOptions, TrainingSetup

# On a GPU, reading a loss waits for the step.
_STEPS_BETWEEN_CHECKS = 16

# Switches that states of earlier versions do not know.
_LATER = ("freeze trunk", "class weights")

_Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """Loss and validation figures of one epoch.

    Attributes:
        number: Number of the epoch, from 1.
        loss: Mean training loss over the steps, with label smoothing and teachers.
        val_loss: Mean negative log-likelihood on validation, in nats, before calibration.
        macro_auc: Macro one-vs-rest AUC on validation of the averaged weights as a checkpoint would
            have them, rounded and calibrated: for the epoch that is kept, that of the card.
        learning_rate: That of the last step; None for an epoch of an earlier version.
    """

    number: int
    loss: float
    macro_auc: float
    val_loss: float
    learning_rate: float | None = None


class TrainingListener:
    """Base of objects that `fit` informs of its progress, in every process.

    Each method here does nothing; a subclass overrides those that it needs.
    """

    def started(self, history: Sequence[EpochMetrics]) -> None:
        """Do nothing; `fit` calls this once before the first step, after all checks have passed.

        Args:
            history: The epochs that were done before, if the training is resumed.
        """

    def stepped(self, images: int) -> None:
        """Do nothing; `fit` calls this after each step.

        In a resumed training it is first called once for each epoch that was done before, with all
        images of that epoch, so that a progress bar starts at the right place.

        Args:
            images: Images of the batch, over all processes.
        """

    def epoch_done(self, metrics: EpochMetrics) -> None:
        """Do nothing; `fit` calls this after each epoch, when its state, if any, has been written.

        In a resumed training it is first called for each epoch that was done before.
        """


def best_epoch(history: Sequence[EpochMetrics]) -> EpochMetrics:
    """Return the epoch with the highest macro AUC on validation.

    Of several the one with the lowest validation loss is returned, and of several of these the
    first.

    Raises:
        ValueError: `history` is empty.
    """
    return max(history, key=lambda epoch: (epoch.macro_auc, -epoch.val_loss))


def should_stop(history: Sequence[EpochMetrics], *, epochs: int, patience: int | None) -> bool:
    """Return whether a training has no epoch left to train.

    Args:
        history: Metrics of all epochs so far; False is returned if it is empty.
        epochs: The training ends when so many epochs are done.
        patience: It also ends when so many epochs have followed the best one; None turns this off.
    """
    if not history:
        return False
    waited = history[-1].number - best_epoch(history).number
    return len(history) >= epochs or (patience is not None and waited >= patience)


def fit(
    model: RadiographResNet,
    train: ImageSubset,
    val: ImageSubset,
    setup: TrainingSetup,
    listener: TrainingListener | None = None,
) -> list[EpochMetrics]:
    """Train a network in place.

    After each epoch the network is evaluated on `val` and, if `setup.folder` is not None, the state
    is written to disk. At the end `model` has the averaged weights of the best epoch, and is in
    evaluation mode.

    On one machine, with as many threads, the same arguments give the same weights on a CPU to the
    last bit, also when the training was stopped after any epoch and resumed.

    Args:
        model: The network, with the weights to start from.
        train: Images to learn from.
        val: Images on which the best epoch is chosen: the one with the highest macro AUC.
        setup: Card, options, device, folder and processes; every process of `setup.group` calls
            this.
        listener: Its methods are called as the training progresses.

    Returns:
        The metrics of every epoch, those before a resume included.

    Raises:
        CxrbatchError: The training or validation loss is no longer finite, validation does not fit
            into memory, or a state cannot be read or written.
        CheckpointError: A teacher has other classes or another geometry, a weight is too large to
            be stored, or the first scores of an epoch are not those of plain PyTorch.
        UsageError: The state to resume is of another training, or damaged; or a batch cannot be
            divided equally into parts of at least two images.
    """
    return _Fit(model, train, val, setup, listener or TrainingListener()).run()


class _Fit:
    """One call of `fit`."""

    def __init__(
        self,
        model: RadiographResNet,
        train: ImageSubset,
        val: ImageSubset,
        setup: TrainingSetup,
        listener: TrainingListener,
    ) -> None:
        keep_freed_memory()
        self._model, self._val, self._setup, self._listener = model, val, setup, listener
        self._folder = setup.folder if setup.group.leads else None
        options, group = setup.options, setup.group
        self._fingerprint = _fingerprint(model, train, val, setup) if setup.folder else {}
        self._history: list[EpochMetrics] = []
        self._best: _Weights = {}
        group.part_size(options.batch_size)
        state = None
        if setup.folder and setup.resume:
            state = read_state(setup.folder, fingerprint=self._fingerprint)
        steps = options.steps(len(train))
        strata, weights = train.truth, None
        if options.class_weights:
            strata = np.zeros_like(train.truth)
            weights = class_weights(train.truth, classes=len(setup.card.classes))
        self._trainer = Trainer(model, setup, steps=steps * options.epochs, class_weights=weights)
        if state is not None:
            self._restore(state)
        sampler = DrawSampler(
            strata,
            steps=steps,
            batch_size=options.batch_size,
            generator=self._trainer.generator,
            group=group,
        )
        self._loader = training_loader(
            train, sampler, flip=options.flip, device=setup.device, workers=setup.workers
        )

    def run(self) -> list[EpochMetrics]:
        """Train the epochs that are left."""
        options, history = self._setup.options, self._history
        self._listener.started(tuple(history))
        for epoch in history:
            self._listener.stepped(len(self._loader) * options.batch_size)
            self._listener.epoch_done(epoch)
        while not should_stop(history, epochs=options.epochs, patience=options.patience):
            loss = self._train_epoch()
            auc, val_loss = self._validate() if math.isfinite(loss) else (math.nan, math.nan)
            if not math.isfinite(val_loss):
                raise CxrbatchError(self._divergence())
            rate = self._trainer.learning_rate
            history.append(EpochMetrics(len(history) + 1, loss, auc, val_loss, rate))
            self._keep_state()
            self._listener.epoch_done(history[-1])
        self._model.load_state_dict(self._best)
        self._model.eval()
        return history

    def _train_epoch(self) -> float:
        """Train one epoch, or less if the loss diverges; returns the mean over all processes."""
        group = self._setup.group
        losses: list[Tensor] = []
        for images, truth, shares in self._loader:
            losses.append(self._trainer.step(images, truth, shares))
            self._listener.stepped(self._setup.options.batch_size)
            if len(losses) % _STEPS_BETWEEN_CHECKS == 0:
                recent = torch.stack(losses[-_STEPS_BETWEEN_CHECKS:])
                if not group.mean(recent).isfinite().all():
                    break
        return group.mean(torch.stack(losses)).double().mean().item()

    def _validate(self) -> tuple[float, float]:
        """Return macro AUC and log-loss on validation, in all processes; nan where not finite."""
        setup, figures = self._setup, [math.nan, math.nan]
        if setup.group.leads:
            with suppress(NotFiniteError):
                network, truth = copy.deepcopy(self._trainer.averaged), self._val.truth
                round_as_stored(network)
                logits = predict(
                    network,
                    card=setup.card,
                    subset=self._val,
                    device=setup.device,
                    precision=setup.options.precision,
                )
                calibrated, temperature = calibrate(network, logits, truth)
                probabilities = logits_to_probabilities(calibrated, temperature=temperature)
                figures = [macro_auc(truth, probabilities), log_loss(logits, truth)]
        tensor = torch.tensor(figures, dtype=torch.float64, device=setup.device)
        auc, loss = setup.group.from_first(tensor).tolist()
        return auc, loss

    def _keep_state(self) -> None:
        """Write the state after an epoch, and the best checkpoint if this epoch is the best."""
        number, averaged = self._history[-1].number, self._trainer.averaged
        is_best = best_epoch(self._history).number == number
        if is_best:
            self._best = {
                name: value.detach().cpu().clone() for name, value in averaged.state_dict().items()
            }
            if self._folder:
                write_best(self._folder, averaged, self._setup.card)
        if self._folder:
            state = {
                **self._trainer.state(),
                "history": [asdict(epoch) for epoch in self._history],
                # torch writes a tensor once that stands twice: here and in the average.
                "best": averaged.state_dict() if is_best else self._best,
            }
            write_state(self._folder, state, epoch=number, fingerprint=self._fingerprint)

    def _restore(self, state: TrainingState) -> None:
        try:
            self._trainer.restore(state)
            self._history = [EpochMetrics(**epoch) for epoch in state["history"]]
            self._best = state["best"]
            average = self._trainer.averaged.state_dict()
            fits = _shapes(self._best) == _shapes(average)
            fits &= not any(weight_fault(*w) for w in [*self._best.items(), *average.items()])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
            fits = False
        if not fits:
            raise UsageError("the state to go on with is damaged; give --overwrite to start anew")

    def _divergence(self) -> str:
        number = len(self._history) + 1
        message = f"the loss is no longer a number in epoch {number}; try a lower --learning-rate"
        if self._setup.folder and self._history:
            best, path = best_epoch(self._history).number, best_checkpoint(self._setup.folder)
            message += f"; the best checkpoint so far, of epoch {best}, is {path}"
        return message


def _shapes(weights: _Weights) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items()}


def options_fingerprint(
    options: TrainingOptions, recipe: Recipe, teachers: Sequence[Checkpoint]
) -> Fingerprint:
    """Return what a stopped training and its continuation must have in common, by name.

    It holds only what is known before any image is read: every option, the recipe, the hashes of
    the teachers, how epochs are compared, and a hash of the augmentation's parameters.

    Args:
        options: Options of the training.
        recipe: How images become network inputs.
        teachers: The teachers in their order.
    """
    named: dict[str, Any] = {name.replace("_", " "): v for name, v in asdict(options).items()}
    for name in _LATER:
        named[name] = named[name] or None  # a state of before has no such name
    transform = repr(augmentation(flip=options.flip))
    return {
        **named,
        "recipe": recipe.to_card(),
        "teachers": [teacher.sha256 for teacher in teachers],
        "validation": "calibrated",
        "version of the augmentation": hashlib.sha256(transform.encode()).hexdigest(),
    }


def _fingerprint(
    model: RadiographResNet, train: ImageSubset, val: ImageSubset, setup: TrainingSetup
) -> Fingerprint:
    card = setup.card
    return {
        **options_fingerprint(setup.options, card.recipe, setup.teachers),
        "classes": list(card.classes),
        "normalisation": asdict(card.normalisation),
        "initial weights": _weights_sha256(model),
        "training images or labels": train.sha256(),
        "validation images or labels": val.sha256(),
    }


def _weights_sha256(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

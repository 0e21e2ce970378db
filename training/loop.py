"""The loop over epochs: it keeps the best one, and goes on where it was stopped."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.network import RadiographResNet
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.model.soundness import weight_fault
from cxrbatch.results.statistics.metrics import macro_auc
from cxrbatch.scoring.allocation import keep_freed_memory
from cxrbatch.training.augment import draw_changes, draw_shares
from cxrbatch.training.dataset import Side, draw_epoch
from cxrbatch.training.distributed import ALONE, World
from cxrbatch.training.evaluation import log_loss, logits_to_probabilities, predict
from cxrbatch.training.options import TrainingOptions
from cxrbatch.training.states import (
    Fingerprint,
    State,
    best_checkpoint,
    read_state,
    write_best,
    write_state,
)
from cxrbatch.training.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        number: From 1.
        loss: Mean training loss, with label smoothing and teachers.
        val_auc: Macro one-vs-rest AUC on validation, of the averaged weights.
        val_loss: Negative log-likelihood on validation, of the averaged weights.
    """

    number: int
    loss: float
    val_auc: float
    val_loss: float


def best_epoch(history: Sequence[Epoch]) -> Epoch:
    """The first epoch with the best validation AUC; the lower validation loss decides a tie."""
    return max(history, key=lambda epoch: (epoch.val_auc, -epoch.val_loss))


def is_over(history: Sequence[Epoch], *, epochs: int, patience: int | None) -> bool:
    """Whether all epochs are done, or `patience` of them since the best one."""
    if not history:
        return False
    waited = history[-1].number - best_epoch(history).number
    return len(history) >= epochs or (patience is not None and waited >= patience)


# On a GPU, to look at a loss is to wait for it.
_STEPS_BETWEEN_LOOKS = 16

Weights = dict[str, Tensor]


def fit(
    model: RadiographResNet,
    *,
    card: Card,
    train: Side,
    val: Side,
    options: TrainingOptions,
    device: torch.device,
    teachers: Sequence[Checkpoint] = (),
    folder: Path | None = None,
    resume: bool = False,
    world: World = ALONE,
    on_start: Callable[[], object] = lambda: None,
    on_step: Callable[[int], object],
    on_epoch: Callable[[Epoch], object],
) -> list[Epoch]:
    """Train in place and leave the averaged weights of the epoch with the best validation AUC.

    On one machine, with as many threads, the same arguments give the same weights on a CPU to the
    last bit, also when the training was stopped after any epoch and went on.

    Args:
        model: The network, with the weights to start from.
        card: Gives the normalisation; used to score validation images as scoring will.
        train: What is learned from.
        val: What the best epoch is chosen on.
        options: The run's options.
        device: Where to compute.
        teachers: Checkpoints of the same classes whose opinion is learned too.
        folder: Where states and the best checkpoint are kept, an existing folder; None for none.
        resume: Go on with the newest state in `folder`, where there is one.
        world: The processes that train together; all of them call this.
        on_start: Called once, before the first step, when nothing speaks against it any more.
        on_step: Called with the number of images after each step.
        on_epoch: Called after each epoch; where a run goes on, for those that are done, too.

    Returns:
        The epochs.

    Raises:
        CxrbatchError: The loss stopped being a number, or a state cannot be written.
        UsageError: The state to go on with is of another run, or damaged.
    """
    keep_freed_memory()
    own = world.part(options.batch_size)
    prints = _fingerprint(model, card, train, val, options, teachers) if folder else {}
    state = read_state(folder, fingerprint=prints) if folder and resume else None
    steps = math.ceil((options.draws or len(train)) / options.batch_size)
    trainer = Trainer(
        model,
        card=card,
        options=options,
        teachers=teachers,
        steps=steps * options.epochs,
        device=device,
        world=world,
    )
    history, best = _restored(trainer, state)
    on_start()
    for epoch in history:
        on_step(steps * options.batch_size)
        on_epoch(epoch)
    while not is_over(history, epochs=options.epochs, patience=options.patience):
        number = len(history) + 1
        loss = _train_epoch(
            trainer, train, steps=steps, own=own, options=options, world=world, on_step=on_step
        )
        if not math.isfinite(loss):
            raise CxrbatchError(_diverged(number, history, folder))
        auc, val_loss = _judge(
            trainer.averaged, card, val, device=device, options=options, world=world
        )
        if not math.isfinite(val_loss):
            raise CxrbatchError(_diverged(number, history, folder))
        history.append(Epoch(number, loss, auc, val_loss))
        is_best = best_epoch(history).number == number
        if is_best:
            best = _copied(trainer.averaged)
            if folder and world.leads:
                write_best(folder, trainer.averaged, card)
        if folder and world.leads:
            # torch writes once what is there twice, and the average is in the state anyway.
            kept = trainer.averaged.state_dict() if is_best else best
            told = [asdict(epoch) for epoch in history]
            state = {**trainer.state(), "history": told, "best": kept}
            write_state(folder, state, epoch=number, fingerprint=prints)
        on_epoch(history[-1])
    model.load_state_dict(best)
    model.eval()
    return history


def _train_epoch(
    trainer: Trainer,
    train: Side,
    *,
    steps: int,
    own: slice,
    options: TrainingOptions,
    world: World,
    on_step: Callable[[int], object],
) -> float:
    """The mean loss of an epoch over all processes; it ends soon where that is not finite."""
    size, generator = options.batch_size, trainer.generator
    order = draw_epoch(train.truth, count=steps * size, generator=generator)
    losses: list[Tensor] = []
    for start in range(0, len(order), size):
        # Drawn for all processes, so that their number changes nothing.
        changes = draw_changes(size, generator=generator, flip=options.flip)
        shares = draw_shares(size, generator=generator)
        rows = order[start : start + size][own]
        inputs, truth = torch.from_numpy(train.images(rows)), torch.from_numpy(train.truth[rows])
        losses.append(trainer.step(inputs, truth, changes.of(own), shares[own]))
        on_step(size)
        if len(losses) % _STEPS_BETWEEN_LOOKS == 0:
            recent = torch.stack(losses[-_STEPS_BETWEEN_LOOKS:])
            if not world.mean(recent).isfinite().all():
                break
    return world.mean(torch.stack(losses)).double().mean().item()


def _judge(
    model: RadiographResNet,
    card: Card,
    val: Side,
    *,
    device: torch.device,
    options: TrainingOptions,
    world: World,
) -> tuple[float, float]:
    """Macro AUC and log-loss on validation, found by the first process for all; nan if diverged."""
    found = [math.nan, math.nan]
    if world.leads:
        logits = predict(model, card=card, side=val, device=device, precision=options.precision)
        if np.isfinite(logits).all():
            auc = macro_auc(val.truth, logits_to_probabilities(logits))
            found = [auc, log_loss(logits, val.truth)]
    auc, loss = world.from_first(torch.tensor(found, dtype=torch.float64, device=device)).tolist()
    return auc, loss


def _copied(model: nn.Module) -> Weights:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _restored(trainer: Trainer, state: State | None) -> tuple[list[Epoch], Weights]:
    if state is None:
        return [], {}
    try:
        trainer.restore(state)
        history, best = [Epoch(**epoch) for epoch in state["history"]], state["best"]
        average = trainer.averaged.state_dict()
        fits = _shapes(best) == _shapes(average)
        fits &= not any(weight_fault(*named) for named in [*best.items(), *average.items()])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        fits = False
    if not fits:
        raise UsageError("the state to go on with is damaged; give --overwrite to start anew")
    return history, best


def _shapes(weights: Weights) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items()}


def _diverged(number: int, history: Sequence[Epoch], folder: Path | None) -> str:
    message = f"the loss is no longer a number in epoch {number}; try a lower --learning-rate"
    if folder and history:
        best = best_epoch(history).number
        message += f"; the best checkpoint so far, of epoch {best}, is {best_checkpoint(folder)}"
    return message


def options_fingerprint(
    options: TrainingOptions, recipe: Recipe, teachers: Sequence[Checkpoint]
) -> Fingerprint:
    """What two runs must have in common, as far as it is known before any image is read."""
    named: dict[str, Any] = {name.replace("_", " "): v for name, v in asdict(options).items()}
    return {
        **named,
        "recipe": recipe.to_card(),
        "teachers": [teacher.sha256 for teacher in teachers],
    }


def _fingerprint(
    model: RadiographResNet,
    card: Card,
    train: Side,
    val: Side,
    options: TrainingOptions,
    teachers: Sequence[Checkpoint],
) -> Fingerprint:
    return {
        **options_fingerprint(options, card.recipe, teachers),
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

"""The loop: balanced draws, AdamW, a cosine with warm-up, the best epoch by validation AUC."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cxrbatch.errors import CxrbatchError
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.inference import Scorer
from cxrbatch.model.resnet import RadiographResNet
from cxrbatch.results.metrics import macro_auc
from cxrbatch.training.augment import augment
from cxrbatch.training.data import Side
from cxrbatch.training.options import TrainingOptions

_CLIP_NORM = 5.0
_EVALUATION_BATCH = 64


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        number: From 1.
        loss: Mean training loss.
        val_auc: Macro one-vs-rest AUC on validation.
    """

    number: int
    loss: float
    val_auc: float


def fit(
    model: RadiographResNet,
    *,
    card: Card,
    train: Side,
    val: Side,
    options: TrainingOptions,
    device: torch.device,
    on_step: Callable[[int], object],
    on_epoch: Callable[[Epoch], object],
) -> list[Epoch]:
    """Train in place and leave the weights of the epoch with the best validation AUC.

    Each class is drawn equally often. In expectation that is the loss weighted by class, without
    the few huge steps that a rare class's weight would make.

    Args:
        model: The network.
        card: Gives the normalisation; used to score validation images as scoring will.
        train: What is learned from.
        val: What the best epoch is chosen on.
        options: The run's options.
        device: Where to compute.
        on_step: Called with the number of images after each step.
        on_epoch: Called after each epoch.

    Raises:
        CxrbatchError: The loss stopped being a number.
    """
    model.to(device, memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(options.seed)
    steps = math.ceil((options.draws or len(train.truth)) / options.batch_size)
    optimiser = _optimiser(model, options)
    schedule = _schedule(optimiser, total=steps * options.epochs, warmup=options.warmup)
    history: list[Epoch] = []
    best = copy.deepcopy(model.state_dict())
    for number in range(1, options.epochs + 1):
        losses = []
        for images, truth in _draws(train, steps=steps, options=options, generator=generator):
            losses.append(
                _step(
                    model,
                    images.to(device),
                    truth.to(device),
                    card=card,
                    options=options,
                    optimiser=optimiser,
                    generator=generator,
                )
            )
            schedule.step()
            on_step(len(images))
        logits = predict(model, card=card, inputs=val.inputs, device=device)
        auc = macro_auc(val.truth, logits_to_probabilities(logits))
        history.append(Epoch(number, float(np.mean(losses)), auc))
        if auc >= max(epoch.val_auc for epoch in history):
            best = copy.deepcopy(model.state_dict())
        on_epoch(history[-1])
    model.load_state_dict(best)
    return history


def predict(
    model: RadiographResNet, *, card: Card, inputs: npt.NDArray[np.uint8], device: torch.device
) -> npt.NDArray[np.float32]:
    """Score inputs in float32 as `cxrbatch score` does; gives logits, shape (n, classes)."""
    model.eval()
    scorer = Scorer(
        Checkpoint(card, "", model), batch_size=_EVALUATION_BATCH, device=device, precision="fp32"
    )
    starts = range(0, len(inputs), _EVALUATION_BATCH)
    return np.concatenate([scorer.score(inputs[i : i + _EVALUATION_BATCH]).logits for i in starts])


def logits_to_probabilities(
    logits: npt.NDArray[np.float32], *, temperature: float = 1.0
) -> npt.NDArray[np.float64]:
    """Softmax of logits / temperature, shape (n, classes)."""
    scaled = logits.astype(np.float64) / temperature
    probabilities: npt.NDArray[np.float64] = softmax(scaled, axis=1)
    return probabilities


def _draws(
    side: Side, *, steps: int, options: TrainingOptions, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    counts = np.bincount(side.truth)
    weights = torch.from_numpy(1.0 / counts[side.truth])
    for _ in range(steps):
        drawn = torch.multinomial(weights, options.batch_size, True, generator=generator).numpy()
        yield torch.from_numpy(side.inputs[drawn][:, None]), torch.from_numpy(side.truth[drawn])


def _step(
    model: RadiographResNet,
    images: Tensor,
    truth: Tensor,
    *,
    card: Card,
    options: TrainingOptions,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
) -> float:
    model.train()
    varied = augment(images.float() / 255.0, generator=generator, flip=options.flip)
    norm = card.normalisation
    inputs = ((varied - norm.mean) / norm.std).contiguous(memory_format=torch.channels_last)
    loss = cross_entropy(model(inputs), truth, label_smoothing=options.label_smoothing)
    if not loss.isfinite():
        raise CxrbatchError("the loss is no longer a number; try a lower --learning-rate")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), _CLIP_NORM)
    optimiser.step()
    return loss.item()


def _optimiser(model: RadiographResNet, options: TrainingOptions) -> torch.optim.AdamW:
    # Decay pulls biases and batch norm scales towards 0 for no gain in generalisation.
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate)


def _schedule(
    optimiser: torch.optim.Optimizer, *, total: int, warmup: float
) -> torch.optim.lr_scheduler.LambdaLR:
    rising = max(1, round(total * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, total - rising)))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)

"""AdamW, its schedule, and the average of the weights along the way."""

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cxrbatch.training.options import TrainingOptions

_Tensors = tuple[Tensor, ...] | list[Tensor]


def new_optimiser(model: nn.Module, options: TrainingOptions) -> torch.optim.AdamW:
    """AdamW that decays weights of convolutions and the head only.

    Decay pulls biases and batch norm scales towards 0 for no gain in generalisation.
    """
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)


def new_schedule(
    optimiser: torch.optim.Optimizer, *, steps: int, warmup: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """A linear rise over a share `warmup` of all steps, then half a cosine down to 0."""
    rising = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def new_average(model: nn.Module, *, decay: float) -> AveragedModel:
    """An exponential moving average of the weights.

    The decay grows to its value as (1 + t) / (10 + t), so that a short training is not an average
    over its random start. Batch statistics are copied: they are moving averages already, and one
    more would trail behind the weights.
    """

    def update(averaged: _Tensors, current: _Tensors, _count: object) -> None:
        step = int(average.n_averaged)  # on the CPU, where reading it waits for nothing
        weight = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
        torch._foreach_lerp_(averaged, current, weight)

    average = AveragedModel(model, multi_avg_fn=update)
    average.eval()
    return average

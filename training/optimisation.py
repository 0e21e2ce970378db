"""What changes the weights of a network in training: optimiser, schedule, moving average."""

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_Tensors = tuple[Tensor, ...] | list[Tensor]


def new_optimiser(
    model: nn.Module, *, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """Make an AdamW with weight decay on weights of convolutions and the head only.

    Biases and batch norm's scales get none: pulling them towards 0 does not improve
    generalisation. Parameters that need no gradient are left out.

    Args:
        model: The network.
        learning_rate: Peak of the schedule.
        weight_decay: Decay of the weights of convolutions and the head.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def hold_trunk(model: nn.Module) -> None:
    """Let all parameters of a network but those of its head (`fc`) need no gradient.

    Its batch statistics still change with each batch unless it is in evaluation mode.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("fc."))


def new_schedule(
    optimiser: torch.optim.Optimizer, *, steps: int, warmup: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """Make a schedule that changes the learning rate of an optimiser after every step.

    The rate rises linearly to the optimiser's own rate and then falls to 0 along half a cosine.

    Args:
        optimiser: The optimiser; its present rate is the peak.
        steps: Steps of all epochs together.
        warmup: Share of the steps in which the rate rises, in [0, 1]; at least one step rises.
    """
    rising = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def new_average(model: nn.Module, *, decay: float) -> AveragedModel:
    """Make an exponential moving average of a network's weights.

    The first update copies the weights; then, after t updates, the average keeps a share of
    min(decay, (1 + t) / (10 + t)) of itself, so that early weights soon have no influence in a
    short training. Batch statistics are copied: they are moving averages already, and a second
    average would trail behind the weights.

    Args:
        model: The network; its weights are copied.
        decay: Largest share of itself that the average keeps per step, in [0, 1).

    Returns:
        A copy of the network in evaluation mode. Call its `update_parameters(model)` after each
        step of training.
    """

    def update(averaged: _Tensors, current: _Tensors, _count: object) -> None:
        step = int(average.n_averaged)  # on the CPU, where reading it waits for nothing
        weight = 1.0 - min(decay, (1.0 + step) / (10.0 + step))
        torch._foreach_lerp_(averaged, current, weight)

    average = AveragedModel(model, multi_avg_fn=update)
    average.eval()
    return average

"""One step after the other: everything that changes while a network is trained."""

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.network import RadiographResNet
from cxrbatch.training.augment import Changes, augment, mix, mixed_cross_entropy
from cxrbatch.training.distributed import World
from cxrbatch.training.initial import Teachers
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


def with_shared_statistics(model: RadiographResNet, device: torch.device) -> RadiographResNet:
    """Copy a network into one whose batch statistics are those of all processes.

    Parameters and buffers keep their names, so that a state dict of one fits the other.
    """
    copied = copy.deepcopy(model)
    if device.type == "cuda":
        return cast(RadiographResNet, nn.SyncBatchNorm.convert_sync_batchnorm(copied))
    _replace(copied)
    return copied


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics in training are those of the batches of all processes together.

    All processes must have batches of one size.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Normalise shape (n, channels, h, w)."""
        if not self.training:
            return super().forward(images)
        values = images if images.dtype == torch.float64 else images.float()
        own = torch.stack([values.mean((0, 2, 3)), values.var((0, 2, 3), correction=0)])
        # A sum of slots that are zero but one gathers, and its gradient is a sum again.
        none = torch.zeros_like(own)
        slots = [own if r == dist.get_rank() else none for r in range(dist.get_world_size())]
        means, variances = _Total.apply(torch.stack(slots)).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean) ** 2).mean(0)
        self._remember(mean, variance, images.numel() // len(mean) * len(means))
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        normalised = values * scale[:, None, None] + shift[:, None, None]
        return cast(Tensor, normalised.to(images.dtype))

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum or 0.0
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / max(1, count - 1)), momentum)


class _Total(torch.autograd.Function):
    """The sum over all processes; torch.distributed.nn has one that is deprecated."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            shared = SharedBatchNorm(child.num_features, eps=child.eps, momentum=child.momentum)
            shared.to(child.weight.device, child.weight.dtype)
            shared.load_state_dict(child.state_dict())
            setattr(module, name, shared)
        else:
            _replace(child)


_CLIP_NORM = 5.0
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """A network with its optimiser, schedule, average and randomness."""

    def __init__(
        self,
        model: RadiographResNet,
        *,
        card: Card,
        options: TrainingOptions,
        teachers: Sequence[Checkpoint],
        steps: int,
        device: torch.device,
        world: World,
    ) -> None:
        """Make all of it ready on the device.

        Args:
            model: The network; it is trained in place unless there are several processes.
            card: Gives the normalisation.
            options: The run's options.
            teachers: Checkpoints to learn from too.
            steps: Of all epochs together.
            device: Where to compute.
            world: The processes that train together.
        """
        model.to(device).to(memory_format=torch.channels_last)
        self._model = with_shared_statistics(model, device) if world.size > 1 else model
        self._wrapped = world.wrapped(self._model, device)
        self._teachers = Teachers(teachers, card=card, device=device)
        self._normalisation = card.normalisation
        self._options = options
        self._device = device
        self._dtype = model.fc.weight.dtype
        self._optimiser = new_optimiser(self._model, options)
        self._schedule = new_schedule(self._optimiser, steps=steps, warmup=options.warmup)
        self._scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
        self._average = new_average(self._model, decay=options.averaging)
        self.generator = torch.Generator().manual_seed(options.seed)

    @property
    def averaged(self) -> RadiographResNet:
        """The network with the average of the weights so far, in evaluation mode."""
        return cast(RadiographResNet, self._average.module)

    def step(self, inputs: Tensor, truth: Tensor, changes: Changes, shares: Tensor) -> Tensor:
        """Learn from this process's part of a batch.

        Args:
            inputs: Shape (n, size, size), uint8.
            truth: Shape (n,), class indices.
            changes: Of these images.
            shares: How much of each stays its own when they are mixed, shape (n,).

        Returns:
            The loss, a scalar on the device that nobody has waited for.
        """
        self._wrapped.train()
        images = inputs.to(self._device, non_blocking=True)[:, None].float() / 255.0
        mixed = mix(augment(images, changes), shares)
        loss = self._loss(mixed, truth.to(self._device, non_blocking=True), shares)
        self._optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimiser)
        self._clip()
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._schedule.step()
        self._average.update_parameters(self._model)
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """All that a run needs to go on to the same weights; shares memory with the trainer."""
        parts: dict[str, Any] = {name: part.state_dict() for name, part in self._parts().items()}
        return {**parts, "generator": self.generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"])

    def _parts(self) -> dict[str, Any]:
        return {
            "model": self._model,
            "optimiser": self._optimiser,
            "schedule": self._schedule,
            "scaler": self._scaler,
            "average": self._average,
        }

    def _loss(self, images: Tensor, truth: Tensor, shares: Tensor) -> Tensor:
        norm = self._normalisation
        seen = ((images - norm.mean) / norm.std).to(self._dtype, memory_format=torch.channels_last)
        with self._autocast():
            logits = self._wrapped(seen).to(self._dtype)
            opinions = self._teachers.probabilities(images) if len(self._teachers) else None
        smoothing = self._options.label_smoothing
        loss = mixed_cross_entropy(logits, truth, shares, label_smoothing=smoothing)
        if opinions is not None:
            loss = loss.lerp(cross_entropy(logits, opinions), self._options.teacher_weight)
        return loss

    def _clip(self) -> None:
        weights = list(self._model.parameters())
        norm = nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
        # To look is to wait on a GPU; on a CPU it spares a pass over all gradients, times 1.
        if self._device.type != "cpu" or not norm <= _CLIP_NORM:
            nn.utils.clip_grads_with_norm_(weights, _CLIP_NORM, norm)

    def _autocast(self) -> AbstractContextManager[object]:
        if self._options.precision == "fp32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=_DTYPES[self._options.precision])

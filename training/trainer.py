"""One step after the other: everything that changes while a network is trained."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.resnet import RadiographResNet
from cxrbatch.training.augment import Changes, augment
from cxrbatch.training.batchnorm import with_shared_statistics
from cxrbatch.training.distributed import World
from cxrbatch.training.mixing import mix, mixed_cross_entropy
from cxrbatch.training.optimisation import new_average, new_optimiser, new_schedule
from cxrbatch.training.options import TrainingOptions
from cxrbatch.training.teaching import Teachers

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

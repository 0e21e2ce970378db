"""The options of a training, and its step: forward, loss, backward, update."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cxrbatch.errors import UsageError, plain_number
from cxrbatch.model.card import ARCHITECTURES, Card
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.inference import DTYPES, Precision
from cxrbatch.model.network import RadiographResNet
from cxrbatch.model.preprocessing import MAX_SIZE, MIN_SIZE, Geometry
from cxrbatch.training.augment import mix, mixed_cross_entropy, mixed_weights
from cxrbatch.training.distributed import ALONE, ProcessGroup, with_shared_batch_norm
from cxrbatch.training.initial import Teachers
from cxrbatch.training.optimisation import (
    hold_trunk,
    new_average,
    new_optimiser,
    new_schedule,
)
from cxrbatch.training.run_files import MOST_FOLDS

# Kind, smallest and largest value of each number that `train` takes; torch's seeds have 64 bits.
_NUMBERS: dict[str, tuple[type[int] | type[float], float, float]] = {
    "size": (int, MIN_SIZE, MAX_SIZE),
    **dict.fromkeys(("epochs", "patience", "draws"), (int, 1, math.inf)),
    "folds": (int, 2, MOST_FOLDS),
    "batch_size": (int, 2, math.inf),
    "learning_rate": (float, math.ulp(0.0), 1),
    "teacher_weight": (float, 0, 1),
    "seed": (int, 0, (1 << 64) - 1),
    "workers": (int, 0, math.inf),
}


def checked_number(name: str, value: object) -> int | float:
    """Return the value of an argument of `train` as a plain int or float.

    Args:
        name: Name of the argument, such as "epochs"; it decides the kind and the range.
        value: What the caller gave; numbers of NumPy are converted.

    Raises:
        UsageError: It is no number of that kind (True and False are none), or out of the range.
    """
    return plain_number(name, value, *_NUMBERS[name])


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Options that decide the weights of a training; the checkpoint's card records them.

    Attributes:
        architecture: "resnet18", "resnet34" or "resnet50".
        size: Edge of the square input in pixels.
        geometry: "squeeze" scales images to the square, "pad" adds black borders first.
        epochs: Number of epochs, at most; each has `steps` batches.
        patience: Training stops after so many epochs in a row without a better one, as
            `best_epoch` compares them; None never stops it early.
        draws: Images drawn per epoch, rounded up to whole batches; None: as many as train has.
        batch_size: Images per step, over all processes.
        learning_rate: Peak of the schedule.
        weight_decay: Decay of AdamW, on weights of convolutions and the head only.
        label_smoothing: Share of the target spread over all classes.
        warmup: Share of all steps in which the learning rate rises.
        averaging: Largest decay per step of the moving average of the weights, in [0, 1).
        teacher_weight: Weight of the teachers' probabilities in the loss, if there are teachers.
        precision: "fp32", "bf16" or "fp16"; "auto" was resolved before.
        freeze_trunk: Train the head only: weights and batch statistics of the other layers stay as
            they are, and no gradient is computed for them.
        class_weights: Draw all images equally often and weight the loss by class, instead of
            drawing the classes equally often.
        flip: Mirror images at random. Off by default: a mirrored chest has its heart on the
            wrong side.
        seed: Seed of the split, initial weights, draws and augmentation.
    """

    architecture: str = "resnet18"
    size: int = 160
    geometry: Geometry = "squeeze"
    epochs: int = 8
    patience: int | None = None
    draws: int | None = None
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    warmup: float = 0.1
    averaging: float = 0.999
    teacher_weight: float = 0.7
    precision: Precision = "fp32"
    freeze_trunk: bool = False
    class_weights: bool = False
    flip: bool = False
    seed: int = 0

    def steps(self, images: int) -> int:
        """Return the number of steps of an epoch: `draws` / `batch_size`, rounded up.

        Args:
            images: Number of training images, which takes the place of `draws` if that is None.
        """
        return math.ceil((self.draws or images) / self.batch_size)

    def checked(self) -> "TrainingOptions":
        """Return the same options; numbers that `train` takes are checked and made plain ones.

        Raises:
            UsageError: Such a number is of another type or out of range, or the architecture or the
                geometry is unknown; the message names the argument of `train`.
        """
        for name, value, known in (
            ("arch", self.architecture, ARCHITECTURES),
            ("geometry", self.geometry, get_args(Geometry)),
        ):
            if value not in known:
                raise UsageError(f"{name} is {str(value)[:60]}; choose {', '.join(known)}")
        given = {name: getattr(self, name) for name in _NUMBERS if hasattr(self, name)}
        plain: dict[str, Any] = {
            name: checked_number(name, value)
            for name, value in given.items()
            if value is not None or name not in ("patience", "draws")
        }
        return replace(self, **plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """The arguments of a training other than its images and its initial weights.

    Attributes:
        card: Names, classes, input size and normalisation of the network.
        options: Options of the training.
        device: The device that trains the network.
        teachers: Checkpoints of the same classes whose probabilities the network learns as well
            (distillation).
        folder: An existing folder to which the state after each epoch and the best checkpoint are
            written; None writes neither, and the training cannot be resumed.
        resume: Continue from the newest state in `folder`; start from the first epoch if there is
            none.
        group: The processes that train together.
        workers: Processes that augment images for a GPU; not used on a CPU.
    """

    card: Card
    options: TrainingOptions
    device: torch.device
    teachers: Sequence[Checkpoint] = ()
    folder: Path | None = None
    resume: bool = False
    group: ProcessGroup = ALONE
    workers: int = 0


_CLIP_NORM = 5.0


class Trainer:
    """A network in training, with its optimiser, schedule, averaged weights and random generator.

    Attributes:
        generator: Source of all randomness of the training, on the CPU.
        learning_rate: That of the last step; 0 before the first one.
    """

    def __init__(
        self,
        model: RadiographResNet,
        setup: TrainingSetup,
        *,
        steps: int,
        class_weights: Tensor | None = None,
    ) -> None:
        """Move the network to the device, and make its optimiser, schedule and average.

        Args:
            model: The network. A single process trains it in place; of several processes each
                trains a copy with batch norm over all of them.
            setup: Options, device and teachers.
            steps: Steps of all epochs together; they decide the schedule of the learning rate.
            class_weights: Weight of each class in the loss, shape (classes,); None for 1.

        Raises:
            CheckpointError: A teacher has other classes or another geometry.
        """
        device, options, group = setup.device, setup.options, setup.group
        model.to(device).to(memory_format=torch.channels_last)
        self._model = with_shared_batch_norm(model, device) if group.size > 1 else model
        if options.freeze_trunk:
            hold_trunk(self._model)
        self._wrapped = group.with_averaged_gradients(self._model, device)
        self._teachers = Teachers(setup.teachers, card=setup.card, device=device)
        self._normalisation = setup.card.normalisation
        self._options, self._device = options, device
        self._class_weights = None if class_weights is None else class_weights.to(device)
        self._dtype = model.fc.weight.dtype
        self._optimiser = new_optimiser(
            self._model, learning_rate=options.learning_rate, weight_decay=options.weight_decay
        )
        self._schedule = new_schedule(self._optimiser, steps=steps, warmup=options.warmup)
        self._scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
        self._average = new_average(self._model, decay=options.averaging)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.learning_rate = 0.0

    @property
    def averaged(self) -> RadiographResNet:
        """A network with the moving average of the weights over all steps so far.

        It is in evaluation mode. Every call of `step` changes it in place.
        """
        return cast(RadiographResNet, self._average.module)

    def step(self, images: Tensor, truth: Tensor, shares: Tensor) -> Tensor:
        """Train on one batch: mix images, compute the loss, and update weights and average.

        Gradients are averaged over the processes and clipped to a norm of 5. At fp16, infinite ones
        leave the weights as they are. The learning rate moves on by one step.

        Args:
            images: This process's part of the batch, shape (n, 1, size, size), in [0, 1],
                augmented and not yet mixed.
            truth: Shape (n,), class indices.
            shares: Shape (n,), in [0, 1], as `draw_shares` returns them: the weight of each image
                when it is mixed with its partner.

        Returns:
            The loss of the part, a scalar on the device; the GPU may still be computing it.
        """
        # In evaluation mode no batch changes the statistics of batch norm.
        self._wrapped.train(not self._options.freeze_trunk)
        mixed = mix(images.to(self._device, non_blocking=True), shares)
        loss = self._loss(mixed, truth.to(self._device, non_blocking=True), shares)
        self._optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimiser)
        self._clip()
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self.learning_rate = float(self._schedule.get_last_lr()[0])
        self._schedule.step()
        self._average.update_parameters(self._model)
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """Return all that `restore` needs to continue a training to the same weights.

        Returns:
            State dicts of network, optimiser, schedule, scaler and average, and the state of
            `generator`. The tensors are not copies: later steps change them.
        """
        parts: dict[str, Any] = {name: part.state_dict() for name, part in self._parts().items()}
        return {**parts, "generator": self.generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Load a state that `state` returned, into a trainer made with the same arguments.

        Raises:
            KeyError: A part of the state, or a value in a part, is missing.
            RuntimeError, TypeError, ValueError or AttributeError: A part does not fit this trainer
                or is damaged; the parts before it are loaded already.
        """
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
        norm, options = self._normalisation, self._options
        seen = ((images - norm.mean) / norm.std).to(self._dtype, memory_format=torch.channels_last)
        with self._autocast():
            logits = self._wrapped(seen).to(self._dtype)
            opinions = self._teachers.probabilities(images) if len(self._teachers) else None
        loss = mixed_cross_entropy(
            logits,
            truth,
            shares,
            label_smoothing=options.label_smoothing,
            class_weights=self._class_weights,
        )
        if opinions is None:
            return loss
        agreement = self._agreement(logits, opinions, truth, shares)
        return loss.lerp(agreement, options.teacher_weight)

    def _agreement(self, logits: Tensor, opinions: Tensor, truth: Tensor, shares: Tensor) -> Tensor:
        """Return the loss against the teachers, with the weights of the images' classes."""
        if self._class_weights is None:
            return cross_entropy(logits, opinions)
        weights = mixed_weights(self._class_weights, truth, shares).to(logits)
        return (weights * cross_entropy(logits, opinions, reduction="none")).mean()

    def _clip(self) -> None:
        weights = list(self._model.parameters())
        norm = nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None])
        # On a GPU, reading the norm would wait for it; on a CPU that spares a pass over all
        # gradients, times 1.
        if self._device.type != "cpu" or not norm <= _CLIP_NORM:
            nn.utils.clip_grads_with_norm_(weights, _CLIP_NORM, norm)

    def _autocast(self) -> AbstractContextManager[object]:
        if self._options.precision == "fp32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=DTYPES[self._options.precision])

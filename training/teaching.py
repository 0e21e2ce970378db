"""Distillation: what other checkpoints think of the very images that are trained on.

Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cxrbatch.errors import CheckpointError
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.preprocessing import Geometry


class Teachers:
    """Checkpoints of the same classes, at whatever size each was trained."""

    def __init__(
        self, checkpoints: Sequence[Checkpoint], *, card: Card, device: torch.device
    ) -> None:
        """Move them to the device.

        Args:
            checkpoints: The teachers, of any number.
            card: Of the model that learns from them.
            device: Where to compute.

        Raises:
            CheckpointError: One has other classes, or sees images through another geometry.
        """
        check_teachers(checkpoints, classes=card.classes, geometry=card.recipe.geometry)
        self._checkpoints = checkpoints
        self._models = [
            c.model.to(device).to(memory_format=torch.channels_last).eval() for c in checkpoints
        ]

    def __len__(self) -> int:
        return len(self._checkpoints)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Average the teachers' calibrated probabilities.

        Args:
            images: Shape (n, 1, size, size), in [0, 1].

        Returns:
            Shape (n, classes), float32; rows sum to 1.
        """
        opinions = []
        for checkpoint, model in zip(self._checkpoints, self._models, strict=True):
            norm, size = checkpoint.card.normalisation, checkpoint.card.recipe.size
            seen = images
            if size != images.shape[-1]:
                seen = interpolate(images, size=(size, size), mode="bilinear", antialias=True)
            seen = ((seen - norm.mean) / norm.std).contiguous(memory_format=torch.channels_last)
            opinions.append((model(seen).float() / checkpoint.card.temperature).softmax(dim=1))
        return torch.stack(opinions).mean(0)


def check_teachers(
    checkpoints: Sequence[Checkpoint], *, classes: Sequence[str], geometry: Geometry
) -> None:
    """Refuse teachers of something else.

    Args:
        checkpoints: The teachers.
        classes: Of the model that learns from them, in the order of its logits.
        geometry: How that model sees images.

    Raises:
        CheckpointError: One has other classes, or sees images through another geometry.
    """
    for teacher in (checkpoint.card for checkpoint in checkpoints):
        if teacher.classes != tuple(classes):
            raise CheckpointError(
                f"the teacher {teacher.name!r} knows {', '.join(teacher.classes)}, in this order; "
                f"this run trains {', '.join(classes)}; give both the same --classes"
            )
        if teacher.recipe.geometry != geometry:
            raise CheckpointError(
                f"the teacher {teacher.name!r} sees images by --geometry "
                f"{teacher.recipe.geometry}; train with the same"
            )

"""Weights from files: those to start from, and those of teachers to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cxrbatch.errors import CheckpointError
from cxrbatch.model.card import Card, Normalisation
from cxrbatch.model.checkpoint import Checkpoint, file_sha256, read_card
from cxrbatch.model.network import RadiographResNet, model_of, read_state_dict
from cxrbatch.model.preprocessing import Geometry
from cxrbatch.model.soundness import check_tensors
from cxrbatch.results.label_names import folded, folded_numbers

# ImageNet-21k has 21,841 classes; a file of a few bytes may claim a head that no memory holds.
_MOST_OUTPUTS = 1 << 15
# The normalisation for testing a file without a card.
_STANDARD = Normalisation(mean=0.5, std=0.25)


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """Weights to start from, read and checked.

    Attributes:
        sha256: Hash of the file's bytes.
        classes: Class names of the head; None if the file does not name them.
        normalisation: How the network's inputs were normalised; None if the file does not say.
        model: The network with these weights, the file's head included.
    """

    sha256: str
    classes: tuple[str, ...] | None
    normalisation: Normalisation | None
    model: RadiographResNet

    def head_rows(self, classes: Sequence[str]) -> tuple[int, ...] | None:
        """Return for each of `classes` the row of the file's head that scores it, from 0.

        The result is None if the head is for other classes or for another number of them.
        Names may differ as `folded` allows (case, hyphens, accents and such), and in their order.
        If the file names no classes, a head of as many outputs is taken to be for these, in order.

        Args:
            classes: Class names of the network to train, in the order of its logits.
        """
        if self.model.fc.out_features != len(classes):
            return None
        if self.classes is None:
            return tuple(range(len(classes)))
        numbers = folded_numbers(self.classes)
        exact = {name: number for number, name in enumerate(self.classes)}
        rows = tuple(exact.get(name, numbers.get(folded(name), -1)) for name in classes)
        return rows if sorted(rows) == list(range(len(classes))) else None


def read_initial(path: Path, *, architecture: str) -> InitialWeights:
    """Read weights to start from, and check that they fit the architecture and give finite scores.

    Args:
        path: A checkpoint, or a state dict of a torchvision ResNet (.pt, .pth, .safetensors).
        architecture: "resnet18", "resnet34" or "resnet50".

    Raises:
        CheckpointError: The file cannot be read; its weights are unsound, of another architecture,
            or with a head of more than 32,768 classes; or the scores of the network with these
            weights are not finite.
    """
    card = _card(path)
    if card is not None and card.architecture != architecture:
        raise CheckpointError(
            f"--init is a {card.architecture}, this run trains a {architecture}; "
            f"give --arch {card.architecture}"
        )
    tensors = read_state_dict(path)
    head = tensors.get("fc.weight")
    outputs = len(head) if head is not None and head.ndim else 1
    if outputs > _MOST_OUTPUTS:
        raise CheckpointError(f"{path} has a head of {outputs} classes; give --init another file")
    checked = check_tensors(
        tensors,
        architecture=architecture,
        classes=max(1, outputs),
        normalisation=card.normalisation if card else _STANDARD,
        source=path,
    )
    model = model_of(checked, architecture)
    classes, normalisation = (card.classes, card.normalisation) if card else (None, None)
    return InitialWeights(file_sha256(path), classes, normalisation, model)


def start_from(
    initial: InitialWeights, model: RadiographResNet, *, classes: tuple[str, ...]
) -> None:
    """Copy weights into a network, in place.

    The rows of the head (`fc`) are copied in the order of `classes`; where the file's head is for
    other classes (see `InitialWeights.head_rows`), the network keeps its own.

    Args:
        initial: The weights.
        model: The network, of the same architecture.
        classes: Class names of the network in the order of its logits.
    """
    given, rows = initial.model.state_dict(), initial.head_rows(classes)
    with torch.no_grad():
        for name, target in model.state_dict().items():
            if not name.startswith("fc."):
                target.copy_(given[name])
            elif rows is not None:
                target.copy_(given[name][list(rows)])


def _card(path: Path) -> Card | None:
    try:
        return read_card(path)
    except CheckpointError:
        return None


class Teachers:
    """Checkpoints of the same classes whose mean probabilities a network learns (distillation).

    Each teacher gets the images at the size that it was trained with. `len` counts the teachers.
    """

    def __init__(
        self, checkpoints: Sequence[Checkpoint], *, card: Card, device: torch.device
    ) -> None:
        """Move the teachers' networks to the device, in evaluation mode.

        Args:
            checkpoints: The teachers, possibly none.
            card: Card of the network that learns from them.
            device: The device of `images` in `probabilities`.

        Raises:
            CheckpointError: A teacher has other classes or another geometry.
        """
        check_teachers(checkpoints, classes=card.classes, geometry=card.recipe.geometry)
        self._checkpoints = checkpoints
        models = [model_of(c.tensors, c.card.architecture) for c in checkpoints]
        self._models = [m.to(device).to(memory_format=torch.channels_last) for m in models]

    def __len__(self) -> int:
        return len(self._checkpoints)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Average the teachers' calibrated probabilities; there must be at least one teacher.

        Args:
            images: Shape (n, 1, size, size), in [0, 1]; each teacher resizes and normalises them.

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
    """Raise unless all teachers have the same classes and geometry as the network.

    Their architecture and input size may differ. Without teachers nothing is raised.

    Args:
        checkpoints: The teachers.
        classes: Class names of the network that learns from them, in the order of its logits.
        geometry: "squeeze" or "pad": how that network's images become square.

    Raises:
        CheckpointError: A teacher has other classes or another geometry.
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

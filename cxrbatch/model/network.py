"""The architecture, torchvision's ResNet with one grey channel, and its weights in files.

Training, `models import` and `--init` use it, and tests compare the scoring form with it. What
scores on a CPU (`fused.py`) does not import this module.

Checkpoints are written here, and PyTorch's state dicts are read that are to become one. A state
dict in PyTorch's pickle format is read with `weights_only=True`, and is never scored with. Whatever
a file claims, no more memory is taken than a ResNet-50 needs with all that a training script keeps
beside it.
"""

import os
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock, Bottleneck

from cxrbatch.errors import CheckpointError
from cxrbatch.files import disk_errors, written_whole
from cxrbatch.model.card import Card, check_architecture
from cxrbatch.model.checkpoint import (
    FEATURES,
    check_bytes,
    opened_safetensors,
    unreadable_checkpoint,
)
from cxrbatch.model.fused import Scores, score_features
from cxrbatch.model.input_gate import FeatureStatistics
from cxrbatch.model.recording import CARD_KEY
from cxrbatch.reading.containers.listing import list_members
from cxrbatch.reading.outcomes import ReadingError
from cxrbatch.reading.sniffing import open_regular

_STAGES = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}


class RadiographResNet(ResNet):
    """ResNet-18, -34 or -50 for greyscale radiographs, which computes heat maps in the same pass.

    It is torchvision's network with a first convolution for one channel.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """

    def __init__(self, architecture: str, *, classes: int) -> None:
        """Build the network with random weights; convolutions' as He et al. draw them (ICCV 2015).

        Args:
            architecture: One of `card.ARCHITECTURES`.
            classes: Number of classes.

        Raises:
            KeyError: The architecture is not known.
        """
        super().__init__(*_STAGES[architecture], num_classes=classes)
        self.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> Tensor:
        """Compute the last convolutional layer's activations.

        Args:
            images: Shape (n, 1, size, size), normalised.

        Returns:
            Shape (n, k, h, w); h and w are size / 32, rounded up.
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return cast(Tensor, self.layer4(self.layer3(self.layer2(self.layer1(x)))))

    def score(self, images: Tensor) -> Scores:
        """Compute logits and every class's heat map in one pass.

        Args:
            images: Shape (n, 1, size, size), normalised.

        Returns:
            Logits, shape (n, classes), and heat maps, shape (n, classes, h, w), not negative; both
            float32.
        """
        return score_features(self.features(images), self.fc.weight, self.fc.bias)


def build_model(card: Card) -> RadiographResNet:
    """Build a network of a card's architecture and number of classes, with random weights.

    Raises:
        CheckpointError: The architecture is unknown.
    """
    check_architecture(card.architecture)
    return RadiographResNet(card.architecture, classes=len(card.classes))


def model_of(tensors: Mapping[str, Tensor], architecture: str) -> RadiographResNet:
    """Build a network in evaluation mode that shares its weights' memory with `tensors`.

    Args:
        tensors: The weights by torchvision's names, as `soundness.check_tensors` returns them.
        architecture: One of `card.ARCHITECTURES`.
    """
    model = RadiographResNet(architecture, classes=len(tensors["fc.bias"]))
    # num_batches_tracked is not among them: it matters for a momentum that is not used.
    model.load_state_dict(tensors, strict=False, assign=True)
    return cast(RadiographResNet, model.eval())


_LARGEST_WEIGHT = 65_504
# A safetensors file is known by the JSON object behind its first eight bytes.
_HEAD_LENGTH = 8
_STEM = "conv1.weight"
_RGB_STEM = (64, 3, 7, 7)
_ZIP = b"PK\x03\x04"


class WeightsError(CheckpointError):
    """Weights cannot be stored in a checkpoint: not finite, or too large for 16 bits."""


def save_checkpoint(
    path: Path,
    *,
    model: RadiographResNet,
    card: Card,
    features: FeatureStatistics | None = None,
) -> None:
    """Write a checkpoint file, whole or not at all; an existing file is replaced.

    Args:
        path: The file.
        model: The network whose weights are stored.
        card: The network's card.
        features: Statistics of the network's features; None to store none.

    Raises:
        CheckpointError: The file cannot be written, as when the disk is full.
        WeightsError: A weight or a statistic is not finite, or a weight is too large for float16;
            nothing is written.
    """
    content = packed_checkpoint(model=model, card=card, features=features)
    action, remedy = f"cannot write checkpoint {path}", "free space, then run again"
    with (
        disk_errors(action, full=remedy, error=CheckpointError),
        written_whole(path) as file,
    ):
        file.write(content)


def packed_checkpoint(
    *, model: RadiographResNet, card: Card, features: FeatureStatistics | None = None
) -> bytes:
    """Return the bytes of a checkpoint file, in safetensors format.

    Weights are stored in float16; the running statistics of batch norms and the statistics of
    features in float32.

    Args:
        model: The network whose weights are stored.
        card: The network's card, stored as the file's metadata.
        features: Statistics of the network's features; None to store none.

    Raises:
        WeightsError: A weight or a statistic is not finite, or a weight is too large for float16.
    """
    from safetensors.torch import save

    tensors = {name: _stored(name, value) for name, value in _weights(model).items()}
    if features is not None:
        tensors |= {FEATURES + f.name: _tensor(getattr(features, f.name)) for f in fields(features)}
    if bad := [name for name, value in tensors.items() if not value.isfinite().all()]:
        raise WeightsError(
            f"values of {bad[0]} are not finite, or are beyond the {_LARGEST_WEIGHT:,} that a "
            "weight in 16 bits can be; the checkpoint is not written"
        )
    return save(tensors, metadata={CARD_KEY: card.to_json()})


def round_as_stored(model: RadiographResNet) -> None:
    """Round a network's weights in place to the precision that a checkpoint stores: float16.

    The running statistics of batch norms, which are stored in float32, keep their values.
    """
    with torch.no_grad():
        for name, value in _weights(model).items():
            value.copy_(_stored(name, value))


def _weights(model: RadiographResNet) -> dict[str, Tensor]:
    # num_batches_tracked only matters for a momentum that this network does not use.
    state = cast(dict[str, Tensor], model.state_dict())
    return {name: value for name, value in state.items() if "num_batches" not in name}


def _stored(name: str, value: Tensor) -> Tensor:
    # A running variance can exceed float16's range; all statistics together are 40 kB.
    return (value.float() if "running_" in name else value.half()).contiguous().cpu()


def _tensor(values: npt.NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def import_state_dict(source: Path, *, card: Card) -> RadiographResNet:
    """Read a file of PyTorch weights, and build the network of the card with them.

    Args:
        source: A PyTorch or safetensors file of named tensors, which `read_state_dict` reads.
        card: Names the architecture, the classes and the normalisation.

    Returns:
        The network in evaluation mode.

    Raises:
        CheckpointError: The architecture is unknown, `read_state_dict` cannot read the file, or its
            weights do not fit the card, are unsound or give no finite scores.
    """
    from cxrbatch.model.soundness import check_tensors

    check_architecture(card.architecture)
    tensors = check_tensors(
        read_state_dict(source),
        architecture=card.architecture,
        classes=len(card.classes),
        normalisation=card.normalisation,
        source=source,
    )
    return model_of(tensors, card.architecture)


def read_state_dict(source: Path) -> dict[str, Tensor]:
    """Read named tensors out of a PyTorch or safetensors file, which its content tells apart.

    A three-channel stem is folded into one channel by summing its filters, which, but for rounding,
    is exact for a grey image given three times. Of a `state_dict` or `model` entry the content is
    taken, and `module.` prefixes are removed. Feature statistics of a checkpoint are left out.

    Args:
        source: The file; its name and ending do not matter.

    Returns:
        The tensors by name, of the file's types; they may be unsound.

    Raises:
        CheckpointError: The file cannot be opened, is neither a safetensors file nor a state dict
            that `weights_only` can read, or holds or inflates to more than `MOST_BYTES`.
    """
    try:
        # Opened without waiting: a FIFO would hang the command.
        with open_regular(source) as file:
            head = file.read(_HEAD_LENGTH + 1)
            check_bytes(os.fstat(file.fileno()).st_size, source)
        if head[_HEAD_LENGTH:] == b"{":
            return _plain_state_dict(_safetensors(source), source)
        if head.startswith(_ZIP):
            # PyTorch inflates every entry that a tensor names, as far as the entry claims.
            check_bytes(sum(member.size for member in list_members(os.fsencode(source))), source)
        with warnings.catch_warnings(action="ignore"):  # what matters of it is refused below
            loaded = torch.load(source, map_location="cpu", weights_only=True)
    except (OSError, ReadingError) as error:
        raise unreadable_checkpoint(source, error) from None
    except CheckpointError:
        raise
    except Exception:
        # torch.load raises whatever the unpickler met, with advice how to run the file's code.
        raise CheckpointError(
            f"{source} is not a plain state dict; save model.state_dict() and import that"
        ) from None
    return _plain_state_dict(loaded, source)


def _safetensors(path: Path) -> dict[str, Tensor]:
    with opened_safetensors(path, framework="pt") as file:
        weights = [name for name in list(file.keys()) if not name.startswith(FEATURES)]
        return {name: file.get_tensor(name) for name in weights}


def _plain_state_dict(loaded: object, source: Path) -> dict[str, Tensor]:
    from cxrbatch.model.soundness import is_plain

    if isinstance(loaded, Mapping):
        for key in ("state_dict", "model"):
            nested = loaded.get(key)
            if isinstance(nested, Mapping):
                loaded = nested
                break
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in loaded.items()
    ):
        raise CheckpointError(f"{source} is not a plain state dict of named tensors")
    state = {name.removeprefix("module."): value for name, value in loaded.items()}
    stem = state.get(_STEM)
    # The whole shape: a few bytes can stand for a tensor that no memory holds.
    if stem is not None and is_plain(stem) and tuple(stem.shape) == _RGB_STEM:
        state[_STEM] = stem.sum(dim=1, keepdim=True)
    return state

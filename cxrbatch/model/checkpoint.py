"""Checkpoints: safetensors weights with a card. Nothing else is ever scored with.

A state dict in PyTorch's pickle format comes in only through `import_state_dict`, which reads it
with `weights_only=True` and writes a checkpoint.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from cxrbatch.errors import CheckpointError
from cxrbatch.model.card import Card
from cxrbatch.model.features import FeatureStatistics
from cxrbatch.model.weight_files import (
    FEATURES,
    is_plain,
    opened_safetensors,
    read_state_dict,
    unreadable,
)

if TYPE_CHECKING:
    from torch import Tensor

    from cxrbatch.model.network import RadiographResNet

_CARD_KEY = "cxrbatch"
_LARGEST_WEIGHT = 65_504


class WeightsError(CheckpointError):
    """Weights that no checkpoint can hold."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read and found whole.

    Attributes:
        card: What it says of itself.
        sha256: Hash of the file's bytes.
        model: The network with these weights, in float32, in evaluation mode.
        features: Where its features lie for the training images; None where it was not kept.
    """

    card: Card
    sha256: str
    model: "RadiographResNet"
    features: FeatureStatistics | None = None


def bundled_checkpoint() -> Path:
    """Give the path of the checkpoint that comes with the package."""
    return Path(str(resources.files("cxrbatch.model") / "weights" / "default.safetensors"))


def read_card(path: Path) -> Card:
    """Read only the card of a checkpoint; needs neither torch nor the weights.

    Raises:
        CheckpointError: The file can't be read or is no checkpoint.
    """
    with opened_safetensors(path, framework="numpy") as file:
        return _card_of(file.metadata(), path)


def file_sha256(path: Path) -> str:
    """Hash a checkpoint's bytes.

    Raises:
        CheckpointError: The file can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and build its network.

    Raises:
        CheckpointError: The file can't be read, is no checkpoint, its architecture is unknown,
            its weights do not fit the architecture, are missing or are unsound, or the network
            gives no finite scores.
    """
    with opened_safetensors(path, framework="pt") as file:
        card = _card_of(file.metadata(), path)
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    from cxrbatch.model.soundness import check_network  # what is no checkpoint needs no torch

    model = build_model(card)
    features = _take_features(tensors, path, width=model.fc.in_features)
    load_weights(model, tensors, path)
    check_network(model.eval(), card.normalisation, source=path)
    return Checkpoint(card, file_sha256(path), model, features)


def save_checkpoint(
    path: Path,
    *,
    model: "RadiographResNet",
    card: Card,
    features: FeatureStatistics | None = None,
) -> None:
    """Write a checkpoint atomically.

    Raises:
        CheckpointError: The disk refuses.
        WeightsError: As for `packed_checkpoint`.
    """
    content = packed_checkpoint(model=model, card=card, features=features)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot write checkpoint {path}: {error.strerror}") from None


def packed_checkpoint(
    *, model: "RadiographResNet", card: Card, features: FeatureStatistics | None = None
) -> bytes:
    """Give the bytes of a checkpoint: float16 weights, float32 statistics, and the card.

    Raises:
        WeightsError: The weights are not finite, or too large for float16.
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
    return save(tensors, metadata={_CARD_KEY: card.to_json()})


def round_as_stored(model: "RadiographResNet") -> None:
    """Round a network's weights to what a checkpoint keeps of them."""
    import torch

    with torch.no_grad():
        for name, value in _weights(model).items():
            value.copy_(_stored(name, value))


def import_state_dict(source: Path, *, card: Card) -> "RadiographResNet":
    """Read a PyTorch state dict into the card's architecture.

    Raises:
        CheckpointError: Not a state dict that `weights_only` can read, or weights that don't fit,
            are unsound or give no finite scores.
    """
    from cxrbatch.model.soundness import check_network

    model = build_model(card)
    load_weights(model, read_state_dict(source), source)
    check_network(model.eval(), card.normalisation, source=source)
    return model


def build_model(card: Card) -> "RadiographResNet":
    """Build the card's network with random weights.

    Raises:
        CheckpointError: The architecture is unknown.
    """
    from cxrbatch.model.network import ARCHITECTURES, RadiographResNet

    if card.architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"unknown architecture {card.architecture[:40]!r}; known: {', '.join(ARCHITECTURES)}"
        )
    return RadiographResNet(card.architecture, classes=len(card.classes))


def _card_of(metadata: Mapping[str, str] | None, path: Path) -> Card:
    if not metadata or _CARD_KEY not in metadata:
        raise CheckpointError(
            f"{path} has no cxrbatch card; make one with `cxrbatch train` or `models import`"
        )
    return Card.from_json(metadata[_CARD_KEY])


def _weights(model: "RadiographResNet") -> "dict[str, Tensor]":
    # num_batches_tracked only matters for a momentum that this network does not use.
    state = cast("dict[str, Tensor]", model.state_dict())
    return {name: value for name, value in state.items() if "num_batches" not in name}


def load_weights(model: "RadiographResNet", tensors: "Mapping[str, Tensor]", source: Path) -> None:
    """Copy named tensors, of the file `source`, into a network that they fit exactly.

    Raises:
        CheckpointError: A tensor is missing, unknown, of another shape, not finite, or holds a
            variance that is negative.
    """
    import torch

    from cxrbatch.model.soundness import weight_fault

    expected = _weights(model)
    given = {name: value for name, value in tensors.items() if "num_batches" not in name}
    problems = [
        problem
        for name in sorted(expected.keys() | given.keys())
        if (problem := _mismatch(name, expected.get(name), given.get(name)))
    ]
    if not problems:
        with torch.no_grad():
            for name, target in expected.items():
                target.copy_(given[name])
        # As they are computed with: of 64 bits some are infinite in 32.
        problems = [
            fault for name, value in expected.items() if (fault := weight_fault(name, value))
        ]
    if problems:
        raise CheckpointError(
            f"the weights in {source} do not fit {model.architecture} with "
            f"{model.fc.out_features} classes: {problems[0]}; take another file, or copy this one "
            "again from where it is whole"
        )


def _mismatch(name: str, expected: "Tensor | None", given: "Tensor | None") -> str | None:
    shown = name[:80]
    if expected is None:
        return f"{shown!r} is unknown"
    if given is None:
        return f"{shown!r} is missing"
    if not is_plain(given):
        return f"{shown!r} is not a plain dense tensor of floating point numbers"
    if given.shape != expected.shape:
        return f"{shown!r} has shape {tuple(given.shape)}, not {tuple(expected.shape)}"
    return None


def _stored(name: str, value: "Tensor") -> "Tensor":
    # A running variance can exceed float16's range; all statistics together are 40 kB.
    return (value.float() if "running_" in name else value.half()).contiguous().cpu()


def _tensor(values: npt.NDArray[np.float32]) -> "Tensor":
    import torch

    return torch.from_numpy(np.ascontiguousarray(values))


def _take_features(
    tensors: "dict[str, Tensor]", source: Path, *, width: int
) -> FeatureStatistics | None:
    """Take the feature statistics out of a checkpoint's tensors, if it has them."""
    named = {f.name: tensors.pop(FEATURES + f.name, None) for f in fields(FeatureStatistics)}
    found = {name: tensor for name, tensor in named.items() if tensor is not None}
    if not found:
        return None
    kept = found["variances"].numel() if "variances" in found else 0
    shapes = {"mean": (width,), "directions": (kept, width), "variances": (kept,), "rest": (1,)}
    # Before their values are touched: a few bytes can stand for what no memory holds.
    if {name: tuple(t.shape) for name, t in found.items() if is_plain(t)} == shapes:
        statistics = FeatureStatistics(**{name: t.float().numpy() for name, t in found.items()})
        if kept <= width and statistics.are_sound:
            return statistics
    raise CheckpointError(
        f"the feature statistics in {source} are damaged; copy the file again from where it is "
        "whole, or take another"
    )

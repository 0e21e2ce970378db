"""Checkpoints: safetensors weights with a card. Nothing else is ever scored with.

A state dict in PyTorch's pickle format comes in only through `import_state_dict`, which reads it
with `weights_only=True` and writes a checkpoint.
"""

import hashlib
import os
import stat
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from cxrbatch.errors import CheckpointError
from cxrbatch.model.card import Card
from cxrbatch.model.features import FeatureStatistics
from cxrbatch.reading.containers import open_regular
from cxrbatch.reading.outcomes import ReadingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from cxrbatch.model.resnet import RadiographResNet

_CARD_KEY = "cxrbatch"
_STEM = "conv1.weight"
_FEATURES = "features."
_LARGEST_WEIGHT = 65_504
# Of a safetensors file: the length of its JSON header as eight bytes, then that header.
_HEADER_LENGTH = 8


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
    with _opened(path, framework="numpy") as file:
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
        raise _unreadable(path, error) from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and build its network.

    Raises:
        CheckpointError: The file can't be read, is no checkpoint, its architecture is unknown, or
            its weights do not fit the architecture, are missing or are not finite.
    """
    with _opened(path, framework="pt") as file:
        card = _card_of(file.metadata(), path)
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    model = build_model(card)
    features = _take_features(tensors, path, width=model.fc.in_features)
    load_weights(model, tensors, path)
    return Checkpoint(card, file_sha256(path), model.eval(), features)


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
        tensors |= {
            _FEATURES + f.name: _tensor(getattr(features, f.name)) for f in fields(features)
        }
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
        CheckpointError: Not a state dict that `weights_only` can read, or weights that don't fit.
    """
    model = build_model(card)
    load_weights(model, read_state_dict(source), source)
    model.eval()
    return model


def read_state_dict(source: Path) -> "dict[str, Tensor]":
    """Read named tensors out of a PyTorch or safetensors file, whatever its name.

    A three-channel stem is folded into one channel by summing its filters, which is exact for a
    grey image given three times. A `state_dict` or `model` entry and a `module.` prefix, as
    training scripts leave them, are taken off.

    Raises:
        CheckpointError: Neither a safetensors file nor a state dict that `weights_only` can read.
    """
    import torch

    try:
        # Opened without waiting: a FIFO would hang the command.
        with open_regular(source) as file:
            is_safetensors = file.read(_HEADER_LENGTH + 1)[_HEADER_LENGTH:] == b"{"
        if is_safetensors:
            return _plain_state_dict(_safetensors(source), source)
        with warnings.catch_warnings(action="ignore"):  # what matters of it is refused below
            loaded = torch.load(source, map_location="cpu", weights_only=True)
    except (OSError, ReadingError) as error:
        raise _unreadable(source, error) from None
    except CheckpointError:
        raise
    except Exception:
        # torch.load raises whatever the unpickler met, with advice how to run the file's code.
        raise CheckpointError(
            f"{source} is not a plain state dict; save model.state_dict() and import that"
        ) from None
    return _plain_state_dict(loaded, source)


def build_model(card: Card) -> "RadiographResNet":
    """Build the card's network with random weights.

    Raises:
        CheckpointError: The architecture is unknown.
    """
    from cxrbatch.model.resnet import ARCHITECTURES, RadiographResNet

    if card.architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"unknown architecture {card.architecture[:40]!r}; known: {', '.join(ARCHITECTURES)}"
        )
    return RadiographResNet(card.architecture, classes=len(card.classes))


@contextmanager
def _opened(path: Path, *, framework: str) -> "Iterator[safe_open]":
    try:
        # os.stat, not is_file: a name that is too long has its own reason.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise CheckpointError(f"checkpoint {path} is not a file")
        with safe_open(path, framework=framework) as file:
            yield file
    except OSError as error:
        raise _unreadable(path, error) from None
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a cxrbatch checkpoint ({str(error)[:100]}); "
            "a .pt or .pth file comes in through `cxrbatch models import`"
        ) from None


def _unreadable(path: Path, error: OSError | ReadingError) -> CheckpointError:
    reason = str(error) if isinstance(error, ReadingError) else error.strerror
    return CheckpointError(
        f"cannot read checkpoint {path}: {reason or 'it is no whole file'}; check its name and its "
        "permissions"
    )


def _safetensors(path: Path) -> "dict[str, Tensor]":
    with _opened(path, framework="pt") as file:
        weights = [name for name in list(file.keys()) if not name.startswith(_FEATURES)]
        return {name: file.get_tensor(name) for name in weights}


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
        CheckpointError: A tensor is missing, unknown, of another shape or not finite.
    """
    import torch

    expected = _weights(model)
    given = {name: value for name, value in tensors.items() if "num_batches" not in name}
    for name in sorted(expected.keys() | given.keys()):
        if problem := _mismatch(name, expected.get(name), given.get(name)):
            raise CheckpointError(
                f"the weights in {source} do not fit {model.architecture} with "
                f"{model.fc.out_features} classes: {problem}"
            )
    with torch.no_grad():
        for name, target in expected.items():
            target.copy_(given[name])


def _mismatch(name: str, expected: "Tensor | None", given: "Tensor | None") -> str | None:
    shown = name[:80]
    if expected is None:
        return f"{shown!r} is unknown"
    if given is None:
        return f"{shown!r} is missing"
    if not _is_plain(given):
        return f"{shown!r} is not a plain dense tensor of floating point numbers"
    if given.shape != expected.shape:
        return f"{shown!r} has shape {tuple(given.shape)}, not {tuple(expected.shape)}"
    return None if given.isfinite().all() else f"{shown!r} has values that are not finite"


def _is_plain(tensor: "Tensor") -> bool:
    import torch

    usual = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return tensor.layout is torch.strided and not tensor.is_meta and tensor.dtype in usual


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
    names = [f.name for f in fields(FeatureStatistics)]
    found = [tensors.pop(_FEATURES + name, None) for name in names]
    if all(tensor is None for tensor in found):
        return None
    given = [np.empty(0, np.float32) if t is None else t.float().numpy() for t in found]
    kept = len(given[1])
    shapes = [(width,), (kept, width), (kept,), (1,)]
    sound = [values.shape for values in given] == shapes and kept <= width
    if not sound or not all(np.isfinite(values).all() for values in given):
        raise CheckpointError(f"the feature statistics in {source} are damaged")
    if not all((values > 0).all() for values in given[2:]):
        raise CheckpointError(
            f"the feature statistics in {source} have a variance that is not positive"
        )
    return FeatureStatistics(*given)


def _plain_state_dict(loaded: object, source: Path) -> "dict[str, Tensor]":
    import torch

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
    if stem is not None and _is_plain(stem) and stem.ndim == 4 and stem.shape[1] == 3:
        state[_STEM] = stem.sum(dim=1, keepdim=True)
    return state

"""Reading checkpoints: safetensors weights with a card. Nothing else is ever scored with.

Finite scores prove nothing: oneDNN's ReLU turns NaN into 0, and what follows looks like any other
score. So weights are checked where they are read, where batch norms are folded into them, and by
the scores of a test image; a network's first scores are compared with those of `score_plainly`.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from cxrbatch.errors import CheckpointError
from cxrbatch.model.card import Card
from cxrbatch.model.recording import CARD_KEY, hash_checkpoint
from cxrbatch.reading.outcomes import ReadingError
from cxrbatch.reading.sniffing import open_regular

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cxrbatch.model.input_gate import FeatureStatistics

Tensors = Mapping[str, "Tensor"]

FEATURES = "features."
"""Prefix of the names of the feature statistics among a checkpoint's tensors."""

MOST_BYTES = 1 << 30
"""Most bytes of a file of weights, and of what it inflates to: 1 GiB, ten ResNet-50."""

# A safetensors file begins with the length of its JSON header as eight bytes.
_HEADER_LENGTH = 8
_MOST_HEADER = 16 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and checked, or one made by `of`, which is not checked.

    Attributes:
        card: Its card.
        sha256: Hash of the file, as `file_sha256` returns it; "" for a network that is in no
            file.
        tensors: Its weights by torchvision's names; float32 if they are from a file.
        features: What the input gate knows of the network's features; None where the file has no
            gate.
    """

    card: Card
    sha256: str
    tensors: Tensors
    features: "FeatureStatistics | None" = None

    @classmethod
    def of(
        cls, model: "nn.Module", card: Card, features: "FeatureStatistics | None" = None
    ) -> "Checkpoint":
        """Make a Checkpoint of a network that is in no file.

        Args:
            model: The network; the checkpoint shares the memory of its state dict.
            card: The network's card.
            features: What the input gate knows of the network's features, if it has one.

        Returns:
            A Checkpoint whose `sha256` is "".
        """
        return cls(card, "", model.state_dict(), features)


def bundled_checkpoint() -> Path:
    """Return the path of the checkpoint file that is installed with the package."""
    return Path(str(resources.files("cxrbatch.model") / "weights" / "default.safetensors"))


def read_card(path: Path) -> Card:
    """Read only the card of a checkpoint, without importing torch or reading the weights.

    Raises:
        CheckpointError: The file cannot be read, is larger than `MOST_BYTES`, is no safetensors
            file, or has no valid card.
    """
    with opened_safetensors(path, framework="numpy") as file:
        return _card_of(file.metadata(), path)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits.

    Figures that were recorded in the card of a checkpoint do not count: see `hash_checkpoint`.

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hash_checkpoint(file)
    except OSError as error:
        raise unreadable_checkpoint(path, error) from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint's card, weights and feature statistics, and check them.

    The check scores two test images with the weights.

    Raises:
        CheckpointError: The file cannot be read, is larger than `MOST_BYTES` or no checkpoint, its
            architecture is unknown, or `soundness.check_tensors` refuses its weights, or its
            feature statistics are damaged.
    """
    with opened_safetensors(path, framework="pt") as file:
        card = _card_of(file.metadata(), path)
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    from cxrbatch.model.soundness import check_tensors  # what is no checkpoint needs no torch

    statistics = {name: tensors.pop(name) for name in list(tensors) if name.startswith(FEATURES)}
    checked = check_tensors(
        tensors,
        architecture=card.architecture,
        classes=len(card.classes),
        normalisation=card.normalisation,
        source=path,
    )
    features = _features(statistics, card, path, width=checked["fc.weight"].shape[1])
    return Checkpoint(card, file_sha256(path), checked, features)


@contextmanager
def opened_safetensors(path: Path, *, framework: str) -> "Iterator[safe_open]":
    """Open a safetensors file for the body of a `with` statement.

    Args:
        path: The file.
        framework: "numpy" or "pt": the kind of the tensors that the open file returns.

    Yields:
        The open file, of which no tensor is read yet.

    Raises:
        CheckpointError: The file cannot be opened, is larger than `MOST_BYTES` (1 GiB), no regular
            file or no safetensors file, or its header exceeds 16 MiB. It also replaces an OSError,
            ReadingError or SafetensorError of the `with` body (unknown tensor name); others pass.
    """
    try:
        # os.stat, not is_file: a name that is too long has its own reason.
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            raise CheckpointError(f"checkpoint {path} is not a file")
        check_bytes(state.st_size, path)
        with open_regular(path) as plain:
            claimed = int.from_bytes(plain.read(_HEADER_LENGTH), "little")
        if claimed > _MOST_HEADER:
            raise _no_checkpoint(path, f"its header claims {claimed:,} bytes")
        with safe_open(path, framework=framework) as file:
            yield file
    except (OSError, ReadingError) as error:
        raise unreadable_checkpoint(path, error) from None
    except SafetensorError as error:
        raise _no_checkpoint(path, str(error)[:100]) from None


def check_bytes(size: int, path: Path) -> None:
    """Raise an error if a file of weights is larger than any network of this program needs.

    Args:
        size: Bytes of the file, or of what it inflates to.
        path: The file, for the message.

    Raises:
        CheckpointError: `size` is larger than `MOST_BYTES`.
    """
    if size > MOST_BYTES:
        raise CheckpointError(
            f"{path} holds {size:,} bytes, and weights have at most {MOST_BYTES:,}; check its "
            "name, or save model.state_dict() alone"
        )


def unreadable_checkpoint(path: Path, error: OSError | ReadingError) -> CheckpointError:
    """Return, without raising it, the error for a checkpoint that cannot be read.

    Args:
        path: The file.
        error: Why it cannot be read; its reason, if it has one, goes into the message.
    """
    reason = str(error) if isinstance(error, ReadingError) else error.strerror
    return CheckpointError(
        f"cannot read checkpoint {path}: {reason or 'it is no whole file'}; check its name and its "
        "permissions"
    )


def _no_checkpoint(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a cxrbatch checkpoint ({reason}); "
        "a .pt or .pth file comes in through `cxrbatch models import`"
    )


def _card_of(metadata: Mapping[str, str] | None, path: Path) -> Card:
    if not metadata or CARD_KEY not in metadata:
        raise CheckpointError(
            f"{path} has no cxrbatch card; make one with `cxrbatch train` or `models import`"
        )
    return Card.from_json(metadata[CARD_KEY])


def _features(
    tensors: Tensors, card: Card, source: Path, *, width: int
) -> "FeatureStatistics | None":
    """Check the feature statistics of a checkpoint; None where it has none, or those of old."""
    from cxrbatch.model.input_gate import FeatureStatistics
    from cxrbatch.model.soundness import is_plain

    if not card.gate:
        return None
    given = {name.removeprefix(FEATURES): tensor for name, tensor in tensors.items()}
    kept = given["variances"].numel() if "variances" in given else 0
    shapes = FeatureStatistics.shapes(
        classes=len(card.classes), width=width, kinds=len(card.gate["kinds"]), kept=kept
    )
    # Before their values are touched: a few bytes can stand for what no memory holds.
    if {name: tuple(t.shape) for name, t in given.items() if is_plain(t)} == shapes:
        statistics = FeatureStatistics(**{name: t.float().numpy() for name, t in given.items()})
        if kept <= width and statistics.are_sound:
            return statistics
    raise CheckpointError(
        f"the feature statistics in {source} are damaged; copy the file again from where it is "
        "whole, or take another"
    )

"""Files that hold named tensors: safetensors, and state dicts in PyTorch's pickle format.

Whatever a file claims, no more memory is taken than a ResNet-50 needs with all that a training
script keeps beside it.
"""

import os
import stat
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from cxrbatch.errors import CheckpointError
from cxrbatch.reading.containers.listing import list_members, open_regular
from cxrbatch.reading.outcomes import ReadingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

FEATURES = "features."
"""What the names of feature statistics in a checkpoint begin with."""

MOST_BYTES = 1 << 30
"""Bytes of a file, and of what it inflates to: ten ResNet-50."""

# Of a safetensors file: the length of its JSON header as eight bytes, then that header.
_HEADER_LENGTH = 8
_MOST_HEADER = 16 << 20
_STEM = "conv1.weight"
_RGB_STEM = (64, 3, 7, 7)
_ZIP = b"PK\x03\x04"


@contextmanager
def opened_safetensors(path: Path, *, framework: str) -> "Iterator[safe_open]":
    """Open a safetensors file.

    Args:
        path: The file.
        framework: "numpy" or "pt": what its tensors are to be.

    Raises:
        CheckpointError: It is missing, too large, no regular file or no safetensors file.
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
        raise unreadable(path, error) from None
    except SafetensorError as error:
        raise _no_checkpoint(path, str(error)[:100]) from None


def read_state_dict(source: Path) -> "dict[str, Tensor]":
    """Read named tensors out of a PyTorch or safetensors file, whatever its name.

    A three-channel stem is folded into one channel by summing its filters, which is exact for a
    grey image given three times. A `state_dict` or `model` entry and a `module.` prefix, as
    training scripts leave them, are taken off.

    Raises:
        CheckpointError: Neither a safetensors file nor a state dict that `weights_only` can read,
            or larger than `MOST_BYTES`.
    """
    import torch

    try:
        # Opened without waiting: a FIFO would hang the command.
        with open_regular(source) as file:
            head = file.read(_HEADER_LENGTH + 1)
            check_bytes(os.fstat(file.fileno()).st_size, source)
        if head[_HEADER_LENGTH:] == b"{":
            return _plain_state_dict(_safetensors(source), source)
        if head.startswith(_ZIP):
            # PyTorch inflates every entry that a tensor names, as far as the entry claims.
            check_bytes(sum(member.size for member in list_members(os.fsencode(source))), source)
        with warnings.catch_warnings(action="ignore"):  # what matters of it is refused below
            loaded = torch.load(source, map_location="cpu", weights_only=True)
    except (OSError, ReadingError) as error:
        raise unreadable(source, error) from None
    except CheckpointError:
        raise
    except Exception:
        # torch.load raises whatever the unpickler met, with advice how to run the file's code.
        raise CheckpointError(
            f"{source} is not a plain state dict; save model.state_dict() and import that"
        ) from None
    return _plain_state_dict(loaded, source)


def check_bytes(size: int, path: Path) -> None:
    """Refuse a file that is, or inflates to, more than any network here needs.

    Raises:
        CheckpointError: `size` is larger than `MOST_BYTES`.
    """
    if size > MOST_BYTES:
        raise CheckpointError(
            f"{path} holds {size:,} bytes, and weights have at most {MOST_BYTES:,}; check its "
            "name, or save model.state_dict() alone"
        )


def is_plain(tensor: "Tensor") -> bool:
    """Whether a tensor is dense, has values, and these are floating point numbers of 16 bits up."""
    import torch

    usual = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return tensor.layout is torch.strided and not tensor.is_meta and tensor.dtype in usual


def unreadable(path: Path, error: OSError | ReadingError) -> CheckpointError:
    """The error that says why a file cannot be read."""
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


def _safetensors(path: Path) -> "dict[str, Tensor]":
    with opened_safetensors(path, framework="pt") as file:
        weights = [name for name in list(file.keys()) if not name.startswith(FEATURES)]
        return {name: file.get_tensor(name) for name in weights}


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
    # The whole shape: a few bytes can stand for a tensor that no memory holds.
    if stem is not None and is_plain(stem) and tuple(stem.shape) == _RGB_STEM:
        state[_STEM] = stem.sum(dim=1, keepdim=True)
    return state

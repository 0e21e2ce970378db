"""Files of a training in progress: the states after its last epochs and its best checkpoint."""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.files import disk_errors, lock_file, written_whole
from cxrbatch.model.card import Card
from cxrbatch.model.network import RadiographResNet, WeightsError, packed_checkpoint

_KEPT = 2
_BEST = "best.safetensors"
_SEAL_BYTES = hashlib.sha256().digest_size
_STATE = re.compile(r"state-\d{6}\.pt")
_UNFINISHED = "From a training that was not finished: neither calibrated nor tested."

TrainingState = dict[str, Any]
"""All that a training needs to continue after an epoch: `Trainer.state`, metrics, best weights."""
Fingerprint = Mapping[str, Any]
"""Options and hashes that a stopped training and its continuation must share, by name."""


def training_folder(output: Path) -> Path:
    """Return the folder of a training's states and best checkpoint, which need not exist.

    It lies beside the output: a/m.training for a/m.safetensors.

    Args:
        output: Path of the checkpoint that the training writes at its end.
    """
    return output.with_name(f"{output.stem}.training")


def best_checkpoint(folder: Path) -> Path:
    """Return the path of the best checkpoint so far: best.safetensors in a training's folder.

    The file exists from the end of the first epoch to the end of the training. It is replaced at
    once, so that it is whole at any moment.
    """
    return folder / _BEST


def holds_run(folder: Path) -> bool:
    """Return whether a training's folder has a state or a best checkpoint; False without a folder.

    A training deletes both at its end, so that they belong to one that was stopped or still runs.
    """
    return best_checkpoint(folder).exists() or bool(_states(folder))


def stopped_training(folder: Path) -> UsageError:
    """Make, and do not raise, the error that `folder` has a stopped training.

    It is for a run without --resume and --overwrite; its message names both as remedies.
    """
    return UsageError(
        f"{folder} holds a training that was stopped; give --resume to go on with it, or "
        "--overwrite to start anew"
    )


def clear_states(folder: Path) -> None:
    """Delete all states, the best checkpoint and half-written files of a training's folder.

    The newest state is deleted last. If the process is killed while it deletes after the last
    epoch, the training can still be resumed from that state and has no epoch left to train.

    Raises:
        CxrbatchError: A file cannot be deleted.
    """
    with _writing(folder):
        for path in [best_checkpoint(folder), *_leftovers(folder), *reversed(_states(folder))]:
            path.unlink(missing_ok=True)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make a training's folder and lock it while the block runs, then remove it if it is empty.

    Half-written files of a killed training are deleted first. The lock is on the open folder: the
    system releases it when this process and those forked from it have ended, even by a kill.

    Raises:
        UsageError: Another training has the lock; this one does not wait for it.
        CxrbatchError: The folder cannot be made or locked, or a file in it cannot be deleted.
    """
    with _writing(folder):
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _writing(folder):
            locked = lock_file(descriptor)
        if not locked:
            raise UsageError(
                f"another training is using {folder}; wait for it, or choose another -o"
            )
        try:
            with _writing(folder):
                for path in _leftovers(folder):
                    path.unlink(missing_ok=True)
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()
    finally:
        os.close(descriptor)


def write_state(
    folder: Path, state: TrainingState, *, epoch: int, fingerprint: Fingerprint
) -> None:
    """Write the state after an epoch to a new file, and delete all but the newest two.

    Args:
        folder: The training's folder.
        state: Tensors, numbers, texts, and lists and dicts of them.
        epoch: Number of epochs done; it is part of the file's name.
        fingerprint: Stored with the state: options and hashes that a continuation must share.

    Raises:
        CxrbatchError: The state cannot be written, or an older one cannot be deleted.
    """
    packed = io.BytesIO()
    torch.save({**state, "fingerprint": _canonical(fingerprint)}, packed)
    with _writing(folder):
        with written_whole(folder / f"state-{epoch:06}.pt") as file:
            _write_sealed(file, packed.getbuffer())
        for path in _states(folder)[_KEPT:]:
            path.unlink(missing_ok=True)


def write_best(folder: Path, model: RadiographResNet, card: Card) -> None:
    """Write the best checkpoint so far to `best_checkpoint(folder)`, replacing the one before.

    Args:
        folder: The training's folder.
        model: The network.
        card: The card. The file's card has its name, architecture, classes, recipe, normalisation
            and limits, and a further limit: that the checkpoint is neither calibrated nor tested.

    Raises:
        CxrbatchError: The file cannot be written, or a weight is not finite or is too large for
            float16.
    """
    unfinished = Card(
        card.name,
        card.architecture,
        card.classes,
        card.recipe,
        card.normalisation,
        limits=(*card.limits, _UNFINISHED),
    )
    try:
        packed = packed_checkpoint(model=model, card=unfinished)
    except WeightsError as error:
        raise WeightsError(f"{error}; {_kept(folder)}give a lower --learning-rate") from None
    with _writing(folder), written_whole(best_checkpoint(folder)) as file:
        file.write(packed)


def read_state(folder: Path, *, fingerprint: Fingerprint) -> TrainingState | None:
    """Read the newest state that is not damaged.

    Args:
        folder: The training's folder.
        fingerprint: Options and hashes of this training; those of the state must be equal.

    Returns:
        The state as it was given to `write_state`, its tensors on the CPU; None if the folder has
        no state.

    Raises:
        UsageError: The state has another fingerprint, or all states are damaged.
        CxrbatchError: The file of a state cannot be read.
    """
    state = _newest(folder)
    if state is not None:
        _check(state.pop("fingerprint"), fingerprint)
    return state


def check_state(folder: Path, *, fingerprint: Fingerprint) -> None:
    """Check before any image is read that a stopped training can be continued.

    Without a state in the folder, nothing is checked.

    Args:
        folder: The training's folder.
        fingerprint: The part of the fingerprint that is known without images; only these names
            are compared with the newest undamaged state.

    Raises:
        UsageError: A value of the fingerprint differs, or all states are damaged.
        CxrbatchError: The file of a state cannot be read.
    """
    state = _newest(folder)
    if state is not None:
        _check({name: state["fingerprint"].get(name) for name in fingerprint}, fingerprint)


def _newest(folder: Path) -> TrainingState | None:
    """Read the newest undamaged state with its fingerprint; None if the folder has no state.

    Raises:
        UsageError: All are damaged. Starting anew unasked would remove what may be repaired.
        CxrbatchError: A state cannot be read.
    """
    paths = _states(folder)
    for path in paths:
        if (state := _whole(path)) is not None:
            return state
    if paths:
        raise UsageError(
            f"the states in {folder} are damaged; copy them again from where they are whole, or "
            "give --overwrite to start anew"
        )
    return None


def _states(folder: Path) -> list[Path]:
    """Paths of all states, the newest first."""
    return sorted((p for p in folder.glob("state-*.pt") if _STATE.fullmatch(p.name)), reverse=True)


def _leftovers(folder: Path) -> list[Path]:
    return [*folder.glob("state-*.pt.tmp"), *folder.glob("*.safetensors*.tmp")]


def _whole(path: Path) -> TrainingState | None:
    with disk_errors(
        f"cannot read {path}", other="check its permissions and the disk", error=CxrbatchError
    ):
        content = _unsealed(path.read_bytes())
    if content is None:
        return None
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        state["fingerprint"] = json.loads(state["fingerprint"])
    except Exception:
        # torch.load raises whatever the unpickler met; the state before may be whole.
        return None
    known = isinstance(state, dict) and isinstance(state["fingerprint"], dict)
    return cast(TrainingState, state) if known else None


def _write_sealed(file: BinaryIO, content: memoryview) -> None:
    """Write content and then its hash, which a second thread computes meanwhile."""
    with ThreadPoolExecutor(1) as other_core:
        hashed = other_core.submit(hashlib.sha256, content)
        file.write(content)
        file.write(hashed.result().digest())


def _unsealed(data: bytes) -> memoryview | None:
    """Return the content before the hash; None if the hash does not match."""
    content, seal = memoryview(data)[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    return content if hashlib.sha256(content).digest() == seal else None


def _canonical(fingerprint: Fingerprint) -> str:
    return json.dumps(fingerprint, sort_keys=True)


def _check(stored: dict[str, Any], current: Fingerprint) -> None:
    current = json.loads(_canonical(current))
    names = sorted({*stored, *current})
    if differing := [name for name in names if stored.get(name) != current.get(name)]:
        pairs = ((name, stored.get(name), current.get(name)) for name in differing)
        shown = "; ".join(_difference(*pair) for pair in pairs)
        raise UsageError(
            f"the training to go on with is another one: {shown}; give the same options and data, "
            "or --overwrite to start anew"
        )


def _difference(name: str, stored: object, current: object) -> str:
    hashed = any(isinstance(value, str) and len(value) == 64 for value in (stored, current))
    return f"other {name}" if hashed else f"{name} was {stored}, now {current}"


def _writing(folder: Path) -> AbstractContextManager[None]:
    return disk_errors(
        f"cannot write into {folder}",
        full=f"{_kept(folder)}free some space, then go on with --resume",
        other="check permissions and the disk",
        error=CxrbatchError,
    )


def _kept(folder: Path) -> str:
    best = best_checkpoint(folder)
    return f"the best checkpoint so far is {best}; " if best.exists() else ""

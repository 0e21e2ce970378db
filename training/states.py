"""A training that can go on: the states after its last epochs, and its best checkpoint so far."""

import errno
import fcntl
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from cxrbatch.atomic import written_whole
from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.model.card import Card
from cxrbatch.model.network import RadiographResNet
from cxrbatch.model.weight_files import WeightsError, packed_checkpoint

_KEPT = 2
_BEST = "best.safetensors"
_SEAL_BYTES = hashlib.sha256().digest_size
_STATE = re.compile(r"state-\d{6}\.pt")
_UNFINISHED = "From a training that was not finished: neither calibrated nor tested."

State = dict[str, Any]
Fingerprint = Mapping[str, Any]
"""What two runs must have in common for one to go on with the other, by name; JSON values."""


def training_folder(output: Path) -> Path:
    """Where a training keeps what it needs to go on."""
    return output.with_name(f"{output.stem}.training")


def best_checkpoint(folder: Path) -> Path:
    """The best checkpoint so far, whole at any moment from the first epoch on."""
    return folder / _BEST


def holds_run(folder: Path) -> bool:
    """Whether there is a training to go on with."""
    return best_checkpoint(folder).exists() or bool(_states(folder))


def stopped_training(folder: Path) -> UsageError:
    """What to say where a training would be dropped unasked."""
    return UsageError(
        f"{folder} holds a training that was stopped; give --resume to go on with it, or "
        "--overwrite to start anew"
    )


def clear(folder: Path) -> None:
    """Remove states, the best checkpoint, and what a kill left half written.

    The newest state goes last: from it a run that is stopped here still ends at once.

    Raises:
        CxrbatchError: They cannot be removed.
    """
    with _explained(folder):
        for path in [best_checkpoint(folder), *_leftovers(folder), *reversed(_states(folder))]:
            path.unlink(missing_ok=True)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make the folder and hold it alone.

    The lock is the system's own on the open folder: it ends with the process, however that ends.

    Raises:
        UsageError: Another training holds it.
        CxrbatchError: It cannot be made.
    """
    with _explained(folder):
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(descriptor, folder)
        try:
            with _explained(folder):
                for path in _leftovers(folder):
                    path.unlink(missing_ok=True)
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()  # where nothing is in it, nothing is kept
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"another training is using {folder}; wait for it, or choose another -o"
        ) from None


def write_state(folder: Path, state: State, *, epoch: int, fingerprint: Fingerprint) -> None:
    """Put the state after an epoch on the disk; the last two are kept.

    Args:
        folder: That of the training.
        state: Tensors, numbers, texts, and lists and dicts of them.
        epoch: Epochs done.
        fingerprint: What the run that goes on with it must have in common.

    Raises:
        CxrbatchError: It cannot be written; those before are as they were.
    """
    packed = io.BytesIO()
    torch.save({**state, "fingerprint": _canonical(fingerprint)}, packed)
    with _explained(folder):
        with written_whole(folder / f"state-{epoch:06}.pt") as file:
            _write_sealed(file, packed.getbuffer())
        for path in _states(folder)[_KEPT:]:
            path.unlink(missing_ok=True)


def write_best(folder: Path, model: RadiographResNet, card: Card) -> None:
    """Write the best checkpoint so far, in place of the one before.

    Raises:
        CxrbatchError: It cannot be written, or no checkpoint holds such weights; the one before is
            as it was.
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
    with _explained(folder), written_whole(best_checkpoint(folder)) as file:
        file.write(packed)


def read_state(folder: Path, *, fingerprint: Fingerprint) -> State | None:
    """Read the newest state that is whole; None where there is none.

    Raises:
        UsageError: It is of a run with other options or data, or none of several is whole.
        CxrbatchError: One cannot be read.
    """
    state = _newest(folder)
    if state is not None:
        _check(state.pop("fingerprint"), fingerprint)
    return state


def check_state(folder: Path, *, fingerprint: Fingerprint) -> None:
    """Refuse early what `read_state` would refuse.

    Args:
        folder: That of the training.
        fingerprint: That part of what runs must have in common which is known by now.

    Raises:
        UsageError: As for `read_state`.
        CxrbatchError: As for `read_state`.
    """
    state = _newest(folder)
    if state is not None:
        _check({name: state["fingerprint"].get(name) for name in fingerprint}, fingerprint)


def _newest(folder: Path) -> State | None:
    """The newest state that is whole, with the fingerprint of its run; None where none is there.

    Raises:
        UsageError: None is whole. To begin anew unasked would remove what may be repaired.
        CxrbatchError: One cannot be read.
    """
    there = _states(folder)
    for path in there:
        if (state := _whole(path)) is not None:
            return state
    if there:
        raise UsageError(
            f"the states in {folder} are damaged; copy them again from where they are whole, or "
            "give --overwrite to start anew"
        )
    return None


def _states(folder: Path) -> list[Path]:
    """The newest first."""
    return sorted((p for p in folder.glob("state-*.pt") if _STATE.fullmatch(p.name)), reverse=True)


def _leftovers(folder: Path) -> list[Path]:
    return [*folder.glob("state-*.pt.tmp"), *folder.glob("*.safetensors*.tmp")]


def _whole(path: Path) -> State | None:
    try:
        content = _unsealed(path.read_bytes())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CxrbatchError(
            f"cannot read {path}: {reason}; check its permissions and the disk"
        ) from None
    if content is None:
        return None
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        state["fingerprint"] = json.loads(state["fingerprint"])
    except Exception:
        # torch.load raises whatever the unpickler met; the state before may do.
        return None
    known = isinstance(state, dict) and isinstance(state["fingerprint"], dict)
    return cast(State, state) if known else None


def _write_sealed(file: BinaryIO, content: memoryview) -> None:
    """Write, with a hash behind it: one core takes that while another writes."""
    with ThreadPoolExecutor(1) as other_core:
        hashed = other_core.submit(hashlib.sha256, content)
        file.write(content)
        file.write(hashed.result().digest())


def _unsealed(data: bytes) -> memoryview | None:
    """What was written; None where it is not whole."""
    content, seal = memoryview(data)[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    return content if hashlib.sha256(content).digest() == seal else None


def _canonical(fingerprint: Fingerprint) -> str:
    return json.dumps(fingerprint, sort_keys=True)


def _check(there: dict[str, Any], here: Fingerprint) -> None:
    here = json.loads(_canonical(here))
    if differing := [n for n in sorted({*there, *here}) if there.get(n) != here.get(n)]:
        shown = "; ".join(_difference(name, there.get(name), here.get(name)) for name in differing)
        raise UsageError(
            f"the training to go on with is another one: {shown}; give the same options and data, "
            "or --overwrite to start anew"
        )


def _difference(name: str, there: object, here: object) -> str:
    hashes = all(isinstance(v, str) and len(v) == 64 for v in (there, here))
    return f"other {name}" if hashes else f"{name} was {there}, now {here}"


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = _remedy(folder) if full else "check permissions and the disk"
        raise CxrbatchError(f"cannot write into {folder}: {reason}; {remedy}") from None


def _remedy(folder: Path) -> str:
    return f"{_kept(folder)}free some space, then go on with --resume"


def _kept(folder: Path) -> str:
    best = best_checkpoint(folder)
    return f"the best checkpoint so far is {best}; " if best.exists() else ""

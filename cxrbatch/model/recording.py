"""Figures of an evaluation elsewhere, in a checkpoint's card; the hash that leaves them out.

A table names its model by the hash of the checkpoint. So that a checkpoint keeps its tables when
figures of one of them are recorded in its card, the hash is that of the file as it was before.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from cxrbatch.errors import CheckpointError, UsageError
from cxrbatch.files import disk_errors, shown, written_whole
from cxrbatch.model.card import MAX_CLASS_NAME, Card

CARD_KEY = "cxrbatch"
"""Name of the card among the metadata of a checkpoint file."""

EXTERNAL = "external"
"""Key of the recorded figures in `Card.training`: name of the evaluation -> its figures."""

# A safetensors file begins with the length of its JSON header as eight bytes.
_LENGTH = 8
_MOST_HEADER = 16 << 20
_ALIGNED = 8
_CHUNK = 1 << 20


def hash_checkpoint(file: BinaryIO) -> str:
    """Return the SHA-256 of a file's bytes, those of a checkpoint without its recorded figures.

    Args:
        file: Open at its start, of any kind; it is read to its end.

    Returns:
        64 hexadecimal digits; equal to the SHA-256 of all bytes if the file is no checkpoint, or
        has no recorded figures.
    """
    header = _read_header(file)
    if header is not None and EXTERNAL.encode() in header:
        header = _without_figures(header)
        file_hash = hashlib.sha256(_sized(header))
    else:
        file.seek(0)
        file_hash = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        file_hash.update(chunk)
    return file_hash.hexdigest()


def unrecorded(card: Card) -> Card:
    """Return a copy of a card without the figures that `record_figures` added to it."""
    training = {name: value for name, value in card.training.items() if name != EXTERNAL}
    return replace(card, training=training)


def check_record(path: Path, card: Card, name: str, *, overwrite: bool) -> None:
    """Raise an error unless figures can be recorded in a checkpoint under a name.

    Args:
        path: The checkpoint file.
        card: Its card.
        name: The name of the evaluation.
        overwrite: Whether figures of this name may be replaced.

    Raises:
        UsageError: The name is blank, longer than `MAX_CLASS_NAME`, not printable or recorded
            already and not to be replaced; or the file or its folder cannot be written.
        CheckpointError: What the card has recorded is no JSON object.
    """
    if not name.strip() or len(name) > MAX_CLASS_NAME or not name.isprintable():
        raise UsageError(
            f"--record {shown(name)} is no name; give up to {MAX_CLASS_NAME} characters that can "
            "be printed"
        )
    recorded = card.training.get(EXTERNAL, {})
    if not isinstance(recorded, dict):
        raise CheckpointError(f"what {path} has recorded is no object; take a whole checkpoint")
    if name in recorded and not overwrite:
        raise UsageError(
            f"{path} has figures of {shown(name)} already; choose another name or give --overwrite"
        )
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path} or its folder cannot be written; record in a copy of it")


def record_figures(
    path: Path, name: str, figures: Mapping[str, Any], *, sha256: str, overwrite: bool = False
) -> None:
    """Write figures into a checkpoint's card, whole or not at all; nothing else in it changes.

    The tensors keep their bytes, and the file its hash by `hash_checkpoint`.

    Args:
        path: The checkpoint file.
        name: The name of the evaluation.
        figures: JSON values.
        sha256: Hash of the checkpoint that the figures are of, by `hash_checkpoint`.
        overwrite: Whether figures of this name may be replaced.

    Raises:
        UsageError: In the cases of `check_record`.
        CheckpointError: The file is another checkpoint by now, is none, was written by another
            program, or cannot be written; the file is unchanged.
    """
    remedy = "free space, then run again"
    with (
        disk_errors(f"cannot write checkpoint {path}", full=remedy, error=CheckpointError),
        path.open("rb") as file,
    ):
        if hash_checkpoint(file) != sha256:
            raise CheckpointError(f"{path} has changed since it scored; evaluate it again")
        file.seek(0)
        header = _read_header(file)
        if header is None:
            raise CheckpointError(f"{path} is no checkpoint")
        check_record(path, Card.from_json(_card_text(header)), name, overwrite=overwrite)
        changed = _with_figures(header, name, figures)
        if _without_figures(changed) != _without_figures(header):
            raise CheckpointError(
                f"{path} was written by another program, so that its hash would change; record in "
                "one that `cxrbatch train` or `models import` wrote"
            )
        with written_whole(path) as new:
            new.write(_sized(changed))
            shutil.copyfileobj(file, new, _CHUNK)
            os.fchmod(new.fileno(), os.fstat(file.fileno()).st_mode & 0o777)


def _read_header(file: BinaryIO) -> bytes | None:
    """Read the header of a safetensors file; None where the file cannot be one."""
    length = int.from_bytes(file.read(_LENGTH), "little")
    header = file.read(length) if length <= _MOST_HEADER else b""
    return header if header and len(header) == length else None


def _sized(header: bytes) -> bytes:
    return len(header).to_bytes(_LENGTH, "little") + header


def _card_text(header: bytes) -> str:
    try:
        return str(json.loads(header)["__metadata__"][CARD_KEY])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError("the checkpoint has no card") from None


def _without_figures(header: bytes) -> bytes:
    """Leave the recorded figures out of a header; the header itself where it has none."""
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        content = json.loads(header)
        card = json.loads(content["__metadata__"][CARD_KEY])
        del card["training"][EXTERNAL]
        return _packed(content, card)
    return header


def _with_figures(header: bytes, name: str, figures: Mapping[str, Any]) -> bytes:
    content = json.loads(header)
    card = json.loads(content["__metadata__"][CARD_KEY])
    recorded = card["training"].get(EXTERNAL, {})
    card["training"][EXTERNAL] = {**recorded, name: dict(figures)}
    return _packed(content, card)


def _packed(content: dict[str, Any], card: dict[str, Any]) -> bytes:
    """Write a header as safetensors does: compact JSON in UTF-8, with spaces to a multiple of 8."""
    content["__metadata__"][CARD_KEY] = json.dumps(card, sort_keys=True)
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % _ALIGNED)

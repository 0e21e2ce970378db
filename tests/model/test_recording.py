"""Figures recorded in a checkpoint: nothing else changes, and nothing is trusted."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cxrbatch.errors import CheckpointError, CxrbatchError, UsageError
from cxrbatch.model.checkpoint import file_sha256, load_checkpoint, read_card
from cxrbatch.model.recording import CARD_KEY, record_figures


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_checkpoint, tmp_path / "m.safetensors"))


def plain_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_only_the_card_changes(checkpoint: Path, tiny_checkpoint: Path) -> None:
    before = plain_hash(checkpoint)
    checkpoint.chmod(0o640)
    record_figures(checkpoint, "Ä", {"n": 3, "auc": 0.1 + 0.2}, sha256=before)
    record_figures(checkpoint, "B", {"n": 5}, sha256=before)
    assert plain_hash(checkpoint) != before
    assert file_sha256(checkpoint) == load_checkpoint(checkpoint).sha256 == before
    card = read_card(checkpoint)
    assert card.training["external"] == {"Ä": {"n": 3, "auc": 0.1 + 0.2}, "B": {"n": 5}}
    assert card.training["data"] == "none: random weights"
    ours, theirs = load_file(checkpoint), load_file(tiny_checkpoint)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert checkpoint.stat().st_mode & 0o777 == 0o640
    assert [file.name for file in checkpoint.parent.iterdir()] == ["m.safetensors"]


def test_another_weight_is_another_hash(checkpoint: Path) -> None:
    record_figures(checkpoint, "A", {"n": 3}, sha256=plain_hash(checkpoint))
    one = file_sha256(checkpoint)
    content = bytearray(checkpoint.read_bytes())
    content[-1] ^= 1
    checkpoint.write_bytes(content)
    assert file_sha256(checkpoint) != one


@pytest.mark.parametrize(
    ("name", "sha256", "overwrite", "error", "words"),
    [
        ("A", None, False, UsageError, "already"),
        ("", None, False, UsageError, "is no name"),
        ("x" * 65, None, False, UsageError, "is no name"),
        ("\x1b[2J", None, False, UsageError, "is no name"),
        ("B", "0" * 64, False, CheckpointError, "has changed"),
    ],
)
def test_what_cannot_be_recorded_changes_nothing(
    name: str,
    sha256: str | None,
    overwrite: bool,
    error: type[CxrbatchError],
    words: str,
    checkpoint: Path,
) -> None:
    record_figures(checkpoint, "A", {"n": 3}, sha256=file_sha256(checkpoint))
    before = checkpoint.read_bytes()
    with pytest.raises(error, match=words) as caught:
        record_figures(checkpoint, name, {}, sha256=sha256 or file_sha256(checkpoint))
    assert str(caught.value).isprintable()
    assert checkpoint.read_bytes() == before


def test_figures_are_replaced_if_asked(checkpoint: Path) -> None:
    for n in (3, 4):
        sha256 = file_sha256(checkpoint)
        record_figures(checkpoint, "A", {"n": n}, sha256=sha256, overwrite=True)
    assert read_card(checkpoint).training["external"] == {"A": {"n": 4}}


def test_a_header_that_would_come_back_otherwise_is_refused(checkpoint: Path) -> None:
    tensors = load_file(checkpoint)
    text = json.dumps(json.loads(read_card(checkpoint).to_json()), indent=1)
    save_file(tensors, checkpoint, metadata={CARD_KEY: text})
    before = checkpoint.read_bytes()
    with pytest.raises(CheckpointError, match="another program"):
        record_figures(checkpoint, "A", {"n": 3}, sha256=file_sha256(checkpoint))
    assert checkpoint.read_bytes() == before


def test_recorded_figures_of_another_form_are_refused(checkpoint: Path) -> None:
    card = json.loads(read_card(checkpoint).to_json())
    card["training"]["external"] = ["not", "an", "object"]
    save_file(load_file(checkpoint), checkpoint, metadata={CARD_KEY: json.dumps(card)})
    with pytest.raises(CheckpointError, match="no object"):
        record_figures(checkpoint, "A", {"n": 3}, sha256=file_sha256(checkpoint))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"external",
        b"\x08\0\0\0\0\0\0\0external",
        b'\x0a\0\0\0\0\0\0\0"external"',
        b"\xff" * 99,
    ],
)
def test_the_hash_of_any_other_file_is_that_of_its_bytes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(content)
    assert file_sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()

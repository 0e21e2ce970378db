"""The weights of the lung finder come back as written; whatever is none is refused in one line."""

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from cxrbatch.errors import CheckpointError
from cxrbatch.lungs.lung_card import LUNG_CARD_KEY, LungCard
from cxrbatch.lungs.shape import MEASURES
from cxrbatch.lungs.unet import (
    LungUNet,
    bundled_lung_weights,
    read_lung_weights,
    write_lung_weights,
)
from cxrbatch.model.preprocessing import Recipe

Tensors = dict[str, Tensor]
CARD = LungCard(
    name="tiny",
    recipe=Recipe(32),
    limits=dict.fromkeys(MEASURES, (0.0, 1.0)),
    training={"data": "none: random weights"},
    cautions=("Knows nothing.",),
)
UNIT = {name: [0, 1] for name in MEASURES}


@pytest.fixture(scope="module")
def network() -> LungUNet:
    torch.manual_seed(1)
    return LungUNet()


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory, network: LungUNet) -> Tensors:
    path = tmp_path_factory.mktemp("weights") / "w"
    write_lung_weights(path, network, CARD)
    return load_file(path)


def refusal(path: Path) -> str:
    """The message of the error that reading must raise, checked to be one line."""
    with pytest.raises(CheckpointError) as caught:
        read_lung_weights(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    return message


def test_weights_come_back_rounded_to_float16(tmp_path: Path, network: LungUNet) -> None:
    write_lung_weights(tmp_path / "w", network, CARD)
    found = read_lung_weights(tmp_path / "w")
    assert found.card == CARD
    for name, value in network.state_dict().items():
        assert torch.equal(found.tensors[name], value.half().float())


def test_the_bundled_weights_are_small_and_say_what_they_are() -> None:
    path = bundled_lung_weights()
    assert path.stat().st_size <= 1 << 20
    card = read_lung_weights(path).card
    assert any("CC BY 4.0" in text for text in card.training["data"])
    assert any("Research only" in text for text in card.cautions)
    dice = {name: group["dice"] for name, group in card.training["figures"].items()}
    assert dice["adults of other licences"] >= 0.94
    assert dice["children, test"] >= 0.95


@pytest.mark.parametrize(
    "data",
    [b"", b"a text of some length\n" * 50, bytes(1000), struct.pack("<Q", 2**40) + b"{}"],
    ids=["empty", "text", "zeros", "long header"],
)
def test_foreign_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    refusal(tmp_path / "file")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "none", tmp_path / "fifo"):
        refusal(path)


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 42)
    assert "larger than 1,048,576 bytes" in refusal(tmp_path / "huge")


def test_a_checkpoint_of_a_classifier_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    (tmp_path / "bare").write_bytes(save(tensors, metadata={"cxrbatch": "{}"}))
    assert "no card of a lung finder" in refusal(tmp_path / "bare")


MISFITS: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
    "missing": ("is missing", lambda t: {k: v for k, v in t.items() if k != "head.bias"}),
    "extra": ("is unknown", lambda t: {**t, "a\x1b\n" * 99: torch.zeros(1)}),
    "shape": ("has shape (2,), not (1,)", lambda t: {**t, "head.bias": torch.zeros(2)}),
    "integers": ("plain", lambda t: {**t, "head.bias": torch.zeros(1, dtype=torch.int64)}),
    "nan": ("not finite", lambda t: {**t, "head.bias": torch.tensor([torch.nan])}),
    "beyond float32": (
        "not finite",
        lambda t: {**t, "head.bias": torch.tensor([1e300], dtype=torch.float64)},
    ),
    "output": (
        "output is not finite",
        lambda t: {k: torch.full_like(v, 3e38, dtype=torch.float32) for k, v in t.items()},
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, tensors: Tensors, misfit: str) -> None:
    expected, change = MISFITS[misfit]
    metadata = {LUNG_CARD_KEY: CARD.to_json()}
    (tmp_path / "misfit").write_bytes(save(change(dict(tensors)), metadata=metadata))
    assert expected in refusal(tmp_path / "misfit")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format_version", 2),
        ("name", "a\nb"),
        ("name", 5),
        ("recipe", {"size": 40, "geometry": "squeeze", "no_voi": "robust", "version": 1}),
        ("recipe", {"size": 1024, "geometry": "squeeze", "no_voi": "robust", "version": 1}),
        ("recipe", []),
        ("limits", []),
        ("limits", {"area": [0, 1]}),
        ("limits", {**UNIT, "area": [1, 0]}),
        ("limits", {**UNIT, "area": [0, float("nan")]}),
        ("limits", {**UNIT, "area": "01"}),
        ("training", 3),
        ("cautions", "one text"),
        ("more", 1),
    ],
)
def test_a_broken_card_is_refused(
    tmp_path: Path, tensors: Tensors, field: str, value: object
) -> None:
    text = json.dumps({**json.loads(CARD.to_json()), field: value})
    (tmp_path / "card").write_bytes(save(tensors, metadata={LUNG_CARD_KEY: text}))
    assert "card of the lung finder's weights is invalid" in refusal(tmp_path / "card")


def test_a_card_that_is_no_json_or_nests_without_end_is_refused(
    tmp_path: Path, tensors: Tensors
) -> None:
    for text in ("{", "[]", "[" * 100_000):
        (tmp_path / "card").write_bytes(save(tensors, metadata={LUNG_CARD_KEY: text}))
        assert "is invalid" in refusal(tmp_path / "card")


def test_an_existing_file_stays_where_a_card_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no range"):
        replace(CARD, limits=dict.fromkeys(MEASURES, (1.0, 0.0)))
    with pytest.raises(CheckpointError, match="cannot write weights"):
        write_lung_weights(tmp_path / "none" / "w", LungUNet(), CARD)
    assert not list(tmp_path.iterdir())

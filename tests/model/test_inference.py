"""Scores: a calibrated softmax, whatever else is in the batch, at a precision that exists."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.model.batch_scores import BatchScores
from cxrbatch.model.checkpoint import Checkpoint, load_checkpoint
from cxrbatch.model.inference import (
    Precision,
    choose_device,
    choose_precision,
    describe_device,
)
from cxrbatch.model.network import model_of
from cxrbatch.model.prediction import dequantise
from cxrbatch.model.predictor import Predictor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    """40 pictures of 64 px that differ in brightness and grain."""
    rng = np.random.default_rng(2)
    base = rng.integers(0, 200, (40, 1, 1))
    return (base + rng.integers(0, 56, (40, 64, 64))).astype(np.uint8)


@pytest.fixture
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


def score(
    checkpoint: Checkpoint,
    inputs: np.ndarray,
    *,
    batch_size: int = 8,
    precision: Precision = "fp32",
) -> BatchScores:
    """Score any number of inputs, batch by batch."""
    scorer = Predictor(checkpoint, batch_size=batch_size, device=CPU, precision=precision)
    starts = range(0, len(inputs), batch_size)
    batches = [scorer.score(inputs[i : i + batch_size]) for i in starts]
    return BatchScores(
        *(
            np.concatenate([getattr(b, name) for b in batches])
            for name in ("logits", "probabilities", "heatmaps", "heatmap_scale")
        )
    )


def with_temperature(checkpoint: Checkpoint, temperature: float) -> Checkpoint:
    return replace(checkpoint, card=replace(checkpoint.card, temperature=temperature))


def test_logits_are_the_networks_for_normalised_inputs(
    checkpoint: Checkpoint, inputs: np.ndarray
) -> None:
    norm = checkpoint.card.normalisation
    normalised = (inputs[:8, None].astype(np.float64) / 255 - norm.mean) / norm.std
    with torch.no_grad():
        model = model_of(checkpoint.tensors, checkpoint.card.architecture)
        expected = model(torch.from_numpy(normalised).float()).numpy()
    found = score(checkpoint, inputs[:8]).logits
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.75])
def test_probabilities_are_a_softmax_at_the_cards_temperature(
    checkpoint: Checkpoint, inputs: np.ndarray, temperature: float
) -> None:
    plain = score(checkpoint, inputs[:8])
    found = score(with_temperature(checkpoint, temperature), inputs[:8])
    assert np.array_equal(found.logits, plain.logits)
    expected = softmax(found.logits.astype(np.float64) / temperature, axis=1)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0, atol=1e-6)


def test_shapes_and_types(checkpoint: Checkpoint, inputs: np.ndarray) -> None:
    found = score(checkpoint, inputs[:3])
    assert (found.logits.shape, found.logits.dtype) == ((3, 3), np.float32)
    assert (found.probabilities.shape, found.probabilities.dtype) == ((3, 3), np.float32)
    assert (found.heatmaps.shape, found.heatmaps.dtype) == ((3, 3, 2, 2), np.uint8)
    assert (found.heatmap_scale.shape, found.heatmap_scale.dtype) == ((3,), np.float32)


def test_heatmaps_are_the_networks(checkpoint: Checkpoint, inputs: np.ndarray) -> None:
    found = score(checkpoint, inputs[:2])
    norm = checkpoint.card.normalisation
    images = (torch.from_numpy(inputs[:2, None]) / 255.0 - norm.mean) / norm.std
    with torch.inference_mode():
        expected = (
            model_of(checkpoint.tensors, checkpoint.card.architecture)
            .score(images)
            .heatmaps.numpy()
        )
    for i in range(2):
        scale = float(found.heatmap_scale[i])
        maps = dequantise(found.heatmaps[i].tobytes(), scale=scale, classes=3, size=(2, 2))
        np.testing.assert_allclose(maps, expected[i], atol=scale / 510 * 1.01)


def test_padding_of_the_tail_changes_no_bit(checkpoint: Checkpoint, inputs: np.ndarray) -> None:
    full = score(checkpoint, inputs[:8])
    for count in (1, 3, 7):
        tail = score(checkpoint, inputs[:count])
        assert np.array_equal(tail.logits, full.logits[:count])
        assert np.array_equal(tail.heatmaps, full.heatmaps[:count])


def test_neighbours_in_a_batch_change_no_bit(checkpoint: Checkpoint, inputs: np.ndarray) -> None:
    order = np.random.default_rng(1).permutation(40)
    shuffled = score(checkpoint, inputs[order])
    assert np.array_equal(shuffled.logits, score(checkpoint, inputs).logits[order])


def test_batch_size_moves_probabilities_by_less_than_a_millionth(
    checkpoint: Checkpoint, inputs: np.ndarray
) -> None:
    one, seven, many = (
        score(checkpoint, inputs, batch_size=size).probabilities for size in (1, 7, 32)
    )
    assert np.ptp(many, axis=0).max() > 1e-3  # the images do differ
    np.testing.assert_allclose(one, many, rtol=0, atol=1e-6)
    np.testing.assert_allclose(seven, many, rtol=0, atol=1e-6)


def test_bf16_is_near_fp32(checkpoint: Checkpoint, inputs: np.ndarray) -> None:
    rough = score(checkpoint, inputs[:8], precision="bf16")
    exact = score(checkpoint, inputs[:8])
    assert rough.logits.dtype == np.float32
    assert not np.array_equal(rough.logits, exact.logits)
    assert np.abs(rough.logits - exact.logits).max() < 0.05 * np.abs(exact.logits).max()


def test_scores_that_are_not_finite_are_an_error(
    checkpoint: Checkpoint, inputs: np.ndarray
) -> None:
    with torch.no_grad():
        model_of(checkpoint.tensors, checkpoint.card.architecture).fc.weight.fill_(3e38)
    with pytest.raises(CxrbatchError, match="not finite at fp32"):
        score(checkpoint, inputs[:1])


def test_an_extreme_temperature_is_refused(checkpoint: Checkpoint) -> None:
    """Logits over 1e-45 are infinite, and softmax of two infinities is not a number."""
    with pytest.raises(ValueError, match="temperature"):
        with_temperature(checkpoint, 1e-45)


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "cuda:x", "cpu:x", "meta", "mps"])
def test_a_device_that_is_not_here_is_wrong_usage(name: str) -> None:
    with pytest.raises(UsageError, match=r"device.*; try"):
        choose_device(name)


def test_auto_takes_bf16_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    for native in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert choose_precision("auto", CPU) == ("bf16" if native else "fp32")


def test_precisions_asked_for_are_kept() -> None:
    assert choose_precision("fp32", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"
    assert choose_precision("fp16", torch.device("cuda")) == "fp16"
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        choose_precision("fp16", CPU)


def test_the_device_is_described_in_words() -> None:
    assert describe_device(CPU).startswith("cpu: ")
    assert str(torch.get_num_threads()) in describe_device(CPU)

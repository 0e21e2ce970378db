"""The temperature is the one that a search over all of them finds."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from cxrbatch.training.model_evaluation import fit_offsets, fit_temperature


def drawn(
    temperature: float, *, count: int = 20_000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax at `temperature` is how the truth was drawn."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(count, 4)) * 2 * temperature).astype(np.float32)
    cumulative = softmax(logits.astype(np.float64) / temperature, axis=1).cumsum(axis=1)
    truth = (rng.random((count, 1)) > cumulative[:, :-1]).sum(axis=1)
    return logits, truth.astype(np.int64)


def loss(logits: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    log_p = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return float(-log_p[np.arange(len(truth)), truth].mean())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7, 6.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_no_temperature_of_a_fine_grid_is_better(seed: int) -> None:
    logits, truth = drawn(1.3, count=60, seed=seed)
    truth = np.where(np.random.default_rng(seed).random(60) < 0.3, 0, truth)
    found = fit_temperature(logits, truth)
    grid = np.geomspace(0.05, 20, 4000)
    losses = [loss(logits, truth, t) for t in grid]
    assert loss(logits, truth, found) <= min(losses) + 1e-9
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=0.01)


def test_it_stays_in_range_where_no_temperature_is_best() -> None:
    truth = np.arange(12) % 3
    right = np.eye(3, dtype=np.float32)[truth]
    assert 0.05 <= fit_temperature(right, truth) < 0.06
    assert 19 < fit_temperature(-right, truth) <= 20


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_logits_of_any_size_give_a_usable_number(scale: float) -> None:
    logits, truth = drawn(1.0, count=30)
    found = fit_temperature(logits * np.float32(scale), truth)
    assert 0.05 <= found <= 20


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_known_offsets_are_found(temperature: float) -> None:
    logits, truth = drawn(temperature)
    shift = np.array([1.0, -0.5, -0.5, 0.0], dtype=np.float32) * temperature
    found = fit_offsets(logits - shift, truth, temperature=temperature)
    assert found == pytest.approx(shift, abs=0.1 * temperature)
    assert found.mean() == pytest.approx(0.0, abs=1e-6)


def test_no_offsets_nearby_are_better() -> None:
    logits, truth = drawn(1.0, count=80, seed=3)
    found = fit_offsets(logits, truth, temperature=1.0).astype(np.float64)

    def penalised(offsets: np.ndarray) -> float:
        return loss(logits + offsets, truth, 1.0) + float(offsets @ offsets) / 160

    steps = np.random.default_rng(0).normal(size=(200, 4)) * 0.1
    steps -= steps.mean(axis=1, keepdims=True)
    assert all(penalised(found) <= penalised(found + step) + 1e-9 for step in steps)


def test_few_images_move_the_offsets_little() -> None:
    logits = np.zeros((2, 2), dtype=np.float32)
    found = fit_offsets(logits, np.array([0, 0]), temperature=1.0)
    assert 0 < found[0] < 1

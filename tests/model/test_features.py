"""Feature statistics against numpy's covariance, and their way through a checkpoint."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from cxrbatch.errors import CheckpointError
from cxrbatch.model.card import MOST_DIRECTIONS, FeatureStatistics, describe_features
from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.model.network import model_of, save_checkpoint


def normal(count: int, width: int, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(
        size=width
    )


def test_full_statistics_give_the_mahalanobis_distance() -> None:
    features = normal(500, 12)
    found = describe_features(features)
    centred = features - features.mean(axis=0)
    inverse = np.linalg.inv(np.cov(features.T))
    expected = np.einsum("ij,jk,ik->i", centred, inverse, centred)
    assert found.distances(features) == pytest.approx(expected, rel=1e-3)


def test_the_directions_that_are_not_kept_share_one_variance() -> None:
    width = MOST_DIRECTIONS + 30
    features = normal(2000, width)
    found = describe_features(features)
    assert found.directions.shape == (MOST_DIRECTIONS, width)
    assert found.distances(features).mean() == pytest.approx(width, rel=0.01)
    strange = features + 40 * np.sqrt(found.rest[0])
    assert np.median(found.distances(strange)) > np.quantile(found.distances(features), 0.99)


def test_one_image_is_too_few() -> None:
    with pytest.raises(ValueError, match="two images"):
        describe_features(np.ones((1, 4)))


def stored(tiny_checkpoint: Path, path: Path) -> FeatureStatistics:
    before = load_checkpoint(tiny_checkpoint)
    model = model_of(before.tensors, before.card.architecture)
    width = model.fc.in_features
    features = describe_features(normal(40, width))
    save_checkpoint(path, model=model, card=before.card, features=features)
    return features


def test_they_come_back_from_a_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    kept = stored(tiny_checkpoint, tmp_path / "with.safetensors")
    found = load_checkpoint(tmp_path / "with.safetensors").features
    assert found is not None
    for name in ("mean", "directions", "variances", "rest"):
        assert np.array_equal(getattr(found, name), getattr(kept, name))
    assert load_checkpoint(tiny_checkpoint).features is None


@pytest.mark.parametrize("damage", ["missing", "nan", "shape", "negative"])
def test_damaged_ones_are_refused(damage: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "with.safetensors"
    stored(tiny_checkpoint, path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    if damage == "missing":
        del tensors["features.rest"]
    if damage == "nan":
        tensors["features.mean"][0] = float("nan")
    if damage == "shape":
        tensors["features.mean"] = tensors["features.mean"][:-1].clone()
    if damage == "negative":
        tensors["features.variances"][0] = -1.0
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="feature statistics"):
        load_checkpoint(path)

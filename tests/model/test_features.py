"""Feature statistics against numpy's covariance, and their way through a checkpoint."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_ood.detector import Mahalanobis
from safetensors.torch import load_file, save_file

from cxrbatch.errors import CheckpointError
from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.model.input_gate import (
    MOST_DIRECTIONS,
    STEPS,
    FeatureStatistics,
    InputGate,
    describe_features,
)
from cxrbatch.model.network import model_of, save_checkpoint

CPU = torch.device("cpu")


def normal(count: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Features of one covariance around a mean, shape (count, width), float32."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width))
    return (rng.normal(size=(count, width)) @ mixing + rng.normal(size=width)).astype(np.float32)


def statistics(
    features: np.ndarray, truth: np.ndarray, *, classes: int = 2, kinds: int = 1
) -> FeatureStatistics:
    """Statistics with a head of zeros, to which every image is as likely of each kind."""
    width = features.shape[1]
    plain = FeatureStatistics(
        *describe_features(features, truth, classes=classes),
        np.zeros((1 + kinds, width), np.float32),
        np.zeros(1 + kinds, np.float32),
        np.ones(2, np.float32),
        np.zeros(STEPS, np.float32),
    )
    strangeness = measures(plain, features).max(axis=1)
    return replace(
        plain, percentiles=np.percentile(strangeness, np.arange(STEPS)).astype(np.float32)
    )


def measures(given: FeatureStatistics, features: np.ndarray) -> np.ndarray:
    return InputGate(given, device=CPU).measures(torch.from_numpy(features)).numpy()


def two_classes(count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    features = np.concatenate([normal(count, width, seed=1), normal(count, width, seed=2) + 3])
    return features, np.repeat([0, 1], count)


def test_the_distance_is_that_of_mahalanobis_from_the_nearest_class() -> None:
    features, truth = two_classes(300, 12)
    found = measures(statistics(features, truth), features)[:, 0]
    means = np.stack([features[truth == c].mean(axis=0) for c in (0, 1)])
    inverse = np.linalg.inv(np.cov((features - means[truth]).T))
    by_class = [np.einsum("ij,jk,ik->i", features - m, inverse, features - m) for m in means]
    # `cov` divides by n - 1, and two means were estimated.
    assert found == pytest.approx(np.min(by_class, axis=0) * 598 / 599, rel=2e-3)


def test_the_distance_is_that_of_pytorch_ood() -> None:
    features, truth = two_classes(300, 12)
    oracle = Mahalanobis(None).fit_features(torch.from_numpy(features), torch.from_numpy(truth))
    expected = oracle.predict_features(torch.from_numpy(features)).numpy()
    found = measures(statistics(features, truth), features)[:, 0]
    # Its covariance is a sum, not a mean; its score is half the squared distance.
    assert found == pytest.approx(expected * 2 * 598, rel=0.01)


def test_the_directions_that_are_not_kept_share_one_variance() -> None:
    width = MOST_DIRECTIONS + 30
    features, truth = two_classes(1500, width)
    known = statistics(features, truth)
    assert known.directions.shape == (MOST_DIRECTIONS, width)
    found = measures(known, features)[:, 0]
    assert found.mean() == pytest.approx(width, rel=0.02)
    strange = features + 40 * np.sqrt(known.rest[0])
    assert np.median(measures(known, strange)[:, 0]) > np.quantile(found, 0.99)


def test_each_class_needs_an_image() -> None:
    with pytest.raises(ValueError, match="each class"):
        describe_features(np.ones((4, 4)), np.zeros(4, np.int64), classes=2)


def test_the_score_is_the_percentile_among_validation() -> None:
    features, truth = two_classes(300, 12)
    known = statistics(features, truth)
    gate = InputGate(known, device=CPU)
    strangeness = measures(known, features).max(axis=1)
    expected = np.interp(strangeness, known.percentiles, np.arange(STEPS))
    found = gate.score(torch.from_numpy(features))
    assert found.percentile.numpy() == pytest.approx(expected, abs=1e-3)
    far = gate.score(torch.from_numpy(features + 1000))
    assert (far.percentile == 100).all()
    nearest = gate.score(torch.from_numpy(known.means))
    assert nearest.percentile.max() < 1


def test_the_head_names_the_kind_and_makes_strange_what_no_distance_sees() -> None:
    features, truth = two_classes(300, 12)
    known = statistics(features, truth, kinds=2)
    weight = known.weight.copy()
    weight[2, 0] = 100.0
    gate = InputGate(replace(known, weight=weight), device=CPU)
    inside = known.means[:1].copy()
    inside[0, 0] = 0.5
    found = gate.score(torch.from_numpy(inside))
    assert found.kind.tolist() == [1]
    plain = InputGate(known, device=CPU).score(torch.from_numpy(inside))
    assert plain.kind.tolist() == [-1]
    assert gate.measures(torch.from_numpy(inside))[0, 1] > 40


def test_what_has_no_number_is_stranger_than_anything() -> None:
    features, truth = two_classes(30, 12)
    known = statistics(features, truth)
    weight = np.full_like(known.weight, 3e38)
    gate = InputGate(replace(known, weight=weight), device=CPU)
    assert (gate.score(torch.from_numpy(features)).percentile == 100).all()


def stored(tiny_checkpoint: Path, path: Path) -> FeatureStatistics:
    before = load_checkpoint(tiny_checkpoint)
    model = model_of(before.tensors, before.card.architecture)
    classes, width = len(before.card.classes), model.fc.in_features
    truth = np.arange(40) % classes
    features = statistics(normal(40, width), truth, classes=classes, kinds=2)
    gate = {"kinds": ["hand", "page"], "threshold": 99.0, "flagged": {}}
    card = replace(before.card, gate=gate)
    save_checkpoint(path, model=model, card=card, features=features)
    return features


def test_they_come_back_from_a_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    kept = stored(tiny_checkpoint, tmp_path / "with.safetensors")
    read = load_checkpoint(tmp_path / "with.safetensors")
    assert read.features is not None
    for field in fields(kept):
        assert np.array_equal(getattr(read.features, field.name), getattr(kept, field.name))
    assert read.card.gate["kinds"] == ["hand", "page"]
    assert load_checkpoint(tiny_checkpoint).features is None


DAMAGE = {
    "rest": None,
    "means": lambda t: t.fill_(float("nan")),
    "bias": lambda t: t[:-1].clone(),
    "variances": lambda t: -t,
    "percentiles": lambda t: t.flip(0),
    "scales": lambda t: 0 * t,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_ones_are_refused(name: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "with.safetensors"
    stored(tiny_checkpoint, path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensor, change = tensors.pop(f"features.{name}"), DAMAGE[name]
    if change is not None:
        tensors[f"features.{name}"] = change(tensor).contiguous()
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="feature statistics"):
        load_checkpoint(path)

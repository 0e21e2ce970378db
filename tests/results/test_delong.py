"""DeLong's variances against the definition by pairs, and against a bootstrap over patients."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from cxrbatch.results.statistics.curves import (
    Ranking,
    contrast,
    delong_area,
    delong_interval,
)
from cxrbatch.results.statistics.intervals import bootstrap_by_group


def by_pairs(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The structural components, each pair looked at."""
    difference = score[positive][:, None] - score[~positive][None]
    wins = (difference > 0) + 0.5 * (difference == 0)
    return wins.mean(axis=1), wins.mean(axis=0)


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and the scores of two models; coarse, so that scores tie."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 60))
    positive = rng.permutation(np.arange(n) < rng.integers(2, n - 1))
    scores = np.round(rng.normal(size=(2, n)) + positive, int(rng.integers(0, 3)))
    return positive, scores[0], scores[1]


def test_a_thousand_tables_against_the_definition() -> None:
    for seed in range(1000):
        positive, one, two = drawn(seed)
        groups = np.arange(len(positive), dtype=np.int32)
        first, second = (delong_area(positive, s, groups) for s in (one, two))
        assert first is not None
        assert second is not None
        assert first.value == pytest.approx(roc_auc_score(positive, one), abs=1e-10)
        pairs = [by_pairs(positive, s) for s in (one, two)]
        expected = sum(
            np.cov([p[side] for p in pairs], ddof=1) / len(pairs[0][side]) for side in (0, 1)
        )
        parts = np.stack([first.influence, second.influence])
        assert np.abs(parts @ parts.T - expected).max() < 1e-10
        deviation = np.sqrt(expected[0, 0] + expected[1, 1] - 2 * expected[0, 1])
        found = contrast(first, second)
        if deviation < 1e-7:
            assert found is None
            continue
        assert found is not None
        difference = first.value - second.value
        assert found.p == pytest.approx(2 * norm.sf(abs(difference) / deviation), abs=1e-9)
        assert found.interval.low == pytest.approx(difference - norm.ppf(0.975) * deviation)


def test_copies_of_patients_change_nothing() -> None:
    positive, one, _ = drawn(5)
    alone = delong_area(positive, one, np.arange(len(one), dtype=np.int32))
    thrice = np.repeat(np.arange(len(one), dtype=np.int32), 3)
    copied = delong_area(np.repeat(positive, 3), np.repeat(one, 3), thrice)
    assert alone is not None
    assert copied is not None
    assert copied.value == pytest.approx(alone.value)
    assert copied.influence == pytest.approx(alone.influence)


def test_patients_with_images_on_both_sides_against_the_bootstrap() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(150, dtype=np.int32), 4)
    positive = rng.random(600) < 0.4
    score = positive + np.repeat(rng.normal(size=150), 4) + 0.5 * rng.normal(size=600)
    ranking = Ranking(positive, score)
    (resampled,) = bootstrap_by_group(lambda w: ranking.curves(w).auc[:, None], groups)
    found = delong_area(positive, score, groups)
    assert found is not None
    assert delong_interval(found) == pytest.approx(resampled.interval, abs=0.01)


def test_few_patients_and_perfect_order_have_no_interval() -> None:
    positive = np.array([True, True, False, False])
    score = np.array([0.9, 0.8, 0.2, 0.1])
    assert delong_area(positive, score, np.array([0, 0, 1, 2], np.int32)) is None
    perfect = delong_area(positive, score, np.arange(4, dtype=np.int32))
    assert perfect is not None
    assert perfect.value == 1.0
    assert delong_interval(perfect) is None

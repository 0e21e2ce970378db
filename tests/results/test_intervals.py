"""Intervals against statsmodels and their closed form, and what groups change."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from cxrbatch.results.statistics.intervals import (
    Statistics,
    bootstrap_by_group,
    numbered,
    replicates_for,
    wilson,
)


def mean_of(values: np.ndarray) -> Statistics:
    return lambda weights: (weights @ values / weights.sum(axis=1))[:, None]


def test_wilson_is_that_of_statsmodels() -> None:
    for n in (1, 2, 7, 96, 400, 1_000_000):
        for hits in {0, 1, n // 3, n - 1, n}:
            expected = proportion_confint(hits, n, method="wilson")
            assert wilson(hits, n) == pytest.approx(expected, abs=1e-9)


def test_singles_are_as_wide_as_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    (found,) = bootstrap_by_group(mean_of(values), np.arange(400))
    assert found.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_copies_of_one_patient_add_nothing() -> None:
    values = np.repeat(np.random.default_rng(1).normal(0.0, 1.0, 50), 8)
    groups = numbered([f"patient {number // 8}" for number in range(400)])
    widths = []
    for of in (groups, np.arange(400)):
        (found,) = bootstrap_by_group(mean_of(values), of)
        assert found.interval is not None
        widths.append(found.interval.high - found.interval.low)
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(8), rel=0.1)


def test_a_skewed_statistic_leans_as_it_should() -> None:
    """Of a share near 1 the interval reaches further down, as Wilson's does."""
    (found,) = bootstrap_by_group(mean_of((np.arange(100) >= 5) * 1.0), np.arange(100))
    assert found.interval is not None
    assert found.interval.high - 0.95 < 0.95 - found.interval.low
    assert found.interval == pytest.approx(wilson(95, 100), abs=0.02)


def test_what_has_no_interval_says_why() -> None:
    def statistics(weights: np.ndarray) -> np.ndarray:
        rare = np.where(weights[:, 0] > 0, 1.0, np.nan)
        same, missing = np.full(len(weights), 2.0), np.full(len(weights), np.nan)
        lowest = (weights**2).sum(axis=1) * 1.0
        return np.stack([rare, same, missing, lowest], axis=1)

    rare, same, missing, lowest = bootstrap_by_group(statistics, np.arange(9))
    assert rare.reason == "no interval: it is undefined in more than one resample of ten"
    assert same == (2.0, None, "no interval: all resamples agree", True)
    assert missing == (None, None, None, False)
    assert lowest.reason == "no interval: the resamples lie nearly all on one side"
    (few,) = bootstrap_by_group(mean_of(np.arange(8.0)), np.arange(8) // 2)
    assert few == (3.5, None, "no interval: fewer than 5 patients", False)


def test_the_seed_decides() -> None:
    runs = [bootstrap_by_group(mean_of(np.arange(30.0)), np.arange(30), seed=s) for s in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_resamples_some_at_a_time_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn is whole resamples of as many patients as there are."""
    seen = []

    def statistics(weights: np.ndarray) -> np.ndarray:
        seen.append(weights)
        return weights.sum(axis=1)[:, None] * 1.0

    monkeypatch.setattr("cxrbatch.results.statistics.intervals._WEIGHTS_AT_ONCE", 70)
    bootstrap_by_group(statistics, np.arange(20), replicates=100)
    drawn = np.concatenate(seen)[1:101]
    assert (drawn.sum(axis=1) == 20).all()
    assert np.std(drawn) == pytest.approx(1.0, abs=0.1)


def test_fewer_resamples_of_many_images() -> None:
    assert [replicates_for(n) for n in (0, 1, 20_000, 40_000, 10**6)] == [2000] * 3 + [1000, 200]

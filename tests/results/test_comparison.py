"""Two models on the same images, against statsmodels and against each other."""

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from cxrbatch.results.statistics.calculation import compare_scores


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, 120)
    raw = rng.random((2, 120, 3)) + np.array([0.6, 0.2])[:, None, None] * np.eye(3)[truth]
    return truth, *(raw / raw.sum(axis=2, keepdims=True))


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_is_that_of_statsmodels_and_the_better_is_ahead(seed: int) -> None:
    truth, first, second = drawn(seed)
    found = compare_scores(truth, first, second, np.arange(120))
    right = [p.argmax(axis=1) == truth for p in (first, second)]
    table = [[np.sum((right[0] == a) & (right[1] == b)) for b in (1, 0)] for a in (1, 0)]
    assert found.mcnemar_p == pytest.approx(mcnemar(table, exact=True).pvalue, abs=1e-9)
    assert found.accuracy.value == pytest.approx(right[0].mean() - right[1].mean())
    assert found.macro_auc.interval is not None
    assert found.macro_auc.interval.low > 0
    assert found.macro_auc.value == pytest.approx(np.mean([e.value for e in found.auc]))


def test_a_model_against_itself() -> None:
    truth, first, _ = drawn(0)
    found = compare_scores(truth, first, first, np.arange(120))
    assert (found.first_only, found.second_only, found.mcnemar_p) == (0, 0, 1.0)
    assert found.accuracy.value == found.macro_auc.value == 0.0
    assert found.delong == (None, None, None)

"""Operating points against trying every threshold."""

import numpy as np
import pytest

from cxrbatch.results.statistics.curves import operating_points, roc


@pytest.mark.parametrize("seed", range(5))
def test_operating_points_against_trying_every_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    positive = np.arange(80) % 4 == 1
    score = np.round(rng.random(80) + 0.3 * positive, 1)
    tried = []
    for threshold in [*np.unique(score), np.inf]:
        called = score >= threshold
        tried.append((called[positive].mean(), 1 - called[~positive].mean()))
    curve = roc(positive, score)
    assert curve is not None
    points = operating_points(curve)
    youden, sensitive, specific = (points[n] for n in ("youden", "sensitive", "specific"))
    assert youden.sensitivity + youden.specificity == pytest.approx(max(a + b for a, b in tried))
    assert sensitive.sensitivity >= 0.95
    assert sensitive.specificity == pytest.approx(max(b for a, b in tried if a >= 0.95))
    assert specific.specificity >= 0.95
    assert specific.sensitivity == pytest.approx(max(a for a, b in tried if b >= 0.95))
    for point in points.values():
        called = score >= point.threshold
        assert called[positive].mean() == pytest.approx(point.sensitivity)
        assert 1 - called[~positive].mean() == pytest.approx(point.specificity)


def test_one_class_alone_has_no_curve() -> None:
    assert roc(np.ones(3, bool), np.array([0.1, 0.2, 0.3])) is None
    assert roc(np.zeros(3, bool), np.array([0.1, 0.2, 0.3])) is None

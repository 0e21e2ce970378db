"""What calibration errors are by chance, compared with drawing them."""

import numpy as np
import pytest

from cxrbatch.results.statistics.reliability import Reliability, expected_calibration_error


@pytest.mark.parametrize(("images", "sharpness"), [(100, 1.0), (400, 3.0), (5000, 2.0)])
def test_the_error_by_chance_is_the_mean_over_truths_that_follow_the_probabilities(
    images: int, sharpness: float
) -> None:
    chance = np.random.default_rng(images)
    logits = sharpness * chance.normal(size=(images, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    summed = probabilities.cumsum(axis=1)[:, :-1]
    drawn = [
        expected_calibration_error((chance.random((images, 1)) > summed).sum(axis=1), probabilities)
        for _ in range(2000)
    ]
    told = Reliability(np.zeros(images, np.int64), probabilities)
    # Bins of few images are not normal, so that a few per cent remain.
    assert told.error_by_chance() == pytest.approx(np.mean(drawn), rel=0.04)
    assert told.high_error_by_chance() == pytest.approx(np.quantile(drawn, 0.95), rel=0.05)


def test_without_images_there_is_none() -> None:
    nothing = Reliability(np.zeros(0, np.int64), np.zeros((0, 4)))
    assert nothing.error_by_chance() is None
    assert nothing.high_error_by_chance() is None

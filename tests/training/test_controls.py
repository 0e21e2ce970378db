"""Controls take away what they say, and nothing else."""

import numpy as np

from cxrbatch.training.controls import border_only, without_lungs

WHITE = np.full((2, 100, 100), 200, np.uint8)


def test_the_lungs_go_and_the_corners_stay() -> None:
    blinded = without_lungs(WHITE)
    assert (blinded[:, 25:75, 20:80] == 0).all()
    for corner in (blinded[:, :8, :8], blinded[:, -8:, -8:], blinded[:, :8, -8:]):
        assert (corner == 200).all()
    assert 0.5 < (blinded == 0).mean() < 0.65
    assert (WHITE == 200).all()


def test_the_border_stays_and_the_rest_goes() -> None:
    kept = border_only(WHITE)
    assert (kept[:, 10:-10, 10:-10] == 0).all()
    assert (kept == 200).sum() == 2 * (100**2 - 80**2)
    assert (WHITE == 200).all()

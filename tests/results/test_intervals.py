"""Bootstrap intervals against their closed form, and what groups change."""

import numpy as np
import pytest

from cxrbatch.results.intervals import bootstrap_by_group


def test_singles_are_as_wide_as_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    (found,) = bootstrap_by_group(lambda rows: [float(values[rows].mean())], range(400))
    assert found is not None
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_copies_of_one_patient_add_nothing() -> None:
    values = np.repeat(np.random.default_rng(1).normal(0.0, 1.0, 50), 8)
    groups = [f"patient {number // 8}" for number in range(400)]
    (by_patient,) = bootstrap_by_group(lambda rows: [float(values[rows].mean())], groups)
    (by_image,) = bootstrap_by_group(lambda rows: [float(values[rows].mean())], range(400))
    assert by_patient is not None
    assert by_image is not None
    ratio = (by_patient.high - by_patient.low) / (by_image.high - by_image.low)
    assert ratio == pytest.approx(np.sqrt(8), rel=0.1)


def test_what_is_mostly_undefined_has_no_interval() -> None:
    found = bootstrap_by_group(lambda rows: [None if 0 in rows else 1.0, 2.0], range(3))
    assert found == [None, (2.0, 2.0)]


def test_the_seed_decides() -> None:
    values = np.arange(30.0)
    runs = [
        bootstrap_by_group(lambda rows: [float(values[rows].mean())], range(30), seed=seed)
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]

"""How often 95 % intervals hold the truth where patients have several, alike images.

Each table has patients with five images each. Whether a prediction is right, and how high a score
is, has a part of the patient's own, so that two images of one correlate by 0.5. Intervals come
from resampling patients, and from resampling images as if each were of another patient.
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from cxrbatch.results.statistics.curves import Ranking, delong_area, delong_interval
from cxrbatch.results.statistics.intervals import Interval, Values, Weights, bootstrap_by_group

_IMAGES, _CORRELATION = 5, 0.5
_SHIFT = 1.5
_TRUE_AREA = float(norm.cdf(_SHIFT / np.sqrt(2.0)))


def draw_right(rng: np.random.Generator, patients: int, accuracy: float) -> Values:
    """Right or wrong by image: beta-binomial, whose correlation is exact."""
    spread = 1.0 / _CORRELATION - 1.0
    own = rng.beta(accuracy * spread, (1.0 - accuracy) * spread, patients)
    return (rng.random((patients, _IMAGES)) < own[:, None]).astype(np.float64).ravel()


def draw_scores(rng: np.random.Generator, patients: int) -> tuple[Values, Values]:
    """Truth by patient, and scores whose errors correlate within one."""
    sick = np.repeat(np.arange(patients) % 2 == 0, _IMAGES)
    own = np.repeat(rng.normal(size=patients), _IMAGES) * np.sqrt(_CORRELATION)
    noise = rng.normal(size=len(sick)) * np.sqrt(1.0 - _CORRELATION)
    return sick, sick * _SHIFT + own + noise


def covers(interval: Interval | None, truth: float) -> bool:
    """Whether there is an interval, and it holds the truth."""
    return interval is not None and interval.low - 1e-12 <= truth <= interval.high + 1e-12


def mean_under(values: Values) -> Callable[[Weights], Values]:
    """The mean of values as a statistic."""
    return lambda weights: (weights @ values / weights.sum(axis=1))[:, None]


def main() -> None:
    """Print the coverage of each interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--patients", type=int, nargs="+", default=[100, 40, 20])
    parser.add_argument("--accuracy", type=float, nargs="+", default=[0.8, 0.95])
    options = parser.parse_args()
    for patients in options.patients:
        groups = np.repeat(np.arange(patients, dtype=np.int32), _IMAGES)
        alone = np.arange(len(groups), dtype=np.int32)
        sides = (groups, alone)
        for accuracy in options.accuracy:
            rng, hits = np.random.default_rng(0), np.zeros(2)
            for seed in range(options.tables):
                statistic = mean_under(draw_right(rng, patients, accuracy))
                found = [bootstrap_by_group(statistic, of, seed=seed)[0].interval for of in sides]
                hits += [covers(interval, accuracy) for interval in found]
            report(f"accuracy {accuracy}", "bootstrap", patients, hits / options.tables)
        rng, hits, direct = np.random.default_rng(1), np.zeros(2), np.zeros(2)
        for seed in range(options.tables):
            sick, score = draw_scores(rng, patients)
            ranking = Ranking(sick, score)

            def area(weights: Weights, ranking: Ranking = ranking) -> Values:
                return ranking.curves(weights).auc[:, None]

            found = [bootstrap_by_group(area, of, seed=seed)[0].interval for of in sides]
            hits += [covers(interval, _TRUE_AREA) for interval in found]
            areas = [delong_area(sick, score, of) for of in sides]
            direct += [covers(a and delong_interval(a), _TRUE_AREA) for a in areas]
        report(f"AUC {_TRUE_AREA:.3f}", "bootstrap", patients, hits / options.tables)
        report(f"AUC {_TRUE_AREA:.3f}", "DeLong", patients, direct / options.tables)


def report(statistic: str, method: str, patients: int, covered: Values) -> None:
    """One line: the patients' interval against the images'."""
    print(
        f"{patients:4d} patients, {statistic:<13} {method:<9} over patients {covered[0]:.1%}, "
        f"over images {covered[1]:.1%}",
        flush=True,
    )


if __name__ == "__main__":
    main()

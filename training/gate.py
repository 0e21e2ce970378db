"""Fits the input gate of a checkpoint: what its features are for films, and for foreign images."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from cxrbatch.model.input_gate import (
    STEPS,
    FeatureStatistics,
    Gaussians,
    InputGate,
    describe_features,
)
from cxrbatch.results.statistics.intervals import wilson
from cxrbatch.training.dataset import ImageSubset
from cxrbatch.training.foreign import ForeignImages, make_foreign

FLAGGED = 1.0
"""Per cent of validation images that are flagged."""

_Array = npt.NDArray[np.float32]
_Images = npt.NDArray[np.uint8]
_Features = Callable[[ImageSubset], _Array]

_MOST_OF_CLASS = 2000
# The head learns from fewer: it has few weights, and a fit with all of them takes minutes.
_MOST_FILMS, _MOST_MADE = 2400, 300
_INVERSE_PENALTY, _STEPS_OF_FIT = 0.3, 300
_PARTS = 4


def fit_gate(
    subsets: dict[str, ImageSubset],
    foreign: ForeignImages | None,
    features: _Features,
    *,
    classes: int,
    seed: int,
) -> tuple[FeatureStatistics, dict[str, Any]]:
    """Fit a gate to a network, and measure what it flags.

    Class means and covariance are those of training images, at most 2,000 of a class. The head
    learns training images against foreign ones (logistic regression, kinds weighted equally). The
    scales and percentiles are those of validation.

    Args:
        subsets: "train", "val" and "test"; the last may be empty.
        foreign: Further foreign images; None for those alone that are made of films.
        features: Returns the k features of the images of a subset, shape (n, k).
        classes: Number of classes.
        seed: Of the images that are made, and of the choice of films.

    Returns:
        The statistics, and the gate of a card. Its "flagged" has of "validation", of "test" and of
        each kind {"n", "value", "interval"}: the share that is flagged, with Wilson's interval.
        Images of validation make the foreign ones that are counted, which the head did not learn
        from; those of a folder are counted by heads that did not learn from them (4 parts).
    """
    rng = np.random.default_rng(seed)
    train, val = subsets["train"], subsets["val"]
    known = _balanced(train, rng, most=_MOST_OF_CLASS)
    known_features = features(known)
    gaussians = describe_features(known_features, known.truth, classes=classes)
    films = rng.permutation(len(known))[:_MOST_FILMS]
    made = make_foreign(known.images(films[:_MOST_MADE]), seed=seed)
    examples = [known_features[films], *_features_by_kind(made, features)]
    given = [] if foreign is None else _features_by_kind(_with_mirrored(foreign), features)
    validation = features(val)
    fit = _GateFit(gaussians, validation)
    statistics = fit.statistics([*examples, *given])
    flagged = {"validation": fit.shares(statistics, validation)}
    if len(subsets["test"]):
        flagged["test"] = fit.shares(statistics, features(subsets["test"]))
    checks = make_foreign(val.images(np.arange(len(val))), seed=seed + 1)
    for name, found in zip(checks.kinds, _features_by_kind(checks, features), strict=True):
        flagged[name] = fit.shares(statistics, found)
    given_kinds = foreign.kinds if foreign else ()
    flagged |= dict(zip(given_kinds, _left_out(fit, examples, given), strict=True))
    card = {
        "kinds": [*made.kinds, *given_kinds],
        "threshold": 100.0 - FLAGGED,
        "flagged": {name: _share(values) for name, values in flagged.items()},
    }
    return statistics, card


def _left_out(
    fit: "_GateFit", examples: Sequence[_Array], given: Sequence[_Array]
) -> list[npt.NDArray[np.bool_]]:
    """Whether each foreign image is flagged by a head that did not learn from its part.

    Each of `given` has images and, behind each of them, its mirror image, which is not counted.
    """
    flags = [np.zeros(len(images), bool) for images in given]
    for part in range(_PARTS) if given else ():
        # An image and its mirror image are in one part.
        kept = [np.arange(len(images)) // 2 % _PARTS != part for images in given]
        # A kind of one image has nothing left in its part: it is then judged by its likes alone.
        learned = [images[k] if k.any() else images for images, k in zip(given, kept, strict=True)]
        statistics = fit.statistics([*examples, *learned])
        for found, images, k in zip(flags, given, kept, strict=True):
            found[~k] = fit.shares(statistics, images[~k])
    return [found[::2] for found in flags]


class _GateFit:
    """Fits heads for one network, whose classes and validation images stay the same."""

    def __init__(self, gaussians: Gaussians, validation: _Array) -> None:
        self._gaussians, self._validation = gaussians, validation

    def statistics(self, by_kind: Sequence[_Array]) -> FeatureStatistics:
        """Fit the head to the features of each kind, films first; scale it by validation."""
        weight, bias = _fit_head(by_kind)
        plain = FeatureStatistics(
            *self._gaussians, weight, bias, np.ones(2, np.float32), np.zeros(STEPS, np.float32)
        )
        measures = _measures(plain, self._validation)
        share = 100.0 - FLAGGED
        scales = np.percentile(measures, share, axis=0).clip(min=1e-6).astype(np.float32)
        strangeness = (measures / scales).max(axis=1)
        percentiles = np.percentile(strangeness, np.arange(STEPS)).astype(np.float32)
        return FeatureStatistics(*self._gaussians, weight, bias, scales, percentiles)

    def shares(self, statistics: FeatureStatistics, features: _Array) -> npt.NDArray[np.bool_]:
        """Return of each image whether it is flagged."""
        if not len(features):
            return np.zeros(0, bool)
        gate = InputGate(statistics, device=torch.device("cpu"))
        found = gate.score(torch.from_numpy(features)).percentile.numpy()
        return np.asarray(found > 100.0 - FLAGGED)


def _measures(statistics: FeatureStatistics, features: _Array) -> _Array:
    gate = InputGate(statistics, device=torch.device("cpu"))
    measures: _Array = gate.measures(torch.from_numpy(features)).numpy()
    return measures


def _fit_head(by_kind: Sequence[_Array]) -> tuple[_Array, _Array]:
    """Fit a linear head to features of each kind; return weight, (kinds, k), and bias, (kinds,)."""
    features = np.concatenate(by_kind).astype(np.float64)
    kind = np.repeat(np.arange(len(by_kind)), [len(images) for images in by_kind])
    scaler = StandardScaler().fit(features)
    head = LogisticRegression(C=_INVERSE_PENALTY, max_iter=_STEPS_OF_FIT, class_weight="balanced")
    # One thread: the products are small, and the same on any number of cores. Where classes can be
    # told apart completely weights only grow from some step on: the limit of steps does no harm.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        head.fit(scaler.transform(features), kind)
    weight = head.coef_ / scaler.scale_
    bias = head.intercept_ - weight @ scaler.mean_
    return weight.astype(np.float32), bias.astype(np.float32)


def _features_by_kind(foreign: ForeignImages, features: _Features) -> list[_Array]:
    return [
        features(ImageSubset(images, np.zeros(len(images), np.int64)))
        for images in map(foreign.of, range(len(foreign.kinds)))
    ]


def _with_mirrored(foreign: ForeignImages) -> ForeignImages:
    """Add to each foreign image its mirror image, behind it: as foreign as itself."""
    pairs = np.stack([foreign.images, foreign.images[:, :, ::-1]], axis=1)
    images = pairs.reshape(-1, *foreign.images.shape[1:])
    return ForeignImages(foreign.kinds, images, np.repeat(foreign.kind, 2))


def _balanced(subset: ImageSubset, rng: np.random.Generator, *, most: int) -> ImageSubset:
    """Return up to `most` images of each class, chosen at random."""
    shuffled = rng.permutation(len(subset))
    chosen = [shuffled[subset.truth[shuffled] == c][:most] for c in np.unique(subset.truth)]
    return subset.at(np.sort(np.concatenate(chosen)))


def _share(flags: npt.NDArray[np.bool_]) -> dict[str, Any]:
    count, total = int(flags.sum()), len(flags)
    return {"n": total, "value": count / total, "interval": list(wilson(count, total))}

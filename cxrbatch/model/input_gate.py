"""The input gate: whether an image is like those that the network learned from.

It sees what the network's head sees, the k features of an image, in two ways. The distance from the
nearest class is Mahalanobis', with one shrunk covariance for all classes (Lee et al., "A simple
unified framework for detecting out-of-distribution samples", NeurIPS 2018). A linear head knows
kinds of foreign images by examples, such as hands or films upside down, which distances miss.
No gate sees that a frontal chest film is of another site, where the same score means something
else.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Features = npt.NDArray[np.floating]
_Array = npt.NDArray[np.float32]

MOST_DIRECTIONS = 64
STEPS = 101
"""Number of percentiles of validation that a gate keeps: 0 to 100."""
_SMALLEST_VARIANCE = 1e-8
# Of products of directions, by which those in float32 are off from 0 and 1; measured: 1e-6.
_MOST_SKEW = 1e-3


@dataclass(frozen=True, slots=True)
class FeatureStatistics:
    """What a gate knows of k features: c classes as Gaussians, and a head for kinds of images.

    Attributes:
        means: Shape (c, k), float32: the mean of each class over training images.
        directions: Shape (m, k), float32, orthonormal rows: the directions in which images of one
            class vary most.
        variances: Shape (m,), float32, the variance along each direction, falling.
        rest: Shape (1,), float32, the variance along every direction that is not kept.
        weight: Shape (1 + kinds, k), float32, weight of the head; row 0 is a frontal chest film.
        bias: Shape (1 + kinds,), float32, bias of the head.
        scales: Shape (2,), float32: of distance and of head, what 99 of 100 validation images are
            below.
        percentiles: Shape (101,), float32, rising: percentiles 0 to 100 of validation of the larger
            of both measures, each divided by its scale.
    """

    means: _Array
    directions: _Array
    variances: _Array
    rest: _Array
    weight: _Array
    bias: _Array
    scales: _Array
    percentiles: _Array

    @classmethod
    def shapes(
        cls, *, classes: int, width: int, kinds: int, kept: int
    ) -> dict[str, tuple[int, ...]]:
        """Return the shape of each attribute, by its name.

        Args:
            classes: Number of classes.
            width: Number of features.
            kinds: Number of kinds of foreign images.
            kept: Number of directions.
        """
        return {
            "means": (classes, width),
            "directions": (kept, width),
            "variances": (kept,),
            "rest": (1,),
            "weight": (1 + kinds, width),
            "bias": (1 + kinds,),
            "scales": (2,),
            "percentiles": (STEPS,),
        }

    @property
    def are_sound(self) -> bool:
        """Whether all is finite, variances and scales positive, directions orthonormal to 0.001.

        Percentiles must not fall.
        """
        if not all(np.isfinite(getattr(self, f.name)).all() for f in fields(self)):
            return False
        exact = self.directions.astype(np.float64)
        skew = np.abs(exact @ exact.T - np.eye(len(exact))).max(initial=0.0)
        positive = (self.variances, self.rest, self.scales)
        return bool(
            all((values > 0).all() for values in positive)
            and (np.diff(self.percentiles) >= 0).all()
            and skew < _MOST_SKEW
        )


class Gaussians(NamedTuple):
    """Classes as Gaussians with one covariance: the first four of `FeatureStatistics`."""

    means: _Array
    directions: _Array
    variances: _Array
    rest: _Array


def describe_features(
    features: Features, truth: npt.NDArray[np.int64], *, classes: int
) -> Gaussians:
    """Estimate the mean of each class, and the covariance that all classes share.

    The min(`MOST_DIRECTIONS`, n - classes, k - 1) directions of largest variance are kept. The mean
    of the other variances becomes `rest`. A variance below 1e-8 counts as 1e-8.

    Args:
        features: Shape (n, k), n > classes.
        truth: Shape (n,), class indices; each class occurs.
        classes: Number of classes.

    Raises:
        ValueError: A class has no image, or there are no more images than classes.
    """
    count, width = features.shape
    if count <= classes or len(np.unique(truth)) < classes:
        raise ValueError("features of each class, and of more images than classes, are needed")
    exact = features.astype(np.float64)
    means = np.stack([exact[truth == number].mean(axis=0) for number in range(classes)])
    centred = exact - means[truth]
    variances, vectors = np.linalg.eigh(centred.T @ centred / (count - classes))
    variances, directions = variances[::-1].clip(min=_SMALLEST_VARIANCE), vectors.T[::-1]
    kept = min(MOST_DIRECTIONS, count - classes, width - 1)
    return Gaussians(
        means.astype(np.float32),
        np.ascontiguousarray(directions[:kept], dtype=np.float32),
        variances[:kept].astype(np.float32),
        variances[kept:].mean(keepdims=True).astype(np.float32),
    )


class GateScores(NamedTuple):
    """What a gate says about n images.

    Attributes:
        percentile: Shape (n,), float32, in [0, 100]: the share of validation images that are less
            strange; 100 beyond all of them.
        kind: Shape (n,), int64: the kind of foreign image that the head takes it for; -1 where it
            takes it for a frontal chest film.
    """

    percentile: Tensor
    kind: Tensor


class InputGate:
    """A gate on the device that computes the features."""

    def __init__(self, statistics: FeatureStatistics, *, device: torch.device) -> None:
        """Copy the statistics to the device."""
        for_device = {f.name: getattr(statistics, f.name) for f in fields(statistics)}
        tensors = {n: torch.from_numpy(a.copy()).to(device) for n, a in for_device.items()}
        # In float64: what lies outside the kept directions is a small difference of large numbers.
        self._means, self._directions = tensors["means"].double(), tensors["directions"].double()
        self._placed_means = self._means @ self._directions.T
        self._precision = (1.0 / tensors["variances"].double(), 1.0 / tensors["rest"].double())
        self._weight, self._bias = tensors["weight"], tensors["bias"]
        self._scales, self._percentiles = tensors["scales"], tensors["percentiles"]

    def distances(self, features: Tensor) -> Tensor:
        """Compute the squared Mahalanobis distance of each image from its nearest class.

        Args:
            features: Shape (n, k), float32.

        Returns:
            Shape (n,), float32, not negative.
        """
        exact = features.double()
        placed = exact @ self._directions.T
        along = (placed[:, None, :] - self._placed_means).square()
        off = (exact[:, None, :] - self._means).square().sum(2)
        outside = (off - along.sum(2)).clamp(min=0.0)
        kept, rest = self._precision
        return ((along * kept).sum(2) + outside * rest).amin(1).float()

    def measures(self, features: Tensor) -> Tensor:
        """Compute both measures of strangeness before they are scaled.

        Args:
            features: Shape (n, k), float32.

        Returns:
            Shape (n, 2), float32, not negative: the distance, and minus the logarithm of the
            probability of a frontal chest film.
        """
        return torch.stack([self.distances(features), -self._kinds(features)[:, 0]], dim=1)

    def score(self, features: Tensor) -> GateScores:
        """Compare images with those of validation.

        Args:
            features: Shape (n, k), float32, on the gate's device.
        """
        # What has no number, as where a head's weights overflow, is stranger than anything.
        strangeness = (self.measures(features) / self._scales).amax(1).nan_to_num(nan=torch.inf)
        above = torch.searchsorted(self._percentiles, strangeness).clamp(1, STEPS - 1)
        low, high = self._percentiles[above - 1], self._percentiles[above]
        part = ((strangeness - low) / (high - low).clamp(min=1e-12)).clamp(0.0, 1.0)
        return GateScores(above - 1 + part, self._kinds(features).argmax(1) - 1)

    def _kinds(self, features: Tensor) -> Tensor:
        logits = torch.nn.functional.linear(features, self._weight, self._bias)
        return logits.log_softmax(dim=1)

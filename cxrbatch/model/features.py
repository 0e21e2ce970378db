"""Mean and covariance of a network's features, to tell other images from the training images.

The features are what the head sees: the last activations averaged over the image. They are
described as a Gaussian with the class-independent mean and covariance; of the covariance the
directions of largest variance are kept, the rest of the space has one variance for all.

Source: Tipping and Bishop, "Probabilistic Principal Component Analysis", JRSS B 1999.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating]

MOST_DIRECTIONS = 64
_SMALLEST_VARIANCE = 1e-8
# Of products of directions, by which those in float32 are off from 0 and 1; measured: 1e-6.
_MOST_SKEW = 1e-3


@dataclass(frozen=True, slots=True)
class FeatureStatistics:
    """Mean and covariance of the k features of training images, as a Gaussian.

    Attributes:
        mean: Shape (k,), float32.
        directions: Shape (m, k), float32, orthonormal rows: the directions of largest variance.
        variances: Shape (m,), float32, the variance along each direction, falling.
        rest: Shape (1,), float32, the variance along every direction that is not kept.
    """

    mean: npt.NDArray[np.float32]
    directions: npt.NDArray[np.float32]
    variances: npt.NDArray[np.float32]
    rest: npt.NDArray[np.float32]

    @property
    def are_sound(self) -> bool:
        """Whether all values are finite, all variances positive and the directions orthonormal."""
        values = (self.mean, self.directions, self.variances, self.rest)
        if not all(np.isfinite(array).all() for array in values):
            return False
        exact = self.directions.astype(np.float64)
        skew = np.abs(exact @ exact.T - np.eye(len(exact))).max(initial=0.0)
        return bool((self.variances > 0).all() and (self.rest > 0).all() and skew < _MOST_SKEW)

    def distances(self, features: Features) -> npt.NDArray[np.float64]:
        """Return the squared Mahalanobis distance of each image from the training images.

        Args:
            features: Shape (n, k), one row for each image.

        Returns:
            Shape (n,), float64, not negative; about k on average for images like the training
            images, and larger for others.
        """
        centred = features.astype(np.float64) - self.mean
        along = centred @ self.directions.T.astype(np.float64)
        outside = (centred**2).sum(axis=1) - (along**2).sum(axis=1)
        distances: npt.NDArray[np.float64] = (along**2 / self.variances).sum(axis=1)
        distances += outside.clip(min=0.0) / float(self.rest[0])
        return distances


def describe_features(features: Features) -> FeatureStatistics:
    """Estimate mean and covariance of features from those of n images.

    The min(`MOST_DIRECTIONS`, n - 1, k - 1) directions of largest variance are kept. The mean of
    the other variances becomes `rest`.

    Args:
        features: Shape (n, k), n >= 2.

    Raises:
        ValueError: There are fewer than two images.
    """
    count, width = features.shape
    if count < 2:
        raise ValueError("features of two images at least are needed")
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features.astype(np.float64) - mean
    variances, vectors = np.linalg.eigh(centred.T @ centred / (count - 1))
    variances, directions = variances[::-1].clip(min=_SMALLEST_VARIANCE), vectors.T[::-1]
    kept = min(MOST_DIRECTIONS, count - 1, width - 1)
    return FeatureStatistics(
        mean.astype(np.float32),
        np.ascontiguousarray(directions[:kept], dtype=np.float32),
        variances[:kept].astype(np.float32),
        variances[kept:].mean(keepdims=True).astype(np.float32),
    )

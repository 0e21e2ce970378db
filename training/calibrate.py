"""Temperature: one number that makes a network's probabilities as sure as they are right."""

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

_LIMITS = (math.log(0.05), math.log(20.0))


def fit_temperature(logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]) -> float:
    """Find the temperature that minimises the negative log-likelihood.

    Fit on validation images, never on those that the model was trained or is judged on.

    Args:
        logits: Shape (n, classes).
        truth: Shape (n,), class indices.

    Returns:
        A number in [0.05, 20]; probabilities are softmax(logits / temperature).

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    rows = np.arange(len(truth))
    scores = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        log_p = log_softmax(scores / math.exp(log_temperature), axis=1)
        return float(-log_p[rows, truth].mean())

    return math.exp(minimize_scalar(loss, bounds=_LIMITS, method="bounded").x)

"""Calibration: probabilities as sure as they are right, and no class favoured against another."""

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar
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


def fit_offsets(
    logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64], *, temperature: float
) -> npt.NDArray[np.float32]:
    """Find what to add to each class's logit so that no class is predicted too often.

    A rare class that was drawn often is learned by heart and then found too seldom in new images.
    The negative log-likelihood is minimised together with a standard normal prior on each offset
    over the temperature, which holds small validation sets back.

    Args:
        logits: Shape (n, classes).
        truth: Shape (n,), class indices.
        temperature: What the logits are divided by.

    Returns:
        Shape (classes,), in units of logits, mean 0.

    Source: Alexandari et al., "Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat
    at Label Shift Adaptation", ICML 2020.
    """
    scores = logits.astype(np.float64) / temperature
    count, classes = scores.shape
    wanted = np.eye(classes)[truth]

    def loss(offsets: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        log_p = log_softmax(scores + offsets, axis=1)
        value = (offsets @ offsets / 2 - (log_p * wanted).sum()) / count
        return float(value), ((np.exp(log_p) - wanted).sum(axis=0) + offsets) / count

    found = minimize(loss, np.zeros(classes), jac=True, method="BFGS").x
    centred: npt.NDArray[np.float32] = ((found - found.mean()) * temperature).astype(np.float32)
    return centred

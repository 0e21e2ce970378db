"""Scores of a network on a subset, their calibration, and controls that show what it looks at."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax

from cxrbatch.errors import CxrbatchError, NotFiniteError
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.inference import Precision
from cxrbatch.model.network import RadiographResNet, round_as_stored
from cxrbatch.model.predictor import Predictor
from cxrbatch.training.dataset import ImageSubset

_Truth = npt.NDArray[np.int64]


_BATCH = 64
# Ordinary ones are below 100; the squares of these no longer fit their float32 statistics.
_LARGEST_FEATURE = 1e15
_TEMPERATURE_RANGE = (math.log(0.05), math.log(20.0))

Logits = npt.NDArray[np.float32]
"""Outputs of a network before the softmax, shape (n, classes)."""


def predict(
    model: RadiographResNet,
    *,
    card: Card,
    subset: ImageSubset,
    device: torch.device,
    precision: Precision = "fp32",
) -> Logits:
    """Compute the logits of all images of a subset with the same code as `cxrbatch score`.

    Args:
        model: The network.
        card: Its card, for the normalisation and the classes.
        subset: The images, at least one.
        device: The device that computes.
        precision: "fp32", "bf16" or "fp16".

    Returns:
        An array of shape (n, classes), float32, in the order of the subset.

    Raises:
        NotFiniteError: A weight or a score is not finite.
        CheckpointError: A weight is not finite at this precision, or the first scores are not those
            of plain PyTorch.
        CxrbatchError: A batch does not fit into memory.
    """
    if not all(values.isfinite().all() for values in model.state_dict().values()):
        raise NotFiniteError("a weight of the network is not finite; try a lower --learning-rate")
    scorer = _scorer(model, card, device, precision)
    return np.concatenate([scores.logits for scores in scorer.score_all(subset.batches(_BATCH))])


def features_of(
    model: RadiographResNet,
    *,
    card: Card,
    subset: ImageSubset,
    device: torch.device,
    precision: Precision = "fp32",
) -> npt.NDArray[np.float32]:
    """Compute the k inputs of the network's head (its last layer) for each image of a subset.

    Args:
        model: The network.
        card: Its card, for the normalisation and the classes.
        subset: The images, at least one.
        device: The device that computes.
        precision: "fp32", "bf16" or "fp16".

    Returns:
        Shape (n, k), float32, in the order of the subset.

    Raises:
        CheckpointError: A weight is not finite at this precision.
        CxrbatchError: A batch does not fit into memory, or a feature is not below 1e15.
    """
    scorer = _scorer(model, card, device, precision)
    features = np.concatenate([scorer.features(images) for images in subset.batches(_BATCH)])
    if not np.abs(features).max() < _LARGEST_FEATURE:
        raise CxrbatchError("the network's values grew beyond use; try a lower --learning-rate")
    return features


def logits_to_probabilities(logits: Logits, *, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Return the softmax of logits / temperature: shape (n, classes), float64, rows sum to 1."""
    scaled = logits.astype(np.float64) / temperature
    probabilities: npt.NDArray[np.float64] = softmax(scaled, axis=1)
    return probabilities


def log_loss(logits: Logits, truth: npt.NDArray[np.int64]) -> float:
    """Return the mean negative log-likelihood of the true classes, in nats.

    Args:
        logits: Shape (n, classes); their softmax gives the probabilities.
        truth: Shape (n,), class indices.
    """
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    return float(-log_p[np.arange(len(truth)), truth].mean())


def _scorer(
    model: RadiographResNet, card: Card, device: torch.device, precision: Precision
) -> Predictor:
    checkpoint = Checkpoint.of(model, card)
    return Predictor(checkpoint, batch_size=_BATCH, device=device, precision=precision)


def calibrate(model: RadiographResNet, logits: Logits, truth: _Truth) -> tuple[Logits, float]:
    """Add an offset for each class to the bias of a network's head, and find the temperature.

    Args:
        model: The network, with weights as `round_as_stored` leaves them; its bias is changed in
            place and rounded alike.
        logits: What the network gives for the images of validation, shape (n, classes).
        truth: Shape (n,), class indices.

    Returns:
        The logits that the changed network gives, and the temperature (see `fit_temperature`).
    """
    offsets = fit_offsets(logits, truth, temperature=fit_temperature(logits, truth))
    before = model.fc.bias.detach().clone()
    with torch.no_grad():
        model.fc.bias.add_(torch.from_numpy(offsets).to(model.fc.bias))
    round_as_stored(model)
    # The head computes in float32 at every precision, so that its bias adds to the logits.
    moved: Logits = logits + (model.fc.bias.detach() - before).float().cpu().numpy()
    return moved, fit_temperature(moved, truth)


def fit_temperature(logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]) -> float:
    """Find the temperature that minimises the negative log-likelihood.

    The images must be those of validation: neither those that the network was trained on nor those
    that it is tested on.

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

    return math.exp(minimize_scalar(loss, bounds=_TEMPERATURE_RANGE, method="bounded").x)


def fit_offsets(
    logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64], *, temperature: float
) -> npt.NDArray[np.float32]:
    """Find a number to add to each class's logits, against classes that are predicted too often.

    A rare class that was drawn often is learned by heart and then found too seldom in new images.
    The offsets minimise the negative log-likelihood with a standard normal prior on each offset
    divided by the temperature, which keeps them small where there are few images.

    Args:
        logits: Of validation images, shape (n, classes).
        truth: Shape (n,), class indices.
        temperature: What the logits are divided by before the softmax.

    Returns:
        Shape (classes,), float32, in units of logits, mean 0.

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


CardFigures = dict[str, Any]
"""Figures of a subset, as JSON in the checkpoint's card."""

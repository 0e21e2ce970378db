"""A network's opinion of one side of the split, as `cxrbatch score` would have it."""

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax, softmax

from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.inference import Precision, Scorer
from cxrbatch.model.resnet import RadiographResNet
from cxrbatch.training.side import Side

_BATCH = 64

Logits = npt.NDArray[np.float32]


def predict(
    model: RadiographResNet,
    *,
    card: Card,
    side: Side,
    device: torch.device,
    precision: Precision = "fp32",
) -> Logits:
    """Score a side as `cxrbatch score` does; gives logits, shape (n, classes).

    Raises:
        CxrbatchError: A score is not finite.
    """
    scorer = _scorer(model, card, device, precision)
    return np.concatenate([scores.logits for scores in scorer.score_all(side.batches(_BATCH))])


def features_of(
    model: RadiographResNet,
    *,
    card: Card,
    side: Side,
    device: torch.device,
    precision: Precision = "fp32",
) -> npt.NDArray[np.float32]:
    """What the head sees of each image of a side, shape (n, k)."""
    scorer = _scorer(model, card, device, precision)
    return np.concatenate([scorer.features(images) for images in side.batches(_BATCH)])


def logits_to_probabilities(logits: Logits, *, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Softmax of logits / temperature, shape (n, classes)."""
    scaled = logits.astype(np.float64) / temperature
    probabilities: npt.NDArray[np.float64] = softmax(scaled, axis=1)
    return probabilities


def log_loss(logits: Logits, truth: npt.NDArray[np.int64]) -> float:
    """Mean negative log-likelihood of the truth, in nats."""
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    return float(-log_p[np.arange(len(truth)), truth].mean())


def _scorer(
    model: RadiographResNet, card: Card, device: torch.device, precision: Precision
) -> Scorer:
    checkpoint = Checkpoint(card, "", model.eval())
    return Scorer(checkpoint, batch_size=_BATCH, device=device, precision=precision)

"""Scores of a network on a subset, their calibration, and controls that show what it looks at."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, softmax

from cxrbatch.errors import NotFiniteError
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.inference import Precision
from cxrbatch.model.network import RadiographResNet, round_as_stored
from cxrbatch.model.predictor import Predictor
from cxrbatch.results.statistics import intervals as metrics
from cxrbatch.training.dataset import ImageSubset

_Images = npt.NDArray[np.uint8]
_Truth = npt.NDArray[np.int64]

# On a frontal radiograph the lungs and the mediastinum fill an ellipse a little above the centre:
# its half axes, its centre and the margins, (rows, columns), as shares of the image's edge.
_HALF_AXES = (0.44, 0.42)
_CENTRE = (0.48, 0.5)
_MARGIN = 0.1


def without_lungs(inputs: _Images) -> _Images:
    """Set to 0 the central ellipse that lungs and mediastinum fill on a frontal radiograph.

    Its place and size are fixed shares of the image; the content of the image does not count.

    Args:
        inputs: Shape (n, size, size), uint8.

    Returns:
        A copy of the same shape.
    """
    size = inputs.shape[1]
    rows, columns = (np.indices((size, size)) + 0.5) / size
    inside = ((rows - _CENTRE[0]) / _HALF_AXES[0]) ** 2 + (
        (columns - _CENTRE[1]) / _HALF_AXES[1]
    ) ** 2 <= 1.0
    return np.where(inside, np.uint8(0), inputs)


def border_only(inputs: _Images) -> _Images:
    """Set all pixels to 0 but those of the margins, about a tenth of the edge on each side.

    Args:
        inputs: Shape (n, size, size), uint8.

    Returns:
        A copy of the same shape.
    """
    margin = max(1, round(inputs.shape[1] * _MARGIN))
    kept = inputs.copy()
    kept[:, margin:-margin, margin:-margin] = 0
    return kept


_BATCH = 64
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
        CxrbatchError: A batch does not fit into memory.
    """
    scorer = _scorer(model, card, device, precision)
    return np.concatenate([scorer.features(images) for images in subset.batches(_BATCH)])


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

_CONTROLS = {"lungs blacked out": without_lungs, "border only": border_only}
_BORDER = "border only"
# Of a model's macro AUC above 0.5, the share that it may reach from the border alone.
_SHARE_OF_LEAD = 0.5


def evaluate_controls(
    subset: ImageSubset,
    score: Callable[[ImageSubset], Logits],
    *,
    classes: Sequence[str],
    sources: Sequence[str | None],
) -> CardFigures:
    """Test whether a network recognises something other than disease, such as an image's origin.

    It is evaluated on images without lungs, on their borders alone, and on the images of each
    source alone, among the classes that the source has.

    Args:
        subset: The images, usually those of test.
        score: Called with `subset` and with blacked-out copies of it; returns logits, from which
            the figures are computed.
        classes: Class names in the order of the logits.
        sources: The collection that each image is from, in the order of the subset; images with
            None count for no source.

    Returns:
        Under each of "lungs blacked out", "border only" and "as they are" a dict of "n",
        "balanced_accuracy", "macro_auc" and "recall" (by class); undefined figures are None. Under
        "within sources" such a dict for each source, with its "classes"; for a source of one class
        only "n", "classes" and "undefined", the reason.
    """
    positions = np.arange(len(subset))
    found: CardFigures = {}
    for name, changed in _CONTROLS.items():
        blinded = ImageSubset(changed(subset.images(positions)), subset.truth)
        found[name] = _plain(subset.truth, score(blinded), classes=classes)
    logits = score(subset)
    found["as they are"] = _plain(subset.truth, logits, classes=classes)
    found["within sources"] = {
        source: _within(subset.truth, logits, [s == source for s in sources], classes=classes)
        for source in sorted({s for s in sources if s is not None})
    }
    return found


def border_warning(controls: CardFigures) -> str | None:
    """Return a warning if a network recognises the classes by the borders of the images alone.

    Args:
        controls: From `evaluate_controls`.

    Returns:
        One line; None if a macro AUC is undefined, or that on the borders is below 0.6 or exceeds
        0.5 by less than half as much as that on the whole images.
    """
    areas = [controls[name]["macro_auc"] for name in (_BORDER, "as they are")]
    if None in areas or areas[0] - 0.5 < _SHARE_OF_LEAD * (areas[1] - 0.5) or areas[0] < 0.6:
        return None
    return (
        f"warning: from the border of the images alone the model reaches a macro AUC of "
        f"{areas[0]:.3f} ({areas[1]:.3f} with the whole images): it tells more than lungs apart, "
        "most likely where the images come from"
    )


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _plain(truth: _Truth, logits: Logits, *, classes: Sequence[str]) -> CardFigures:
    probabilities = logits_to_probabilities(logits)
    recalls = metrics.recalls(truth, probabilities.argmax(axis=1), classes=len(classes))
    return {
        "n": len(truth),
        "balanced_accuracy": _mean(recalls),
        "macro_auc": _mean(metrics.one_vs_rest_auc(truth, probabilities)),
        "recall": dict(zip(classes, recalls, strict=True)),
    }


def _within(
    truth: _Truth, logits: Logits, chosen: Sequence[bool], *, classes: Sequence[str]
) -> CardFigures:
    """Evaluate the images of one source among the classes that it has."""
    rows = np.flatnonzero(chosen)
    present = np.unique(truth[rows])
    names = [classes[index] for index in present]
    if len(present) < 2:
        return {"n": len(rows), "classes": names, "undefined": "one class only"}
    among = np.searchsorted(present, truth[rows])
    return {"classes": names, **_plain(among, logits[np.ix_(rows, present)], classes=names)}

"""Evaluate a trained network on a subset: figures with intervals, controls, operating points."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax, softmax

from cxrbatch.errors import NotFiniteError
from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.inference import Precision
from cxrbatch.model.network import RadiographResNet
from cxrbatch.model.predictor import Predictor
from cxrbatch.results.figures import Evaluation, Figure
from cxrbatch.results.statistics import intervals as metrics
from cxrbatch.results.statistics.calculation import evaluate_scores
from cxrbatch.training.dataset import ImageSubset

_Images = npt.NDArray[np.uint8]

# On a frontal radiograph the lungs and the mediastinum fill an ellipse a little above the centre:
# its half axes, its centre and the margins, (rows, columns), as shares of the image's edge.
_HALF_AXES = (0.44, 0.42)
_CENTRE = (0.48, 0.5)
_MARGIN = 0.1


def without_lungs(inputs: _Images) -> _Images:
    """Black out the central ellipse that lungs and mediastinum fill on a frontal radiograph.

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
    """Black out all but the margins, a tenth of the edge on each side.

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
        CheckpointError: The first scores are not those of plain PyTorch.
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


_Truth = npt.NDArray[np.int64]
CardFigures = dict[str, Any]
"""Figures of a subset, as JSON in the checkpoint's card."""

_CONTROLS = {"lungs blacked out": without_lungs, "border only": border_only}
_BORDER = "border only"
# Of a model's macro AUC above 0.5, the share that it may reach from the border alone.
_SHARE_OF_LEAD = 0.5


def evaluate_logits(
    truth: _Truth,
    logits: Logits,
    *,
    classes: Sequence[str],
    temperature: float,
    groups: Sequence[int],
) -> Evaluation:
    """Compute the figures of `cxrbatch report` on one subset, with their intervals.

    Args:
        truth: Shape (n,), class indices.
        logits: Shape (n, classes).
        classes: Class names in the order of the logits.
        temperature: The logits are divided by it before the softmax.
        groups: Length n, the number of each image's group: images of one patient or picture have
            the same. The bootstrap draws whole groups.
    """
    probabilities = logits_to_probabilities(logits, temperature=temperature)
    return evaluate_scores(truth, probabilities, np.asarray(groups, np.int64), classes=classes)


def card_figures(evaluation: Evaluation) -> CardFigures:
    """Select from the figures of a subset those that a checkpoint's card has.

    Returns:
        "n" images, "groups", "balanced_accuracy", "macro_auc", "expected_calibration_error", and
        "recall" and "auc" by class. A figure is {"value": …, "interval": [low, high]}, the
        interval None if it has none, or the figure is None if it is undefined. The calibration
        error is a plain number or None.
    """
    classes = evaluation.classes
    return {
        "n": evaluation.images,
        "groups": evaluation.patients,
        "balanced_accuracy": _with_interval(evaluation.balanced_accuracy),
        "macro_auc": _with_interval(evaluation.macro_auc),
        "expected_calibration_error": evaluation.calibration.ece.value,
        "recall": {each.name: _with_interval(each.sensitivity) for each in classes},
        "auc": {each.name: _with_interval(each.auc) for each in classes},
    }


def card_operating_points(evaluation: Evaluation) -> dict[str, dict[str, dict[str, float]]]:
    """Return the thresholds of each class that were chosen on a subset, for a checkpoint's card.

    Returns:
        {class: {name of the point: {"threshold": …, "sensitivity": …, "specificity": …}}}, all in
        [0, 1]; an undefined rate is 0. A class without both positive and negative images has no
        point.
    """
    return {
        each.name: {
            point.name: {
                # A threshold above every probability takes no image for positive.
                "threshold": min(point.threshold, 1.0),
                "sensitivity": point.sensitivity.value or 0.0,
                "specificity": point.specificity.value or 0.0,
            }
            for point in each.points
        }
        for each in evaluation.classes
    }


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
        "n", "balanced_accuracy", "macro_auc" and "recall" for each of "lungs blacked out", "border
        only" and "as they are"; and under "within sources" for each source, or "undefined" with
        the reason where the source has one class only. Undefined figures are None.
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
        One line; None if the macro AUC on the borders is undefined, is below 0.6, or exceeds 0.5
        by less than half as much as that on the whole images.
    """
    areas = [controls[name]["macro_auc"] for name in (_BORDER, "as they are")]
    if None in areas or areas[0] - 0.5 < _SHARE_OF_LEAD * (areas[1] - 0.5) or areas[0] < 0.6:
        return None
    return (
        f"warning: from the border of the images alone the model reaches a macro AUC of "
        f"{areas[0]:.3f} ({areas[1]:.3f} with the whole images): it tells more than lungs apart, "
        "most likely where the images come from"
    )


def _with_interval(figure: Figure) -> CardFigures | None:
    if figure.value is None:
        return None
    interval = None if figure.low is None else [figure.low, figure.high]
    return {"value": figure.value, "interval": interval}


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

"""What a trained model is worth: figures with intervals on one side of the split, and controls."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax, softmax

from cxrbatch.model.card import Card
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.inference import Precision
from cxrbatch.model.network import RadiographResNet
from cxrbatch.model.predictor import Predictor
from cxrbatch.results.statistics import metrics
from cxrbatch.results.statistics.curves import Ranking, roc
from cxrbatch.results.statistics.curves import operating_points as points_of
from cxrbatch.results.statistics.decisions import (
    BY_CLASS,
    OVERALL,
    Decisions,
    expected_calibration_error,
)
from cxrbatch.results.statistics.intervals import Estimate, Weights, bootstrap_by_group, numbered
from cxrbatch.training.dataset import Side

Inputs = npt.NDArray[np.uint8]

# Of a frontal film the lungs and the mediastinum fill the middle: half axes and margins as shares
# of the image's edge, and the middle a little above its centre.
_HALF_AXES = (0.44, 0.42)
_CENTRE = (0.48, 0.5)
_MARGIN = 0.1


def without_lungs(inputs: Inputs) -> Inputs:
    """Black out a central ellipse.

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


def border_only(inputs: Inputs) -> Inputs:
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
) -> Predictor:
    checkpoint = Checkpoint.of(model, card)
    return Predictor(checkpoint, batch_size=_BATCH, device=device, precision=precision)


Truth = npt.NDArray[np.int64]
Figures = dict[str, Any]

_RATES = ("sensitivity", "specificity")
_CONTROLS = {"lungs blacked out": without_lungs, "border only": border_only}
_BORDER = "border only"
# A model that loses less than half of its lead over chance sees more than lungs.
_SHARE_OF_LEAD = 0.5


def judge(
    truth: Truth,
    logits: Logits,
    *,
    classes: Sequence[str],
    temperature: float,
    groups: Sequence[Hashable],
) -> Figures:
    """Figures with 95 % intervals by bootstrap over groups; what is undefined is None.

    Args:
        truth: Shape (n,), class indices.
        logits: Shape (n, classes).
        classes: Their names.
        temperature: Of the softmax.
        groups: Whose each image is.
    """
    probabilities = logits_to_probabilities(logits, temperature=temperature)

    numbers = numbered(groups)
    decisions = Decisions(truth, probabilities, numbers)
    rankings = [Ranking(truth == c, probabilities[:, c]) for c in range(len(classes))]

    def statistics(weights: Weights) -> metrics.Values:
        areas = np.stack([ranking.curves(weights).auc for ranking in rankings], axis=1)
        macro = metrics.mean_of_defined(areas)[:, None]
        return np.concatenate([areas, macro, decisions.statistics(weights)], axis=1)

    estimates = bootstrap_by_group(statistics, numbers)
    areas, (macro, *decided) = estimates[: len(classes)], estimates[len(classes) :]
    recalls = decided[len(OVERALL) + BY_CLASS.index("sensitivity") :: len(BY_CLASS)]
    return {
        "n": len(truth),
        "groups": len(set(groups)),
        "balanced_accuracy": _named(decided[OVERALL.index("balanced_accuracy")]),
        "macro_auc": _named(macro),
        "expected_calibration_error": expected_calibration_error(truth, probabilities),
        "recall": dict(zip(classes, map(_named, recalls), strict=True)),
        "auc": dict(zip(classes, map(_named, areas), strict=True)),
    }


def operating_points(
    truth: Truth, logits: Logits, *, classes: Sequence[str], temperature: float
) -> dict[str, dict[str, dict[str, float]]]:
    """Thresholds per class, in [0, 1], as a checkpoint's card holds them."""
    probabilities = logits_to_probabilities(logits, temperature=temperature)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for index, name in enumerate(classes):
        curve = roc(truth == index, probabilities[:, index])
        points = points_of(curve) if curve else {}
        found[name] = {
            point: {
                # A threshold above every probability takes no image for positive.
                "threshold": min(chosen.threshold, 1.0),
                **{rate: getattr(chosen, rate) for rate in _RATES},
            }
            for point, chosen in points.items()
        }
    return found


def judge_controls(
    side: Side,
    score: Callable[[Side], Logits],
    *,
    classes: Sequence[str],
    sources: Sequence[str | None],
) -> Figures:
    """Score what should tell a model nothing, and each source by itself.

    Args:
        side: The images, usually those of test.
        score: Gives logits of a side.
        classes: Names in the order of the logits.
        sources: Where each image comes from.
    """
    positions = np.arange(len(side))
    found: Figures = {}
    for name, changed in _CONTROLS.items():
        blinded = Side(changed(side.images(positions)), side.truth)
        found[name] = _plain(side.truth, score(blinded), classes=classes)
    logits = score(side)
    found["as they are"] = _plain(side.truth, logits, classes=classes)
    found["within sources"] = {
        source: _within(side.truth, logits, [s == source for s in sources], classes=classes)
        for source in sorted({s for s in sources if s is not None})
    }
    return found


def border_warning(controls: Figures) -> str | None:
    """One line where the margins alone tell the classes apart."""
    areas = [controls[name]["macro_auc"] for name in (_BORDER, "as they are")]
    if None in areas or areas[0] - 0.5 < _SHARE_OF_LEAD * (areas[1] - 0.5) or areas[0] < 0.6:
        return None
    return (
        f"warning: from the border of the images alone the model reaches a macro AUC of "
        f"{areas[0]:.3f} ({areas[1]:.3f} with the whole images): it tells more than lungs apart, "
        "most likely where the images come from"
    )


def _named(estimate: Estimate) -> Figures | None:
    if estimate.value is None:
        return None
    return {"value": estimate.value, "interval": estimate.interval and list(estimate.interval)}


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _plain(truth: Truth, logits: Logits, *, classes: Sequence[str]) -> Figures:
    probabilities = logits_to_probabilities(logits)
    recalls = metrics.recalls(truth, probabilities.argmax(axis=1), classes=len(classes))
    return {
        "n": len(truth),
        "balanced_accuracy": _mean(recalls),
        "macro_auc": _mean(metrics.one_vs_rest_auc(truth, probabilities)),
        "recall": dict(zip(classes, recalls, strict=True)),
    }


def _within(
    truth: Truth, logits: Logits, chosen: Sequence[bool], *, classes: Sequence[str]
) -> Figures:
    """One source by itself, among the classes that it has."""
    rows = np.flatnonzero(chosen)
    present = np.unique(truth[rows])
    names = [classes[index] for index in present]
    if len(present) < 2:
        return {"n": len(rows), "classes": names, "undefined": "one class only"}
    among = np.searchsorted(present, truth[rows])
    return {"classes": names, **_plain(among, logits[np.ix_(rows, present)], classes=names)}

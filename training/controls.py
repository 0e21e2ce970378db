"""Controls: the same network on images where it should know less, as without lungs."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from cxrbatch.results.statistics import intervals as metrics
from cxrbatch.training.dataset import ImageSubset
from cxrbatch.training.model_evaluation import CardFigures, Logits, logits_to_probabilities

_Truth = npt.NDArray[np.int64]

_Images = npt.NDArray[np.uint8]


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

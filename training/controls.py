"""Controls: the same network on images where it should know less: the audit's short form."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from cxrbatch.auditing.areas import log_odds
from cxrbatch.auditing.passes import FindsLungs
from cxrbatch.auditing.treatments import BORDER, FILLS, LUNGS_ONLY, Films, LungFields
from cxrbatch.results.statistics import intervals as metrics
from cxrbatch.training.dataset import ImageSubset
from cxrbatch.training.model_evaluation import CardFigures, Logits

_Truth = npt.NDArray[np.int64]
_NO_MASK = "no mask of the lungs is free of doubt"

# More say little more, and each needs a mask and six passes.
_MOST_IMAGES = 2000
_MASKED_AT_ONCE = 64

SHORT_FORM = (*FILLS, LUNGS_ONLY, BORDER)
"""Treatments of the audit that each training ends with, in the order in which they are shown."""

# Of a model's macro AUC above 0.5, the share that it may reach from the border alone.
_SHARE_OF_LEAD = 0.5


def evaluate_controls(
    subset: ImageSubset,
    score: Callable[[ImageSubset], Logits],
    *,
    classes: Sequence[str],
    sources: Sequence[str | None],
    finder: FindsLungs | None,
) -> CardFigures:
    """Test whether a network recognises something other than disease, such as an image's origin.

    This is the short form of the audit: the network is evaluated on images whose lungs are filled
    in four ways, on the lungs alone and on borders alone, of 2,000 images at most; and on the
    images of each source alone, among the classes that the source has.

    Args:
        subset: The images, usually those of test.
        score: Called with `subset` and with changed copies of it; returns logits, from which the
            figures are computed.
        classes: Class names in the order of the logits.
        sources: The collection that each image is from, in the order of the subset; images with
            None count for no source.
        finder: Finds the lungs; None to leave the controls out that need them.

    Returns:
        Under the name of each treatment of `SHORT_FORM` and "as they are" a dict of "n",
        "balanced_accuracy", "macro_auc" and "recall" (by class); undefined figures are None. Of
        images with a doubtful mask nothing is known without lungs: where no image is left, the dict
        has "n" and "undefined", the reason. Under "within sources" such a dict for each source,
        with its "classes"; for a source of one class only "n", "classes" and "undefined".
    """
    some = subset.at(np.arange(0, len(subset), max(1, -(-len(subset) // _MOST_IMAGES))))
    images = some.images(np.arange(len(some)))
    lungs, sure = _lungs_of(images, finder)
    found: CardFigures = {}
    for treatment in SHORT_FORM:
        rows = sure if treatment.needs_lungs else np.arange(len(some))
        if treatment.needs_lungs and finder is None:
            continue
        if not len(rows):
            found[treatment.name] = {"n": 0, "undefined": _NO_MASK}
            continue
        changed = treatment.apply(images[rows], lungs[rows])
        treated = ImageSubset(changed, some.truth[rows])
        found[treatment.name] = _plain(treated.truth, score(treated), classes=classes)
    logits = score(subset)
    found["as they are"] = _plain(subset.truth, logits, classes=classes)
    found["within sources"] = {
        source: _within(subset.truth, logits, [s == source for s in sources], classes=classes)
        for source in sorted({s for s in sources if s is not None})
    }
    return found


def _lungs_of(images: Films, finder: FindsLungs | None) -> tuple[LungFields, npt.NDArray[np.int64]]:
    """Find the lungs of images; also return the positions of those whose mask is not doubted."""
    lungs = np.zeros(images.shape, np.bool_)
    doubted = np.ones(len(images), np.bool_)
    for start in range(0, len(images) if finder else 0, _MASKED_AT_ONCE):
        part = slice(start, start + _MASKED_AT_ONCE)
        assert finder is not None
        lungs[part], doubts = finder.masks(images[part])
        doubted[part] = [bool(own) for own in doubts]
    return lungs, np.flatnonzero(~doubted)


def border_warning(controls: CardFigures) -> str | None:
    """Return a warning if a network recognises the classes by the borders of the images alone.

    Args:
        controls: From `evaluate_controls`.

    Returns:
        One line; None if a macro AUC is undefined, or that on the borders is below 0.6 or exceeds
        0.5 by less than half as much as that on the whole images.
    """
    areas = [controls[name]["macro_auc"] for name in (BORDER.name, "as they are")]
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
    recalls = metrics.recalls(truth, logits.argmax(axis=1), classes=len(classes))
    return {
        "n": len(truth),
        "balanced_accuracy": _mean(recalls),
        "macro_auc": _mean(metrics.one_vs_rest_auc(truth, log_odds(logits))),
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

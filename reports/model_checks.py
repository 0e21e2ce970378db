"""What a model was checked for when it was trained, as the card of its checkpoint says it.

A table that was edited may hold any card: what is no number in its range is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cxrbatch.auditing.treatments import BORDER, FILLS, LUNGS_ONLY
from cxrbatch.results.figures import Figure

_MOST = 20
_SHORT_FORM = tuple(treatment.name for treatment in (*FILLS, LUNGS_ONLY, BORDER))
# Older cards have an ellipse in the place of the lungs.
_NAMES = ("as they are", "lungs blacked out", *_SHORT_FORM)


@dataclass(frozen=True, slots=True)
class Control:
    """Figures of the model on some or changed images of its training.

    Attributes:
        name: Which images: "border only", or the name of a source.
        is_source: Whether `name` is a source.
        images: Number of images; None where the card does not say, as for the next two.
        balanced_accuracy: In [0, 1].
        macro_auc: In [0, 1].
    """

    name: str
    is_source: bool
    images: int | None
    balanced_accuracy: float | None
    macro_auc: float | None


@dataclass(frozen=True, slots=True)
class TwinControl:
    """How far the model's scores of two files of one film differ.

    Attributes:
        pairs: Number of pairs.
        of_training: Number of pairs with a training image; None where the card does not say.
        same_class: Share of pairs of which both files have one predicted class.
        changes: Class name -> mean |difference| of its probability.
    """

    pairs: int
    of_training: int | None
    same_class: Figure
    changes: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class ModelChecks:
    """The controls of a checkpoint's card, at most 20 sources and classes of them.

    Attributes:
        subset: "val" or "test", which images of the training the controls are on; None where the
            card does not say.
        controls: The model without lungs, on lungs and borders alone, and on each source alone.
        twins: None where the card has none.
    """

    subset: str | None
    controls: tuple[Control, ...]
    twins: TwinControl | None

    def __bool__(self) -> bool:
        """Return whether there is anything to show."""
        return bool(self.controls) or self.twins is not None


def model_checks(card: Mapping[str, Any]) -> ModelChecks:
    """Return the controls of a card; one without controls, or with other content, has none."""
    controls = _mapping(_mapping(card.get("training")).get("controls"))
    sources = list(_mapping(controls.get("within sources")).items())[:_MOST]
    named = [(name, controls.get(name), False) for name in _NAMES]
    all_named = [*named, *((str(name), figures, True) for name, figures in sources)]
    found = (_control(*each) for each in all_named)
    subset = controls.get("on")
    return ModelChecks(
        subset if subset in ("val", "test") else None,
        tuple(control for control in found if control is not None),
        _twins(_mapping(controls.get("twins"))),
    )


def _control(name: str, value: object, is_source: bool) -> Control | None:
    figures = _mapping(value)
    shares = [_share(figures.get(key)) for key in ("balanced_accuracy", "macro_auc")]
    if shares == [None, None]:
        return None
    return Control(name, is_source, _count(figures.get("n")), *shares)


def _twins(figures: Mapping[str, Any]) -> TwinControl | None:
    pairs = _count(figures.get("n"))
    if not pairs:
        return None
    changes = list(_mapping(figures.get("mean_change")).items())[:_MOST]
    return TwinControl(
        pairs,
        _count(figures.get("of_training")),
        _figure(figures.get("same_class"), pairs),
        {str(name): _figure(value, pairs) for name, value in changes},
    )


def _figure(value: object, n: int) -> Figure:
    """Return a share of the card with its interval, which must contain the share."""
    stated = _mapping(value)
    share, interval = _share(stated.get("value")), stated.get("interval")
    if share is None:
        return Figure(None, None, None, n, undefined="the card does not say")
    low, high = map(_share, interval if isinstance(interval, list) and len(interval) == 2 else "ab")
    if low is None or high is None or not low <= share <= high:
        return Figure(share, None, None, n, undefined="no interval")
    return Figure(share, low, high, n)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _share(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= 1 else None


def _count(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < 1 << 53 else None

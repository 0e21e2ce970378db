"""The card of a checkpoint: classes, recipe, temperature, thresholds, what the gate knows."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from cxrbatch.errors import CheckpointError
from cxrbatch.model.preprocessing import Recipe

FORMAT_VERSION = 3
ARCHITECTURES = ("resnet18", "resnet34", "resnet50")
MAX_CLASSES = 256
MAX_CLASS_NAME = 64
MAX_TEXT = 1000
MAX_KINDS = 64
TEMPERATURES = (0.01, 100.0)
_SHOWN = 160
_Kind = TypeVar("_Kind")
_RATES = {"threshold", "sensitivity", "specificity"}


@dataclass(frozen=True, slots=True)
class Normalisation:
    """How the network's input is scaled before the first layer: to (u / 255 - mean) / std.

    u is a grey level of the input, uint8.

    Attributes:
        mean: Finite, on the scale of u / 255.
        std: Positive and finite, on the scale of u / 255.

    Raises:
        ValueError: `mean` or `std` is not as above.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError("normalisation needs a finite mean and a positive std")


@dataclass(frozen=True, slots=True)
class Card:
    """The JSON text in a checkpoint that says how its network is fed and how its scores are read.

    Attributes:
        name: Short name shown to people.
        architecture: One of `ARCHITECTURES`.
        classes: Class names in the order of the logits.
        recipe: How radiographs become uint8 inputs.
        normalisation: How inputs are scaled on the device.
        temperature: Probabilities are softmax(logits / temperature).
        operating_points: Thresholds on a class's probability, by class and name, chosen on
            validation images:
            {class: {name: {"threshold": …, "sensitivity": …, "specificity": …}}}.
        training: Summary of the training: data, split, options, metrics, versions.
        limits: What the scores must not be taken for, one sentence each.
        gate: What the input gate knows: "kinds", names of kinds of foreign images; "threshold", the
            percentile above which an image is flagged; "flagged", what it flagged of which images
            when it was made. Empty without a gate.

    Raises:
        ValueError: `check_classes` refuses the classes, the temperature is outside `TEMPERATURES`,
            an operating point is of an unknown class, or the name or a limit is longer than
            `MAX_TEXT` or not printable.
    """

    name: str
    architecture: str
    classes: tuple[str, ...]
    recipe: Recipe
    normalisation: Normalisation
    temperature: float = 1.0
    operating_points: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    gate: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_classes(self.classes)
        low, high = TEMPERATURES
        if not low <= self.temperature <= high:
            raise ValueError(f"temperature must be in {low} … {high}")
        if not set(self.operating_points) <= set(self.classes):
            raise ValueError("operating points of an unknown class")
        for text in (self.name, *self.limits):
            if not text.isprintable() or len(text) > MAX_TEXT:
                raise ValueError("the name or a limit is overlong or cannot be printed")

    def to_json(self) -> str:
        """Return the card as the JSON text that a checkpoint file stores, with sorted keys."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Card":
        """Parse the card of a checkpoint file, which may be broken or malicious.

        Args:
            text: JSON of format version `FORMAT_VERSION`, as `to_json` returns it; or of version 2,
                which has no gate; or of version 1, which may lack the operating points, too.

        Raises:
            CheckpointError: The text is not JSON, has another format version, or a field is
                missing, unknown or invalid, as an architecture that is not in `ARCHITECTURES`.
        """
        try:
            return cls._from_fields(json.loads(text))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            reason = " ".join(str(error).split())[:_SHOWN]
            raise CheckpointError(f"the checkpoint's card is invalid: {reason}") from None

    @classmethod
    def _from_fields(cls, card: object) -> "Card":
        if not isinstance(card, dict):
            raise ValueError("not an object")
        values = dict(card)
        version = values.pop("format_version", None)
        if version == 1:
            values.setdefault("operating_points", {})
        if version in (1, 2):
            values.setdefault("gate", {})
        elif version != FORMAT_VERSION:
            raise ValueError(f"format version {version!r}, this program reads {FORMAT_VERSION}")
        names = {f.name for f in fields(cls)}
        if set(values) != names:
            raise ValueError(f"fields {sorted(set(values) ^ names)} are missing or unknown")
        return cls(
            name=_expect(str, values["name"]),
            architecture=_known_architecture(_expect(str, values["architecture"])),
            classes=_texts(values["classes"]),
            recipe=Recipe.from_card(values["recipe"]),
            normalisation=_normalisation(values["normalisation"]),
            temperature=_number(values["temperature"]),
            operating_points=_operating_points(values["operating_points"]),
            training=_expect(dict, values["training"]),
            limits=_texts(values["limits"]),
            gate=_gate(_expect(dict, values["gate"])),
        )


def _known_architecture(name: str) -> str:
    check_architecture(name)
    return name


def check_architecture(name: str) -> None:
    """Raise an error unless `name` is one of `ARCHITECTURES`.

    Raises:
        CheckpointError: The architecture is unknown.
    """
    if name not in ARCHITECTURES:
        raise CheckpointError(
            f"unknown architecture {name[:40]!r}; known: {', '.join(ARCHITECTURES)}"
        )


def check_classes(classes: tuple[str, ...]) -> None:
    """Raise an error unless all class names can be columns of a results table.

    Raises:
        ValueError: There are fewer than 2 or more than `MAX_CLASSES` names, two are equal after
            case folding, or a name is blank, longer than `MAX_CLASS_NAME` or not printable.
    """
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise ValueError(f"{len(classes)} classes; 2 to {MAX_CLASSES} are possible")
    folded = [name.casefold() for name in classes]
    if len(set(folded)) != len(folded):
        raise ValueError("a class is named twice")
    for name in classes:
        if not name.strip() or len(name) > MAX_CLASS_NAME or not name.isprintable():
            raise ValueError(f"{name[:MAX_CLASS_NAME]!r} is not a usable class name")


def _expect(kind: type[_Kind], value: object) -> _Kind:
    """Return `value` if it is of this JSON kind, else raise ValueError."""
    if not isinstance(value, kind):
        raise ValueError(f"{kind.__name__} expected, not {type(value).__name__}")
    return value


def _normalisation(value: object) -> Normalisation:
    given = _expect(dict, value)
    if set(given) != {"mean", "std"}:
        raise ValueError("normalisation needs mean and std, and nothing else")
    return Normalisation(_number(given["mean"]), _number(given["std"]))


def _operating_points(value: object) -> dict[str, dict[str, dict[str, float]]]:
    return {
        name: {_printable(point): _rates(rates) for point, rates in _expect(dict, points).items()}
        for name, points in _expect(dict, value).items()
    }


def _rates(value: object) -> dict[str, float]:
    rates = {name: _number(rate) for name, rate in _expect(dict, value).items()}
    if set(rates) != _RATES or not all(0.0 <= rate <= 1.0 + 1e-6 for rate in rates.values()):
        raise ValueError("an operating point needs threshold, sensitivity, specificity in [0, 1]")
    return rates


def _gate(given: dict[str, Any]) -> dict[str, Any]:
    if not given:
        return {}
    kinds = [_printable(kind) for kind in _texts(given["kinds"])]
    if len(kinds) > MAX_KINDS or not 0.0 <= _number(given["threshold"]) <= 100.0:
        raise ValueError("the gate has too many kinds, or a threshold that is no percentile")
    flagged = _expect(dict, given["flagged"])
    return {"kinds": kinds, "threshold": _number(given["threshold"]), "flagged": flagged}


def _printable(text: str) -> str:
    if not text.isprintable() or len(text) > MAX_CLASS_NAME:
        raise ValueError("a name in the card is overlong or cannot be printed")
    return text


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_expect(str, item) for item in _expect(list, value))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number was expected")
    return float(value)

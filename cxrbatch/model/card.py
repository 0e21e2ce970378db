"""The card of a checkpoint: classes, recipe, temperature, thresholds; its feature statistics."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cxrbatch.errors import CheckpointError
from cxrbatch.model.preprocessing import Recipe

FORMAT_VERSION = 2
ARCHITECTURES = ("resnet18", "resnet34", "resnet50")
MAX_CLASSES = 256
MAX_CLASS_NAME = 64
MAX_TEXT = 1000
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
            text: JSON of format version `FORMAT_VERSION`, as `to_json` returns it; or of version 1,
                which may lack the operating points.

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


def _printable(text: str) -> str:
    if not text.isprintable() or len(text) > MAX_CLASS_NAME:
        raise ValueError("the name of an operating point is overlong or cannot be printed")
    return text


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_expect(str, item) for item in _expect(list, value))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number was expected")
    return float(value)


Features = npt.NDArray[np.floating]

MOST_DIRECTIONS = 64
_SMALLEST_VARIANCE = 1e-8
# Of products of directions, by which those in float32 are off from 0 and 1; measured: 1e-6.
_MOST_SKEW = 1e-3


@dataclass(frozen=True, slots=True)
class FeatureStatistics:
    """Mean and covariance of the k features of training images, as a Gaussian.

    Attributes:
        mean: Shape (k,), float32.
        directions: Shape (m, k), float32, orthonormal rows: the directions of largest variance.
        variances: Shape (m,), float32, the variance along each direction, falling.
        rest: Shape (1,), float32, the variance along every direction that is not kept.
    """

    mean: npt.NDArray[np.float32]
    directions: npt.NDArray[np.float32]
    variances: npt.NDArray[np.float32]
    rest: npt.NDArray[np.float32]

    @property
    def are_sound(self) -> bool:
        """Whether all is finite, variances are positive, and directions orthonormal to 0.001."""
        values = (self.mean, self.directions, self.variances, self.rest)
        if not all(np.isfinite(array).all() for array in values):
            return False
        exact = self.directions.astype(np.float64)
        skew = np.abs(exact @ exact.T - np.eye(len(exact))).max(initial=0.0)
        return bool((self.variances > 0).all() and (self.rest > 0).all() and skew < _MOST_SKEW)

    def distances(self, features: Features) -> npt.NDArray[np.float64]:
        """Return the squared Mahalanobis distance of each image from the training images.

        Args:
            features: Shape (n, k), one row for each image.

        Returns:
            Shape (n,), float64, not negative; about k on average for images like the training
            images if those were many more than k.
        """
        centred = features.astype(np.float64) - self.mean
        along = centred @ self.directions.T.astype(np.float64)
        outside = (centred**2).sum(axis=1) - (along**2).sum(axis=1)
        distances: npt.NDArray[np.float64] = (along**2 / self.variances).sum(axis=1)
        distances += outside.clip(min=0.0) / float(self.rest[0])
        return distances


def describe_features(features: Features) -> FeatureStatistics:
    """Estimate mean and covariance of features from those of n images.

    The min(`MOST_DIRECTIONS`, n - 1, k - 1) directions of largest variance are kept. The mean of
    the other variances becomes `rest`. A variance below 1e-8 counts as 1e-8.

    Args:
        features: Shape (n, k), n >= 2.

    Raises:
        ValueError: There are fewer than two images.
    """
    count, width = features.shape
    if count < 2:
        raise ValueError("features of two images at least are needed")
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features.astype(np.float64) - mean
    variances, vectors = np.linalg.eigh(centred.T @ centred / (count - 1))
    variances, directions = variances[::-1].clip(min=_SMALLEST_VARIANCE), vectors.T[::-1]
    kept = min(MOST_DIRECTIONS, count - 1, width - 1)
    return FeatureStatistics(
        mean.astype(np.float32),
        np.ascontiguousarray(directions[:kept], dtype=np.float32),
        variances[:kept].astype(np.float32),
        variances[kept:].mean(keepdims=True).astype(np.float32),
    )

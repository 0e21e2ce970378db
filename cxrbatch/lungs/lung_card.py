"""The card of the lung finder's weights: input, limits of plausible masks, data; without torch."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from cxrbatch.errors import CheckpointError
from cxrbatch.lungs.shape import MEASURES
from cxrbatch.model.preprocessing import Recipe

LUNG_CARD_KEY = "cxrbatch_lungs"
"""Name of the card among the metadata of the weights' file."""

LUNG_FORMAT = 1
_MOST_SIZE = 512
_MOST_WORDS = 1000
_SHOWN_REASON = 160


@dataclass(frozen=True, slots=True)
class LungCard:
    """What a file of weights of the lung finder says about itself.

    Attributes:
        name: Short name shown to people.
        recipe: How radiographs become uint8 inputs; its size is a multiple of 16, at most 512.
        limits: Smallest and largest usual value of each measure in `MEASURES`, by name: a mask
            with a measure outside is doubted.
        training: Summary of the training: data with licences, options, figures.
        cautions: What a mask must not be taken for, one sentence each.

    Raises:
        ValueError: The size is none of these; a measure has no limits, or limits that are not
            finite or fall; the name or a caution is longer than 1,000 characters or cannot be
            printed.
    """

    name: str
    recipe: Recipe
    limits: Mapping[str, tuple[float, float]]
    training: Mapping[str, Any]
    cautions: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.recipe.size % 16 or self.recipe.size > _MOST_SIZE:
            raise ValueError(f"size {self.recipe.size} is no multiple of 16 up to {_MOST_SIZE}")
        if set(self.limits) != set(MEASURES):
            raise ValueError(f"limits of {sorted(set(self.limits) ^ set(MEASURES))} do not fit")
        for name, (low, high) in self.limits.items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"limits of {name} are no range")
        for text in (self.name, *self.cautions):
            if not text.isprintable() or len(text) > _MOST_WORDS:
                raise ValueError("the name or a caution is overlong or cannot be printed")

    def to_json(self) -> str:
        """Return the card as the JSON text that the weights' file stores, with sorted keys."""
        return json.dumps({"format_version": LUNG_FORMAT, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "LungCard":
        """Parse the card of a file, which may be broken or malicious.

        Args:
            text: JSON of format version `LUNG_FORMAT`, as `to_json` returns it.

        Raises:
            CheckpointError: The text is not JSON, has another format version, or a field is
                missing, unknown or invalid.
        """
        try:
            return cls._from_values(json.loads(text))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            reason = " ".join(repr(str(error))[1:-1].split())[:_SHOWN_REASON]
            raise CheckpointError(
                f"the card of the lung finder's weights is invalid: {reason}; install cxrbatch "
                "again, or take a whole file"
            ) from None

    @classmethod
    def _from_values(cls, card: object) -> "LungCard":
        if not isinstance(card, dict):
            raise ValueError("not an object")
        values = dict(card)
        version = values.pop("format_version", None)
        if version != LUNG_FORMAT:
            raise ValueError(f"format version {version!r}, this program reads {LUNG_FORMAT}")
        names = {f.name for f in fields(cls)}
        if set(values) != names:
            raise ValueError(f"fields {sorted(set(values) ^ names)} are missing or unknown")
        return cls(
            name=_text(values["name"]),
            recipe=Recipe.from_card(values["recipe"]),
            limits={name: _range(ends) for name, ends in _object(values["limits"]).items()},
            training=_object(values["training"]),
            cautions=tuple(_text(caution) for caution in _list(values["cautions"])),
        )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a text was expected, not {type(value).__name__}")
    return value


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"an object was expected, not {type(value).__name__}")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"a list was expected, not {type(value).__name__}")
    return value


def _range(value: object) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("limits are two numbers")
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in value):
        raise ValueError("limits are two numbers")
    return float(value[0]), float(value[1])

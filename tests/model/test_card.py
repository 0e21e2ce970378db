"""The card survives JSON, and a card that is broken or malicious is refused in one line."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from cxrbatch.errors import CheckpointError
from cxrbatch.model.card import MAX_CLASS_NAME, MAX_CLASSES, Card, Normalisation, check_classes
from cxrbatch.model.preprocessing import Recipe

MISSING = object()


def changed(card: Card, change: Mapping[str, Any]) -> str:
    """The card's JSON with some fields replaced, or removed by `MISSING`."""
    fields = {**json.loads(card.to_json()), **change}
    return json.dumps({name: value for name, value in fields.items() if value is not MISSING})


def test_card_survives_json() -> None:
    card = Card(
        name="Größe ✓",
        architecture="resnet50",
        classes=("Normal", "Lungenentzündung", "B c"),
        recipe=Recipe(size=160, geometry="pad"),
        normalisation=Normalisation(0.51, 0.22),
        temperature=1.37,
        training={"n": 3, "deep": {"list": [1, None, "x"]}},
        limits=("One.", "Two."),
    )
    assert Card.from_json(card.to_json()) == card


def test_json_names_its_version_and_is_sorted(tiny_card: Card) -> None:
    fields = json.loads(tiny_card.to_json())
    assert fields["format_version"] == 3
    assert list(fields) == sorted(fields)


CHANGES: list[dict[str, Any]] = [
    {"format_version": 4},
    {"format_version": "1"},
    {"format_version": MISSING},
    {"surprise": 1},
    {"temperature": MISSING},
    {"classes": ["Normal", "Normal"]},
    {"classes": ["Normal", "NORMAL"]},
    {"classes": ["Normal"]},
    {"classes": []},
    {"classes": ["Normal", ""]},
    {"classes": ["Normal", "  "]},
    {"classes": ["Normal", "two\nlines"]},
    {"classes": ["Normal", "\x1b[31mred"]},
    {"classes": ["Normal", "\ud800"]},
    {"classes": ["Normal", "x" * (MAX_CLASS_NAME + 1)]},
    {"classes": [str(i) for i in range(MAX_CLASSES + 1)]},
    {"classes": ["Normal", 5]},
    {"classes": "Normal"},
    {"classes": {"Normal": 1}},
    {"recipe": {"size": 10**9, "geometry": "squeeze", "no_voi": "robust", "version": 1}},
    {"recipe": {"size": 64}},
    {"recipe": None},
    {"recipe": 5},
    {"recipe": ["size", "geometry", "no_voi", "version"]},
    {"temperature": 0},
    {"temperature": -1.5},
    {"temperature": float("nan")},
    {"temperature": float("inf")},
    {"temperature": "1"},
    {"temperature": True},
    {"temperature": None},
    {"temperature": 10**400},
    {"normalisation": {"mean": 0.5, "std": 0}},
    {"normalisation": {"mean": 0.5, "std": -1}},
    {"normalisation": {"mean": float("nan"), "std": 1}},
    {"normalisation": {"mean": 0.5, "std": 10**400}},
    {"normalisation": {"mean": 0.5}},
    {"normalisation": {"mean": 0.5, "std": 1, "surprise": 1}},
    {"normalisation": [0.5, 0.25]},
    {"normalisation": "0.5"},
    {"name": 5},
    {"name": None},
    {"architecture": ["resnet18"]},
    {"training": 5},
    {"training": ["history"]},
    {"training": None},
    {"limits": "None."},
    {"limits": [1]},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: str(c).replace("\ud800", "?")[:60])
def test_broken_cards_are_refused_in_one_line(tiny_card: Card, change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError) as caught:
        Card.from_json(changed(tiny_card, change))
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith("the checkpoint's card is invalid: ")


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "5", '"card"', "[" * 100_000, '{"temperature": ' + "9" * 5000 + "}"],
    ids=["empty", "cut", "null", "list", "number", "text", "deep", "digits"],
)
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="card is invalid"):
        Card.from_json(text)


def test_an_architecture_that_nobody_knows_is_refused(tiny_card: Card) -> None:
    for name in ("vgg16", "", "ResNet18"):
        with pytest.raises(CheckpointError, match=f"^unknown architecture '{name}'; known: resnet"):
            Card.from_json(changed(tiny_card, {"architecture": name}))


def test_name_that_no_terminal_can_print_is_refused(tiny_card: Card) -> None:
    """`models show` and every report print it."""
    with pytest.raises(CheckpointError, match="card is invalid"):
        Card.from_json(changed(tiny_card, {"name": "\ud800"}))


def test_message_stays_short_however_long_the_card(tiny_card: Card) -> None:
    with pytest.raises(CheckpointError) as caught:
        Card.from_json(changed(tiny_card, {"format_version": "9" * 100_000}))
    assert len(str(caught.value)) < 1000


def test_every_count_of_classes_in_range_is_taken() -> None:
    check_classes(("a", "b"))
    check_classes(tuple(str(i) for i in range(MAX_CLASSES)))
    check_classes(("x" * MAX_CLASS_NAME, "Émoi 肺炎 / no-finding"))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_card_made_in_code_is_checked_too(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        Card("n", "resnet18", ("a", "b"), Recipe(64), Normalisation(0.5, 0.25), temperature)


def test_cards_of_the_first_format_are_read_still(tiny_card: Card) -> None:
    old = changed(tiny_card, {"format_version": 1, "operating_points": MISSING, "gate": MISSING})
    assert Card.from_json(old) == tiny_card


def test_cards_of_the_second_format_have_no_gate(tiny_card: Card) -> None:
    old = changed(tiny_card, {"format_version": 2, "gate": MISSING})
    assert Card.from_json(old) == tiny_card


GATE = {"kinds": ["hand"], "threshold": 99.0, "flagged": {}}


def test_a_gate_comes_back(tiny_card: Card) -> None:
    assert Card.from_json(changed(tiny_card, {"gate": GATE})).gate == GATE


@pytest.mark.parametrize(
    "change",
    [
        {"kinds": ["a"] * 65},
        {"kinds": ["a\nb"]},
        {"kinds": "hand"},
        {"threshold": 101.0},
        {"threshold": "99"},
        {"flagged": []},
    ],
)
def test_broken_gates_are_refused(tiny_card: Card, change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="card is invalid"):
        Card.from_json(changed(tiny_card, {"gate": {**GATE, **change}}))


POINT = {"threshold": 0.5, "sensitivity": 0.9, "specificity": 0.8}


def test_operating_points_come_back(tiny_card: Card) -> None:
    points = {"Normal": {"youden": POINT}}
    assert Card.from_json(changed(tiny_card, {"operating_points": points})).operating_points == (
        points
    )


@pytest.mark.parametrize(
    "points",
    [
        [],
        {"Normal": []},
        {"Normal": {"youden": 0.5}},
        {"Normal": {"youden": {"threshold": 0.5}}},
        {"Normal": {"youden": {**POINT, "threshold": 1.5}}},
        {"Normal": {"youden": {**POINT, "threshold": float("nan")}}},
        {"Normal": {"youden": {**POINT, "sensitivity": "high"}}},
        {"Normal": {"\x1b[2J": POINT}},
        {"Unknown": {"youden": POINT}},
    ],
    ids=str,
)
def test_broken_operating_points_are_refused(tiny_card: Card, points: object) -> None:
    with pytest.raises(CheckpointError, match="card is invalid"):
        Card.from_json(changed(tiny_card, {"operating_points": points}))

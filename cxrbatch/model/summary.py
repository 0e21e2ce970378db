"""A checkpoint's card as lines for a terminal: what the model is, how good, and where it fails.

A card may come from anywhere and hold anything below `training`: what is not of the expected form
is left out, and no character of it can change a terminal.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from cxrbatch.files import shown
from cxrbatch.model.card import FORMAT_VERSION, Card
from cxrbatch.model.recording import EXTERNAL

WIDTH, MOST_LINES = 100, 40
"""Columns and lines of a terminal that a usual card is shown on."""

_TITLE = 14
_CELL = 23
_MOST_ROWS = 8
_MOST_WRAPPED = 4
"""Lines that an entry of figures may take; the rest is cut."""
_SIDES = ("train", "val", "test")
_MEASURES = {
    "abnormal_auc": "AUC of abnormal",
    "balanced_accuracy": "balanced accuracy",
    "macro_auc": "macro AUC",
    "expected_calibration_error": "ECE",
    "expected_calibration_error_by_chance": "by chance",
}
# Of an evaluation elsewhere: what other figures nearly tell.
_REPEATED = ("groups", "macro_auc")
_ABOVE = ("as they are", "on")
_LEAST_SHARE = 0.01
_POINTS = ("youden", "sensitive", "specific")
_TRIAGE = "triage"
# The controls of films with parts taken away.
_LEFT = re.compile("lungs |border only")


def card_lines(card: Card, sha256: str) -> list[str]:
    """Return what a card says about a model, as lines of at most 100 printable characters.

    Args:
        card: The card.
        sha256: Hash of the checkpoint, 64 hexadecimal digits.

    Returns:
        At most 40 lines for up to eight classes. Of each list beyond eight entries a line says
        how many there are; sentences about limits are cut where they would need more lines.
    """
    lines = [
        *_model(card, sha256),
        *(line for side in ("validation", "test") for line in _figures(card, side)),
        *_classes(card),
        *_points(card),
        *_rows("controls", _controls(card.training.get("controls"))),
        *_rows(EXTERNAL, _external(card.training.get(EXTERNAL))),
        *_gate(card.gate),
        *_origin(card),
    ]
    lines = [_cut(line) for line in lines]
    return [*lines, *_limits(card.limits, MOST_LINES - len(lines))]


def _model(card: Card, sha256: str) -> Iterator[str]:
    recipe, scale = card.recipe, card.normalisation
    yield _line("name", _plain(card.name))
    yield _line("sha256", sha256)
    yield _line("architecture", f"{card.architecture}, card of format {FORMAT_VERSION}")
    yield _line("classes", ", ".join(map(_plain, card.classes)))
    yield _line(
        "input",
        f"{recipe.size} x {recipe.size} px, {recipe.geometry}, recipe {recipe.sha256[:12]}, "
        f"mean {scale.mean:.4g}, std {scale.std:.4g}",
    )
    yield _line("temperature", f"{card.temperature:.4f}")


def _figures(card: Card, side: str) -> Iterator[str]:
    if text := _describe(card.training.get(side)):
        yield from _wrapped(side, text)


def _classes(card: Card) -> Iterator[str]:
    """A table of the classes: images by side of the split, recall and AUC on test."""
    images, test = (_mapping(card.training.get(name)) for name in ("images", "test"))
    recall, area = (_mapping(test.get(name)) for name in ("recall", "auc"))
    counts = [_mapping(images.get(side)) for side in _SIDES]
    if not any((recall, area, *counts)):
        return
    width = min(30, max(map(len, map(_plain, card.classes))))
    heads = f"{'images ' + '/'.join(_SIDES):21} {'recall, test':{_CELL}} AUC, test"
    yield _line("by class", f"{'':{width}} {heads}")
    for name in card.classes[:_MOST_ROWS]:
        sizes = " / ".join(_count(own.get(name)) for own in counts)
        rates = f"{_figure(recall.get(name)):{_CELL}} {_figure(area.get(name))}"
        yield _line("", f"{_plain(name)[:width]:{width}} {sizes:21} {rates}")
    yield from _more(len(card.classes))


def _points(card: Card) -> Iterator[str]:
    """A table of the thresholds of each class with sensitivity and specificity on validation."""
    given = {name: points for name, points in card.operating_points.items() if points}
    if not given:
        return
    width = min(30, max(map(len, map(_plain, given))))
    heads = " ".join(f"{name:21}" for name in _POINTS)
    yield _line("thresholds", f"{'':{width}} {heads}")
    for name in [*given][:_MOST_ROWS]:
        cells = " ".join(f"{_point(given[name].get(point)):21}" for point in _POINTS)
        yield _line("", f"{_plain(name)[:width]:{width}} {cells}")
    yield from _more(len(given))
    triage = [
        f"{_TRIAGE}: {_plain(name)} below {_point(given[name][_TRIAGE])}; "
        for name in given
        if _TRIAGE in given[name]
    ]
    meaning = "(sensitivity, specificity) on validation"
    yield _line("", f"{(triage or [''])[0]}{meaning}")


def _gate(gate: Mapping[str, Any]) -> Iterator[str]:
    """What the input gate flagged when it was made: of films, and least of all of which kind."""
    shares = {
        _plain(kind): share["value"]
        for kind, share in _mapping(gate.get("flagged")).items()
        if isinstance(share, dict) and isinstance(share.get("value"), float)
    }
    films = [
        f"{shares.pop(side):.1%} of {side}" for side in ("validation", "test") if side in shares
    ]
    if shares:
        least = min(shares, key=lambda kind: shares[kind])
        known = f"of {len(shares)} foreign kinds at least {shares[least]:.1%} ({least})"
        yield from _wrapped("gate flags", ", ".join([*films, known]))


def _point(rates: Mapping[str, float] | None) -> str:
    if rates is None:
        return ""
    return f"{rates['threshold']:.3f} ({rates['sensitivity']:.3f}, {rates['specificity']:.3f})"


def _entries(value: object) -> list[str]:
    """One line for each figure or set of figures of a JSON object; empty for anything else."""
    texts = ((_plain(name), _describe(own)) for name, own in _mapping(value).items())
    return [f"{name}: {text}" for name, text in texts if text]


def _controls(value: object) -> list[str]:
    """One line for each control; figures of the images as they are stand above, under the side."""
    given = {name: own for name, own in _mapping(value).items() if name not in _ABOVE}
    # Of films with parts taken away one figure each: all of them go on a line.
    treated = {name: own for name, own in given.items() if _LEFT.match(_plain(name))}
    areas = ", ".join(
        f"{_plain(n)} {_figure(own.get('macro_auc'))}"
        for n, own in treated.items()
        if isinstance(own, dict)
    )
    others = _entries({name: own for name, own in given.items() if name not in treated})
    return [*([f"macro AUC: {areas}"] if areas else []), *others]


def _external(value: object) -> list[str]:
    """One text for each evaluation elsewhere: its figures, and what was predicted by true class."""
    texts = []
    for name, own in _mapping(value).items():
        given = _mapping(own)
        known = {key: figures for key, figures in given.items() if key not in _REPEATED}
        shares = _mapping(given.get("predicted")).items()
        calls = [f"{_plain(true)} as {_scalars(_common(_mapping(own)))}" for true, own in shares]
        texts.append(f"{_plain(name)}: {'; '.join(filter(None, [_scalars(known), *calls]))}")
    return texts


def _common(shares: Mapping[str, Any]) -> dict[str, Any]:
    """Shares that are not small, without their intervals."""
    values = {name: _mapping(share).get("value") for name, share in shares.items()}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, float) and value >= _LEAST_SHARE
    }


def _rows(title: str, entries: list[str]) -> Iterator[str]:
    for number, text in enumerate(entries[:_MOST_ROWS]):
        yield from _wrapped("" if number else title, text)
    yield from _more(len(entries))


def _wrapped(title: str, text: str) -> Iterator[str]:
    lines = textwrap.wrap(text, WIDTH - _TITLE - 2) or [""]
    if len(lines) > _MOST_WRAPPED:
        lines[_MOST_WRAPPED - 1 :] = [f"{lines[_MOST_WRAPPED - 1]}…"]
    yield _line(title, lines[0])
    yield from (_line("", f"  {line}") for line in lines[1:])


def _origin(card: Card) -> Iterator[str]:
    training = card.training
    for name in ("data", "split", "initial_weights"):
        if text := _describe(training.get(name)):
            yield _line(name.removesuffix("_weights"), text)
    if (teachers := training.get("teachers")) and isinstance(teachers, list):
        names = [_plain(name)[:12] for name in teachers if isinstance(name, str)]
        yield _line("teachers", f"{len(teachers)}: {', '.join(names[:4])}")


def _limits(limits: tuple[str, ...], room: int) -> Iterator[str]:
    wrapped = [textwrap.wrap(_plain(limit), WIDTH - _TITLE) or [""] for limit in limits]
    if sum(map(len, wrapped)) > room:
        wrapped = [[_plain(limit)] for limit in limits]
    for lines in wrapped[:_MOST_ROWS]:
        yield from (_cut(_line("" if n else "limit", text)) for n, text in enumerate(lines))
    yield from _more(len(limits))


def _describe(value: object) -> str:
    """Return figures of a card as one line of text: "n 400, balanced accuracy 0.843, …".

    First come the usual figures, then others: numbers, texts and figures with intervals. Of an
    object that has none of these, the objects in it are described, divided by semicolons.

    Args:
        value: JSON of any form.

    Returns:
        The text, printable; empty if there is nothing to show.
    """
    given = _mapping(value)
    if not given:
        return _scalar(value)
    if text := _scalars(given):
        return text
    inner = ((_plain(name), _scalars(_mapping(own))) for name, own in given.items())
    return "; ".join([f"{name}: {text}" for name, text in inner if text][:_MOST_ROWS])


def _scalars(given: Mapping[str, Any]) -> str:
    """The numbers, texts and figures of an object, each with its name, without what is nested."""
    usual = [name for name in ("n", "groups", *_MEASURES) if name in given]
    given = {name: given[name] for name in (*usual, *given)}
    texts = (
        (_MEASURES.get(n, _plain(n.replace("_", " "))), _scalar(own)) for n, own in given.items()
    )
    return ", ".join([f"{name} {text}" for name, text in texts if text][:_MOST_ROWS])


def _scalar(value: object) -> str:
    """Return a number, a text or a figure with its interval as text; empty for anything else."""
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _figure(value) if _figure(value) != "undefined" else ""


def _figure(value: object) -> str:
    """Return a number of a card as text, with its interval: "0.843 (0.803 to 0.872)".

    "undefined" for anything that is no number.
    """
    if isinstance(value, dict):
        bounds = value.get("interval")
        ends = [_number(end) for end in bounds[:2]] if isinstance(bounds, list) else []
        text = _number(value.get("value"))
        return f"{text} ({' to '.join(ends)})" if ends and text else text or "undefined"
    return _number(value) or "undefined"


def _number(value: object) -> str:
    """Return a number as text, whole numbers with commas; empty for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 1e15 else "very large"
    return f"{value:.3f}" if abs(value) < 1e3 else f"{value:.3g}"


def _count(value: object) -> str:
    """Return a whole number with commas; "-" for anything else."""
    return _number(value) if isinstance(value, int) and _number(value) else "-"


def _plain(text: object) -> str:
    """Return a text as `shown` does, without quotes: it can do nothing to a terminal."""
    return shown(str(text))[1:-1]


def _cut(line: str) -> str:
    """Return a line of at most `WIDTH` characters; "…" stands for the end of a longer one."""
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _line(title: str, text: str) -> str:
    return f"{title:{_TITLE}}{text}".rstrip()


def _more(entries: int) -> Iterator[str]:
    if entries > _MOST_ROWS:
        yield _line("", f"… {entries - _MOST_ROWS:,} more: see --json")

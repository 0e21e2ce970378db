"""The page of one image, its film, its thumbnail and its heat maps."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flask import Blueprint, Response, current_app, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest, NotFound

from cxrbatch.model.card import Card
from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.results.table import FACTS, Table
from cxrbatch.webapp.films import heat_layer
from cxrbatch.webapp.filters import parse_filter
from cxrbatch.webapp.library import Found
from cxrbatch.webapp.opened import OpenedTable, Row
from cxrbatch.webapp.runs import card_of, model_name
from cxrbatch.webapp.services import asked_table, services

OUTCOMES = {code.value: code for code in Outcome}
FLAG_MEANINGS = {flag.value: flag.meaning for flag in Flag}
SHOWN_FACTS = tuple(name for name in FACTS if not name.endswith("_uid"))
"""What a page tells of a header."""


blueprint = Blueprint("images", __name__)


@dataclass(frozen=True, slots=True)
class Point:
    """An operating point of a class, and on which side of it an image lies."""

    name: str
    threshold: float
    sensitivity: float
    specificity: float
    is_reached: bool


@blueprint.get("/runs/<id>/images/<int:number>")
def image(id: str, number: int) -> ResponseReturnValue:
    """One image."""
    found, opened, row = _asked_row(id, number)
    chosen = parse_filter(request.args, opened.table, beside=("at",))
    at, (before, after) = opened.around(chosen, number, at=_place())
    scored = opened.table.classes if row["prediction"] else ()
    probabilities = {name: row[f"p_{name}"] for name in scored}
    return render_template(
        "image.html",
        run=found,
        row=row,
        number=number,
        at=at,
        count=opened.count(chosen),
        before=before,
        after=after,
        chosen=chosen.arguments(),
        model=model_name(opened.table),
        classes=opened.table.classes,
        probabilities=probabilities,
        points=points_of(card_of(opened.table), probabilities),
        outcome=OUTCOMES.get(row["outcome"]),
        flags=[(flag, FLAG_MEANINGS.get(flag, "")) for flag in row["flags"] or ()],
        facts=[(name, row[name]) for name in SHOWN_FACTS if row[name]],
        geometry=_geometry(opened.table),
    )


@blueprint.get("/runs/<id>/images/<int:number>/film.png")
def film(id: str, number: int) -> Response:
    """Its radiograph in full."""
    _, opened, row = _asked_row(id, number)
    found = services().films.film(opened, row)
    if not found.content:
        raise NotFound(f"There is no image to show: {found.why}.")
    return Response(found.content, mimetype="image/png")


@blueprint.get("/runs/<id>/images/<int:number>/thumbnail.webp")
def thumbnail(id: str, number: int) -> Response:
    """Its radiograph small, or a sign that there is none."""
    _, opened, row = _asked_row(id, number)
    found = services().films.thumbnail(opened, row)
    if not found.content:
        return current_app.send_static_file("absent.svg")
    return Response(found.content, mimetype="image/webp")


@blueprint.get("/runs/<id>/images/<int:number>/heat/<int:of>.png")
def heat(id: str, number: int, of: int) -> Response:
    """The heat map of one class, by its number."""
    _, opened, row = _asked_row(id, number)
    if row["heatmaps"] is None or of >= len(opened.table.classes):
        raise NotFound("There is no heat map.")
    size = int(opened.table.provenance["heatmap_size"])
    levels = np.frombuffer(row["heatmaps"], np.uint8).reshape(-1, size, size)
    return Response(heat_layer(levels[of]), mimetype="image/png")


def points_of(card: Card | None, probabilities: Mapping[str, float]) -> dict[str, list[Point]]:
    """The operating points that a card names, by class, against an image's probabilities."""
    if card is None:
        return {}
    return {
        name: [
            Point(point, **rates, is_reached=probabilities[name] >= rates["threshold"])
            for point, rates in named.items()
        ]
        for name, named in card.operating_points.items()
        if name in probabilities
    }


def _asked_row(id: str, number: int) -> tuple[Found, OpenedTable, Row]:
    found, opened = asked_table(id)
    row = opened.row(number)
    if row is None:
        raise NotFound("There is no such row any more.")
    return found, opened, row


def _place() -> int:
    given = request.args.get("at") or "0"
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise BadRequest("A place is a number from 0.")
    return int(given)


def _geometry(table: Table) -> str:
    recipe = table.provenance.get("recipe")
    return "pad" if isinstance(recipe, dict) and recipe.get("geometry") == "pad" else "squeeze"

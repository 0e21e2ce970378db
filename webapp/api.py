"""The same as JSON, for programs, with a description that programs read."""

from typing import Any

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from cxrbatch.webapp.filters import is_labelled, parse_filter
from cxrbatch.webapp.openapi import MOST_ROWS, document
from cxrbatch.webapp.runs import Overview, overview, page_number
from cxrbatch.webapp.services import asked_table, services
from cxrbatch.webapp.uploads import scored_upload, told

_USUAL_ROWS = 50
_LEFT_OUT = frozenset({"heatmaps", "patient_key"})

blueprint = Blueprint("api", __name__, url_prefix="/api/v1")


@blueprint.get("/openapi.json")
def described() -> ResponseReturnValue:
    """What can be asked, after OpenAPI 3.1."""
    return jsonify(document())


@blueprint.get("/runs")
def runs() -> ResponseReturnValue:
    """All runs."""
    return jsonify({"runs": [_told(overview(found)) for found in services().library.tables()]})


@blueprint.get("/runs/<id>/rows")
def rows(id: str) -> ResponseReturnValue:
    """Rows of one run."""
    _, opened = asked_table(id)
    chosen = parse_filter(request.args, opened.table, beside=("page", "per_page"))
    page, most = page_number(), _per_page()
    columns = [name for name in opened.columns if name not in _LEFT_OUT]
    found, count = opened.page(chosen, columns, first=(page - 1) * most, most=most)
    return jsonify(
        {
            "count": count,
            "page": page,
            "per_page": most,
            "classes": opened.table.classes,
            "labelled": is_labelled(opened.table),
            "rows": found,
        }
    )


@blueprint.post("/score")
def score() -> ResponseReturnValue:
    """Score one file."""
    scored = scored_upload()
    card = services().scorer.card
    return jsonify(
        {
            "model": card.name,
            "classes": card.classes,
            "frames": [told(row, scores) for row, scores in scored.rows],
        }
    )


def _per_page() -> int:
    given = request.args.get("per_page") or str(_USUAL_ROWS)
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= MOST_ROWS):
        raise BadRequest(f"per_page is a number from 1 to {MOST_ROWS}.")
    return int(given)


def _told(run: Overview) -> dict[str, Any]:
    told: dict[str, Any] = {"id": run.found.id, "name": run.found.name}
    if run.broken:
        return {**told, "broken": run.broken}
    told |= {"changed": run.changed, "model": run.model, "rows": run.rows, "scored": run.scored}
    if run.accuracy is not None:
        told |= {
            "accuracy": {
                "n": run.accuracy.n,
                "value": run.accuracy.accuracy,
                "low": run.accuracy.low,
                "high": run.accuracy.high,
                "auc": run.accuracy.auc,
            }
        }
    return told

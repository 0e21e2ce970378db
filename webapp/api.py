"""The same as JSON, for programs, with a description that programs read."""

from typing import Any

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest

from cxrbatch.version import VERSION
from cxrbatch.webapp.filters import PARAMETERS, is_labelled, parse_filter
from cxrbatch.webapp.runs import Overview, overview, page_number
from cxrbatch.webapp.services import asked_table, services
from cxrbatch.webapp.uploads import scored_upload, told

MOST_ROWS = 500
"""Rows that one answer has at most."""

_MEANINGS = {
    "outcome": "An outcome code.",
    "prediction": "The class with the highest probability.",
    "truth": "The truth, in a table that has it.",
    "view": "View position.",
    "sex": "Patient's sex.",
    "age": "Decade of life, such as 40-49.",
    "manufacturer": "Manufacturer of the device.",
    "flag": "A flag that the row has.",
    "right": "Whether prediction and truth agree.",
    "path": "Text in the path, capitals or not.",
    "min": "Least probability of a class: min[Normal]=0.5.",
    "max": "Highest probability of a class: max[Normal]=0.5.",
    "sort": "A column to sort by; the highest first after a minus sign.",
}
_NUMBER = {"type": "number"}
_INTEGER = {"type": "integer"}
_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}


def document() -> dict[str, Any]:
    """Give the description as JSON values."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "cxrbatch",
            "version": VERSION,
            "description": "Research use only: a prediction is not a diagnosis.",
        },
        "security": [{"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _object({"error": _TEXT, "id": _TEXT})},
        },
        "paths": {
            "/api/v1/openapi.json": {"get": _operation("This description.", {})},
            "/api/v1/runs": {"get": _operation("All runs.", {"runs": _listed(_RUN)})},
            "/api/v1/runs/{id}/rows": {
                "get": {
                    **_operation("Rows of a run, filtered and sorted.", _ROWS),
                    "parameters": [_in_path("id"), *map(_in_query, PARAMETERS), *_PAGE],
                }
            },
            "/api/v1/score": {
                "post": {
                    **_operation("Score one DICOM, PNG or JPEG; nothing of it is kept.", _SCORED),
                    "requestBody": {"required": True, "content": _FILE},
                }
            },
        },
    }


def _operation(summary: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {
            "200": {"description": summary, "content": _json(_object(properties))},
            "default": {
                "description": "What went wrong.",
                "content": _json({"$ref": "#/components/schemas/Error"}),
            },
        },
    }


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT}


def _in_query(name: str) -> dict[str, Any]:
    told = {"name": name, "in": "query", "description": _MEANINGS[name]}
    if name in ("min", "max"):
        by_class = {"type": "object", "additionalProperties": {**_NUMBER, "minimum": 0}}
        return {**told, "style": "deepObject", "explode": True, "schema": by_class}
    if name == "right":
        return {**told, "schema": {**_TEXT, "enum": ["yes", "no"]}}
    return {**told, "schema": _TEXT}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _listed(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": _object(properties)}


_PAGE = [
    {"name": "page", "in": "query", "schema": {**_INTEGER, "minimum": 1}},
    {"name": "per_page", "in": "query", "schema": {**_INTEGER, "minimum": 1, "maximum": MOST_ROWS}},
]
_RUN = {
    "id": _TEXT,
    "name": _TEXT,
    "broken": {**_TEXT, "description": "Why it cannot be read; then no other figure is there."},
    "changed": {**_NUMBER, "description": "Seconds since 1970."},
    "model": _TEXT,
    "rows": _INTEGER,
    "scored": _INTEGER,
    "accuracy": _object(
        {
            "n": _INTEGER,
            "value": _NUMBER,
            "low": _NUMBER,
            "high": _NUMBER,
            "auc": {"type": "object", "additionalProperties": {"type": ["number", "null"]}},
        }
    ),
}
_ROWS = {
    "count": _INTEGER,
    "page": _INTEGER,
    "per_page": _INTEGER,
    "classes": _TEXTS,
    "labelled": {"type": "boolean"},
    "rows": {"type": "array", "items": {"type": "object"}},
}
_FILE = {
    "multipart/form-data": {
        "schema": {
            **_object({"file": {**_TEXT, "format": "binary"}}),
            "required": ["file"],
        }
    }
}
_BY_CLASS = {"type": "object", "additionalProperties": _NUMBER}
_FRAME = {
    "frame": _INTEGER,
    "format": _TEXT,
    "outcome": {**_TEXT, "description": "scored, or a code that says why not."},
    "meaning": _TEXT,
    "remedy": _TEXT,
    "detail": _TEXT,
    "flags": _TEXTS,
    "facts": {"type": "object"},
    "image_hash": {"type": ["string", "null"]},
    "prediction": {**_TEXT, "description": "This and what follows is there if it was scored."},
    "probabilities": _BY_CLASS,
    "logits": _BY_CLASS,
    "heatmaps": {
        "type": "object",
        "additionalProperties": {"type": "array", "items": {"type": "array", "items": _INTEGER}},
        "description": "By class, 0 to 255; times heatmap_scale over 255.",
    },
    "heatmap_scale": _NUMBER,
}
_SCORED = {"model": _TEXT, "classes": _TEXTS, "frames": _listed(_FRAME)}


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

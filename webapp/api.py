"""The JSON interface for programs; `openapi.json` describes its calls."""

import json
from importlib.resources import files
from typing import Any

from flask import Blueprint, jsonify, request
from flask.typing import ResponseReturnValue

from cxrbatch.version import VERSION
from cxrbatch.webapp.library import Library, ServedFile, get_service, requested_table
from cxrbatch.webapp.row_filter import is_labelled, parse_filter, parse_number
from cxrbatch.webapp.runs import MAX_PAGE, summarise_run
from cxrbatch.webapp.uploads import UploadScorer, score_request

MAX_ROWS = 500
"""Largest number of rows in one answer."""

_DEFAULT_ROWS = 50
_RUN_PROPERTIES = frozenset(
    {"id", "name", "broken", "changed", "model", "rows", "scored", "accuracy"}
)
_HIDDEN_COLUMNS = frozenset({"heatmaps", "patient_key"})

blueprint = Blueprint("api", __name__, url_prefix="/api/v1")


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of the JSON interface, read from `openapi.json`.

    `info.version` is set to the version of this program.
    """
    document: dict[str, Any] = json.loads(
        files("cxrbatch.webapp").joinpath("openapi.json").read_text("utf-8")
    )
    document["info"]["version"] = VERSION
    return document


@blueprint.get("/openapi.json")
def describe_calls() -> ResponseReturnValue:
    """Answer with the OpenAPI description of the JSON interface."""
    return jsonify(openapi_document())


@blueprint.get("/runs")
def list_runs() -> ResponseReturnValue:
    """Answer with a list of all runs (results tables), the newest first, as JSON.

    Of a damaged table there are only `id`, `name` and `broken`, which says what is wrong.
    """
    tables = get_service(Library).tables()
    return jsonify({"runs": [_run_json(file) for file in tables]})


@blueprint.get("/runs/<id>/rows")
def list_rows(id: str) -> ResponseReturnValue:
    """Answer with one page of a run's rows as JSON, filtered and sorted by the query.

    The columns `heatmaps` and `patient_key` are left out.

    Args:
        id: Id of the run's table.

    Raises:
        BadRequest: A parameter of the query is invalid.
        NotFound: There is no such table.
        TableError: The table is damaged.
    """
    _, served = requested_table(id)
    row_filter = parse_filter(request.args, served.table, others=("page", "per_page"))
    page = parse_number(request.args, "page", default=1, least=1, most=MAX_PAGE)
    limit = parse_number(request.args, "per_page", default=_DEFAULT_ROWS, least=1, most=MAX_ROWS)
    columns = [name for name in served.columns if name not in _HIDDEN_COLUMNS]
    rows, count = served.page(row_filter, columns, first=(page - 1) * limit, limit=limit)
    return jsonify(
        {
            "count": count,
            "page": page,
            "per_page": limit,
            "classes": served.table.classes,
            "labelled": is_labelled(served.table),
            "rows": rows,
        }
    )


@blueprint.post("/score")
def score_file() -> ResponseReturnValue:
    """Score the file that the request sends, and answer with its frames and their scores as JSON.

    Raises:
        HTTPException: As for `score_request`.
        ServerBusy: Too many requests wait.
    """
    upload = score_request()
    card = get_service(UploadScorer).card
    return jsonify({"model": card.name, "classes": card.classes, "frames": upload.frames})


def _run_json(file: ServedFile) -> dict[str, Any]:
    run = summarise_run(file)
    evaluation = run.get("evaluation")
    if evaluation is not None:
        accuracy = evaluation.accuracy
        run["accuracy"] = {
            "n": accuracy.n,
            "value": accuracy.value,
            "low": accuracy.low,
            "high": accuracy.high,
            "auc": {name: figure.value for name, figure in evaluation.auc.items()},
        }
    return {name: value for name, value in run.items() if name in _RUN_PROPERTIES}

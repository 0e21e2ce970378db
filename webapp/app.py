"""The app: `create_app`, the answers to all errors, and the JSON interface for programs.

An error answer shows one line and an id, or the form that asks for the token. For an exception that
is not ours the log has the same id with its place. Its text may quote a file's header, so it goes
to neither.
`openapi.json` describes the calls of the JSON interface.
"""

import json
import logging
import secrets
import traceback
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response, jsonify, render_template, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from cxrbatch import __version__
from cxrbatch.errors import CxrbatchError, TableError
from cxrbatch.webapp import export, images, runs, uploads
from cxrbatch.webapp.children import ChildProcesses, ServerBusy
from cxrbatch.webapp.library import Library, ServedFile, add_service, get_service, requested_table
from cxrbatch.webapp.row_filter import is_labelled, parse_filter, parse_number
from cxrbatch.webapp.runs import MAX_PAGE, summarise_run
from cxrbatch.webapp.security import AllowedHosts, guard, sign_in_page
from cxrbatch.webapp.uploads import score_request
from cxrbatch.workers.worker import WorkerLimits

if TYPE_CHECKING:
    from cxrbatch.results.figures import Headline
    from cxrbatch.results.label_files import LabelOptions

MAX_BODY_BYTES = 100 << 20
"""Size of the largest request body that is accepted."""

MAX_ROWS = 500
"""Largest number of rows in one answer."""

_LOG = logging.getLogger(__name__)
_RETRY_SECONDS = 2
_DEFAULT_ROWS = 50
_RUN_PROPERTIES = frozenset(
    {"id", "name", "broken", "changed", "model", "rows", "scored", "accuracy"}
)
_HIDDEN_COLUMNS = frozenset({"heatmaps", "patient_key", "accession_key"})
_MESSAGES = {
    400: "The request is malformed.",
    401: "A token is needed.",
    404: "There is no such page.",
    405: "This address does not take this method.",
    413: "The file is too large.",
    500: "Something went wrong in the server.",
}

blueprint = Blueprint("api", __name__, url_prefix="/api/v1")


def create_app(
    folder: Path,
    *,
    token: str,
    hosts: AllowedHosts,
    checkpoint: Path | None = None,
    keep_uploads: Path | None = None,
    labels: Path | None = None,
    label_options: "LabelOptions | None" = None,
    cookie: str = "cxrbatch",
) -> Flask:
    """Create the app; it reads no file of `folder` before a request comes.

    Args:
        folder: Folder of the tables and reports.
        token: The token that a client must show.
        hosts: The hosts that a request may name.
        checkpoint: Checkpoint that scores uploads; None for the bundled one.
        keep_uploads: Private folder in which uploads are kept; None to keep none.
        labels: A file of labels that the tables are evaluated with; None to evaluate them with the
            truth that they hold.
        label_options: How labels are read and joined; None for the usual way.
        cookie: Name of the session cookie. Browsers share cookies between the ports of a host, so
            each server of a machine needs another name.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        LabelError: The file of labels cannot be read.
        UsageError: The folder for uploads cannot be used.
    """
    app = Flask(__name__)
    app.request_class = uploads.UploadRequest
    app.config.update(
        SECRET_KEY=secrets.token_bytes(32),
        SESSION_COOKIE_NAME=cookie,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_HTTPONLY=True,
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
        MAX_FORM_PARTS=8,
    )
    children = ChildProcesses(WorkerLimits())
    for service in (
        children,
        Library(folder),
        runs.Evaluations(labels, label_options),
        images.ImageEncoder(children),
        export.Exporter(),
        uploads.UploadScorer(checkpoint, children),
        uploads.UploadKeeper(keep_uploads),
    ):
        add_service(app, service)
    guard(app, token=token, hosts=hosts)
    _handle_errors(app)
    app.jinja_env.filters.update(percent=_percent, date=_date, thousands="{:,}".format)
    app.register_blueprint(blueprint)
    for feature in (runs, images, export, uploads):
        app.register_blueprint(feature.blueprint)
    return app


def close_app(app: Flask) -> None:
    """End the child processes of an app and drop the evaluations that wait.

    A later request that needs a child process is answered with 503.
    """
    get_service(ChildProcesses, app).close()
    get_service(runs.Evaluations, app).close()


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def _handle_errors(app: Flask) -> None:
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(TableError, lambda error: _error_response(409, str(error)))
    app.register_error_handler(CxrbatchError, lambda error: _error_response(422, str(error)))
    app.register_error_handler(ServerBusy, _answer_busy)
    app.register_error_handler(Exception, _answer_exception)


def _answer_http_error(error: HTTPException) -> ResponseReturnValue:
    code = error.code or 500
    if 300 <= code < 400:
        return error.get_response()
    is_ours = error.description is not None and error.description != type(error).description
    message = str(error.description) if is_ours else _MESSAGES.get(code, error.name)
    response = _error_response(code, message)
    if code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if code == 405:
        response.headers.extend([item for item in error.get_headers() if item[0] == "Allow"])
    return response


def _answer_busy(error: ServerBusy) -> Response:
    response = _error_response(503, f"{error}; try again in a moment.")
    response.headers["Retry-After"] = str(_RETRY_SECONDS)
    return response


def _answer_exception(error: Exception) -> Response:
    if get_service(ChildProcesses).is_closed:  # the end of the server makes much fail
        return _error_response(503, "The server is ending.")
    return _error_response(500, _MESSAGES[500], error)


def _error_response(code: int, message: str, error: Exception | None = None) -> Response:
    """Return an error as JSON or as a page; the place of `error` is logged under the same id."""
    id = secrets.token_hex(4)
    if error is not None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        _LOG.error(
            "error %s: %s in %s, line %s", id, type(error).__name__, place.name, place.lineno
        )
    if request.path.startswith("/api/") or _wants_json():
        response = jsonify({"error": message, "id": id})
    elif code == 401:
        response = Response(sign_in_page(refused=False))
    else:
        page = render_template("error.html", code=code, message=message, id=id)
        response = Response(page)
    response.status_code = code
    return response


def _wants_json() -> bool:
    """Return whether a script asks: its header Accept names JSON and no HTML."""
    accepted = request.headers.get("Accept", "*/*")
    return "application/json" in accepted and "html" not in accepted


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of the JSON interface, read from `openapi.json`.

    `info.version` is set to the version of this program.
    """
    document: dict[str, Any] = json.loads(
        files("cxrbatch.webapp").joinpath("openapi.json").read_text("utf-8")
    )
    document["info"]["version"] = __version__
    return document


@blueprint.get("/openapi.json")
def describe_calls() -> ResponseReturnValue:
    """Answer with the OpenAPI description of the JSON interface."""
    return jsonify(openapi_document())


@blueprint.get("/runs")
def list_runs() -> ResponseReturnValue:
    """Answer with a list of all runs (results tables), the newest first, as JSON.

    A run has the properties of `openapi.json`. A table that cannot be read has only `id`, `name`
    and `broken`, which says what is wrong.
    """
    tables = get_service(Library).tables()
    return jsonify({"runs": [_run_json(file) for file in tables]})


@blueprint.get("/runs/<id>/rows")
def list_rows(id: str) -> ResponseReturnValue:
    """Answer with one page of a run's rows as JSON.

    The query of the address has the parameters of a filter, which select and sort the rows (see
    `row_filter.PARAMETERS`), `page`, from 1 (the default), and `per_page`, 1 to 500 rows (50 by
    default). The answer has `rows`, each an object by column, without the columns `heatmaps`,
    `patient_key` and `accession_key`, with the row's number as `row`; `count`, the number of all
    selected rows; `page`; `per_page`; `classes`; and `labelled`, whether there is a column `truth`.

    Args:
        id: Id of the run's table, from the path of the address.

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
    """Score the file in the request's field `file`; answer with its frames and scores as JSON.

    Raises:
        BadRequest: The request has not exactly one file, as the field `file`.
        CxrbatchError: The checkpoint cannot be used, a score is not finite, memory is short, or no
            process can be started.
        InsufficientStorage: The file cannot be written to the folder for uploads.
        ServerBusy: Too many requests wait.
        UnsupportedMediaType: The file begins neither as DICOM nor as PNG nor as JPEG.
    """
    upload = score_request()
    card = upload.card
    return jsonify({"model": card.name, "classes": card.classes, "frames": upload.frames})


def _run_json(file: ServedFile) -> dict[str, Any]:
    run = summarise_run(file)
    evaluation = run.get("evaluation")
    if evaluation is not None:
        run["accuracy"] = _accuracy_json(evaluation.headline)
        if others := evaluation.headline.all_images:
            run["accuracy"]["all_images"] = _accuracy_json(others)
    return {name: value for name, value in run.items() if name in _RUN_PROPERTIES}


def _accuracy_json(headline: "Headline") -> dict[str, Any]:
    accuracy = headline.accuracy
    return {
        "n": accuracy.n,
        "value": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "auc": {name: figure.value for name, figure in headline.auc.items()},
    }

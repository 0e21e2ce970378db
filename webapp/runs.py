"""The pages of runs: the list of all runs, one run, its rows, and its reports.

A run is a results table; its id is that of the table's file.
"""

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from flask import Blueprint, Response, render_template, request, send_file
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest, NotFound

from cxrbatch.errors import CheckpointError, CxrbatchError, TableError
from cxrbatch.model.card import Card
from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.results.table import Table
from cxrbatch.webapp.children import NO_TRUTH, ChildProcesses, RunEvaluation, evaluate_table
from cxrbatch.webapp.export import EXPORT_FORMATS
from cxrbatch.webapp.library import Library, ServedFile, get_service, requested_table
from cxrbatch.webapp.row_filter import (
    RowFilter,
    is_labelled,
    parse_filter,
    parse_number,
    sortable_columns,
)
from cxrbatch.webapp.served_table import FileVersion, file_version
from cxrbatch.workers.forkserver_client import ForkserverClosed
from cxrbatch.workers.worker import WorkerFault, WorkerLimits

if TYPE_CHECKING:
    from cxrbatch.results.label_files import LabelOptions

ROWS_PER_PAGE = {"table": 50, "sheet": 60}
"""Layout of the page of rows -> rows on one page."""

MAX_PAGE = 10_000_000
"""Largest page number that is accepted."""

PENDING = "being computed; load the page again in a moment"
_NOT_EVALUATED = "could not be computed"
# The evaluation of a large table takes longer than the reading of one image may.
_EVALUATION_LIMITS = WorkerLimits(seconds=900.0)
_MAX_EVALUATIONS = 1000
# A report brings its own style, and needs no script.
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox"
)
_MEANINGS = {code.value: code.meaning for code in (*Outcome, *Flag)}

_Evaluating: TypeAlias = Future[RunEvaluation | str]

blueprint = Blueprint("runs", __name__)


class Evaluations:
    """Evaluates tables against the truth in the background, one at a time; caches the results.

    A table is evaluated once, and again after its file or the file of labels was changed, or after
    its result was dropped.
    """

    def __init__(
        self, labels: Path | None = None, label_options: "LabelOptions | None" = None
    ) -> None:
        """Create an empty cache; the first evaluation starts the first process.

        Args:
            labels: A file of labels, which is read once now to see whether it can be; None to
                compare tables with the truth that they hold.
            label_options: How labels are read and joined; None for the usual way.

        Raises:
            LabelError: The file of labels cannot be read.
        """
        if labels is not None:
            from cxrbatch.results.label_files import AS_USUAL, read_frame

            read_frame(labels, label_options or AS_USUAL)
        self._labels, self._label_options = labels, label_options
        self._children = ChildProcesses(_EVALUATION_LIMITS)
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1)
        self._futures: dict[tuple[FileVersion, FileVersion | None], _Evaluating] = {}

    def close(self) -> None:
        """Stop the evaluation that is being computed, and drop those that wait."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._children.close()

    def get(self, path: Path, version: FileVersion) -> RunEvaluation | str:
        """Return the evaluation of a table, without waiting for its computation.

        The first call for a version of the table and of the labels starts the computation in the
        background. The result is kept until one of the files changes, also that of a computation
        that failed; of more than 1000 results the oldest is dropped.

        Args:
            path: The table's file.
            version: The file's version, from `file_version`.

        Returns:
            The evaluation; or one line why there is none: `PENDING` until the computation ends,
            `NO_TRUTH` where nothing tells the truth, else what failed.
        """
        with self._lock:
            key = version, self._labels_version()
            future = self._futures.get(key)
            if future is None:
                future = self._thread.submit(self._compute, path)
                if len(self._futures) >= _MAX_EVALUATIONS:
                    del self._futures[next(iter(self._futures))]
                self._futures[key] = future
        return future.result() if future.done() else PENDING

    def _labels_version(self) -> FileVersion | None:
        try:
            return None if self._labels is None else file_version(self._labels.stat())
        except OSError:  # the evaluation says that the file is gone
            return None

    def _compute(self, path: Path) -> RunEvaluation | str:
        try:
            result = self._children.call(evaluate_table, path, self._labels, self._label_options)
        except (CxrbatchError, ForkserverClosed):
            return _NOT_EVALUATED
        return _NOT_EVALUATED if isinstance(result, WorkerFault) else result


def summarise_run(file: ServedFile) -> dict[str, Any]:
    """Return the properties of a run (a results table) as JSON values; the table may be damaged.

    Returns:
        For a table that can be read: `id`, `name`, `changed` (time of change, seconds since 1970),
        `model` (the checkpoint's name), `rows` and `scored` (their numbers), `evaluation` (a
        RunEvaluation, or None), `absence` (why there is no evaluation, or ""), and `reports`
        (number of reports in the table's folder). For one that is damaged or gone: `id`, `name` and
        `broken`, which says why.
    """
    library = get_service(Library)
    summary: dict[str, Any] = {"id": file.id, "name": file.name}
    try:
        table = library.open(file)
        scored = table.count(RowFilter(equal=(("outcome", Outcome.SCORED.value),)))
        changed = file.path.stat().st_mtime
    except TableError as error:
        return {**summary, "broken": str(error)}
    except OSError:
        return {**summary, "broken": f"{file.name} is not there any more"}
    evaluation = get_service(Evaluations).get(file.path, table.version)
    return {
        **summary,
        "changed": changed,
        "model": checkpoint_name(table.table),
        "rows": table.table.rows,
        "scored": scored,
        "evaluation": None if isinstance(evaluation, str) else evaluation,
        "absence": evaluation if isinstance(evaluation, str) else "",
        "reports": len(library.reports_beside(file)),
    }


def card_of_table(table: Table) -> Card | None:
    """Return the card of the checkpoint that a table was scored with, from the table's metadata.

    Returns:
        The card; None if the metadata have none or an invalid one.
    """
    try:
        return Card.from_json(str(table.provenance.get("card")))
    except CheckpointError:
        return None


def checkpoint_name(table: Table) -> str:
    """Return the name of the checkpoint that a table was scored with.

    It is "unknown model" if the checkpoint's card in the table is not valid.
    """
    card = card_of_table(table)
    return card.name if card else "unknown model"


@blueprint.get("/")
def show_runs() -> ResponseReturnValue:
    """Answer with the page of all runs, the newest first."""
    runs = [summarise_run(file) for file in get_service(Library).tables()]
    return render_template("runs.html", runs=runs, no_truth=NO_TRUTH)


@blueprint.get("/runs/<id>")
def show_run(id: str) -> ResponseReturnValue:
    """Answer with the page of one run: its outcomes, its evaluation and how it was made.

    Args:
        id: Id of the run's table.

    Raises:
        NotFound: There is no such table.
        TableError: The table is damaged.
    """
    file, table = requested_table(id)
    return render_template(
        "run.html",
        run=summarise_run(file),
        reports=get_service(Library).reports_beside(file),
        outcomes=table.outcomes(),
        meanings=_MEANINGS,
        card=card_of_table(table.table),
        made=_provenance_lines(table.table.provenance),
    )


@blueprint.get("/runs/<id>/rows")
def show_rows(id: str) -> ResponseReturnValue:
    """Answer with the page of a run's rows.

    The query has the parameters of a filter, which select and sort the rows (see
    `row_filter.PARAMETERS`), `page`, from 1, and `layout`: "table" or "sheet", a sheet of
    thumbnails.

    Args:
        id: Id of the run's table.

    Raises:
        BadRequest: A parameter of the query is invalid.
        NotFound: There is no such table.
        TableError: The table is damaged.
    """
    file, served = requested_table(id)
    table = served.table
    row_filter = parse_filter(request.args, table, others=("page", "layout"))
    layout = request.args.get("layout") or "table"
    if layout not in ROWS_PER_PAGE:
        raise BadRequest("Rows are shown as a table or as a sheet.")
    page = parse_number(request.args, "page", default=1, least=1, most=MAX_PAGE)
    limit = ROWS_PER_PAGE[layout]
    first = (page - 1) * limit
    rows, count = served.page(row_filter, _row_columns(table), first=first, limit=limit)
    return render_template(
        "rows.html",
        run=file,
        model=checkpoint_name(table),
        rows=rows,
        first=first,
        count=count,
        page=page,
        pages=max(1, -(-count // limit)),
        layout=layout,
        layouts=ROWS_PER_PAGE,
        arguments=row_filter.arguments(),
        choices=served.choices(),
        classes=table.classes,
        labelled=is_labelled(table),
        sortable=sortable_columns(table),
        headings=_headings(table),
        meanings=_MEANINGS,
        formats=EXPORT_FORMATS,
    )


@blueprint.get("/reports/<id>")
def send_report(id: str) -> Response:
    """Answer with a report's HTML file as it was written; the browser runs no script in it.

    Args:
        id: Id of the report.

    Raises:
        NotFound: There is no such report, or its file cannot be read.
    """
    file = get_service(Library).report(id)
    try:
        if file is None:
            raise FileNotFoundError
        response = send_file(file.path, mimetype="text/html")
    except OSError:
        raise NotFound("There is no such report any more.") from None
    response.headers["Content-Security-Policy"] = _REPORT_POLICY
    return response


def _row_columns(table: Table) -> list[str]:
    columns = ["path", "frame", "outcome", "prediction", "image_flags", "view_position"]
    columns += [
        "ood_score",
        "patient_sex",
        "patient_age_bin",
        *(f"p_{name}" for name in table.classes),
    ]
    return [*columns, "truth"] if is_labelled(table) else columns


def _headings(table: Table) -> list[tuple[str, str, bool]]:
    """Return column, heading and whether it holds numbers, for each column of the page."""
    texts = {"path": "Path", "outcome": "Outcome", "prediction": "Prediction"}
    if is_labelled(table):
        texts["truth"] = "Truth"
    facts = {"image_flags": "Flags", "view_position": "View", "patient_sex": "Sex"}
    facts["patient_age_bin"] = "Age"
    return [
        *((name, heading, False) for name, heading in texts.items()),
        *((f"p_{name}", f"p({name})", True) for name in table.classes),
        ("ood_score", "ood score", True),
        *((name, heading, False) for name, heading in facts.items()),
    ]


def _provenance_lines(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return label and text of each line about how a table was made."""
    lines = {
        "Checkpoint": _checkpoints_text(provenance),
        "Recipe": _pairs_text(provenance.get("recipe")),
        "Device": str(provenance.get("device", "")),
        "Precision": str(provenance.get("precision", "")),
        "Decoding": "at a reduced size" if provenance.get("fast_decode") is True else "",
        "Versions": _pairs_text(provenance.get("versions")),
        "Passed over": _pairs_text(provenance.get("passed_over")),
    }
    return [(label, text) for label, text in lines.items() if text]


def _checkpoints_text(provenance: Mapping[str, Any]) -> str:
    hashes = provenance.get("checkpoints")
    if not isinstance(hashes, list):
        return str(provenance.get("checkpoint_sha256", ""))[:16]
    return ", ".join(f"fold {n}: {str(sha256)[:16]}" for n, sha256 in enumerate(hashes, 1))


def _pairs_text(values: object) -> str:
    if not isinstance(values, dict):
        return ""
    return ", ".join(f"{name} {value}" for name, value in values.items())

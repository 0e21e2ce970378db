"""The pages of runs: all of them, one of them, its rows, its reports."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, render_template, request, send_file
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest, NotFound

from cxrbatch.errors import CheckpointError, TableError
from cxrbatch.model.card import Card
from cxrbatch.reading.outcomes import Flag, Outcome
from cxrbatch.results.table import Table
from cxrbatch.webapp.export import FORMATS
from cxrbatch.webapp.filters import Filter, is_labelled, parse_filter, sortable
from cxrbatch.webapp.library import Found
from cxrbatch.webapp.services import asked_table, services
from cxrbatch.webapp.summaries import Accuracy

PER_PAGE = {"table": 50, "sheet": 60}
_MOST_PAGES = 10_000_000

# A report carries its style with it, and no script.
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; sandbox"
)

blueprint = Blueprint("runs", __name__)


@dataclass(frozen=True, slots=True)
class Overview:
    """A table in one line.

    Attributes:
        found: The file.
        broken: Why it cannot be read; empty where it can.
        changed: When it was last changed, seconds since 1970.
        model: The checkpoint's name.
        rows: Number of rows.
        scored: Of them, scored.
        accuracy: None where there is no truth, or while it is added up.
        pending: Whether it is being added up.
        reports: How many lie beside it.
    """

    found: Found
    broken: str = ""
    changed: float = 0.0
    model: str = ""
    rows: int = 0
    scored: int = 0
    accuracy: Accuracy | None = None
    pending: bool = False
    reports: int = 0


def overview(found: Found) -> Overview:
    """Look at a table, whatever its state."""
    try:
        opened = services().library.open(found)
        scored = opened.count(Filter(equal=(("outcome", Outcome.SCORED.value),)))
        changed = found.path.stat().st_mtime
    except TableError as error:
        return Overview(found, broken=str(error))
    except OSError:
        return Overview(found, broken=f"{found.name} is not there any more")
    accuracy, pending = services().summaries.accuracy(opened)
    return Overview(
        found,
        changed=changed,
        model=model_name(opened.table),
        rows=opened.table.rows,
        scored=scored,
        accuracy=accuracy,
        pending=pending,
        reports=len(services().library.reports(found)),
    )


def card_of(table: Table) -> Card | None:
    """The card of the checkpoint that a table was made with; None where it is damaged."""
    try:
        return Card.from_json(str(table.provenance.get("card")))
    except CheckpointError:
        return None


def model_name(table: Table) -> str:
    """The checkpoint's name."""
    card = card_of(table)
    return card.name if card else "unknown model"


@blueprint.get("/")
def index() -> ResponseReturnValue:
    """All runs."""
    found = [overview(table) for table in services().library.tables()]
    return render_template("runs.html", runs=found)


@blueprint.get("/runs/<id>")
def run(id: str) -> ResponseReturnValue:
    """One run."""
    found, opened = asked_table(id)
    card = card_of(opened.table)
    return render_template(
        "run.html",
        run=overview(found),
        reports=services().library.reports(found),
        outcomes=opened.outcomes(),
        meanings=_MEANINGS,
        card=card,
        made=_made(opened.table.provenance),
    )


@blueprint.get("/runs/<id>/rows")
def rows(id: str) -> ResponseReturnValue:
    """Its rows, filtered, sorted, page by page."""
    found, opened = asked_table(id)
    chosen = parse_filter(request.args, opened.table, beside=("page", "layout"))
    layout = request.args.get("layout") or "table"
    if layout not in PER_PAGE:
        raise BadRequest("Rows are shown as a table or as a sheet.")
    page, most = page_number(), PER_PAGE[layout]
    first = (page - 1) * most
    shown, count = opened.page(chosen, _columns(opened.table), first=first, most=most)
    return render_template(
        "rows.html",
        run=found,
        model=model_name(opened.table),
        rows=shown,
        first=first,
        count=count,
        page=page,
        pages=max(1, -(-count // most)),
        layout=layout,
        layouts=PER_PAGE,
        chosen=chosen.arguments(),
        choices=opened.choices(),
        classes=opened.table.classes,
        labelled=is_labelled(opened.table),
        sortable=sortable(opened.table),
        heads=_heads(opened.table),
        meanings=_MEANINGS,
        formats=FORMATS,
    )


@blueprint.get("/runs/<id>/export.<form>")
def export(id: str, form: str) -> Response:
    """Its filtered rows as a file, in the table's order."""
    _, opened = asked_table(id)
    if form not in FORMATS:
        raise NotFound("Rows are exported as CSV or Parquet.")
    chosen = parse_filter(request.args, opened.table)
    has_gone = request.environ.get("waitress.client_disconnected", bool)
    file = services().exports.make(opened, chosen, form, is_wanted=lambda: not has_gone())
    return send_file(
        file,
        mimetype=FORMATS[form],
        as_attachment=True,
        download_name=f"rows.{form}",
    )


@blueprint.get("/reports/<id>")
def report(id: str) -> Response:
    """A report, as it was written, in a sandbox."""
    found = services().library.report(id)
    if found is None:
        raise NotFound("There is no such report any more.")
    try:
        response = send_file(found.path, mimetype="text/html")
    except OSError:
        raise NotFound("There is no such report any more.") from None
    response.headers["Content-Security-Policy"] = _REPORT_POLICY
    return response


def page_number() -> int:
    """The page that is asked for, from 1.

    Raises:
        BadRequest: It is no such number.
    """
    given = request.args.get("page") or "1"
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= _MOST_PAGES):
        raise BadRequest("A page is a number from 1.")
    return int(given[:9])


_MEANINGS = {code.value: code.meaning for code in (*Outcome, *Flag)}


def _columns(table: Table) -> list[str]:
    shown = ["path", "frame", "outcome", "prediction", "flags", "view_position"]
    shown += ["patient_sex", "patient_age_bin", *(f"p_{name}" for name in table.classes)]
    return [*shown, "truth"] if is_labelled(table) else shown


def _heads(table: Table) -> list[tuple[str, str, bool]]:
    """Columns as shown: name, heading, whether it holds numbers."""
    first = [("path", "Path"), ("outcome", "Outcome"), ("prediction", "Prediction")]
    last = [("flags", "Flags"), ("view_position", "View"), ("patient_sex", "Sex")]
    if is_labelled(table):
        first.append(("truth", "Truth"))
    return [
        *((name, heading, False) for name, heading in first),
        *((f"p_{name}", f"p({name})", True) for name in table.classes),
        *((name, heading, False) for name, heading in [*last, ("patient_age_bin", "Age")]),
    ]


def _made(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How a table was made, in lines."""
    lines = {
        "Checkpoint": str(provenance.get("checkpoint_sha256", ""))[:16],
        "Recipe": _listed(provenance.get("recipe")),
        "Device": str(provenance.get("device", "")),
        "Precision": str(provenance.get("precision", "")),
        "Decoding": "at a reduced size" if provenance.get("fast_decode") is True else "",
        "Versions": _listed(provenance.get("versions")),
        "Passed over": _listed(provenance.get("passed_over")),
    }
    return [(name, text) for name, text in lines.items() if text]


def _listed(values: object) -> str:
    if not isinstance(values, dict):
        return ""
    return ", ".join(f"{name} {value}" for name, value in values.items())

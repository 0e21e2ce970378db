"""The page of an audit, its JSON file, and the public call that writes both and the table."""

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape
from PIL import Image

from cxrbatch import __version__
from cxrbatch.auditing.audit import Audit, AuditListener
from cxrbatch.auditing.audit_plan import AuditRequest
from cxrbatch.auditing.audit_run import audited
from cxrbatch.auditing.bundled_lungs import NamedFinder, bundled_finder
from cxrbatch.auditing.treated import TreatedFilm
from cxrbatch.errors import UsageError, checked_path, naming_arguments
from cxrbatch.process import default_workers
from cxrbatch.reports.page import check_outputs, render, write_outputs
from cxrbatch.results.label_files import ClassMap, LabelOptions
from cxrbatch.scoring.run import ScoringOptions

_QUALITY = 80


@dataclass(frozen=True, slots=True)
class TreatedPicture:
    """The picture of a film under one treatment, with what the model makes of it.

    Attributes:
        treatment: Name of the treatment.
        url: WebP as a data: URL.
        edge: Width and height in pixels.
        prediction: The most probable class.
        probability: Its probability.
        is_right: Whether it is the true class.
    """

    treatment: str
    url: Markup
    edge: int
    prediction: str
    probability: float
    is_right: bool


def treated_pictures(film: TreatedFilm) -> list[TreatedPicture]:
    """Draw one film under each treatment that it has."""
    return [
        TreatedPicture(
            each.treatment,
            _picture(each.film),
            len(each.film),
            each.prediction,
            each.probability,
            each.prediction == film.truth,
        )
        for each in film.shown
    ]


def _picture(film: npt.NDArray[np.uint8]) -> Markup:
    stream = io.BytesIO()
    Image.fromarray(film).convert("RGB").save(stream, format="WEBP", quality=_QUALITY, method=4)
    return Markup("data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode())


def audit_html(audit: Audit) -> bytes:
    """Return the page of an audit, encoded in UTF-8; equal audits have equal pages."""
    values = {
        "audit": audit,
        # Markup is not cut after 300 characters.
        "verdict": escape(audit.verdict.text),
        "shown": [(film, treated_pictures(film)) for film in audit.shown],
        "made": "",
    }
    return render("audit.html", values).encode()


def audit_figures(audit: Audit) -> dict[str, Any]:
    """Return the content of the JSON file of an audit."""
    return {"cxrbatch": __version__, **audit.figures()}


def write_audit(
    request: AuditRequest,
    output: Path,
    *,
    json_file: Path | None = None,
    listener: AuditListener | None = None,
    lungs: NamedFinder | None = None,
) -> Audit:
    """Audit a checkpoint, and write its page, its table and, if wanted, its figures.

    Args:
        request: What is asked for.
        output: The HTML page to write.
        json_file: A file for the figures; None to write none.
        listener: Receives the progress.
        lungs: What finds the lungs; None for the bundled finder.

    Returns:
        The audit.

    Raises:
        UsageError: An output cannot be written to; or as `audited` raises it.
        CxrbatchError: Or one of its kinds, in the cases in which `audited` raises it.
        OSError: An output cannot be written.
    """
    outputs = [output, request.table, json_file]
    read = [request.checkpoint, request.labels, None if request.data.is_dir() else request.data]
    overwrite = request.overwrite or request.is_unfinished
    check_outputs(outputs, [Path(os.devnull), *read], overwrite=overwrite)
    found = bundled_finder() if lungs is None else lungs
    with audited(request, finder=found.finder, lungs=found.words, listener=listener) as audit:
        write_outputs(audit_html(audit), output, audit_figures(audit), json_file)
    return audit


def audit(
    checkpoint: str | os.PathLike[str],
    data: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] = "audit.html",
    *,
    table: str | os.PathLike[str] | None = None,
    json_file: str | os.PathLike[str] | None = None,
    archive: str | os.PathLike[str] | None = None,
    by: str | None = None,
    label_column: str | None = None,
    path_column: str | None = None,
    patient_column: str | None = None,
    class_map: ClassMap | None = None,
    keep_copies: bool = False,
    keep_flagged: bool = False,
    overwrite: bool = False,
    batch_size: int = 32,
    workers: int | None = None,
    device: str = "auto",
) -> Audit:
    """Audit a checkpoint for shortcuts: what it makes of films with parts taken away.

    A call that was interrupted is continued by the same call.

    Args:
        checkpoint: The model, a .safetensors checkpoint.
        data: An archive, or a results table of this model whose images are at hand.
        labels: A file of labels; None for the table's own truth, or class-named folders.
        output: The HTML page to write.
        table: The Parquet table to write; None for the page's name with the ending .parquet.
        json_file: A file for the figures; None to write none.
        archive: Where the archive is now, if `data` is a table; None for where it was scored.
        by: What names the images in the labels, as for `evaluate`; None for what joins most.
        label_column: Name of the labels' column with the class; None to find it by usual names.
        path_column: Name of the column with the path, or with what `by` says; None likewise.
        patient_column: Name of the column with a person's id; None to find it likewise.
        class_map: Text of a label -> the class that is meant, or a list of classes.
        keep_copies: Whether all of several equal films count.
        keep_flagged: Whether laterals and films of no chest count.
        overwrite: Replace existing outputs, and drop an unfinished audit of other arguments.
        batch_size: Images per forward pass.
        workers: Processes that read files; 0 reads in this process; None for one per core.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Returns:
        The figures and the verdict.

    Raises:
        UsageError: An argument is of another type or out of its range, an output exists, or the
            data are a table of another checkpoint.
        CheckpointError: The checkpoint cannot be used.
        LabelError: The labels cannot be used, or no film is left.
        TableError: A table cannot be read or written.
        CxrbatchError: A score is not finite, or memory or processes are lacking.
    """
    with naming_arguments():
        page = checked_path("output", output)
        scoring = ScoringOptions(
            batch_size=batch_size,
            workers=default_workers() if workers is None else workers,
            device=device,
        )
        request = AuditRequest(
            checkpoint=checked_path("checkpoint", checkpoint),
            data=checked_path("data", data),
            table=table_beside(page) if table is None else checked_path("table", table),
            labels=None if labels is None else checked_path("labels", labels),
            label_options=LabelOptions(
                by, label_column, path_column, patient_column, class_map or {}
            ),
            archive=None if archive is None else checked_path("archive", archive),
            keep_copies=keep_copies,
            keep_flagged=keep_flagged,
            scoring=scoring.checked(),
            overwrite=overwrite,
        )
        figures = None if json_file is None else checked_path("json_file", json_file)
        return write_audit(request, page, json_file=figures)


def table_beside(page: Path) -> Path:
    """Return the path of the table that belongs to a page: its name with the ending .parquet.

    Raises:
        UsageError: The page has this ending itself.
    """
    table = page.with_suffix(".parquet")
    if table == page:
        raise UsageError(f"{page} would be the page and the table; give -o a name with .html")
    return table

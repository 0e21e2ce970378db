"""The command `cxrbatch audit`: what a model makes of films with parts taken away."""

import shlex
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

import cxrbatch.options as shared
from cxrbatch.errors import CxrbatchError, UsageError

if TYPE_CHECKING:
    from cxrbatch.auditing.audit import Audit
    from cxrbatch.model.inference import Precision
    from cxrbatch.results.label_files import LabelOptions

_BUNDLED_MODEL = "default"


@click.command("audit")
@click.argument("checkpoint")
@click.argument("data", metavar="DATA", type=click.Path(path_type=Path))
@click.option(
    "--labels",
    type=shared.FILE,
    metavar="FILE",
    help="CSV, Excel or Parquet with the class of each image, or of each study.  [default: the "
    "table's own column truth, or class-named folders]",
)
@click.option(
    "-o",
    "--output",
    type=shared.FILE,
    default=Path("audit.html"),
    metavar="FILE",
    help="The page to write.",
)
@click.option(
    "--table",
    type=shared.FILE,
    metavar="FILE",
    help="The table of all scores to write.  [default: the page's name with .parquet]",
)
@click.option(
    "--json", "figures", type=shared.FILE, metavar="FILE", help="Write the figures here too."
)
@click.option(
    "--fail-if-shortcut",
    is_flag=True,
    help="End with exit code 4 where the verdict names a shortcut.",
)
@click.option(
    "--archive",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Where the archive of a table is now.  [default: where it was scored]",
)
@shared.label_options
@click.option("--keep-copies", is_flag=True, help="Count each of several equal images.")
@click.option("--keep-flagged", is_flag=True, help="Count laterals and films of no chest.")
@shared.overwrite_option
@shared.batch_size_option(32)
@shared.workers_option
@shared.precision_option()
@shared.device_option
@shared.follow_links_option
@shared.max_pixels_option
@shared.modality_option
def command(
    checkpoint: str,
    data: Path,
    labels: Path | None,
    output: Path,
    table: Path | None,
    figures: Path | None,
    fail_if_shortcut: bool,
    archive: Path | None,
    label_options: "LabelOptions | None",
    check_labels: bool,
    keep_copies: bool,
    keep_flagged: bool,
    overwrite: bool,
    batch_size: int,
    workers: int,
    precision: "Precision",
    device: str,
    follow_links: bool,
    max_pixels: int,
    modality: tuple[str, ...],
) -> int:
    """Audit a model for shortcuts: score films without lungs, their borders alone, and so on.

    CHECKPOINT is a file, or `default` for the bundled model. DATA is an archive as of `cxrbatch
    score`, of which only labelled files are read, or a results table of this model whose images are
    at hand. The page has the figures of each treatment with pictures, of models that see no pixel
    (header facts, file properties), of attributes such as source and view, and a verdict in words.
    A run that was stopped goes on.

    Research use only: the model is not a medical device.

    \b
    Examples:
      cxrbatch audit default /films --labels labels.csv -o audit.html
      cxrbatch audit model.safetensors results.parquet --labels labels.csv --fail-if-shortcut
    """
    from cxrbatch.auditing.audit_plan import AuditRequest
    from cxrbatch.model.checkpoint import bundled_checkpoint, read_card
    from cxrbatch.reports.audit_page import table_beside, write_audit
    from cxrbatch.results.label_files import AS_USUAL
    from cxrbatch.scoring.run import ScoringOptions

    if check_labels:
        _show_check_of(data, labels, label_options)
        return 0
    path = bundled_checkpoint() if checkpoint == _BUNDLED_MODEL else Path(checkpoint)
    read_card(path)
    scoring = ScoringOptions(
        batch_size=batch_size,
        workers=workers,
        precision=precision,
        device=device,
        follow_links=follow_links,
        max_pixels=max_pixels,
        modalities=frozenset(modality),
    )
    request = AuditRequest(
        checkpoint=path,
        data=data,
        table=table or table_beside(output),
        labels=labels,
        label_options=label_options or AS_USUAL,
        archive=archive,
        keep_copies=keep_copies,
        keep_flagged=keep_flagged,
        scoring=scoring,
        overwrite=overwrite,
    )
    from cxrbatch.process import Interruption
    from cxrbatch.reports.audit_progress import AuditBar

    again = shlex.join(["cxrbatch", *(click.get_current_context().obj or ())])
    bar = AuditBar()
    with Interruption(lambda: bar.interrupted(again)) as interruption, closing(bar):
        bar.scoring.interruption = interruption
        audit = write_audit(request, output, json_file=figures, listener=bar)
    for line in _lines_of(audit):
        click.echo(line)
    for warning in audit.truth_warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"table        {request.table}")
    click.echo(f"page         {output} ({output.stat().st_size / 1e6:.1f} MB)")
    return _exit_code_of(audit) if fail_if_shortcut else 0


def _show_check_of(data: Path, labels: Path | None, options: "LabelOptions | None") -> None:
    from cxrbatch.results.label_files import AS_USUAL
    from cxrbatch.results.label_joining import describe_labels

    if labels is None or data.suffix.lower() != ".parquet":
        raise UsageError("--check-labels needs --labels and a results table as DATA")
    for title, text in describe_labels(data, labels, options or AS_USUAL, merge=True):
        click.echo(f"{title:12} {text}")


def _lines_of(audit: "Audit") -> Iterator[str]:
    from cxrbatch.results.describing import figure_text, left_out_lines, plain_name_of

    yield f"truth        {audit.truth_source}"
    yield from (f"labels       {note}" for note in audit.truth_notes)
    flow, whole = audit.flow, audit.whole
    films = f"{whole.films:,} of {flow.scored:,} scored films"
    yield f"audited      {films}, {whole.patients:,} patients"
    yield from left_out_lines(flow)
    for reason, count in audit.lost.items():
        yield f"not read     {count:,}: {reason}"
    if audit.masks:
        yield f"lungs        {audit.masks:,} masks, {audit.doubted:,} doubtful"
    yield f"{'macro AUC':22} {figure_text(whole.macro_auc)}: whole film"
    yield f"{'accuracy':22} {figure_text(whole.accuracy)}: whole film"
    found = [(each.name, each.figures) for each in audit.treatments]
    found += [(each.name, each.figures) for each in audit.baselines]
    for name, figures in found:
        yield f"  {name:20} {figure_text(figures.macro_auc)}"
    for attribute in audit.attributes:
        if attribute.tells_truth.value is not None:
            within = figure_text(attribute.told_within_classes)
            truth = figure_text(attribute.tells_truth)
            yield f"  {attribute.name:20} tells the class {truth}; told within classes {within}"
    yield from (f"note         {note}" for note in audit.notes)
    for accused in audit.verdict.accused:
        yield f"shortcut     {plain_name_of(accused.name)}: {accused.evidence}"
    yield f"verdict      {_printable(audit.verdict.text)}"


def _printable(text: str) -> str:
    """Replace every character that is not printable by a question mark."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _exit_code_of(audit: "Audit") -> int:
    if not audit.verdict.is_possible:
        raise CxrbatchError(
            f"nothing to judge: the macro AUC is undefined, {audit.whole.macro_auc.undefined}"
        )
    if not audit.verdict.accused:
        return 0
    names = ", ".join(each.name for each in audit.verdict.accused)
    click.echo(f"error: the verdict names shortcuts: {names}", err=True)
    return shared.CONDITION_FAILED

"""The command `cxrbatch report`."""

import json
import math
from pathlib import Path

import click

from cxrbatch import options as shared
from cxrbatch.reports import options


def _prevalence(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, float]:
    found = {}
    for text in given:
        name, _, value = text.rpartition("=")
        try:
            share = float(value)
        except ValueError:
            share = math.nan
        if not name or not 0 < share < 1:
            raise click.BadParameter(
                f"{text!r} is not like COVID-19=0.05, a class and a share between 0 and 1."
            )
        if name in found:
            raise click.BadParameter(f"{name} has two prevalences; give one.")
        found[name] = share
    return found


@click.command("report")
@click.argument("table", type=shared.FILE)
@click.option(
    "-o",
    "--output",
    type=shared.FILE,
    default=Path("report.html"),
    metavar="FILE",
    help="The page to write.",
)
@options.json_option
@options.labels_option
@options.archive_option
@click.option(
    "--prevalence",
    multiple=True,
    metavar="CLASS=SHARE",
    callback=_prevalence,
    help="State predictive values for this prevalence of a class too; may be repeated.",
)
@options.show_paths_option
@shared.overwrite_option
def command(
    table: Path,
    output: Path,
    figures: Path | None,
    labels: Path | None,
    archive: Path | None,
    prevalence: dict[str, float],
    show_paths: bool,
    overwrite: bool,
) -> None:
    """Make one HTML page of a results table: what was scored, and how good it is.

    The page stands alone: no script, no request, and no path, UID or patient datum unless asked
    for. With a truth it has figures with 95 % intervals; of labels that name a split, its side
    test alone is evaluated. Pictures are read from the archive anew.

    Research use only: the model is not a medical device.

    \b
    Example:
      cxrbatch report results.parquet --labels labels.csv -o report.html
      cxrbatch report results.parquet --prevalence COVID-19=0.05 --json figures.json
    """
    from cxrbatch.errors import UsageError
    from cxrbatch.paths import check_output

    for target in filter(None, (output, figures)):
        check_output(target, overwrite=overwrite, source=table)
        if labels is not None:
            check_output(target, overwrite=overwrite, source=labels)
    if figures is not None and figures.resolve() == output.resolve():
        raise UsageError("--json and --output name one file; choose two")

    from cxrbatch.atomic import written_whole
    from cxrbatch.reports.page import render
    from cxrbatch.reports.report import make_report
    from cxrbatch.reports.subgroups import FEW

    report = make_report(
        table,
        labels=labels,
        archive=archive,
        prevalence=prevalence,
        show_paths=show_paths,
        workers=shared.default_workers(),
        progress=options.Steps(),
    )
    page = render("report.html", {"report": report, "few": FEW}).encode()
    with written_whole(output) as file:
        file.write(page)
    if figures is not None:
        with written_whole(figures) as file:
            file.write(json.dumps(report.figures(), indent=1, allow_nan=False).encode())
    flow = report.flow
    click.echo(
        f"analysed     {flow.analysed:,} of {flow.scored:,} scored images, {flow.rows:,} rows"
    )
    click.echo(f"truth        {report.truth_source or 'none: --labels gives one'}")
    if flow.side is not None:
        aside = sum(step.count for step in flow.aside)
        click.echo(f"split        test alone; {aside:,} images of other sides are not analysed")
    if flow.not_held_out:
        click.echo(
            f"split        {flow.not_held_out:,} analysed images are of its side train or val"
        )
    click.echo(f"page         {output} ({len(page) / 1e6:.1f} MB)")

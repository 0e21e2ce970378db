"""The commands `cxrbatch report` and `cxrbatch compare`."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import cxrbatch.options as shared
from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.process import default_workers

if TYPE_CHECKING:
    from cxrbatch.reports.comparison import ComparisonValues
    from cxrbatch.results.figures import Evaluation, Figure
    from cxrbatch.results.label_files import LabelOptions
    from cxrbatch.results.statistics.intervals import Estimate

# Sums in another order differ in the last bits.
_ROUNDING = 1e-12
_HEADLINE = {"accuracy": "accuracy", "balanced": "balanced_accuracy", "macro AUC": "macro_auc"}

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def _page_options(command: Decorated) -> Decorated:
    """Add the options that both commands have, `--labels` with its options among them.

    They pass `figures`, `labels` and `archive`, each a Path or None, the bools `keep_copies`,
    `keep_flagged`, `show_paths` and `overwrite`, and what `label_options` passes.
    """
    for option in (
        shared.overwrite_option,
        click.option("--keep-flagged", is_flag=True, help="Count laterals and films of no chest."),
        click.option("--keep-copies", is_flag=True, help="Count each of several equal images."),
        click.option(
            "--show-paths", is_flag=True, help="Name files in the page, which may tell of persons."
        ),
        click.option(
            "--archive",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            metavar="DIR",
            help="Where the archive is now.  [default: where it was scored]",
        ),
        shared.label_options,
        click.option(
            "--labels",
            type=shared.FILE,
            metavar="FILE",
            help="CSV, Excel or Parquet with the class of each image, or of each study.  [default: "
            "the table's own column truth, or class-named folders]",
        ),
        click.option(
            "--json",
            "figures",
            type=shared.FILE,
            metavar="FILE",
            help="Write the figures here too.",
        ),
    ):
        command = option(command)
    return command


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


def _margin(
    context: click.Context, parameter: click.Parameter, given: float | None
) -> float | None:
    # No number is larger than NaN: nothing would ever be worse.
    if given is not None and math.isnan(given):
        raise click.BadParameter("nan is no margin; give a number from 0 to 1.")
    return given


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
@click.option(
    "--prevalence",
    multiple=True,
    metavar="CLASS=SHARE",
    callback=_prevalence,
    help="State predictive values for this prevalence of a class too; may be repeated.",
)
@_page_options
def report(
    table: Path,
    output: Path,
    figures: Path | None,
    labels: Path | None,
    label_options: "LabelOptions | None",
    check_labels: bool,
    archive: Path | None,
    keep_copies: bool,
    keep_flagged: bool,
    prevalence: dict[str, float],
    show_paths: bool,
    overwrite: bool,
) -> None:
    """Make one HTML page of a results table: what was scored, and how good it is.

    The page stands alone: no script, no request, and no path, UID or patient datum unless asked
    for. With a truth it has figures with 95 % intervals, of the split's side test if the labels
    name one. Laterals, films of no chest and copies count only in figures beside. Pictures are read
    from the archive anew.

    Research use only: the model is not a medical device.

    \b
    Example:
      cxrbatch report results.parquet --labels labels.csv -o report.html
      cxrbatch report results.parquet --prevalence COVID-19=0.05 --json figures.json
    """
    if check_labels:
        _show_check(table, labels, label_options)
        return
    from cxrbatch.reports.gallery import PictureSource
    from cxrbatch.reports.report import write_report
    from cxrbatch.results.describing import left_out_lines
    from cxrbatch.results.label_files import AS_USUAL

    found = write_report(
        table,
        output,
        figures=figures,
        labels=labels,
        label_options=label_options or AS_USUAL,
        keep_copies=keep_copies,
        keep_flagged=keep_flagged,
        prevalence=prevalence,
        source=PictureSource(archive, show_paths, default_workers()),
        overwrite=overwrite,
        on_step=_show_step,
    )
    flow = found.flow
    whole = f"{flow.scored:,} scored images, {flow.rows:,} rows"
    click.echo(f"analysed     {flow.analysed:,} of {whole}")
    click.echo(f"truth        {found.truth_source or 'none: --labels gives one'}")
    notes = (f"labels       {note}" for note in found.truth_notes)
    figures_of = _headline(found.evaluation) if found.evaluation else ()
    _show((*notes, *left_out_lines(flow), *figures_of), found.warnings)
    _show_page(output)


@click.command("compare")
@click.argument("first", type=shared.FILE)
@click.argument("second", type=shared.FILE)
@click.option("-o", "--output", type=shared.FILE, metavar="FILE", help="Write a page here too.")
@click.option(
    "--fail-if-worse",
    type=click.FloatRange(0.0, 1.0),
    metavar="MARGIN",
    callback=_margin,
    help="Exit with 4 where balanced accuracy or macro AUC of SECOND is lower by more than this.",
)
@_page_options
def compare(
    first: Path,
    second: Path,
    output: Path | None,
    figures: Path | None,
    labels: Path | None,
    label_options: "LabelOptions | None",
    check_labels: bool,
    archive: Path | None,
    fail_if_worse: float | None,
    keep_copies: bool,
    keep_flagged: bool,
    show_paths: bool,
    overwrite: bool,
) -> None:
    """Compare two models, or two recipes, on the same images: SECOND is held to FIRST.

    Images are joined by path and frame, else by SOP Instance UID, else by image hash. Each
    difference is SECOND minus FIRST, with a 95 % interval by paired resampling of patients; areas
    under ROC curves are compared by DeLong's test too, decisions by McNemar's.

    Research use only: the models are not medical devices.

    \b
    Example:
      cxrbatch compare old.parquet new.parquet --labels labels.csv -o compare.html
      cxrbatch compare old.parquet new.parquet --fail-if-worse 0.01 --json figures.json
    """
    if check_labels:
        _show_check(first, labels, label_options)
        return
    from cxrbatch.reports.comparison import write_comparison
    from cxrbatch.reports.gallery import PictureSource
    from cxrbatch.results.label_files import AS_USUAL

    found = write_comparison(
        first,
        second,
        output=output,
        figures=figures,
        labels=labels,
        label_options=label_options or AS_USUAL,
        keep_copies=keep_copies,
        keep_flagged=keep_flagged,
        source=PictureSource(archive, show_paths, default_workers()),
        overwrite=overwrite,
        on_step=_show_step,
    )
    _show(_lines(found), found.warnings)
    if output is not None:
        _show_page(output)
    if fail_if_worse is None:
        return
    if found.loss is None:
        raise CxrbatchError("neither balanced accuracy nor macro AUC is defined: nothing to judge")
    if found.loss > fail_if_worse + _ROUNDING:
        message = f"the second is worse by {found.loss:.4f}, over {fail_if_worse:g}"
        click.echo(f"error: {message}", err=True)
        click.get_current_context().exit(shared.CONDITION_FAILED)


def _show_check(table: Path, labels: Path | None, options: "LabelOptions | None") -> None:
    """Print how labels are read and which images of a table they name."""
    from cxrbatch.results.label_files import AS_USUAL
    from cxrbatch.results.label_joining import describe_labels

    if labels is None:
        raise UsageError("--check-labels needs --labels")
    for title, text in describe_labels(table, labels, options or AS_USUAL):
        click.echo(f"{title:12} {text}")


def _show_step(step: str) -> None:
    """Write a step to stderr, if that is a terminal."""
    if sys.stderr.isatty():
        click.echo(f"{step} …", err=True)


def _show_page(output: Path) -> None:
    click.echo(f"page         {output} ({output.stat().st_size / 1e6:.1f} MB)")


def _show(lines: Iterable[str], warnings: Sequence[str]) -> None:
    for line in lines:
        click.echo(line)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


def _headline(evaluation: "Evaluation") -> Iterator[str]:
    """The main figures, beside those of all images where flagged images or copies are left out."""
    for title, name in _HEADLINE.items():
        figure: Figure = getattr(evaluation, name)
        text = f"{title.ljust(12)} {_value(figure)} (n={figure.n:,})"
        if evaluation.all_images is not None:
            whole: Figure = getattr(evaluation.all_images, name)
            text += f", all {_value(whole)} (n={whole.n:,})"
        yield text


def _value(figure: "Figure") -> str:
    return f"undefined: {figure.undefined}" if figure.value is None else f"{figure.value:.4f}"


def _lines(found: "ComparisonValues") -> Iterator[str]:
    from cxrbatch.results.describing import left_out_lines

    differences, pairs = found.differences, found.pairs
    width = max(12, *(len(f"AUC {_plain(name)}") for name in pairs.classes))
    yield f"first        {_plain(pairs.names[0])}"
    yield f"second       {_plain(pairs.names[1])}"
    yield from (f"labels       {note}" for note in pairs.truth_notes)
    yield f"images       {pairs.counts.scored:,} in both, joined by {' and '.join(pairs.key)}"
    yield f"unpaired     {pairs.unpaired[0]:,} of the first, {pairs.unpaired[1]:,} of the second"
    yield from left_out_lines(pairs.counts)
    yield f"compared     {pairs.counts.analysed:,} images"
    one, other = found.evaluations
    for title, name in _HEADLINE.items():
        figures = getattr(one, name), getattr(other, name), getattr(differences, name)
        yield _line(title.ljust(width), *figures)
    for a, b, of, test in zip(
        one.classes, other.classes, differences.auc, differences.delong, strict=True
    ):
        p = "" if test is None else f", DeLong p {test.p:.3g}"
        yield _line(f"AUC {_plain(a.name)}".ljust(width), a.auc, b.auc, of) + p
    if one.all_images and other.all_images:
        first, second = one.all_images.accuracy, other.all_images.accuracy
        yield f"all images   accuracy {_value(first)} -> {_value(second)} (n={first.n:,})"
    yield (
        f"right alone  first {differences.second_only:,}, second {differences.first_only:,}, "
        f"McNemar p {differences.mcnemar_p:.3g}"
    )


def _plain(name: str) -> str:
    """A foreign name that can do nothing to a terminal."""
    from cxrbatch.files import shown

    return shown(name)[1:-1]


def _line(name: str, one: "Figure", other: "Figure", difference: "Estimate") -> str:
    if difference.value is None:
        return f"{name} undefined: {one.undefined or other.undefined}"
    text = f"{name} {one.value:.4f} -> {other.value:.4f}, {difference.value:+.4f}"
    if difference.interval is None:
        return f"{text} ({difference.reason})"
    return f"{text} ({difference.interval.low:+.4f} to {difference.interval.high:+.4f})"

"""The command `cxrbatch compare`."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxrbatch import options as shared
from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.reports import options

if TYPE_CHECKING:
    from cxrbatch.reports.comparison import Compared
    from cxrbatch.results.figures import Figure
    from cxrbatch.results.statistics.intervals import Estimate

WORSE = 4
"""Exit code: the second table is worse than allowed."""

# Sums in another order differ in the last bits.
_ROUNDING = 1e-12


def _margin(
    context: click.Context, parameter: click.Parameter, given: float | None
) -> float | None:
    # No number is larger than NaN: nothing would ever be worse.
    if given is not None and math.isnan(given):
        raise click.BadParameter("nan is no margin; give a number from 0 to 1.")
    return given


@click.command("compare")
@click.argument("first", type=shared.FILE)
@click.argument("second", type=shared.FILE)
@click.option("-o", "--output", type=shared.FILE, metavar="FILE", help="Write a page here too.")
@options.json_option
@options.labels_option
@options.archive_option
@click.option(
    "--fail-if-worse",
    type=click.FloatRange(0.0, 1.0),
    metavar="MARGIN",
    callback=_margin,
    help="Exit with 4 where balanced accuracy or macro AUC of SECOND is lower by more than this.",
)
@options.show_paths_option
@shared.overwrite_option
def command(
    first: Path,
    second: Path,
    output: Path | None,
    figures: Path | None,
    labels: Path | None,
    archive: Path | None,
    fail_if_worse: float | None,
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
    from cxrbatch.paths import check_output

    targets = [target for target in (output, figures) if target is not None]
    for target in targets:
        for source in filter(None, (first, second, labels)):
            check_output(target, overwrite=overwrite, source=source)
    if len(targets) == 2 and targets[0].resolve() == targets[1].resolve():
        raise UsageError("--json and --output name one file; choose two")

    from cxrbatch.atomic import written_whole
    from cxrbatch.reports.comparison import make_comparison
    from cxrbatch.reports.page import render

    found = make_comparison(
        first,
        second,
        labels=labels,
        archive=archive,
        show_paths=show_paths,
        workers=shared.default_workers(),
        progress=options.Steps(),
    )
    if output is not None:
        page = render("compare.html", {"compared": found}).encode()
        with written_whole(output) as file:
            file.write(page)
    if figures is not None:
        with written_whole(figures) as file:
            file.write(json.dumps(found.figures(), indent=1, allow_nan=False).encode())
    for line in _lines(found):
        click.echo(line)
    if output is not None:
        click.echo(f"page         {output} ({len(page) / 1e6:.1f} MB)")
    if fail_if_worse is None:
        return
    if found.loss is None:
        raise CxrbatchError("neither balanced accuracy nor macro AUC is defined: nothing to judge")
    if found.loss > fail_if_worse + _ROUNDING:
        click.echo(
            f"error: the second is worse by {found.loss:.4f}, over {fail_if_worse:g}", err=True
        )
        click.get_current_context().exit(WORSE)


def _lines(found: "Compared") -> Iterator[str]:
    differences, sizes = found.differences, found.pairs
    wide = max(12, *(len(f"AUC {_plain(name)}") for name in sizes.classes))
    side = f", the side {sizes.side} alone" if sizes.side else ""
    yield f"first        {_plain(found.names[0])}"
    yield f"second       {_plain(found.names[1])}"
    yield f"images       {len(sizes.truth):,} in both, joined by {' and '.join(sizes.key)}{side}"
    yield f"left out     {sizes.unpaired[0]:,} of the first, {sizes.unpaired[1]:,} of the second"
    one, other = found.evaluations
    yield _line("accuracy".ljust(wide), one.accuracy, other.accuracy, differences.accuracy)
    yield _line(
        "balanced".ljust(wide),
        one.balanced_accuracy,
        other.balanced_accuracy,
        differences.balanced_accuracy,
    )
    yield _line("macro AUC".ljust(wide), one.macro_auc, other.macro_auc, differences.macro_auc)
    for a, b, of, test in zip(
        one.classes, other.classes, differences.auc, differences.delong, strict=True
    ):
        p = "" if test is None else f", DeLong p {test.p:.3g}"
        yield _line(f"AUC {_plain(a.name)}".ljust(wide), a.auc, b.auc, of) + p
    yield (
        f"right alone  first {differences.second_only:,}, second {differences.first_only:,}, "
        f"McNemar p {differences.mcnemar_p:.3g}"
    )


def _plain(name: str) -> str:
    """A foreign name that can do nothing to a terminal."""
    from cxrbatch.paths import shown

    return shown(name)[1:-1]


def _line(name: str, one: "Figure", other: "Figure", difference: "Estimate") -> str:
    if difference.value is None:
        return f"{name} undefined: {one.undefined or other.undefined}"
    text = f"{name} {one.value:.4f} -> {other.value:.4f}, {difference.value:+.4f}"
    if difference.interval is None:
        return f"{text} ({difference.reason})"
    return f"{text} ({difference.interval.low:+.4f} to {difference.interval.high:+.4f})"

"""The commands `cxrbatch score` and `cxrbatch merge`."""

import math
import os
import shlex
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

import cxrbatch.options as shared
from cxrbatch.errors import UsageError
from cxrbatch.process import Interruption

if TYPE_CHECKING:
    from cxrbatch.model.inference import Backend, Precision
    from cxrbatch.scoring.run import Part, Quantisation, Summary


@click.command("score")
@click.argument("archive", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=shared.FILE,
    default=Path("results.parquet"),
    metavar="FILE",
    help="The table to write.",
)
@shared.overwrite_option
@click.option(
    "--update",
    is_flag=True,
    help="Keep the rows of an existing output whose files have the same size and time.",
)
@shared.checkpoint_option
@shared.batch_size_option(32)
@shared.workers_option
@shared.backend_option
@shared.precision_option(int8=True)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="Labelled images that int8 is set up and held to account with: class folders, or labels.",
)
@shared.device_option
@shared.follow_links_option
@shared.max_pixels_option
@shared.modality_option
@click.option(
    "--fast-decode",
    is_flag=True,
    help="Decode grey JPEG and JPEG 2000 at a reduced size: faster, and changes scores slightly, "
    "see docs/scaling.md.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=0.1, max=86_400),
    callback=shared.finite,
    default=60.0,
    metavar="SECONDS",
    help="Give a file up that takes longer to read.",
)
@click.option(
    "--commit-every",
    type=click.IntRange(min=1),
    default=4096,
    metavar="FILES",
    help="Put so many files on the disk at a time; a run that is killed goes on from there.",
)
@click.option(
    "--shard",
    "part",
    metavar="I/N",
    callback=lambda context, parameter, value: value and _part_of(value),
    help="Score the I-th of N equal parts, for `cxrbatch merge` to join.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="Score in this process, or by Ray on all nodes of a cluster.",
)
@click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="The cluster, `auto` on one of its nodes.  [default: Ray on this machine alone]",
)
@click.option(
    "--max-failed",
    metavar="SHARE|N",
    callback=lambda context, parameter, value: 0 if value is None else _most_failed(value),
    help="End with exit code 0 where at most so many rows failed, as 0.01, 1% or 25.  [default: 0]",
)
@click.option(
    "--fail-if-none", is_flag=True, help="End with exit code 4 where no image could be scored."
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="What to tell on stderr: a bar for a person, or one event per line.",
)
@click.option("--log-paths", is_flag=True, help="Name files in the events.")
def command(
    archive: Path,
    output: Path,
    overwrite: bool,
    update: bool,
    checkpoint: Path | None,
    batch_size: int,
    workers: int,
    backend: "Backend",
    precision: "Precision",
    calibration: Path | None,
    device: str,
    follow_links: bool,
    max_pixels: int,
    modality: tuple[str, ...],
    fast_decode: bool,
    deadline: float,
    commit_every: int,
    part: "Part | None",
    engine: str,
    ray_address: str | None,
    max_failed: int | float,
    fail_if_none: bool,
    log_format: str,
    log_paths: bool,
) -> int:
    """Score an archive into a Parquet table, one row per file.

    ARCHIVE is a folder of DICOM, PNG and JPEG files, whatever their names, or one file. Every
    file becomes a row: scored, or with an outcome code that says why not. So does each member of
    a .zip or .tar and the content of a .gz, .bz2 or .xz, be it a tar or one file; all are read
    where they lie. The exit code is 3 where more images than --max-failed could not be read.

    A run may be stopped at any moment: the same command goes on where it was.

    Research use only: a score is not a diagnosis.

    \b
    Example:
      cxrbatch score archive -o results.parquet
    """
    from cxrbatch.commands.progress import CommandBar, EventLog

    again = shlex.join(["cxrbatch", *(click.get_current_context().obj or ())])
    told: CommandBar | EventLog
    told = EventLog(paths=log_paths) if log_format == "json" else CommandBar()
    with Interruption(lambda: told.interrupted(again)) as interruption, closing(told):
        told.interruption = interruption
        from cxrbatch.scoring.run import Part, ScoringOptions
        from cxrbatch.scoring.score import check_call, score_archive

        try:
            check_call(overwrite, update, engine=engine, ray_address=ray_address, backend=backend)
        except UsageError as error:
            raise click.UsageError(str(error)) from None
        summary = score_archive(
            archive,
            output,
            checkpoint=checkpoint,
            options=ScoringOptions(
                batch_size=batch_size,
                workers=workers,
                backend=backend,
                precision=precision,
                calibration=calibration,
                device=device,
                follow_links=follow_links,
                max_pixels=max_pixels,
                modalities=frozenset(modality),
                deadline=deadline,
                commit_every=commit_every,
                part=part or Part(),
                fast_decode=fast_decode,
            ),
            progress=told,
            overwrite=overwrite,
            update=update,
            engine=engine,
            ray_address=ray_address,
        )
        told.finished(rows=summary.counts.rows, outcomes=summary.counts.outcomes)
    _print_summary(summary)
    if not summary.scored:
        click.echo(
            "warning: no image was scored; `cxrbatch outcomes` says what each outcome means and "
            "what to do",
            err=True,
        )
        if fail_if_none:
            return shared.CONDITION_FAILED
    allowed = max_failed if isinstance(max_failed, int) else max_failed * summary.counts.rows
    return shared.SOME_UNREADABLE if summary.failures > allowed else 0


def _most_failed(text: str) -> int | float:
    """Read a number of rows as an int, and a share of them, such as 0.01 or 1%, as a float."""
    number = text.strip().removesuffix("%")
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        share = float(number) / (100 if "%" in text else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise click.BadParameter(f"{text!r} is neither a number of rows nor a share, as 0.01 or 1%")
    return share


def _part_of(text: str) -> "Part":
    from cxrbatch.scoring.run import Part

    try:
        return Part.from_text(text)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


def _share_of_model(summary: "Summary") -> str:
    """What the run was busy with: the cheap form of what `cxrbatch bench` measures."""
    model = min(1.0, summary.scoring / (summary.seconds or 1.0))
    return f"at work {model:.0%} of the time, and else waiting for files"


def _cost(quantisation: "Quantisation") -> str:
    lost = quantisation.unreadable
    return (
        f"AUC changes by at most {abs(quantisation.auc_change[quantisation.worst]):.4f} on "
        f"{sum(quantisation.images.values()):,} calibration images"
        f"{f', {lost:,} could not be read' if lost else ''}"
    )


def _print_summary(summary: "Summary") -> None:
    from cxrbatch.files import path_to_text
    from cxrbatch.reading.outcomes import Outcome

    counts = summary.counts
    click.echo(f"files        {counts.files:>9,}   rows {counts.rows:,}")
    click.echo("outcomes")
    for code in sorted(Outcome, key=lambda code: -counts.outcomes[code]):
        if count := counts.outcomes[code]:
            click.echo(f"  {count:>9,}  {code.value:<28} {code.meaning}")
    if counts.predictions:
        click.echo("predicted (research use only, not a diagnosis)")
        for name, count in counts.predictions.most_common():
            click.echo(f"  {count:>9,}  {name}")
    if summary.passed_over:
        kinds = sorted(summary.passed_over.items())
        what = ", ".join(f"{count:,} {kind}" for kind, count in kinds)
        click.echo(f"passed over  {what.replace('_', ' ')}")
    if summary.read:
        rate = summary.images / summary.seconds if summary.seconds else 0.0
        click.echo(
            f"speed        {rate:.1f} images/s over {summary.seconds:.1f} s, "
            f"{summary.read:,} files read ({summary.device}, {summary.precision})"
        )
        if summary.scoring:
            click.echo(f"model        {_share_of_model(summary)}")
    elif summary.seconds:
        click.echo("read         no file: all rows were kept, and the table was written anew")
    else:
        click.echo("nothing to do: the table is complete")
    if summary.quantisation:
        click.echo(f"int8         {_cost(summary.quantisation)}")
    click.echo(f"table        {path_to_text(os.fsencode(summary.output))}")
    if not summary.lasting_patient_keys:
        click.echo(
            "warning: the patient secret could not be kept, so patient_key holds within this table "
            "only; set XDG_CONFIG_HOME to a folder that can be written",
            err=True,
        )
    if summary.older_schema:
        click.echo(
            f"note: the table had schema {summary.older_schema}, which has no accession_key: the "
            "rows that were kept have none; --overwrite reads all files anew",
            err=True,
        )


@click.command("merge")
@click.argument("output", metavar="OUT", type=shared.FILE)
@click.argument("parts", metavar="PART...", type=shared.FILE, nargs=-1, required=True)
@shared.overwrite_option
def merge(output: Path, parts: tuple[Path, ...], overwrite: bool) -> None:
    """Join the tables of all parts of an archive into one.

    OUT becomes the same file, byte for byte, that one run over the whole archive writes. Each PART
    comes from `cxrbatch score --shard I/N`; all N are needed, in any order.

    \b
    Example:
      cxrbatch merge results.parquet part-1.parquet part-2.parquet
    """
    from cxrbatch.files import check_output, claimed, path_to_text
    from cxrbatch.scoring.score import check_table_name

    check_table_name(output)
    check_output(output, overwrite=overwrite)
    with claimed(output):
        from cxrbatch.results.table import open_table
        from cxrbatch.scoring.existing_tables import merge_parts

        first = open_table(parts[0])
        counts = merge_parts(output, parts)
    click.echo(f"files        {counts.files:>9,}   rows {counts.rows:,}")
    click.echo(f"table        {path_to_text(os.fsencode(output))}")
    if first.is_older:
        click.echo(
            f"note: the parts had schema {first.provenance['schema_version']}, which has no "
            "accession_key: the rows have none; score the parts anew to have it",
            err=True,
        )

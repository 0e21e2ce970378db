"""The commands `cxrbatch score` and `cxrbatch merge`."""

import os
from pathlib import Path

import click

import cxrbatch.options as shared
from cxrbatch.commands.scoring_call import ScoringCall, scoring_options


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
@shared.checkpoint_option
@scoring_options
def command(archive: Path, output: Path, checkpoint: Path | None, call: ScoringCall) -> int:
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
    return call.score(archive, output, checkpoint)


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
            "ood_kind, and until 2.1 no accession_key: the rows have none; score the parts anew to "
            "have them",
            err=True,
        )

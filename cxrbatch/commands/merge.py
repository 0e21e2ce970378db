"""The command `cxrbatch merge`."""

import os
from pathlib import Path

import click

import cxrbatch.options as shared


@click.command("merge")
@click.argument("output", metavar="OUT", type=shared.FILE)
@click.argument("parts", metavar="PART...", type=shared.FILE, nargs=-1, required=True)
@shared.overwrite_option
def command(output: Path, parts: tuple[Path, ...], overwrite: bool) -> None:
    """Join the tables of all parts of an archive into one.

    OUT becomes the same file, byte for byte, that one run over the whole archive writes. Each PART
    comes from `cxrbatch score --shard I/N`; all N are needed, in any order.

    \b
    Example:
      cxrbatch merge results.parquet part-1.parquet part-2.parquet
    """
    from cxrbatch.files import check_output, claimed, path_to_text

    check_output(output, overwrite=overwrite)
    with claimed(output):
        from cxrbatch.scoring.merge import merge_parts

        counts = merge_parts(output, parts)
    click.echo(f"files        {counts.files:>9,}   rows {counts.rows:,}")
    click.echo(f"table        {path_to_text(os.fsencode(output))}")

"""The command `cxrbatch sample`: an archive to try the program on."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("sample")
@click.argument("directory", type=click.Path(path_type=Path))
def command(directory: Path) -> None:
    """Write an example archive into DIRECTORY, which must be new or empty.

    It holds drawn chest radiographs as DICOM (many transfer syntaxes), PNG and JPEG, a few real
    radiographs where the package pydicom-data is installed, broken and foreign files, and a
    labels.csv that says what was drawn. Every run writes the same files.

    The drawings are phantoms, not patients: scores on them say nothing about people.

    \b
    Example:
      cxrbatch sample sample-archive
      cxrbatch score sample-archive -o results.parquet
    """
    from cxrbatch.sample.archive_writer import LABELS, write_sample

    summary = write_sample(directory)
    megabytes = summary.size / 1e6
    click.echo(f"{summary.files} files ({megabytes:.0f} MB) written to {directory}:")
    for kind, count in summary.kinds.items():
        click.echo(f"  {count:4d}  {kind}")
    if summary.remark:
        click.echo(summary.remark)
    click.echo(f"labels: {directory / LABELS} ({summary.labelled} phantoms)")
    click.echo("The phantoms are drawings, not patients.")
    click.echo(f"next: cxrbatch score {_quoted(directory)}")


def _quoted(directory: Path) -> str:
    """The directory as a shell takes it."""
    import shlex

    return shlex.quote(str(directory))

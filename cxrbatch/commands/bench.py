"""The commands `cxrbatch bench` and `cxrbatch sample`; bench scores the sample by default."""

import json
import shlex
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

import cxrbatch.options as shared
from cxrbatch.process import Interruption

if TYPE_CHECKING:
    from cxrbatch.model.inference import Backend, Precision
    from cxrbatch.speed.measuring import Measurement

_GIGA, _MEGA = 1e9, 1e6


@click.command("bench")
@click.argument("archive", type=click.Path(path_type=Path), required=False)
@shared.checkpoint_option
@shared.batch_size_option(32)
@shared.workers_option
@shared.backend_option
@shared.precision_option()
@shared.device_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def command(
    archive: Path | None,
    checkpoint: Path | None,
    batch_size: int,
    workers: int,
    backend: "Backend",
    precision: "Precision",
    device: str,
    as_json: bool,
) -> int:
    """Measure how fast this machine could score ARCHIVE, and how fast it does.

    It measures decoding, one resize and the forward pass on a sample of the archive. No scorer can
    be faster than these, so they are the limit. It also scores the sample from file to table, and
    prints which share of the limit that reaches. Nothing is written. Without ARCHIVE it takes the
    example archive of `cxrbatch sample`. It needs less than a minute; other work on the machine
    makes its figures wrong.

    \b
    Example:
      cxrbatch bench archive
    """
    from cxrbatch.scoring.score import ProgressBar

    bar = ProgressBar()
    with Interruption(lambda: click.echo("interrupted", err=True)) as interruption, closing(bar):
        from cxrbatch.model.checkpoint import bundled_checkpoint
        from cxrbatch.sample.archive_writer import write_sample
        from cxrbatch.scoring.run import ScoringOptions
        from cxrbatch.speed.measuring import measure

        with tempfile.TemporaryDirectory(prefix="cxrbatch-bench-") as folder:
            interruption.arm()
            if archive is None:
                archive = Path(folder, "sample")
                write_sample(archive)
            measured = measure(
                archive,
                checkpoint=checkpoint or bundled_checkpoint(),
                options=ScoringOptions(
                    batch_size=batch_size,
                    workers=workers,
                    backend=backend,
                    precision=precision,
                    device=device,
                ),
                progress=bar,
            )
    click.echo(json.dumps(measured.to_json()) if as_json else _as_text(measured))
    return 0


def _as_text(measured: "Measurement") -> str:
    capacities, demands = measured.capacities, measured.demands
    gemm = ", ".join(f"{name} {rate / _GIGA:,.0f}" for name, rate in capacities.gemm.items())
    disk = f"{capacities.disk / _MEGA:,.0f} MB/s" if capacities.disk else "in memory, not measured"
    share = demands.operations / demands.forward / capacities.gemm[measured.precision]
    kinds = ", ".join(f"{count} {kind}" for kind, count in demands.kinds.items())
    together = "the slowest of them" if measured.on_gpu else "codec and forward pass in turn"
    lines = [
        f"machine      {measured.device}; {capacities.cores} cores",
        f"matrices     {gemm} GFLOP/s",
        f"disk         {disk}",
        *([f"copy         {capacities.copy / _GIGA:.1f} GB/s"] if capacities.copy else []),
        f"sample       {kinds}; {demands.bytes / _MEGA:.2f} MB a file",
        f"codec        {1 / demands.decode:,.1f} images/s on all cores, bare, with one resize",
        f"forward      {1 / demands.forward:,.1f} images/s in {measured.precision}, bare, "
        f"{share:.0%} of the matrix rate",
        f"limit        {measured.limit:,.1f} images/s: {together}",
        f"end to end   {measured.rate:,.1f} images/s over {measured.seconds:.1f} s, "
        f"{measured.images:,} images",
        f"ratio        {measured.rate / measured.limit:.2f} of the limit",
        f"bottleneck   {measured.bottleneck}",
    ]
    return "\n".join(lines)


@click.command("sample")
@click.argument("directory", type=click.Path(path_type=Path))
def sample(directory: Path) -> None:
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
    click.echo(f"next: cxrbatch score {shlex.quote(str(directory))}")

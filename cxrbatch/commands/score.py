"""The command `cxrbatch score`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from cxrbatch import options as shared

if TYPE_CHECKING:
    from tqdm import tqdm

    from cxrbatch.scoring.engine import Summary


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
@shared.checkpoint_option
@shared.batch_size_option(32)
@shared.workers_option
@shared.precision_option
@shared.device_option
@shared.follow_links_option
@shared.max_pixels_option
@shared.modality_option
def command(
    archive: Path,
    output: Path,
    overwrite: bool,
    checkpoint: Path | None,
    batch_size: int,
    workers: int,
    precision: str,
    device: str,
    follow_links: bool,
    max_pixels: int,
    modality: tuple[str, ...],
) -> int:
    """Score an archive into a Parquet table, one row per file.

    ARCHIVE is a folder of DICOM, PNG and JPEG files, whatever their names, or one file. Every
    file becomes a row: scored, or with an outcome code that says why not. So does each member of
    a .zip, .tar, .tar.gz or .tgz, which is read where it lies. The exit code is 3 where some
    images could not be read.

    Research use only: a score is not a diagnosis.

    \b
    Example:
      cxrbatch score archive -o results.parquet
    """
    from typing import cast

    from cxrbatch.model.checkpoint import bundled_checkpoint
    from cxrbatch.model.inference import Precision
    from cxrbatch.reading.radiograph import RADIOGRAPH_MODALITIES
    from cxrbatch.scoring.engine import ScoringOptions, score_archive

    options = ScoringOptions(
        batch_size=batch_size,
        workers=workers,
        precision=cast(Precision, precision),
        device=device,
        follow_links=follow_links,
        max_pixels=max_pixels,
        modalities=RADIOGRAPH_MODALITIES | set(modality),
    )
    with _Bar() as progress:
        summary = score_archive(
            archive,
            output,
            checkpoint=checkpoint or bundled_checkpoint(),
            options=options,
            overwrite=overwrite,
            progress=progress,
        )
    _print_summary(summary)
    return shared.SOME_UNREADABLE if summary.failures else 0


class _Bar:
    """Progress on a terminal: files found, then files done with rate and time left."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def found(self, files: int) -> None:
        if self._bar is None:
            self._open("looking for files", None)
        self._advance_to(files)

    def start(self, files: int) -> None:
        self._close()
        self._open("scoring", files)

    def advance(self, files: int) -> None:
        if self._bar is not None:
            self._bar.update(files)

    def _advance_to(self, files: int) -> None:
        if self._bar is not None:
            self._bar.update(files - self._bar.n)

    def _open(self, what: str, total: int | None) -> None:
        from tqdm import tqdm

        # disable=None: no bar where stderr is not a terminal.
        self._bar = tqdm(desc=what, total=total, unit=" files", disable=None, dynamic_ncols=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _print_summary(summary: "Summary") -> None:
    from cxrbatch.reading.outcomes import Outcome
    from cxrbatch.results.paths import path_to_text

    rate = summary.outcomes[Outcome.SCORED] / summary.seconds if summary.seconds else 0.0
    click.echo(f"files        {summary.files:>9,}   rows {summary.rows:,}")
    click.echo("outcomes")
    for code in sorted(Outcome, key=lambda code: -summary.outcomes[code]):
        if count := summary.outcomes[code]:
            click.echo(f"  {count:>9,}  {code.value:<28} {code.meaning}")
    if summary.predictions:
        click.echo("predicted (research use only, not a diagnosis)")
        for name, count in summary.predictions.most_common():
            click.echo(f"  {count:>9,}  {name}")
    if summary.passed_over:
        what = ", ".join(f"{count:,} {kind}" for kind, count in summary.passed_over.items())
        click.echo(f"passed over  {what.replace('_', ' ')}")
    click.echo(
        f"speed        {rate:.1f} images/s over {summary.seconds:.1f} s "
        f"({summary.device}, {summary.precision})"
    )
    click.echo(f"table        {path_to_text(os.fsencode(summary.output))}")
    if not summary.lasting_patient_keys:
        click.echo(
            "warning: the patient secret could not be kept, so patient_key holds within this table "
            "only; set XDG_CONFIG_HOME to a folder that can be written",
            err=True,
        )

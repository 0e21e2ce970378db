"""The options of a scoring run, which `score` and `evaluate` share, and the run itself."""

import math
import os
import shlex
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

import cxrbatch.options as shared
from cxrbatch.errors import UsageError
from cxrbatch.options import Decorated
from cxrbatch.process import Interruption

if TYPE_CHECKING:
    from cxrbatch.commands.progress import CommandBar, EventLog
    from cxrbatch.model.inference import Backend, Precision
    from cxrbatch.scoring.run import Part, Quantisation, ScoringOptions, Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringCall:
    """The values of the options that `scoring_options` adds, each named as its option."""

    overwrite: bool
    update: bool
    batch_size: int
    workers: int
    backend: "Backend"
    precision: "Precision"
    calibration: Path | None
    device: str
    follow_links: bool
    max_pixels: int
    modality: tuple[str, ...]
    fast_decode: bool
    gate: bool
    deadline: float
    commit_every: int
    part: "Part | None"
    engine: str
    ray_address: str | None
    max_failed: int | float
    fail_if_none: bool
    log_format: str
    log_paths: bool

    def score(self, archive: Path, output: Path, checkpoint: Path | None) -> int:
        """Score an archive, and print the progress on stderr and the summary on stdout.

        Args:
            archive: The archive.
            output: The table to write.
            checkpoint: The model; None for the bundled one.

        Returns:
            The exit code: 0, or another one that an option asks for.

        Raises:
            click.UsageError: The options contradict each other.
            CxrbatchError: In the cases in which `score_archive` raises it.
            Interrupted: After a signal; how to continue is written to stderr.
        """
        from cxrbatch.commands.progress import CommandBar, EventLog

        again = shlex.join(["cxrbatch", *(click.get_current_context().obj or ())])
        told: CommandBar | EventLog
        told = EventLog(paths=self.log_paths) if self.log_format == "json" else CommandBar()
        with Interruption(lambda: told.interrupted(again)) as interruption, closing(told):
            told.interruption = interruption
            summary = self._run(archive, output, checkpoint, told)
            told.finished(rows=summary.counts.rows, outcomes=summary.counts.outcomes)
        _print_summary(summary)
        return self._exit_code(summary)

    def _run(
        self, archive: Path, output: Path, checkpoint: Path | None, told: "CommandBar | EventLog"
    ) -> "Summary":
        from cxrbatch.scoring.score import check_call, score_archive

        try:
            check_call(
                self.overwrite,
                self.update,
                engine=self.engine,
                ray_address=self.ray_address,
                backend=self.backend,
            )
        except UsageError as error:
            raise click.UsageError(str(error)) from None
        return score_archive(
            archive,
            output,
            checkpoint=checkpoint,
            options=self._options(),
            progress=told,
            overwrite=self.overwrite,
            update=self.update,
            engine=self.engine,
            ray_address=self.ray_address,
        )

    def _options(self) -> "ScoringOptions":
        from cxrbatch.scoring.run import Part, ScoringOptions

        return ScoringOptions(
            batch_size=self.batch_size,
            workers=self.workers,
            backend=self.backend,
            precision=self.precision,
            calibration=self.calibration,
            device=self.device,
            follow_links=self.follow_links,
            max_pixels=self.max_pixels,
            modalities=frozenset(self.modality),
            deadline=self.deadline,
            commit_every=self.commit_every,
            part=self.part or Part(),
            fast_decode=self.fast_decode,
            gate=self.gate,
        )

    def _exit_code(self, summary: "Summary") -> int:
        if not summary.scored:
            click.echo(
                "warning: no image was scored; `cxrbatch outcomes` says what each outcome means "
                "and what to do",
                err=True,
            )
            if self.fail_if_none:
                return shared.CONDITION_FAILED
        rows = summary.counts.rows
        allowed = self.max_failed if isinstance(self.max_failed, int) else self.max_failed * rows
        return shared.SOME_UNREADABLE if summary.failures > allowed else 0


def scoring_options(command: Decorated) -> Decorated:
    """Decorator: add all options of a scoring run but its archive, table and checkpoint.

    The command, a plain function, gets the keyword argument `call`, a `ScoringCall`.
    """

    @wraps(command)
    def with_call(*args: object, **given: object) -> object:
        own = {field.name: given.pop(field.name) for field in fields(ScoringCall)}
        return command(*args, call=ScoringCall(**cast(dict[str, Any], own)), **given)

    changed = cast(Decorated, with_call)
    for option in reversed(_OPTIONS):
        changed = option(changed)
    return changed


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


def _gate_line(summary: "Summary") -> str:
    from cxrbatch.reading.outcomes import Flag

    if not summary.has_gate:
        return "none: the checkpoint has no feature statistics, so no image was compared with them"
    count = summary.counts.flags[Flag.OUT_OF_DISTRIBUTION]
    return f"{count:,} images are unlike those the model has seen (out_of_distribution)"


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
    if summary.seconds:
        click.echo(f"gate         {_gate_line(summary)}")
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
            f"note: the table had schema {summary.older_schema}, which has no ood_kind, and until "
            "2.1 no accession_key: the rows that were kept have none; --overwrite reads all anew",
            err=True,
        )


_OPTIONS: tuple[Callable[[Decorated], Decorated], ...] = (
    shared.overwrite_option,
    click.option(
        "--update",
        is_flag=True,
        help="Keep the rows of an existing output whose files have the same size and time.",
    ),
    shared.batch_size_option(32),
    shared.workers_option,
    shared.backend_option,
    shared.precision_option(int8=True),
    click.option(
        "--calibration",
        type=click.Path(path_type=Path),
        metavar="DATA",
        help="Labelled images that int8 is set up and held to account with: class folders, or "
        "labels.",
    ),
    shared.device_option,
    shared.follow_links_option,
    shared.max_pixels_option,
    shared.modality_option,
    click.option(
        "--fast-decode",
        is_flag=True,
        help="Decode grey JPEG and JPEG 2000 at a reduced size: faster, and changes scores "
        "slightly, see docs/scaling.md.",
    ),
    click.option(
        "--gate",
        is_flag=True,
        help="Give no score to an image that is unlike those the model has seen, but the outcome "
        "withheld_by_gate.",
    ),
    click.option(
        "--deadline",
        type=click.FloatRange(min=0.1, max=86_400),
        callback=shared.finite,
        default=60.0,
        metavar="SECONDS",
        help="Give a file up that takes longer to read.",
    ),
    click.option(
        "--commit-every",
        type=click.IntRange(min=1),
        default=4096,
        metavar="FILES",
        help="Put so many files on the disk at a time; a run that is killed goes on from there.",
    ),
    click.option(
        "--shard",
        "part",
        metavar="I/N",
        callback=lambda context, parameter, value: value and _part_of(value),
        help="Score the I-th of N equal parts, for `cxrbatch merge` to join.",
    ),
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        help="Score in this process, or by Ray on all nodes of a cluster.",
    ),
    click.option(
        "--ray-address",
        metavar="ADDRESS",
        help="The cluster, `auto` on one of its nodes.  [default: Ray on this machine alone]",
    ),
    click.option(
        "--max-failed",
        metavar="SHARE|N",
        callback=lambda context, parameter, value: 0 if value is None else _most_failed(value),
        help="End with exit code 0 where at most so many rows failed, as 0.01, 1% or 25.  "
        "[default: 0]",
    ),
    click.option(
        "--fail-if-none", is_flag=True, help="End with exit code 4 where no image could be scored."
    ),
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        help="What to tell on stderr: a bar for a person, or one event per line.",
    ),
    click.option("--log-paths", is_flag=True, help="Name files in the events."),
)

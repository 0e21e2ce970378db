"""The command `cxrbatch evaluate`: score an archive with labels, and say how good the model is."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import cxrbatch.options as shared
from cxrbatch.commands.scoring_call import ScoringCall, scoring_options
from cxrbatch.errors import UsageError

if TYPE_CHECKING:
    from cxrbatch.model.card import Card
    from cxrbatch.results.analysis import Analysis
    from cxrbatch.results.figures import Evaluation
    from cxrbatch.results.label_files import LabelOptions

BUNDLED = "default"
"""The word that stands for the bundled model in place of a checkpoint's path."""


@click.command("evaluate")
@click.argument("checkpoint")
@click.argument("archive", metavar="DATA", type=click.Path(path_type=Path))
@click.option(
    "--labels",
    type=shared.FILE,
    metavar="FILE",
    help="CSV, Excel or Parquet with the class of each image, or of each study.  [default: "
    "class-named folders]",
)
@click.option(
    "-o",
    "--output",
    type=shared.FILE,
    default=Path("results.parquet"),
    metavar="FILE",
    help="The table to write.",
)
@click.option(
    "--json", "figures", type=shared.FILE, metavar="FILE", help="Write the figures here too."
)
@click.option(
    "--record",
    metavar="NAME",
    help="Write the main figures into the checkpoint's card, as those of NAME.",
)
@shared.label_options
@click.option("--keep-copies", is_flag=True, help="Count each of several equal images.")
@click.option("--keep-flagged", is_flag=True, help="Count laterals and films of no chest.")
@scoring_options
def command(
    checkpoint: str,
    archive: Path,
    labels: Path | None,
    output: Path,
    figures: Path | None,
    record: str | None,
    label_options: "LabelOptions | None",
    check_labels: bool,
    keep_copies: bool,
    keep_flagged: bool,
    call: ScoringCall,
) -> int:
    """Validate a model on labelled images from elsewhere: score DATA, then print the figures.

    CHECKPOINT is a file, or `default` for the bundled model; DATA an archive as of `cxrbatch
    score`, whose options, table and exit codes are those of this command too. A run that was
    stopped goes on; a table that is complete is not scored again.

    Where the labels tell fewer classes apart than the model, --map gives a text several classes:
    their probabilities are added up, and the class of the largest sum is the prediction. The
    model's own predictions are shown by true class.

    --record writes the main figures into CHECKPOINT, for `cxrbatch models show`. The weights, and
    the hash by which tables name the checkpoint, stay as they are.

    Research use only: the model is not a medical device.

    \b
    Examples:
      cxrbatch evaluate default /films --labels labels.csv -o results.parquet
      cxrbatch evaluate model.safetensors /films --labels labels.csv --record "Hospital B"
      cxrbatch evaluate default /films --labels labels.csv \\
        --map "Pneumonia=Lung Opacity,Viral Pneumonia,COVID-19"
    """
    from cxrbatch.model.checkpoint import bundled_checkpoint, read_card
    from cxrbatch.results.label_files import AS_USUAL

    options = label_options or AS_USUAL
    if check_labels:
        _show_check(output, labels, options)
        return 0
    path = bundled_checkpoint() if checkpoint == BUNDLED else Path(checkpoint)
    card = read_card(path)
    _check_labels(labels, options, card)
    _check_outputs([path, labels], output, figures, overwrite=call.overwrite)
    _check_record(record, checkpoint, card, overwrite=call.overwrite)
    code = call.score(archive, output, path)
    if code == shared.CONDITION_FAILED:
        return code
    from cxrbatch.results.analysis import analyse
    from cxrbatch.results.evaluation import evaluate_analysis, require_truth

    kept = {"keep_copies": keep_copies, "keep_flagged": keep_flagged}
    analysis = analyse(output, labels, label_options=options, merge=True, **kept)
    require_truth(analysis)
    evaluation = evaluate_analysis(analysis)
    _print(analysis, evaluation)
    if figures is not None:
        _write_json(figures, analysis, evaluation)
    if record is not None:
        _record(path, record, analysis, evaluation, overwrite=call.overwrite)
    return code


def _show_check(output: Path, labels: Path | None, options: "LabelOptions") -> None:
    """Print how labels are read and which images of a table they name."""
    from cxrbatch.results.label_joining import describe_labels

    if labels is None or not output.exists():
        raise UsageError("--check-labels needs --labels and a table that exists, see -o")
    for title, text in describe_labels(output, labels, options, merge=True):
        click.echo(f"{title:12} {text}")


def _check_labels(labels: Path | None, options: "LabelOptions", card: "Card") -> None:
    """Refuse labels and maps that cannot be used, before hours of scoring."""
    from cxrbatch.results.label_files import load
    from cxrbatch.results.label_joining import check_label_texts
    from cxrbatch.results.merging import make_task

    task = make_task(card.classes, options.class_map, merge=True)
    if labels is not None:
        check_label_texts(load(labels, replace(options, class_map=task.texts), task.names), task)


def _check_outputs(
    read: list[Path | None], output: Path, figures: Path | None, *, overwrite: bool
) -> None:
    """Refuse to write the table or the figures over a file that is read, or over each other."""
    from cxrbatch.files import check_output

    if figures is not None:
        check_output(figures, overwrite=overwrite)
        if figures.resolve() == output.resolve():
            raise UsageError(f"--json and -o both name {figures}; give two names")
    for written in filter(None, (output, figures)):
        for source in filter(None, read):
            if written.exists() and source.exists() and written.samefile(source):
                raise UsageError(f"{written} is a file that is to be read; choose another name")


def _check_record(name: str | None, checkpoint: str, card: "Card", *, overwrite: bool) -> None:
    from cxrbatch.model.recording import check_record

    if name is None:
        return
    if checkpoint == BUNDLED:
        raise UsageError(
            "--record changes the checkpoint's file, and the bundled one belongs to the package; "
            "give the path of a copy"
        )
    check_record(Path(checkpoint), card, name, overwrite=overwrite)


def _print(analysis: "Analysis", evaluation: "Evaluation") -> None:
    from cxrbatch.results.describing import evaluation_lines

    truth = analysis.truth
    assert truth is not None
    click.echo(f"truth        {truth.source}")
    for note in truth.notes:
        click.echo(f"labels       {note}")
    for line in evaluation_lines(analysis, evaluation):
        click.echo(line)
    for warning in truth.warnings:
        click.echo(f"warning: {warning}", err=True)


def _write_json(file: Path, analysis: "Analysis", evaluation: "Evaluation") -> None:
    from cxrbatch import __version__
    from cxrbatch.files import writing, written_whole

    truth, task = analysis.truth, analysis.task
    values: dict[str, Any] = {
        "cxrbatch": __version__,
        "checkpoint_sha256": analysis.results.provenance.get("checkpoint_sha256"),
        "model_classes": list(task.model_classes),
        "classes": list(task.classes),
        "map": {name: list(parts) for name, parts in task.parts.items()},
        "truth": truth and truth.source,
        "truth_notes": list(truth.notes) if truth else [],
        "flow": asdict(analysis.flow),
        "evaluation": asdict(evaluation),
    }
    with writing(file), written_whole(file) as new:
        new.write(json.dumps(values, indent=1, allow_nan=False).encode())


def _record(
    checkpoint: Path, name: str, analysis: "Analysis", evaluation: "Evaluation", *, overwrite: bool
) -> None:
    from cxrbatch.model.recording import record_figures
    from cxrbatch.results.external import external_record

    record_figures(
        checkpoint,
        name,
        external_record(evaluation, analysis.task),
        sha256=str(analysis.results.provenance.get("checkpoint_sha256")),
        overwrite=overwrite,
    )
    click.echo(f"recorded     in the card of {checkpoint}: `cxrbatch models show` prints it")

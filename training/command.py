"""The command `cxrbatch train`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxrbatch import options as shared

if TYPE_CHECKING:
    from cxrbatch.training.data import Unreadable
    from cxrbatch.training.fit import Epoch
    from cxrbatch.training.labelled import Labelled
    from cxrbatch.training.train import Data

_MAX_UNREADABLE = 0.05
_LISTED = 20


def _finite(context: click.Context, parameter: click.Parameter, value: float) -> float:
    # Click's ranges let nan through: it is neither below nor above anything.
    if not math.isfinite(value):
        raise click.BadParameter("not a finite number", context, parameter)
    return value


@click.command("train")
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@shared.output_option("The checkpoint to write, a .safetensors file.")
@shared.overwrite_option
@click.option(
    "--root",
    "roots",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    metavar="DIR",
    help="What paths in labels files are relative to; may be repeated.  [default: their folder]",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep decoded images here for later runs.  [default: beside the output, for this run]",
)
@click.option("--name", help="Name in the checkpoint's card.  [default: the output's name]")
@click.option(
    "--classes",
    default="",
    show_default=False,
    metavar="A,B,…",
    help="Classes in the order of the scores.",
)
@click.option(
    "--arch",
    type=click.Choice(["resnet18", "resnet34", "resnet50"]),
    default="resnet18",
    help="Architecture.",
)
@shared.size_option(160)
@shared.geometry_option
@click.option("--epochs", type=click.IntRange(min=1), default=8, help="Passes over the draws.")
@click.option(
    "--draws",
    type=click.IntRange(min=1),
    help="Images drawn per epoch, classes equally often.  [default: one per training image]",
)
@shared.batch_size_option(32, smallest=2)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, max=1, min_open=True),
    callback=_finite,
    default=1e-3,
    help="Peak of the schedule.",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="TEXT",
    help="A sentence for the card about what the data cannot show; may be repeated.",
)
@click.option("--init", type=shared.FILE, metavar="FILE", help="A checkpoint to start from.")
@click.option("--flip", is_flag=True, help="Mirror half of the images; hearts change sides.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of split and training.")
@shared.workers_option
@shared.device_option
def command(
    data: tuple[Path, ...],
    output: Path,
    overwrite: bool,
    roots: tuple[Path, ...],
    cache: Path | None,
    name: str | None,
    classes: str,
    arch: str,
    size: int,
    geometry: str,
    epochs: int,
    draws: int | None,
    batch_size: int,
    learning_rate: float,
    limits: tuple[str, ...],
    init: Path | None,
    flip: bool,
    seed: int,
    workers: int,
    device: str,
) -> int:
    """Train a model on class folders or files of labels.

    Each DATA is a folder of class folders (DATA/<class>/…) or a CSV or Parquet file with the
    columns path and label and, optionally, patient, source and split (train, val or test).
    Without a split, patients are divided 8 : 1 : 1. The epoch with the best validation AUC is
    kept; test is looked at once.

    Research use only: the model is not a medical device.

    \b
    Example:
      cxrbatch train labels.csv -o model.safetensors --epochs 8
      cxrbatch train a.csv b.parquet --root /films -o model.safetensors --cache inputs
    """
    from tqdm import tqdm

    from cxrbatch.errors import UsageError
    from cxrbatch.model.checkpoint import load_checkpoint
    from cxrbatch.model.inference import choose_device
    from cxrbatch.model.preprocessing import Recipe
    from cxrbatch.reading.outcomes import Kind
    from cxrbatch.results.paths import check_output
    from cxrbatch.training import train as training
    from cxrbatch.training.data import forget_inputs, prepare_inputs
    from cxrbatch.training.labelled import order_classes
    from cxrbatch.training.options import TrainingOptions

    title = output.stem if name is None else name
    if not title.isprintable():
        raise UsageError("the --name cannot be printed; give one in plain text")
    check_output(output, overwrite=overwrite)
    target = choose_device(device)
    initial = load_checkpoint(init) if init else None
    recipe = Recipe(size=size, geometry="pad" if geometry == "pad" else "squeeze")
    options = TrainingOptions(
        architecture=arch,
        size=size,
        geometry=recipe.geometry,
        epochs=epochs,
        draws=draws,
        batch_size=batch_size,
        learning_rate=learning_rate,
        flip=flip,
        seed=seed,
    )
    labelled = _collect(data, roots, listing=output.with_name(f"{output.stem}.mismatches.csv"))
    order = order_classes(labelled.files, [c.strip() for c in classes.split(",") if c.strip()])
    folder = cache or output.with_name(f"{output.stem}.training")
    with tqdm(total=len(labelled.files), desc="reading", unit="file", disable=None) as bar:
        inputs = prepare_inputs(
            labelled, recipe=recipe, workers=workers, folder=folder, progress=bar.update
        )
    _report_unreadable(inputs.unreadable(labelled.files), total=len(labelled.files))
    prepared = training.prepare_data(labelled, inputs, classes=order, seed=seed)
    _report_data(prepared)
    per_epoch = -(-(draws or len(prepared.sides["train"].truth)) // batch_size) * batch_size
    with tqdm(total=per_epoch * epochs, desc="training", unit="img", disable=None) as bar:
        checkpoint = training.train(
            prepared,
            name=title,
            limits=limits,
            recipe=recipe,
            options=options,
            initial=initial,
            device=target,
            on_step=bar.update,
            on_epoch=_report_epoch,
        )
    training.save(checkpoint, output)
    if cache is None:
        forget_inputs(folder, recipe)
    _report_result(checkpoint.card.training, output)
    failed = any(item.outcome.kind is Kind.FAILED for item in prepared.unreadable)
    return shared.SOME_UNREADABLE if failed else 0


def _report_data(data: "Data") -> None:
    for side, held in data.sides.items():
        counts = ", ".join(
            f"{name} {int((held.truth == i).sum())}" for i, name in enumerate(data.classes)
        )
        click.echo(f"{side:5} {len(held.truth):7} images: {counts}", err=True)
    if not data.split_given and all(file.patient is None for file in data.files):
        click.echo(
            "warning: no patient column, so images of one person may be on two sides of the split",
            err=True,
        )


def _collect(data: Sequence[Path], roots: Sequence[Path], *, listing: Path) -> "Labelled":
    from cxrbatch.training.labelled import collect
    from cxrbatch.training.mismatches import (
        describe_mismatches,
        refuse_mismatches,
        write_mismatches,
    )

    labelled = collect(data, roots=roots)
    write_mismatches(labelled.mismatches, listing)
    for line in describe_mismatches(labelled.mismatches, listing=listing):
        click.echo(line, err=True)
    refuse_mismatches(labelled.mismatches, listing=listing)
    return labelled


def _report_unreadable(unreadable: "Sequence[Unreadable]", *, total: int) -> None:
    from cxrbatch.errors import LabelError
    from cxrbatch.results.paths import shown

    for item in unreadable[:_LISTED]:
        click.echo(f"no image: {shown(item.path)}: {item.outcome.value}", err=True)
    if len(unreadable) > _LISTED:
        click.echo(f"no image: {len(unreadable) - _LISTED} more files", err=True)
    if len(unreadable) > _MAX_UNREADABLE * total:
        raise LabelError(
            f"{len(unreadable)} of {total} files gave no image, and {_MAX_UNREADABLE:.0%} may; "
            "look at some with `cxrbatch inspect`, then copy them again or remove their labels"
        )


def _report_epoch(epoch: "Epoch") -> None:
    click.echo(
        f"epoch {epoch.number}: loss {epoch.loss:.4f}, validation AUC {epoch.val_auc:.4f}", err=True
    )


def _shown(area: float | None) -> str:
    return "undefined: one class only" if area is None else f"{area:.3f}"


def _report_result(summary: "object", output: Path) -> None:
    assert isinstance(summary, dict)
    for side in ("validation", "test"):
        figures = summary[side]
        if figures is None:
            continue
        recalls = ", ".join(
            f"{name} {recall:.3f}" if recall is not None else f"{name} undefined: no image"
            for name, recall in figures["recall"].items()
        )
        click.echo(
            f"{side} (n = {figures['n']}): balanced accuracy {figures['balanced_accuracy']:.3f}, "
            f"macro AUC {_shown(figures['macro_auc'])}; recall: {recalls}"
        )
    click.echo(f"checkpoint: {output}")

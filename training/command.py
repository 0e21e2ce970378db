"""The command `cxrbatch train`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

import cxrbatch.options as shared
from cxrbatch.process import Interruption

if TYPE_CHECKING:
    from cxrbatch.model.inference import Precision


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
    "--patience",
    type=click.IntRange(min=1),
    metavar="EPOCHS",
    help="Stop after so many epochs without a better one.  [default: never]",
)
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
@click.option(
    "--init",
    type=shared.FILE,
    metavar="FILE",
    help="Weights to start from: a checkpoint, or a state dict of a torchvision ResNet.",
)
@click.option(
    "--teacher",
    "teachers",
    type=shared.FILE,
    multiple=True,
    metavar="FILE",
    help="A checkpoint of the same classes whose opinion is learned too; may be repeated.",
)
@click.option(
    "--teacher-weight",
    type=click.FloatRange(min=0, max=1),
    callback=_finite,
    default=0.7,
    help="Share of the teachers in the loss.",
)
@click.option(
    "--drop-leaks",
    is_flag=True,
    help="Where a given split has one patient or picture on two sides, leave out the copies.",
)
@click.option("--flip", is_flag=True, help="Mirror half of the images; hearts change sides.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of split and training.")
@shared.workers_option
@shared.device_option
@shared.precision_option()
@click.option("--resume", is_flag=True, help="Go on with a training that was stopped.")
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
    patience: int | None,
    draws: int | None,
    batch_size: int,
    learning_rate: float,
    limits: tuple[str, ...],
    init: Path | None,
    teachers: tuple[Path, ...],
    teacher_weight: float,
    drop_leaks: bool,
    flip: bool,
    seed: int,
    workers: int,
    device: str,
    precision: "Precision",
    resume: bool,
) -> int:
    """Train a model on class folders or files of labels.

    Each DATA is a folder of class folders (DATA/<class>/…) or a CSV or Parquet file with the
    columns path and label and, optionally, patient, source and split (train, val or test).
    Without a split, patients are divided 8 : 1 : 1; pictures that are nearly equal count as one
    patient's. The epoch with the best validation AUC is kept; test is looked at once.

    A training may be stopped at any moment: with --resume the same command goes on after its last
    whole epoch. Until it is done, its best checkpoint so far lies in the folder NAME.training.

    Beside the checkpoint come its split (.split.csv), examples of augmented images
    (.augmented.png), curves (.curves.svg), and a results table of validation and test
    (.results.parquet).

    Research use only: the model is not a medical device.

    \b
    Examples:
      cxrbatch train labels.csv -o model.safetensors --epochs 8
      cxrbatch train a.csv b.parquet --root /films -o model.safetensors --cache inputs
      torchrun --nproc-per-node 2 -m cxrbatch train labels.csv -o model.safetensors
    """
    from cxrbatch.training.console import Console

    console = Console(words=click.get_current_context().obj or ())
    with Interruption(console.interrupted) as interruption:
        from cxrbatch.training.train import train

        interruption.arm()
        result = train(
            data,
            output,
            overwrite=overwrite,
            root=roots,
            cache=cache,
            name=name,
            classes=[c.strip() for c in classes.split(",") if c.strip()],
            arch=arch,
            size=size,
            geometry="pad" if geometry == "pad" else "squeeze",
            epochs=epochs,
            patience=patience,
            draws=draws,
            batch_size=batch_size,
            learning_rate=learning_rate,
            limit=limits,
            init=init,
            teacher=teachers,
            teacher_weight=teacher_weight,
            drop_leaks=drop_leaks,
            flip=flip,
            seed=seed,
            workers=workers,
            device=device,
            precision=precision,
            resume=resume,
            progress=console,
        )
    return 0 if result.all_read else shared.SOME_UNREADABLE

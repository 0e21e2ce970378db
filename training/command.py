"""The command `cxrbatch train`: its options, and a call of the function `train`."""

from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

import cxrbatch.options as shared
from cxrbatch.process import Interruption
from cxrbatch.training.config import use_config
from cxrbatch.training.console import Console
from cxrbatch.training.train import train

if TYPE_CHECKING:  # --help imports neither numpy nor torch
    from cxrbatch.results.label_files import LabelOptions


def _listed(
    context: click.Context, parameter: click.Parameter, value: str | list[str]
) -> list[str]:
    if isinstance(value, list):  # of a file, where a name may have a comma
        return value
    return [name.strip() for name in value.split(",") if name.strip()]


@click.command("train")
@click.argument("data", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@shared.output_option("The checkpoint to write, a .safetensors file.")
@shared.overwrite_option
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=use_config,
    metavar="FILE",
    help="Take DATA and options from this TOML file, such as learning-rate = 0.001, where neither "
    "the command line nor the environment gives them.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    metavar="DIR",
    help="What paths in labels files are relative to; may be repeated.  [default: their folder]",
)
@shared.label_options
@click.option(
    "--mismatches",
    type=shared.FILE,
    metavar="FILE",
    help="List labels without a file, and images without a label, in this CSV file.",
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
    type=click.UNPROCESSED,
    default="",
    show_default=False,
    callback=_listed,
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
    callback=shared.finite,
    default=1e-3,
    help="Peak of the schedule.",
)
@click.option(
    "--limit",
    multiple=True,
    metavar="TEXT",
    help="A sentence for the card about what the data cannot show; may be repeated.",
)
@click.option(
    "--init",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Weights to start from: a checkpoint, a state dict of a torchvision ResNet, or the word "
    "default for the bundled model.  [default: random]",
)
@click.option(
    "--teacher",
    type=shared.FILE,
    multiple=True,
    metavar="FILE",
    help="A checkpoint of the same classes whose opinion is learned too; may be repeated.",
)
@click.option(
    "--teacher-weight",
    type=click.FloatRange(min=0, max=1),
    callback=shared.finite,
    default=0.7,
    help="Share of the teachers in the loss.",
)
@click.option(
    "--freeze-trunk",
    is_flag=True,
    help="Train the head only; all else stays as in --init. Faster, and for few images.",
)
@click.option(
    "--class-weights",
    is_flag=True,
    help="Draw all images equally often and weight the loss by class, instead of drawing the "
    "classes equally often.",
)
@click.option(
    "--twins",
    type=shared.FILE,
    metavar="FILE",
    help="A CSV with the columns path and twin, two files of one film: the card says how far their "
    "scores differ.",
)
@click.option(
    "--foreign",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Images that are no frontal chest films, in a folder for each kind: the input gate learns "
    "them, beside films turned or inverted.",
)
@click.option(
    "--folds",
    type=click.IntRange(min=2, max=20),
    metavar="K",
    help="Cross-validate: train K networks, each tested on its fold of patients.  [default: no]",
)
@click.option(
    "--drop-leaks",
    is_flag=True,
    help="Where a given split has one patient or picture on two sides, leave out the copies.",
)
@click.option(
    "--flip", is_flag=True, help="Mirror half of the training images, too; hearts change sides."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of split and training.")
@shared.workers_option
@shared.device_option
@shared.precision_option()
@click.option("--resume", is_flag=True, help="Go on with a training that was stopped.")
def command(label_options: "LabelOptions | None", **arguments: object) -> int:
    """Train a model on class folders or files of labels.

    Each DATA is a folder of class folders (DATA/<class>/…) or a CSV, Excel or Parquet file with
    a column for the class, one for the path, UID or accession number and, optionally, for patient,
    source and split (train, val or test).
    Without a split, patients are divided 8 : 1 : 1; pictures that are nearly equal count as one
    patient's. The epoch with the best macro AUC on validation is kept; test is looked at once.

    Training images are changed at random: half of them encoded anew as JPEG, all rotated by up to
    15 degrees, shifted by up to 5 %, scaled by 0.85 to 1.17, half of them blurred; gamma 0.67 to
    1.5, brightness by 15 % and contrast by 35 %, noise of 2 %; then mixed in pairs (mixup).
    docs/training.md has the details.

    A training may be stopped at any moment: with --resume the same command goes on after its last
    whole epoch. Until it is done, its best checkpoint so far lies in the folder NAME.training.

    Beside the checkpoint come its split (.split.csv), examples of augmented images
    (.augmented.png), the metrics of each epoch (.metrics.jsonl), curves (.curves.svg), a results
    table of validation and test (.results.parquet), and all options (.toml): --config with that
    file repeats the training.

    With --folds 5 the patients are divided into five folds, and each fold is tested by a network
    that learned from the others (.fold1.safetensors to .fold5.safetensors). The results table then
    has every image, .folds.json the figures over all of them, .doubts.csv and .doubts.png the
    labels that the networks doubt most. A split of the labels is ignored.

    Research use only: the model is not a medical device.

    \b
    Examples:
      cxrbatch train labels.csv -o model.safetensors --epochs 8
      cxrbatch train labels.xlsx --root /films -o model.safetensors --by study --check-labels
      cxrbatch train a.csv b.parquet --root /films -o model.safetensors --cache inputs
      cxrbatch train few.csv -o model.safetensors --init default --freeze-trunk --class-weights
      cxrbatch train labels.csv -o model.safetensors --config run.toml --epochs 12
      cxrbatch train labels.csv -o model.safetensors --folds 5
      torchrun --nproc-per-node 2 -m cxrbatch train labels.csv -o model.safetensors
    """
    console = Console(words=click.get_current_context().obj or ())
    with Interruption(console.interrupted) as interruption:
        # All of it before signals raise: an import may swallow an exception.
        import_module("cxrbatch.training.pipeline")
        interruption.arm()
        given = fields(label_options) if label_options else ()
        labels = {f.name: getattr(label_options, f.name) for f in given}
        result = train(**cast(dict[str, Any], {**arguments, **labels}), progress=console)
    return 0 if result.all_read else shared.SOME_UNREADABLE

"""The commands `cxrbatch models show` and `cxrbatch models import`."""

import json
from pathlib import Path

import click

import cxrbatch.options as shared

# Means of ImageNet's channels and their spreads, averaged to grey: what most imported networks
# were trained with. Source: torchvision's documentation of its pretrained weights.
_IMAGENET_MEAN, _IMAGENET_STD = 0.449, 0.226


@click.group("models")
def models() -> None:
    """Show a checkpoint's card, or import weights.

    \b
    Examples:
      cxrbatch models show
      cxrbatch models import net.pt -o net.safetensors --arch resnet18 --classes Normal,Pneumonia
    """


@models.command("show")
@click.argument("file", type=shared.FILE, required=False)
@shared.json_option
def show_card(file: Path | None, as_json: bool) -> None:
    """Show the card of a checkpoint; of the bundled one if no FILE is given.

    A screen has what counts most: figures with 95 % intervals, thresholds, controls, figures of
    images from elsewhere, and limits. --json has the whole card.

    \b
    Example:
      cxrbatch models show model.safetensors
    """
    from cxrbatch.model.checkpoint import bundled_checkpoint, load_checkpoint
    from cxrbatch.model.summary import card_lines

    checkpoint = load_checkpoint(file or bundled_checkpoint())
    if as_json:
        shown = {"sha256": checkpoint.sha256, **json.loads(checkpoint.card.to_json())}
        click.echo(json.dumps(shown, indent=2))
        return
    for line in card_lines(checkpoint.card, checkpoint.sha256):
        click.echo(line)


@models.command("import")
@click.argument("source", type=shared.FILE)
@shared.output_option("The checkpoint to write, a .safetensors file.")
@shared.overwrite_option
@click.option(
    "--arch",
    type=click.Choice(["resnet18", "resnet34", "resnet50"]),
    required=True,
    help="Architecture.",
)
@click.option(
    "--classes", required=True, metavar="A,B,…", help="Class names in the order of the outputs."
)
@shared.size_option(224)
@shared.geometry_option
@click.option(
    "--mean", type=float, default=_IMAGENET_MEAN, help="Mean that was subtracted from its inputs."
)
@click.option(
    "--std",
    type=float,
    default=_IMAGENET_STD,
    help="Standard deviation by which its inputs were divided.",
)
@click.option("--name", help="Name in the card.  [default: the source's name]")
def import_weights(
    source: Path,
    output: Path,
    overwrite: bool,
    arch: str,
    classes: str,
    size: int,
    geometry: str,
    mean: float,
    std: float,
    name: str | None,
) -> None:
    """Import a PyTorch state dict (.pt, .pth) of a torchvision ResNet as a checkpoint.

    It is read with weights_only: a file that would run code is refused. A stem of three channels
    is folded into one.

    \b
    Example:
      cxrbatch models import net.pt -o net.safetensors --arch resnet18 --classes Normal,Pneumonia
    """
    from cxrbatch.errors import UsageError
    from cxrbatch.files import check_output
    from cxrbatch.model.card import Card, Normalisation
    from cxrbatch.model.network import import_state_dict, save_checkpoint
    from cxrbatch.model.preprocessing import Recipe

    check_output(output, overwrite=overwrite)
    try:
        card = Card(
            name or source.stem,
            arch,
            tuple(part.strip() for part in classes.split(",")),
            Recipe(size=size, geometry="pad" if geometry == "pad" else "squeeze"),
            Normalisation(mean, std),
            limits=("For research only; not a medical device.", "Imported; not calibrated."),
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    save_checkpoint(output, model=import_state_dict(source, card=card), card=card)
    click.echo(f"checkpoint: {output}")

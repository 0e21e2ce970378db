"""The commands `cxrbatch models show` and `cxrbatch models import`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import cxrbatch.options as shared

if TYPE_CHECKING:
    from cxrbatch.model.card import Card

# Means of ImageNet's channels and their spreads, averaged to grey: what most imported networks
# were trained with. Source: torchvision's documentation of its pretrained weights.
_IMAGENET_MEAN, _IMAGENET_STD = 0.449, 0.226


@click.group("models")
def command() -> None:
    """Show a checkpoint's card, or import weights.

    \b
    Examples:
      cxrbatch models show
      cxrbatch models import net.pt -o net.safetensors --arch resnet18 --classes Normal,Pneumonia
    """


@command.command("show")
@click.argument("file", type=shared.FILE, required=False)
@shared.json_option
def show_card(file: Path | None, as_json: bool) -> None:
    """Show the card of a checkpoint; of the bundled one if no FILE is given.

    \b
    Example:
      cxrbatch models show model.safetensors
    """
    from cxrbatch.model.checkpoint import bundled_checkpoint, file_sha256, load_checkpoint

    path = file or bundled_checkpoint()
    card = load_checkpoint(path).card
    shown = {"sha256": file_sha256(path), **json.loads(card.to_json())}
    if as_json:
        click.echo(json.dumps(shown, indent=2))
    else:
        _print_card(card, shown)


@command.command("import")
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
    from cxrbatch.model.preprocessing import Recipe
    from cxrbatch.model.weight_files import import_state_dict, save_checkpoint

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


def _print_card(card: "Card", shown: dict[str, Any]) -> None:
    click.echo(f"name          {card.name}")
    click.echo(f"sha256        {shown['sha256']}")
    click.echo(f"architecture  {card.architecture}, format {shown['format_version']}")
    click.echo(f"classes       {', '.join(card.classes)}")
    recipe = card.recipe
    click.echo(f"input         {recipe.size} x {recipe.size} px, {recipe.geometry}")
    click.echo(f"recipe        {recipe.sha256}")
    click.echo(f"normalisation mean {card.normalisation.mean}, std {card.normalisation.std}")
    click.echo(f"temperature   {card.temperature:.4f}")
    for side in ("validation", "test"):
        if figures := card.training.get(side):
            _print_figures(side, figures)
    if training := {k: v for k, v in card.training.items() if k not in ("history",)}:
        click.echo("training      " + json.dumps(training, indent=2).replace("\n", "\n  "))
    for limit in card.limits:
        click.echo(f"limit         {limit}")


def _print_figures(side: str, figures: object) -> None:
    # A card comes from anywhere: what is not a number is not shown as one.
    if not isinstance(figures, dict):
        return
    for name in ("n", "balanced_accuracy", "macro_auc"):
        click.echo(f"{side:<13} {name.replace('_', ' ')} {_figure(figures.get(name))}")


def _figure(figure: object) -> str:
    """Format a number, alone or with its interval."""
    if isinstance(figure, dict):
        bounds = figure.get("interval")
        ends = [_figure(end) for end in bounds] if isinstance(bounds, list) else []
        return _figure(figure.get("value")) + (f" ({' to '.join(ends)})" if ends else "")
    return f"{figure:.4g}" if isinstance(figure, int | float) else "undefined"

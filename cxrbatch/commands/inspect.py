"""The commands that show one thing: `inspect` a film, `outcomes` the codes."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import cxrbatch.options as shared

if TYPE_CHECKING:
    from PIL.Image import Image

    from cxrbatch.lungs.finder import Lungs
    from cxrbatch.model.prediction import Prediction
    from cxrbatch.reading.radiograph import Reading, ReadingOptions

_MOST_FRAMES_SHOWN = 20


@click.command("inspect")
@click.argument("file", type=click.Path())
@click.option(
    "--display",
    type=shared.FILE,
    metavar="OUT.png",
    help="Write the display image, full size, 8-bit greyscale.",
)
@click.option(
    "--overlay",
    type=shared.FILE,
    metavar="OUT.png",
    help="Write the display image under the predicted class's heat map; needs --checkpoint.",
)
@click.option(
    "--lungs",
    type=shared.FILE,
    metavar="OUT.png",
    help="Find the lungs, and write the display image with them tinted.",
)
@shared.overwrite_option
@click.option(
    "--checkpoint",
    metavar="FILE",
    help="Score the image too, with this checkpoint; 'default' is the bundled one.",
)
@shared.max_pixels_option
@shared.json_option
def command(
    file: str,
    display: Path | None,
    overlay: Path | None,
    lungs: Path | None,
    overwrite: bool,
    checkpoint: str | None,
    max_pixels: int,
    as_json: bool,
) -> int:
    """Show what is made of one file, from header to display image.

    It is read by the same code as in `cxrbatch score`; other modalities are shown too. Of a file
    with several frames, --display, --overlay and --lungs write the first. A member of a zip or tar
    is named as in the table's column path.

    \b
    Example:
      cxrbatch inspect film.dcm --display film.png --checkpoint default
      cxrbatch inspect 'export.zip!/a/film.dcm'
    """
    from cxrbatch.errors import UsageError
    from cxrbatch.files import check_output
    from cxrbatch.model.prediction import Prediction
    from cxrbatch.reading.outcomes import Outcome, OutcomeKind
    from cxrbatch.reading.radiograph import ReadingOptions

    if overlay and not checkpoint:
        raise UsageError("--overlay needs --checkpoint (--checkpoint default for the bundled one)")
    path, member = _place(file)
    outputs = [output for output in (display, overlay, lungs) if output]
    if len({output.absolute() for output in outputs}) < len(outputs):
        raise UsageError("two pictures have one name; give each its own")
    for output in outputs:
        check_output(output, overwrite=overwrite, source=Path(os.fsdecode(path)))
    options = ReadingOptions(render_all=True, max_pixels=max_pixels)
    predict: Callable[[Reading], Prediction] = Prediction
    if checkpoint:
        from cxrbatch.model.predictor import load_model

        model = load_model(None if checkpoint == "default" else checkpoint)
        predict, options = model.predict, replace(options, no_voi=model.card.recipe.no_voi)
    find: Callable[[Reading], Lungs] | None = None
    if lungs:
        from cxrbatch.lungs.finder import LungFinder

        find = LungFinder().find
    frames, any_failed = [], False
    for number, reading in enumerate(_readings(path, member, options)):
        prediction = predict(reading)
        found = find(reading) if find and reading.outcome is Outcome.SCORED else None
        if number == 0:
            _write_images(prediction, display=display, overlay=overlay)
            if lungs:
                _save(found.overlay() if found else None, lungs)
        frames.append({**_facts(prediction), **_lung_facts(found)})
        any_failed |= prediction.outcome.kind is OutcomeKind.FAILED
    if as_json:
        click.echo(json.dumps(frames, indent=2))
    else:
        _print_frames(frames)
    return shared.SOME_UNREADABLE if any_failed else 0


def _place(file: str) -> tuple[bytes, bytes | None]:
    """Split the argument FILE into a path and, for container!/member, the member's name."""
    from cxrbatch.errors import UsageError
    from cxrbatch.files import text_to_place

    if os.path.isfile(file):
        return os.fsencode(file), None
    with contextlib.suppress(ValueError):
        path, member = text_to_place(file)
        if member is not None and os.path.isfile(path):
            return path, member
    raise UsageError(f"{file} is not a file")


def _readings(path: bytes, member: bytes | None, options: "ReadingOptions") -> "Iterator[Reading]":
    """Read each frame of a file, or of the members of this name of the container at `path`."""
    from cxrbatch.errors import UsageError
    from cxrbatch.reading.radiograph import iterate_members_named, iterate_radiographs

    if member is None:
        yield from iterate_radiographs(path, options)
        return
    reading = None
    for reading in iterate_members_named(path, member, options):
        yield reading
    if reading is None:
        raise UsageError(f"{os.fsdecode(path)} has no such member")


def _write_images(prediction: "Prediction", *, display: Path | None, overlay: Path | None) -> None:
    from cxrbatch.model.prediction import grey_picture

    image = prediction.reading.image
    if display:
        _save(None if image is None else grey_picture(image), display)
    if overlay:
        _save(prediction.overlay() if prediction.label else None, overlay)


def _save(image: "Image | None", path: Path) -> None:
    if image is None:
        click.echo(f"no image to write to {path}", err=True)
    else:
        image.save(path, format="PNG")


def _facts(prediction: "Prediction") -> dict[str, Any]:
    from cxrbatch.results.columns import FACTS

    reading = prediction.reading
    facts: dict[str, Any] = {
        "frame": reading.frame,
        "format": reading.format,
        "outcome": reading.outcome.value,
        "meaning": reading.outcome.meaning,
        "detail": reading.detail,
        "flags": [flag.value for flag in reading.flags],
        **{name: getattr(reading.facts, name) for name in FACTS},
    }
    if reading.image is not None and reading.image.pixel_aspect != 1:
        facts["pixel_aspect"] = reading.image.pixel_aspect
    if prediction.label:
        facts["prediction"] = prediction.label
        facts["probabilities"] = prediction.probabilities
        facts["logits"] = prediction.logits
        facts["heatmaps"] = {name: m.tolist() for name, m in prediction.heatmaps.items()}
    return facts


def _lung_facts(found: "Lungs | None") -> dict[str, Any]:
    """List the measures of the lungs, and the doubts about them, as facts of a frame."""
    if found is None:
        return {}
    measures = {f"lungs_{name}": round(value, 4) for name, value in asdict(found.measures).items()}
    return {**measures, "lungs_plausible": found.plausible, "lungs_doubts": [*found.doubts]}


def _print_frames(frames: list[dict[str, Any]]) -> None:
    for facts in frames[:_MOST_FRAMES_SHOWN]:
        for name, value in facts.items():
            if value in (None, "", []) or name in ("heatmaps", "logits"):
                continue
            if name == "probabilities":
                shown = ", ".join(f"{label} {p:.4f}" for label, p in value.items())
            else:
                shown = ", ".join(value) if isinstance(value, list) else str(value)
            click.echo(f"{name:<22} {shown}")
        if "prediction" in facts:
            click.echo("research use only: a prediction is not a diagnosis")
        elif "lungs_area" in facts:
            click.echo("research use only: the lungs were found by a network")
    if len(frames) > _MOST_FRAMES_SHOWN:
        click.echo(f"… and {len(frames) - _MOST_FRAMES_SHOWN} more frames (--json shows all)")


@click.command("outcomes")
def outcomes() -> None:
    """List every outcome code with its meaning and remedy.

    The flags of images that were read come after them.

    \b
    Example:
      cxrbatch outcomes
    """
    from cxrbatch.reading.outcomes import Flag, Outcome

    for outcome in Outcome:
        click.echo(f"{outcome.value} ({outcome.kind.value})")
        click.echo(f"    {outcome.meaning}")
        click.echo(f"    remedy: {outcome.remedy}")
    click.echo()
    for flag in Flag:
        click.echo(f"{flag.value} (flag)")
        click.echo(f"    {flag.meaning}")

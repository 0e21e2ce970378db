"""The command `cxrbatch inspect`."""

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrbatch import options as shared

if TYPE_CHECKING:
    from PIL.Image import Image

    from cxrbatch.scoring.inspection import Inspection

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
    overwrite: bool,
    checkpoint: str | None,
    max_pixels: int,
    as_json: bool,
) -> int:
    """Show what is made of one file, from header to display image.

    It is read by the same code as in `cxrbatch score`; other modalities are shown too. Of a file
    with several frames, --display and --overlay write the first. A member of a zip or tar is named
    as in the table's column path.

    \b
    Example:
      cxrbatch inspect film.dcm --display film.png --checkpoint default
      cxrbatch inspect 'export.zip!/a/film.dcm'
    """
    from cxrbatch.errors import UsageError
    from cxrbatch.model.checkpoint import bundled_checkpoint
    from cxrbatch.paths import check_output
    from cxrbatch.reading.outcomes import Kind
    from cxrbatch.scoring.inspection import Inspector

    if overlay and not checkpoint:
        raise UsageError("--overlay needs --checkpoint (--checkpoint default for the bundled one)")
    path, member = _place(file)
    for output in (display, overlay):
        if output:
            check_output(output, overwrite=overwrite, source=Path(os.fsdecode(path)))
    weights = bundled_checkpoint() if checkpoint == "default" else checkpoint
    inspected = []
    inspector = Inspector(Path(weights) if weights else None, max_pixels=max_pixels)
    for number, found in enumerate(inspector.inspect(path, member)):
        if number == 0:
            _write_images(found, display=display, overlay=overlay)
        inspected.append((_facts(found), found.reading.outcome.kind is Kind.FAILED))
    if as_json:
        click.echo(json.dumps([facts for facts, _ in inspected], indent=2))
    else:
        _print_frames([facts for facts, _ in inspected])
    return shared.SOME_UNREADABLE if any(failed for _, failed in inspected) else 0


def _place(file: str) -> tuple[bytes, bytes | None]:
    """Path and member of what was asked for: a file, or container!/member as tables write it."""
    from cxrbatch.errors import UsageError
    from cxrbatch.paths import text_to_place

    if os.path.isfile(file):
        return os.fsencode(file), None
    with contextlib.suppress(ValueError):
        path, member = text_to_place(file)
        if member is not None and os.path.isfile(path):
            return path, member
    raise UsageError(f"{file} is not a file")


def _write_images(found: "Inspection", *, display: Path | None, overlay: Path | None) -> None:
    from cxrbatch.scoring.inspection import grey_image, overlay_image

    pixels, prediction = found.reading.display, found.prediction
    if display:
        _save(None if pixels is None else grey_image(pixels), display)
    if overlay:
        drawn = None
        if pixels is not None and prediction is not None:
            drawn = overlay_image(pixels, prediction.heatmaps[prediction.label])
        _save(drawn, overlay)


def _save(image: "Image | None", path: Path) -> None:
    if image is None:
        click.echo(f"no image to write to {path}", err=True)
    else:
        image.save(path, format="PNG")


def _facts(found: "Inspection") -> dict[str, Any]:
    from cxrbatch.results.table import FACTS

    reading, prediction = found.reading, found.prediction
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
    if prediction is not None:
        facts["prediction"] = prediction.label
        facts["probabilities"] = prediction.probabilities
        facts["logits"] = prediction.logits
        facts["heatmaps"] = {name: m.tolist() for name, m in prediction.heatmaps.items()}
    return facts


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
    if len(frames) > _MOST_FRAMES_SHOWN:
        click.echo(f"… and {len(frames) - _MOST_FRAMES_SHOWN} more frames (--json shows all)")

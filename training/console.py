"""What a training says to the person at the terminal."""

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrbatch.atomic import writing, written_whole
from cxrbatch.paths import shown
from cxrbatch.training.loop import Epoch, best_epoch

if TYPE_CHECKING:
    from cxrbatch.training.dataset import Unreadable
    from cxrbatch.training.initial import Initial
    from cxrbatch.training.loop import Epoch
    from cxrbatch.training.train import Data

_LISTED = 20


class Progress:
    """What is told of the epochs, and how a training that was stopped goes on."""

    def __init__(self) -> None:
        """Note the command's own words."""
        self._epochs = 0
        words = [*(click.get_current_context().obj or ())]
        processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
        several = ["torchrun", "--nproc-per-node", processes, "-m"] if processes != "1" else []
        flag = [] if "--resume" in words else ["--resume"]
        self._again = shlex.join([*several, "cxrbatch", *words, *flag])

    def epoch(self, epoch: "Epoch") -> None:
        """Say what an epoch came to."""
        self._epochs = epoch.number
        _say(
            f"epoch {epoch.number}: loss {epoch.loss:.4f}, validation loss {epoch.val_loss:.4f}, "
            f"AUC {epoch.val_auc:.4f}"
        )

    def interrupted(self) -> None:
        """Say how far it is, and how it goes on; one of several processes says it for all."""
        if os.environ.get("RANK", "0") == "0":
            _say(f"interrupted after {self._epochs} whole epochs; go on with: {self._again}")


def lines(texts: Iterable[str]) -> None:
    """Say some lines."""
    for text in texts:
        _say(text)


def nothing_to_resume() -> None:
    """Say that --resume found nothing."""
    _say("nothing to go on with: starting from the first epoch")


def data(data: "Data", initial: "Initial | None") -> None:
    """Say what is trained on."""
    lines(data.split.report.lines())
    if initial is not None and not initial.has_head_for(data.classes):
        _say("--init has a head for other classes: it is replaced by one of random weights")


def unreadable(items: "Sequence[Unreadable]") -> None:
    """List images that could not be read."""
    for item in items[:_LISTED]:
        _say(f"no image: {shown(item.path)}: {item.outcome.value}")
    if len(items) > _LISTED:
        _say(f"no image: {len(items) - _LISTED} more files")


def result(summary: Mapping[str, Any], output: Path, table: Path) -> None:
    """Say what the model is worth and where everything is."""
    from cxrbatch.training.evaluation import border_warning

    for side in ("validation", "test"):
        if figures := summary[side]:
            _print_figures(side, figures)
    controls = summary["controls"]
    for name in ("lungs blacked out", "border only"):
        found = controls[name]
        click.echo(
            f"control, {name}: balanced accuracy {_plain(found['balanced_accuracy'])}, "
            f"macro AUC {_plain(found['macro_auc'])}"
        )
    for source, found in controls["within sources"].items():
        worth = found.get("undefined") or (
            f"balanced accuracy {_plain(found['balanced_accuracy'])}, "
            f"macro AUC {_plain(found['macro_auc'])}"
        )
        click.echo(f"control, {shown(source)} alone ({', '.join(found['classes'])}): {worth}")
    if warning := border_warning(controls):
        _say(warning)
    click.echo(f"table:      {shown(str(table))}")
    click.echo(f"checkpoint: {shown(str(output))}")
    click.echo("for research only; not a medical device")


def _print_figures(side: str, figures: Mapping[str, Any]) -> None:
    click.echo(
        f"{side} (n = {figures['n']}, {figures['groups']} patients or pictures): "
        f"balanced accuracy {_ranged(figures['balanced_accuracy'])}, "
        f"macro AUC {_ranged(figures['macro_auc'])}, "
        f"calibration error {figures['expected_calibration_error']:.3f}"
    )
    for name, recall in figures["recall"].items():
        click.echo(f"  {name}: recall {_ranged(recall)}, AUC {_ranged(figures['auc'][name])}")


def _ranged(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "undefined: no image, or of one class only"
    if figure["interval"] is None:
        return f"{figure['value']:.3f}"
    low, high = figure["interval"]
    return f"{figure['value']:.3f} (95 % interval {low:.3f} to {high:.3f})"


def _plain(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _say(text: str) -> None:
    click.echo(text, err=True)


_WIDTH, _HEIGHT = 360, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 40, 44
_TICKS = 4

Points = Sequence[float]

# Blue and orange differ for every common kind of colour blindness; the dashes say it again.
_STYLE = """
  svg { font: 12px system-ui, sans-serif; background: #fff }
  text { fill: #222 } .title { font-weight: 600 } .tick { fill: #555; font-size: 11px }
  .frame { stroke: #bbb; fill: none } .best { stroke: #888; stroke-dasharray: 2 3 }
  .first { stroke: #0b62a8 } .second { stroke: #c65d00; stroke-dasharray: 5 5 }
  .line { fill: none; stroke-width: 2; stroke-linecap: round }
  @media (prefers-color-scheme: dark) {
    svg { background: #15181c } text { fill: #e6e6e6 } .tick { fill: #aaa }
    .frame { stroke: #555 } .first { stroke: #6ab0f3 } .second { stroke: #ff9d4d }
  }
"""


def write_curves(path: Path, history: Sequence[Epoch]) -> None:
    """Draw losses and validation AUC over the epochs.

    Args:
        path: The SVG file; replaced if it is there.
        history: At least one epoch.

    Raises:
        TableError: It cannot be written.
    """
    with writing(path), written_whole(path) as file:
        file.write(draw_curves(history).encode())


def draw_curves(history: Sequence[Epoch]) -> str:
    """Give the SVG's text."""
    best = best_epoch(history)
    losses = _chart(
        "Loss",
        {
            "training": [epoch.loss for epoch in history],
            "validation": [epoch.val_loss for epoch in history],
        },
        best=best.number,
        offset=0,
    )
    areas = _chart(
        f"Validation AUC, best {best.val_auc:.4f} in epoch {best.number}",
        {"macro, one against the rest": [epoch.val_auc for epoch in history]},
        best=best.number,
        offset=_WIDTH,
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _WIDTH} {_HEIGHT}" '
        f'width="{2 * _WIDTH}" height="{_HEIGHT}" role="img">'
        f"<title>Training: loss and validation AUC over {len(history)} epochs</title>"
        f"<style>{_STYLE}</style>{losses}{areas}</svg>\n"
    )


def _chart(title: str, lines: dict[str, Points], *, best: int, offset: int) -> str:
    values = [value for line in lines.values() for value in line]
    low, high = min(values), max(values)
    low, high = (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5)
    count = max(2, max(len(line) for line in lines.values()))
    across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(number: float) -> float:
        return _LEFT + across * (number - 1) / (count - 1)

    def y(value: float) -> float:
        return _TOP + down * (high - value) / (high - low)

    parts = [
        f'<text class="title" x="{_LEFT}" y="16">{escape(title)}</text>',
        f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{across}" height="{down}"/>',
        f'<line class="best" x1="{x(best):.1f}" x2="{x(best):.1f}" y1="{_TOP}" '
        f'y2="{_TOP + down}"/>',
        f'<text class="tick" x="{_LEFT + across / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
        "epoch</text>",
    ]
    for tick in range(_TICKS + 1):
        value = low + (high - low) * tick / _TICKS
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">'
            f"{value:.3g}</text>"
        )
    for number in sorted({1, (count + 1) // 2, count}):
        parts.append(
            f'<text class="tick" x="{x(number):.1f}" y="{_TOP + down + 16}" text-anchor="middle">'
            f"{number}</text>"
        )
    for index, ((name, line), kind) in enumerate(
        zip(lines.items(), ("first", "second"), strict=False)
    ):
        places = [f"{x(i + 1):.1f},{y(value):.1f}" for i, value in enumerate(line)]
        # A line of one point is drawn by no browser, one of no length as a dot.
        points = " ".join(places * 2 if len(places) == 1 else places)
        left = _LEFT + 120 * index
        parts.append(f'<polyline class="line {kind}" points="{points}"/>')
        parts.append(f'<line class="line {kind}" x1="{left}" x2="{left + 24}" y1="28" y2="28"/>')
        parts.append(f'<text class="tick" x="{left + 30}" y="32">{escape(name)}</text>')
    return f'<g transform="translate({offset} 0)">{"".join(parts)}</g>'

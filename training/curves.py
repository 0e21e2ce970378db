"""Curves of a training as one SVG: losses on the left, validation AUC on the right."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from cxrbatch.scoring.claim import writing
from cxrbatch.scoring.durable import written_whole
from cxrbatch.training.history import Epoch, best_epoch

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

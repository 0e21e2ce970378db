"""Curves of loss and validation AUC over the epochs, as an SVG file."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from cxrbatch.atomic import writing, written_whole
from cxrbatch.training.loop import EpochMetrics, best_epoch

_WIDTH, _HEIGHT = 360, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 40, 44
_ACROSS, _DOWN = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
_TICKS = 4

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


def write_curves(path: Path, history: Sequence[EpochMetrics]) -> None:
    """Draw losses, and beside them the validation AUC, over the epochs.

    Args:
        path: The SVG file; an existing one is replaced.
        history: At least one epoch.

    Raises:
        TableError: It cannot be written.
    """
    best = best_epoch(history)
    losses = {"training": [epoch.loss for epoch in history]}
    losses["validation"] = [epoch.val_loss for epoch in history]
    areas = {"macro, one against the rest": [epoch.val_auc for epoch in history]}
    title = f"Validation AUC, best {best.val_auc:.4f} in epoch {best.number}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _WIDTH} {_HEIGHT}" '
        f'width="{2 * _WIDTH}" height="{_HEIGHT}" role="img">'
        f"<title>Training: loss and validation AUC over {len(history)} epochs</title>"
        f"<style>{_STYLE}</style>{_chart('Loss', losses, best=best.number, offset=0)}"
        f"{_chart(title, areas, best=best.number, offset=_WIDTH)}</svg>\n"
    )
    with writing(path), written_whole(path) as file:
        file.write(svg.encode())


def _chart(title: str, lines: dict[str, list[float]], *, best: int, offset: int) -> str:
    values = [value for line in lines.values() for value in line]
    low, high = min(values), max(values)
    low, high = (low, high) if high - low > 1e-9 else (low - 0.5, high + 0.5)
    count = max(2, max(len(line) for line in lines.values()))

    def x(number: float) -> float:
        return _LEFT + _ACROSS * (number - 1) / (count - 1)

    def y(value: float) -> float:
        return _TOP + _DOWN * (high - value) / (high - low)

    bottom = _TOP + _DOWN
    parts = [
        _text(_LEFT, 16, title, kind="title", anchor="start"),
        f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{_ACROSS}" height="{_DOWN}"/>',
        f'<line class="best" x1="{x(best):.1f}" x2="{x(best):.1f}" y1="{_TOP}" y2="{bottom}"/>',
        _text(_LEFT + _ACROSS / 2, _HEIGHT - 8, "epoch"),
    ]
    for tick in range(_TICKS + 1):
        value = low + (high - low) * tick / _TICKS
        parts.append(_text(_LEFT - 6, y(value) + 4, f"{value:.3g}", anchor="end"))
    parts += [_text(x(n), bottom + 16, f"{n}") for n in sorted({1, (count + 1) // 2, count})]
    for index, (name, line) in enumerate(lines.items()):
        kind, left = ("first", "second")[index], _LEFT + 120 * index
        points = [f"{x(i + 1):.1f},{y(value):.1f}" for i, value in enumerate(line)]
        # A line of one point is drawn by no browser, one of no length as a dot.
        text = " ".join(points * 2 if len(points) == 1 else points)
        parts.append(f'<polyline class="line {kind}" points="{text}"/>')
        parts.append(f'<line class="line {kind}" x1="{left}" x2="{left + 24}" y1="28" y2="28"/>')
        parts.append(_text(left + 30, 32, name, anchor="start"))
    return f'<g transform="translate({offset} 0)">{"".join(parts)}</g>'


def _text(x: float, y: float, text: str, *, kind: str = "tick", anchor: str = "middle") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )

"""Draws the charts of a page as SVG: curves, calibration and histograms."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from cxrbatch.results.figures import Calibration, Curve, Figure, Histogram, OperatingFigures

Range = tuple[float, float]

_LONGEST_TITLE = 300


@dataclass(frozen=True, slots=True)
class Plot:
    """A rectangle with two linear axes, to draw in; lengths are in user units, about one px each.

    Attributes:
        x: The values at its left and right edge.
        y: The values at its lower and upper edge.
        width: Width of the picture.
        height: Height of the picture.
        left: Margin between the picture's left edge and the axes' rectangle.
        right: Margin, likewise.
        top: Margin, likewise.
        bottom: Margin, likewise.
    """

    x: Range
    y: Range
    width: int = 300
    height: int = 270
    left: int = 44
    right: int = 12
    top: int = 10
    bottom: int = 42

    def across(self, value: float) -> float:
        """Return the horizontal coordinate of a value of the x axis; values outside are clamped."""
        return self.left + (self.width - self.left - self.right) * _share(value, self.x)

    def down(self, value: float) -> float:
        """Return the vertical coordinate of a value of the y axis; values outside are clamped."""
        return (
            self.height
            - self.bottom
            - (self.height - self.top - self.bottom) * _share(value, self.y)
        )

    def axes(
        self,
        *,
        x_ticks: Sequence[tuple[float, str]],
        y_ticks: Sequence[tuple[float, str]],
        x_label: str,
        y_label: str,
    ) -> str:
        """Return the text of SVG elements: grid lines with their numbers, and names of the axes.

        Args:
            x_ticks: Value and text of each vertical grid line.
            y_ticks: Value and text of each horizontal grid line.
            x_label: Name of the x axis.
            y_label: Name of the y axis.
        """
        left, right = self.across(self.x[0]), self.across(self.x[1])
        low, high = self.down(self.y[0]), self.down(self.y[1])
        parts = []
        for value, text in y_ticks:
            y = self.down(value)
            parts.append(_line("grid", left, y, right, y))
            parts.append(_text("tick", left - 6, y + 4, text, anchor="end"))
        for value, text in x_ticks:
            x = self.across(value)
            parts.append(_line("grid", x, low, x, high))
            parts.append(_text("tick", x, low + 16, text, anchor="middle"))
        parts.append(_text("axis", (left + right) / 2, self.height - 6, x_label, anchor="middle"))
        y = (low + high) / 2
        parts.append(
            f'<text class="axis" text-anchor="middle" transform="translate(12 {y:.1f}) '
            f'rotate(-90)">{escape(y_label)}</text>'
        )
        return "".join(parts)

    def line(self, kind: str, x: Sequence[float], y: Sequence[float]) -> str:
        """Return an SVG polyline through points.

        Args:
            kind: Its class in the style sheet.
            x: Values of the points on the x axis.
            y: Values of the points on the y axis, as many.
        """
        points = " ".join(
            f"{self.across(a):.1f},{self.down(b):.1f}" for a, b in zip(x, y, strict=True)
        )
        return f'<polyline class="{kind}" points="{points}"/>'

    def bar(self, kind: str, x: Range, y: Range) -> str:
        """Return an SVG rectangle that spans the ranges `x` and `y` of the axes.

        `kind` is its class in the style sheet.
        """
        left, right = self.across(x[0]), self.across(x[1])
        low, high = self.down(y[0]), self.down(y[1])
        return (
            f'<rect class="{kind}" x="{left:.1f}" y="{high:.1f}" width="{right - left:.1f}" '
            f'height="{max(0.0, low - high):.1f}"/>'
        )

    def dot(self, kind: str, x: float, y: float, *, radius: float = 4) -> str:
        """Return an SVG circle at the values `x` and `y` of the axes.

        `kind` is its class in the style sheet; `radius` is in user units.
        """
        return (
            f'<circle class="{kind}" cx="{self.across(x):.1f}" cy="{self.down(y):.1f}" '
            f'r="{radius:g}"/>'
        )

    def picture(self, title: str, body: str) -> Markup:
        """Return the whole picture as an SVG element.

        Args:
            title: What a screen reader reads in place of the picture; cut to 300 characters.
            body: The SVG elements in the picture, with all foreign text escaped.
        """
        label = escape(title[:_LONGEST_TITLE])
        return Markup(
            f'<svg viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" aria-label="{label}">{body}</svg>'
        )


def interval_bar(title: str, *, value: float, low: float | None, high: float | None) -> Markup:
    """Draw a value with its interval on a line from 0 to 1, as SVG of the height of a text line.

    Args:
        title: What a screen reader reads.
        value: In [0, 1].
        low: Lower bound of the interval; no interval is drawn where it or `high` is None.
        high: Upper bound.
    """
    plot = Plot((0, 1), (0, 1), width=110, height=16, left=4, right=4, top=0, bottom=0)
    body = _line("grid", plot.across(0), 8, plot.across(1), 8)
    if low is not None and high is not None:
        body += _line("whisker", plot.across(low), 8, plot.across(high), 8)
    return plot.picture(title, body + plot.dot("mark", value, 0.5, radius=3.5))


def _share(value: float, of: Range) -> float:
    return (min(max(value, of[0]), of[1]) - of[0]) / (of[1] - of[0])


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(kind: str, x: float, y: float, text: str, *, anchor: str) -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


_UNIT = [(tick / 4, f"{tick / 4:g}") for tick in range(5)]


def roc_chart(name: str, curve: Curve, points: Sequence[OperatingFigures] = ()) -> Markup:
    """Draw the ROC curve of a class as SVG, with a dot for each operating point.

    Args:
        name: The class, for the title.
        curve: The curve.
        points: The operating points. The dot is hollow where the threshold was not chosen on these
            images; a point whose sensitivity or specificity is undefined has no dot.
    """
    plot = Plot((0, 1), (0, 1))
    body = plot.axes(x_ticks=_UNIT, y_ticks=_UNIT, x_label="1 − specificity", y_label="sensitivity")
    body += plot.line("chance", (0, 1), (0, 1)) + plot.line("curve", curve.x, curve.y)
    for point in points:
        specificity, sensitivity = point.specificity.value, point.sensitivity.value
        if specificity is not None and sensitivity is not None:
            kind = "mark" if point.chosen_on == "these images" else "mark hollow"
            body += plot.dot(kind, 1 - specificity, sensitivity)
    return plot.picture(f"ROC curve of {name}", body)


def precision_recall_chart(name: str, curve: Curve, *, share: float) -> Markup:
    """Draw the precision-recall curve of a class as SVG, recall on the horizontal axis.

    Args:
        name: The class, for the title.
        curve: The curve.
        share: Share of the images that are of the class: the precision of guessing, a dashed line.
    """
    plot = Plot((0, 1), (0, 1))
    body = plot.axes(x_ticks=_UNIT, y_ticks=_UNIT, x_label="recall", y_label="precision")
    body += plot.line("chance", (0, 1), (share, share)) + plot.line("curve", curve.x, curve.y)
    return plot.picture(f"Precision-recall curve of {name}", body)


def reliability_chart(title: str, calibration: Calibration) -> Markup:
    """Draw accuracy over confidence as SVG, with the diagonal of a perfectly calibrated model.

    Each bin that has images is a dot, larger with more images. `title` is for screen readers.
    """
    plot = Plot((0, 1), (0, 1))
    body = plot.axes(x_ticks=_UNIT, y_ticks=_UNIT, x_label="mean confidence", y_label="accuracy")
    body += plot.line("chance", (0, 1), (0, 1))
    bins = [
        (confidence, accuracy, count)
        for confidence, accuracy, count in zip(
            calibration.confidence, calibration.accuracy, calibration.images, strict=True
        )
        if confidence is not None and accuracy is not None
    ]
    largest = max((count for _, _, count in bins), default=1)
    if bins:
        body += plot.line("curve", [b[0] for b in bins], [b[1] for b in bins])
    for confidence, accuracy, count in bins:
        body += plot.dot("mark", confidence, accuracy, radius=2 + 5 * (count / largest) ** 0.5)
    return plot.picture(title, body)


def score_histogram(title: str, histogram: Histogram) -> Markup:
    """Draw a histogram of scores as SVG: the class's images upwards, all others downwards.

    Each side is scaled to its own largest bin. `title` is for screen readers.
    """
    plot = Plot((0, 1), (-1, 1), height=220)
    body = plot.axes(
        x_ticks=_UNIT, y_ticks=[(0, "0")], x_label="score", y_label="others ← share → class"
    )
    for kind, counts, sign in (("up", histogram.positive, 1), ("down", histogram.negative, -1)):
        largest = max(counts, default=0) or 1
        for left, right, count in zip(histogram.edges, histogram.edges[1:], counts, strict=False):
            if count:
                ends = sorted((0.0, sign * 0.95 * count / largest))
                body += plot.bar(kind, (left, right), (ends[0], ends[1]))
    return plot.picture(title, body)


def count_histogram(title: str, edges: Sequence[float], counts: Sequence[int]) -> Markup:
    """Draw a histogram of images by confidence as SVG.

    Args:
        title: What a screen reader reads.
        edges: Edges of the bins in [0, 1], one more than `counts`.
        counts: Number of images in each bin.
    """
    top = max(counts, default=0) or 1
    plot = Plot((0, 1), (0, top), height=220, left=58)
    ticks = [(top * step / 2, f"{top * step / 2:,.0f}") for step in range(3)]
    body = plot.axes(x_ticks=_UNIT, y_ticks=ticks, x_label="confidence", y_label="images")
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            body += plot.bar("up", (left, right), (0, count))
    return plot.picture(title, body)


def figure_bar(name: str, figure: Figure) -> Markup:
    """Draw a figure in [0, 1] with its interval as SVG; return "" where it has no value.

    Args:
        name: What a screen reader reads.
        figure: The figure; without an interval only its value is drawn.
    """
    if figure.value is None:
        return Markup("")
    return interval_bar(name, value=figure.value, low=figure.low, high=figure.high)

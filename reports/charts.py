"""The charts of the page: curves, calibration and histograms."""

from collections.abc import Sequence

from markupsafe import Markup

from cxrbatch.reports.drawing import Plot, interval_bar
from cxrbatch.results.figures import Calibration, Curve, Figure, Histogram, OperatingFigures

_UNIT = [(tick / 4, f"{tick / 4:g}") for tick in range(5)]


def roc_chart(name: str, curve: Curve, points: Sequence[OperatingFigures] = ()) -> Markup:
    """Draw a ROC curve with the operating points that were chosen on the same images."""
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
    """Draw precision over recall; the dashed line is what guessing gives."""
    plot = Plot((0, 1), (0, 1))
    body = plot.axes(x_ticks=_UNIT, y_ticks=_UNIT, x_label="recall", y_label="precision")
    body += plot.line("chance", (0, 1), (share, share)) + plot.line("curve", curve.x, curve.y)
    return plot.picture(f"Precision-recall curve of {name}", body)


def reliability_chart(title: str, calibration: Calibration) -> Markup:
    """Draw accuracy over confidence, a point per bin, as large as the bin has images."""
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
    """Draw two histograms, one up and one down, each scaled to its own largest bin."""
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
    """Draw one histogram of confidences."""
    top = max(counts, default=0) or 1
    plot = Plot((0, 1), (0, top), height=220, left=58)
    ticks = [(top * step / 2, f"{top * step / 2:,.0f}") for step in range(3)]
    body = plot.axes(x_ticks=_UNIT, y_ticks=ticks, x_label="confidence", y_label="images")
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            body += plot.bar("up", (left, right), (0, count))
    return plot.picture(title, body)


def figure_bar(name: str, figure: Figure) -> Markup:
    """Draw a statistic in [0, 1] with its interval; nothing where it is undefined."""
    if figure.value is None:
        return Markup("")
    return interval_bar(name, value=figure.value, low=figure.low, high=figure.high)

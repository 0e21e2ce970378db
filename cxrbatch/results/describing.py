"""Counts and figures of an evaluation as lines for a terminal."""

from collections.abc import Iterator, Sequence

from cxrbatch.files import shown
from cxrbatch.results.analysis import Analysis
from cxrbatch.results.counting import ExclusionStep, ImageCounts
from cxrbatch.results.figures import Evaluation, Figure, OperatingFigures
from cxrbatch.results.merging import Task

_TITLE, _CELL, _MOST_WIDTH = 13, 23, 30


def left_out_lines(counts: ImageCounts) -> Iterator[str]:
    """Yield a line for each reason why scored images are not analysed, in the flow's order."""
    if counts.unlabelled:
        yield f"unlabelled   {counts.unlabelled:,} scored images have no truth"
    if counts.side is not None:
        aside = sum(step.count for step in counts.aside)
        yield f"split        {counts.side} alone; {aside:,} images of other sides are not analysed"
    if counts.not_held_out:
        yield f"split        {counts.not_held_out:,} analysed images are of its side train or val"
    if counts.flagged:
        yield f"flagged      {_steps(counts.flagged)} left out; --keep-flagged counts them"
    if counts.copies:
        yield f"copies       {_steps(counts.copies)} left out; --keep-copies counts them"


def _steps(steps: Sequence[ExclusionStep]) -> str:
    parts = ", ".join(f"{step.name.replace('_', ' ')} {step.count:,}" for step in steps)
    return f"{sum(step.count for step in steps):,} ({parts})"


def evaluation_lines(analysis: Analysis, evaluation: Evaluation) -> Iterator[str]:
    """Yield the figures of an evaluation as lines, without what a curve or a picture shows.

    Args:
        analysis: The images, their truth and the classes that it tells apart.
        evaluation: Their figures.
    """
    yield _line("classes", _classes(analysis.task))
    flow = analysis.flow
    yield _line(
        "analysed",
        f"{flow.analysed:,} of {flow.scored:,} scored images, {evaluation.patients:,} patients",
    )
    yield from left_out_lines(flow)
    if evaluation.triage is not None:
        normal = plain_name_of(evaluation.triage.normal)
        yield _line("AUC", f"{figure_text(evaluation.triage.auc)}: abnormal against {normal}")
    yield _line("accuracy", figure_text(evaluation.accuracy))
    yield _line("balanced", f"{figure_text(evaluation.balanced_accuracy)}: mean sensitivity")
    yield _line("macro AUC", figure_text(evaluation.macro_auc))
    yield _line("calibration", _calibration(evaluation))
    yield from _by_class(evaluation)
    yield from _points(evaluation)
    yield from _predicted(evaluation)


def figure_text(figure: Figure) -> str:
    """Return a figure with its interval and n, or why it has none."""
    if figure.value is None:
        return f"undefined: {figure.undefined}"
    return f"{_value(figure)}, n {figure.n:,}"


def plain_name_of(name: str) -> str:
    """Return a class's name as it can do nothing to a terminal."""
    return shown(name)[1:-1]


def _value(figure: Figure) -> str:
    if figure.value is None:
        return "undefined"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.3f}"
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _classes(task: Task) -> str:
    parts = task.parts
    return ", ".join(
        f"{plain_name_of(name)} ({' + '.join(map(plain_name_of, parts[name]))})"
        if name in parts
        else plain_name_of(name)
        for name in task.classes
    )


def _calibration(evaluation: Evaluation) -> str:
    calibration = evaluation.calibration
    chance = calibration.ece_by_chance
    by_chance = "" if chance is None else f"; {chance:.3f} by chance alone"
    return f"error {_value(calibration.ece)}{by_chance}; Brier score {_value(calibration.brier)}"


def _by_class(evaluation: Evaluation) -> Iterator[str]:
    names = [plain_name_of(each.name)[:_MOST_WIDTH] for each in evaluation.classes]
    width = max(map(len, names))
    heads = ("sensitivity", "specificity", "AUC")
    yield _line("by class", f"{'':{width}} {'n':>7}  {''.join(f'{h:{_CELL}}' for h in heads)}")
    for name, each in zip(names, evaluation.classes, strict=True):
        cells = (each.sensitivity, each.specificity, each.auc)
        texts = "".join(f"{_value(figure):{_CELL}}" for figure in cells)
        yield _line("", f"{name:{width}} {each.images:>7,}  {texts}")


def _points(evaluation: Evaluation) -> Iterator[str]:
    """A table of the thresholds of each class, with their rates."""
    rows = [(plain_name_of(each.name)[:_MOST_WIDTH], each.points) for each in evaluation.classes]
    if not any(points for _, points in rows):
        return
    width = max(len(name) for name, _ in rows)
    heads = f"{'':10} {'chosen on':13} {'at':7}  {'sensitivity':{_CELL}}specificity"
    yield _line("thresholds", f"{'':{width}} {heads}")
    for name, points in rows:
        yield from (_line("", f"{name:{width}} {_point(point)}") for point in points)


def _point(point: OperatingFigures) -> str:
    rates = f"{_value(point.sensitivity):{_CELL}}{_value(point.specificity)}"
    return f"{point.name:10} {point.chosen_on:13} {point.threshold:.5f}  {rates}"


def _predicted(evaluation: Evaluation) -> Iterator[str]:
    """The shares of the model's predictions, a block for each true class."""
    rows = [
        (f"{plain_name_of(each.name)} as {plain_name_of(name)}", figure_text(share))
        for each in evaluation.predicted
        for name, share in each.shares.items()
    ]
    width = max((len(text) for text, _ in rows), default=0)
    for number, (text, share) in enumerate(rows):
        yield _line("" if number else "predicted", f"{text:{width}} {share}")


def _line(title: str, text: str) -> str:
    return f"{title:{_TITLE}}{text}".rstrip()

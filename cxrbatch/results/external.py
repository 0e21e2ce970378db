"""The figures of an evaluation on images from elsewhere, as a checkpoint's card records them."""

from typing import Any

from cxrbatch.results.figures import Evaluation, Figure
from cxrbatch.results.merging import Task


def external_record(evaluation: Evaluation, task: Task) -> dict[str, Any]:
    """Select the figures that a checkpoint's card records of an evaluation.

    Args:
        evaluation: The figures.
        task: The classes that the labels tell apart.

    Returns:
        JSON values: "n" images; "groups", the number of patients; "classes", the images of each
        class of the task; "map", the classes of the model that each merged class stands for;
        "abnormal_auc" (by 1 - P(Normal)), "macro_auc", "balanced_accuracy" and
        "expected_calibration_error"; "expected_calibration_error_by_chance", a number or None;
        "recall" and "auc" by class; and "predicted", by true class and by class of the model the
        share that is predicted to be of it. A figure is {"value": …, "interval": [low, high]}, with
        the interval None if it has none; it is None if it is undefined.
    """
    classes, triage = evaluation.classes, evaluation.triage
    return {
        "n": evaluation.images,
        "groups": evaluation.patients,
        "classes": {each.name: each.images for each in classes},
        "map": {name: [*parts] for name, parts in task.parts.items()},
        "abnormal_auc": None if triage is None else _with_interval(triage.auc),
        "macro_auc": _with_interval(evaluation.macro_auc),
        "balanced_accuracy": _with_interval(evaluation.balanced_accuracy),
        "expected_calibration_error": _with_interval(evaluation.calibration.ece),
        "expected_calibration_error_by_chance": evaluation.calibration.ece_by_chance,
        "recall": {each.name: _with_interval(each.sensitivity) for each in classes},
        "auc": {each.name: _with_interval(each.auc) for each in classes},
        "predicted": {
            each.name: {name: _with_interval(share) for name, share in each.shares.items()}
            for each in evaluation.predicted
        },
    }


def _with_interval(figure: Figure) -> dict[str, Any] | None:
    if figure.value is None:
        return None
    interval = None if figure.low is None else [figure.low, figure.high]
    return {"value": figure.value, "interval": interval}

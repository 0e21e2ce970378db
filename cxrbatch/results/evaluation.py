"""The one evaluation of a table against the truth, whole and by subgroups of its images."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from cxrbatch.errors import LabelError, UsageError, naming_arguments, plain_number
from cxrbatch.results.analysis import Analysis, analyse
from cxrbatch.results.figures import Evaluation, Headline
from cxrbatch.results.label_files import ClassMap, LabelOptions
from cxrbatch.results.statistics.calculation import evaluate_scores, headline_of
from cxrbatch.results.statistics.predicted import predicted_shares
from cxrbatch.results.table import Table, has_folds
from cxrbatch.results.truth import class_numbers

_HOTTEST = 100.0


def evaluate(
    results: "str | Path | Table | pd.DataFrame",
    labels: "str | Path | pd.DataFrame | None" = None,
    *,
    by: str | None = None,
    label_column: str | None = None,
    path_column: str | None = None,
    patient_column: str | None = None,
    class_map: ClassMap | None = None,
    keep_copies: bool = False,
    keep_flagged: bool = False,
    prevalence: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Compare the scores of a table with the true classes: the figures of `cxrbatch report`.

    The images are the scored ones whose true class is known. If any of them is on the side `test`
    of the labels' split, only those on that side are evaluated. Of these, images flagged as lateral
    or as no chest, and all but the first of equal images, are left out: `all_images` of the result
    has the main figures with them. Images are equal that have one SOP Instance UID and frame
    number, or one image hash, or that are both equal to a third.

    Args:
        results: A table's path, an open table, or what `load_results` returned, or some of its
            rows.
        labels: A file of labels, or what `load_labels` returned; None to use the table's own
            column truth, else class-named folders.
        by: What names the images in the labels: "path", "name" (of the file alone), "sop",
            "series", "study", "accession" or "image_hash"; None to take what joins most labels.
        label_column: Name of the labels' column with the class; None to find it by usual names.
        path_column: Name of the column with the path, or with what `by` says; None likewise.
        patient_column: Name of the column with an id that all images of a person share; None to
            find it likewise.
        class_map: Text of a label -> the class that is meant, or a list of classes, any of which
            makes the label true: they are merged into one, whose probability is their sum.
        keep_copies: Whether all of several equal images are evaluated.
        keep_flagged: Whether images flagged as lateral or as no chest are evaluated.
        prevalence: Class name -> prevalence, in (0, 1), for which predictive values are stated too.
        seed: Seed of the random resampling behind bootstrap intervals.

    Returns:
        The figures, with 95 % intervals where they have any; `to_frame` gives a DataFrame of them.

    Raises:
        TableError: The table cannot be used.
        LabelError: The labels cannot be used, no image is left to evaluate, or `prevalence` names
            no class of the table, one twice, or a share outside (0, 1).
        UsageError: Another argument is not as above: of another type, an unknown `by`, a blank name
            of a column, a blank text in `class_map`, or a negative `seed`.
    """
    seed = int(plain_number("seed", seed, int, low=0))
    kept = {"keep_copies": keep_copies, "keep_flagged": keep_flagged}
    with naming_arguments():
        options = LabelOptions(by, label_column, path_column, patient_column, class_map or {})
        analysis = analyse(results, labels, label_options=options, merge=True, **_flags(kept))
        require_truth(analysis)
        return evaluate_analysis(analysis, prevalence=prevalence, seed=seed)


def headline(
    results: "str | Path | Table | pd.DataFrame",
    labels: "str | Path | pd.DataFrame | None" = None,
    *,
    by: str | None = None,
    label_column: str | None = None,
    path_column: str | None = None,
    patient_column: str | None = None,
    class_map: ClassMap | None = None,
    keep_copies: bool = False,
    keep_flagged: bool = False,
    seed: int = 0,
) -> Headline:
    """Calculate only the headline figures of `evaluate`: equal numbers, in less time.

    Args:
        results: A table's path, an open table, or what `load_results` returned, or some of its
            rows.
        labels: A file of labels, or what `load_labels` returned; None to use the table's own
            column truth, else class-named folders.
        by: What names the images in the labels, as for `evaluate`; None for what joins most.
        label_column: Name of the labels' column with the class; None to find it by usual names.
        path_column: Name of the column with the path, or with what `by` says; None likewise.
        patient_column: Name of the column with a person's id; None to find it likewise.
        class_map: Text of a label -> the class that is meant, or a list of classes, any of which
            makes the label true: they are merged into one, whose probability is their sum.
        keep_copies: Whether all of several equal images are evaluated.
        keep_flagged: Whether images flagged as lateral or as no chest are evaluated.
        seed: Seed of the random resampling behind bootstrap intervals.

    Returns:
        Accuracy, balanced accuracy, macro F1, macro AUC and the AUC of each class, with intervals.

    Raises:
        TableError: The table cannot be used.
        LabelError: The labels cannot be used, or no image is left to evaluate.
        UsageError: An argument is not as above, see `evaluate`.
    """
    seed = int(plain_number("seed", seed, int, low=0))
    kept = {"keep_copies": keep_copies, "keep_flagged": keep_flagged}
    with naming_arguments():
        options = LabelOptions(by, label_column, path_column, patient_column, class_map or {})
        analysis = analyse(results, labels, label_options=options, merge=True, **_flags(kept))
        return headline_of_analysis(analysis, seed=seed)


def headline_of_analysis(analysis: Analysis, *, seed: int = 0) -> Headline:
    """Calculate the headline figures of the images that `analyse` chose.

    `all_images` of the result has those with the images left out for a flag or as copies; it is
    None if there are none.

    Args:
        analysis: The images, their scores and true classes.
        seed: Seed of the bootstrap.

    Raises:
        TableError: The table is damaged.
        LabelError: No true class is known for any scored image, or no image was chosen.
    """
    require_truth(analysis)
    of_all = _of_all_images(analysis, seed=seed)
    return replace(headline_without_others(analysis, seed=seed), all_images=of_all)


def evaluate_analysis(
    analysis: Analysis, *, prevalence: Mapping[str, float] | None = None, seed: int = 0
) -> Evaluation:
    """Calculate all figures of the images that `analyse` chose.

    The temperature and thresholds chosen on validation are those of the checkpoint's card, where it
    has valid ones; a class that is merged with others has no such threshold. The prediction of
    merged classes is the one of the largest sum of probabilities; `predicted` of the result has
    the model's own predictions.

    Args:
        analysis: The images, their scores and true classes; its `truth` must not be None.
        prevalence: Class name -> prevalence, in (0, 1), for which predictive values are stated too.
        seed: Seed of the bootstrap.

    Raises:
        TableError: The table is damaged.
        LabelError: `prevalence` names no class, one twice, or a share outside (0, 1).
        UsageError: `prevalence` is no mapping of texts.
    """
    # Each checkpoint of a cross-validation has a temperature of its own.
    several = has_folds(analysis.results.provenance)
    temperature = None if several else analysis.card.get("temperature")
    truth, patients = analysis.true_classes()[analysis.chosen], analysis.patients()
    evaluation = evaluate_scores(
        truth,
        analysis.probabilities,
        patients,
        classes=analysis.task.classes,
        logits=analysis.task.merge_logits(analysis.scores.logits[analysis.chosen]),
        temperature=float(temperature) if _is_between(temperature, high=_HOTTEST) else None,
        prevalence=by_class({} if prevalence is None else prevalence, analysis.task.classes),
        thresholds=_thresholds(analysis.card, analysis.task.unchanged()),
        seed=seed,
    )
    shares = predicted_shares(
        truth,
        analysis.scores.predicted[analysis.chosen],
        patients,
        classes=analysis.task.classes,
        predicted_classes=analysis.results.classes,
        seed=seed,
    )
    of_all = _of_all_images(analysis, seed=seed)
    return replace(evaluation, predicted=shares, all_images=of_all)


def _flags(given: Mapping[str, object]) -> dict[str, bool]:
    """Take flags of a caller, if they are True or False."""
    for name, value in given.items():
        if not isinstance(value, bool | np.bool_):
            raise UsageError(f"{name} is {value!r:.60}; give True or False")
    return {name: bool(value) for name, value in given.items()}


def headline_without_others(analysis: Analysis, *, seed: int = 0) -> Headline:
    """Calculate the headline figures of the chosen images; `all_images` of the result is None.

    Args:
        analysis: The images, their scores and true classes; its `truth` must not be None.
        seed: Seed of the bootstrap.
    """
    return headline_of(
        analysis.true_classes()[analysis.chosen],
        analysis.probabilities,
        analysis.patients(),
        classes=analysis.task.classes,
        side=analysis.flow.side,
        seed=seed,
    )


def _of_all_images(analysis: Analysis, *, seed: int) -> Headline | None:
    """The headline with the images that were left out for a flag or as copies, if there are any."""
    if len(analysis.all_images) == len(analysis.chosen):
        return None
    return headline_without_others(replace(analysis, chosen=analysis.all_images), seed=seed)


def by_class(prevalence: Mapping[str, float], classes: tuple[str, ...]) -> dict[str, float]:
    """Return `prevalence` with each class name spelled as in `classes`.

    A name is matched as a label is (see `find_classes`): "covid 19" becomes "COVID-19".

    Args:
        prevalence: Class name as a user writes it -> prevalence.
        classes: Class names of the table.

    Raises:
        LabelError: A name is no class, two names are one class, or a share is no number in (0, 1).
        UsageError: `prevalence` is no mapping, or a name is no text.
    """
    if not isinstance(prevalence, Mapping) or not all(isinstance(n, str) for n in prevalence):
        raise UsageError("prevalence is no dict of class names; give one such as {'Normal': 0.8}")
    numbers = class_numbers(prevalence, classes)
    if len(set(numbers.values())) < len(numbers):
        raise LabelError("a class has two prevalences; give one")
    shares: list[Any] = [*prevalence.values()]
    if not all(isinstance(share, Real) and 0.0 < float(share) < 1.0 for share in shares):
        raise LabelError("a prevalence is not between 0 and 1; give a share such as 0.05")
    return {classes[numbers[name]]: float(share) for name, share in prevalence.items()}


def require_truth(analysis: Analysis) -> None:
    """Raise an error unless `analyse` found images to evaluate.

    Raises:
        LabelError: There is no truth, it is that of no scored image, or all its images are flagged.
    """
    name = analysis.results.name
    if analysis.truth is None:
        raise LabelError(f"nothing tells the truth about the images of {name}; give labels")
    if not len(analysis.all_images):
        raise LabelError(f"no scored image of {name} has a truth; give other labels")
    if not len(analysis.chosen):
        raise LabelError(
            f"all scored images of {name} with a truth are flagged as lateral or as no chest; "
            "--keep-flagged counts them"
        )


def _thresholds(card: Mapping[str, Any], classes: Collection[str]) -> dict[str, dict[str, float]]:
    """The operating points of some classes in the card, which may hold anything."""
    found = card.get("operating_points")
    if not isinstance(found, dict):
        return {}
    return {
        name: {
            point: float(rates["threshold"])
            for point, rates in points.items()
            if isinstance(rates, dict) and _is_between(rates.get("threshold"), high=1.0)
        }
        for name, points in found.items()
        if isinstance(points, dict) and name in classes
    }


def _is_between(value: object, *, high: float) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value <= high

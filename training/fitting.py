"""Train one network on prepared images: fit, calibrate on validation, evaluate on test."""

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxrbatch.auditing.bundled_lungs import bundled_finder
from cxrbatch.errors import UsageError
from cxrbatch.model.card import MAX_TEXT, Card, Normalisation
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.network import RadiographResNet, build_model, round_as_stored
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.results.figures import Evaluation, Figure, OperatingFigures
from cxrbatch.results.statistics.calculation import evaluate_scores
from cxrbatch.training.controls import evaluate_controls
from cxrbatch.training.dataset import ImageSubset, TrainingData
from cxrbatch.training.foreign import NO_FURTHER, FurtherImages
from cxrbatch.training.gate import fit_gate
from cxrbatch.training.initial import InitialWeights, start_from
from cxrbatch.training.loop import EpochMetrics, TrainingListener, best_epoch, fit
from cxrbatch.training.model_evaluation import (
    CardFigures,
    Logits,
    calibrate,
    features_of,
    logits_to_probabilities,
    predict,
)
from cxrbatch.training.trainer import TrainingOptions, TrainingSetup
from cxrbatch.training.twins import evaluate_twins

LIMITS = (
    "For research only; not a medical device.",
    "Scores are valid for images like the training images and were not tested on others.",
    "Where a class comes from one source only, a score may tell sources apart, not diseases.",
)
"""Limits of use in the card of every trained checkpoint."""

_SMALLEST_STD = 0.01
_MOST_FOR_NORMALISATION = 2000


def check_texts(name: str, limits: Sequence[str]) -> None:
    """Check what a card will hold of the user's words, before any work is done.

    Args:
        name: Name of the checkpoint.
        limits: Sentences about what the data cannot show.

    Raises:
        UsageError: A text cannot be printed on one line, or has more than 1000 characters.
    """
    for option, text in (("--name", name), *(("--limit", text) for text in limits)):
        if not text.isprintable() or len(text) > MAX_TEXT:
            raise UsageError(
                f"the {option} cannot be printed or is longer than {MAX_TEXT} characters; "
                "give one in plain text"
            )


def new_card(
    data: TrainingData,
    options: TrainingOptions,
    *,
    name: str,
    limits: Sequence[str],
    initial: InitialWeights | None = None,
) -> Card:
    """Make the card of a checkpoint that is not trained yet.

    Args:
        data: Its classes are copied. The normalisation is the mean and the standard deviation
            (at least 0.01), to 4 decimals, of the grey levels, in [0, 1], of up to 4000 training
            images; with `options.freeze_trunk` that of `initial`, which its layers learned with.
        options: Architecture, input size and geometry are copied.
        name: Name of the checkpoint.
        limits: Sentences about what the data cannot show; `LIMITS` come before them.
        initial: Weights to start from; None for random ones.

    Returns:
        A card with temperature 1, without operating points and without figures.
    """
    kept = initial.normalisation if initial and options.freeze_trunk else None
    return Card(
        name,
        options.architecture,
        data.classes,
        Recipe(size=options.size, geometry=options.geometry),
        kept or _normalisation_of(data.subsets["train"]),
        limits=(*LIMITS, *limits),
    )


def _normalisation_of(train: ImageSubset) -> Normalisation:
    step = max(1, len(train) // _MOST_FOR_NORMALISATION)
    sample = train.at(np.arange(0, len(train), step))
    values = sample.images(np.arange(len(sample))).astype(np.float32) / 255.0
    std = max(round(float(values.std()), 4), _SMALLEST_STD)
    return Normalisation(round(float(values.mean()), 4), std)


def train_network(
    data: TrainingData,
    setup: TrainingSetup,
    *,
    initial: InitialWeights | None = None,
    listener: TrainingListener | None = None,
    further: FurtherImages = NO_FURTHER,
) -> Checkpoint | None:
    """Fit a network, calibrate it on validation, then compute controls and figures on test.

    Nothing is chosen by test. If test has no images, the controls are those on validation.

    Args:
        data: Labelled images, prepared for the recipe of `setup.card`.
        setup: Card, options, device, folder and processes; every process of `setup.group` calls
            this.
        initial: Weights to start from; None for random ones.
        listener: Its methods are called as the training progresses.
        further: Twins for the controls, and foreign images for the gate.

    Returns:
        The checkpoint, in memory; None in all processes but the first.

    Raises:
        CheckpointError, UsageError: In the cases that `fit` lists.
        CxrbatchError: In those as well, and if the features are too large to be described.
    """
    torch.manual_seed(setup.options.seed)
    model = build_model(setup.card)
    if initial is not None:
        start_from(initial, model, classes=data.classes)
    history = fit(model, data.subsets["train"], data.subsets["val"], setup, listener)
    if not setup.group.leads:
        return None
    start = initial.sha256 if initial else "random"
    return finish(model, data, setup, history, initial_weights=start, further=further)


def finish(
    model: RadiographResNet,
    data: TrainingData,
    setup: TrainingSetup,
    history: Sequence[EpochMetrics],
    *,
    initial_weights: str,
    further: FurtherImages = NO_FURTHER,
) -> Checkpoint:
    """Calibrate a fitted network on validation, then evaluate it with weights as a file has them.

    `model` is changed in place: the weights are rounded to float16, and an offset for each class is
    added to the bias of the head. Temperature and operating points come from validation, controls
    from test, or from validation if test has no image.

    Args:
        model: The fitted network.
        data: Labelled images; nothing before this uses the subset test.
        setup: Card, options, device and teachers of the training.
        history: The metrics of every epoch, for the card.
        initial_weights: Hash of the file of initial weights, or "random", for the card.
        further: Twins for the controls, and foreign images for the gate.

    Returns:
        The checkpoint, in memory: the network, its card with all figures, and the statistics of its
        input gate.

    Raises:
        CxrbatchError: A score is not finite, the features are too large to be described, or one of
            the other errors of `predict`.
    """
    card, classes = setup.card, data.classes

    def score(subset: ImageSubset) -> Logits:
        # As `score` computes on this machine, so that its tables give the same figures.
        return predict(
            model,
            card=card,
            subset=subset,
            device=setup.device,
            precision=setup.options.precision,
        )

    val, test = data.subsets["val"], data.subsets["test"]
    round_as_stored(model)
    logits, temperature = calibrate(model, score(val), val.truth)

    def evaluated(name: str, logits: Logits) -> Evaluation:
        return evaluate_logits(
            data.subsets[name].truth,
            logits,
            classes=classes,
            temperature=temperature,
            groups=data.groups(name),
        )

    control = "test" if len(test) else "val"
    finder, sources = bundled_finder().finder, data.sources(control)
    controls = evaluate_controls(
        data.subsets[control], score, classes=classes, sources=sources, finder=finder
    )
    if further.twins is not None:
        controls["twins"] = evaluate_twins(
            further.twins, score, classes=classes, temperature=temperature
        )
    validation = evaluated("val", logits)
    summary = {
        **_circumstances(data, setup.options, history),
        "initial_weights": initial_weights,
        "teachers": [teacher.sha256 for teacher in setup.teachers],
        "validation": card_figures(validation),
        "test": card_figures(evaluated("test", score(test))) if len(test) else None,
        "controls": {"on": control, **controls},
    }

    def features(subset: ImageSubset) -> npt.NDArray[np.float32]:
        precision = setup.options.precision
        return features_of(
            model, card=card, subset=subset, device=setup.device, precision=precision
        )

    statistics, gate = fit_gate(
        data.subsets, further.foreign, features, classes=len(classes), seed=setup.options.seed
    )
    card = replace(
        card,
        temperature=temperature,
        operating_points=card_operating_points(validation),
        training=summary,
        gate=gate,
    )
    return Checkpoint.of(model, card, statistics)


def _circumstances(
    data: TrainingData, options: TrainingOptions, history: Sequence[EpochMetrics]
) -> dict[str, Any]:
    images = {
        name: {c: int((subset.truth == i).sum()) for i, c in enumerate(data.classes)}
        for name, subset in data.subsets.items()
    }
    return {
        "images": images,
        "unreadable": dict(Counter(item.outcome.value for item in data.unreadable)),
        "split": {"sha256": data.split.sha256, **data.split.report.to_card()},
        "options": asdict(options),
        "history": [asdict(epoch) for epoch in history],
        "chosen_epoch": best_epoch(history).number,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("cxrbatch", "torch", "torchvision", "numpy")},
        },
    }


def evaluate_logits(
    truth: npt.NDArray[np.int64],
    logits: Logits,
    *,
    classes: Sequence[str],
    temperature: float,
    groups: Sequence[int],
) -> Evaluation:
    """Compute the figures of `cxrbatch report` on one subset, with their intervals.

    Args:
        truth: Shape (n,), class indices.
        logits: Shape (n, classes).
        classes: Class names in the order of the logits.
        temperature: The logits are divided by it before the softmax.
        groups: Length n, the number of each image's group: images of one patient or picture have
            the same. The bootstrap draws whole groups.

    Returns:
        The figures; one that needs images of a class that has none is undefined (its value None).
    """
    probabilities = logits_to_probabilities(logits, temperature=temperature)
    return evaluate_scores(truth, probabilities, np.asarray(groups, np.int64), classes=classes)


def card_figures(evaluation: Evaluation) -> CardFigures:
    """Select from the figures of a subset those that a checkpoint's card has.

    Returns:
        "n" images, "groups", "balanced_accuracy", "macro_auc", "expected_calibration_error", and
        "recall" and "auc" by class. A figure is {"value": …, "interval": [low, high]}, the
        interval None if it has none, or the figure is None if it is undefined. The calibration
        error is a plain number or None. "expected_calibration_error_by_chance" is what it would be
        if every confidence were true: {"mean": …, "95th percentile": …}.
    """
    classes = evaluation.classes
    return {
        "n": evaluation.images,
        "groups": evaluation.patients,
        "balanced_accuracy": _with_interval(evaluation.balanced_accuracy),
        "macro_auc": _with_interval(evaluation.macro_auc),
        "expected_calibration_error": evaluation.calibration.ece.value,
        "expected_calibration_error_by_chance": {
            "mean": evaluation.calibration.ece_by_chance,
            "95th percentile": evaluation.calibration.ece_by_chance_high,
        },
        "recall": {each.name: _with_interval(each.sensitivity) for each in classes},
        "auc": {each.name: _with_interval(each.auc) for each in classes},
    }


def card_operating_points(evaluation: Evaluation) -> dict[str, dict[str, dict[str, float]]]:
    """Return the thresholds of each class that were chosen on a subset, for a checkpoint's card.

    Returns:
        {class: {name of the point: {"threshold": …, "sensitivity": …, "specificity": …}}}, all in
        [0, 1]; an undefined rate is 0. A class without both positive and negative images has no
        point. The names are "youden", "sensitive" (95 % sensitivity), "specific" (95 % specificity)
        and, of the class Normal, "triage": an image with a lower probability of Normal may be
        abnormal, and at least 95 % of the images of all other classes have one. That is the point
        of 95 % specificity, by a second name.
    """
    chosen = {
        each.name: {point.name: _rates_of(point) for point in each.points}
        for each in evaluation.classes
    }
    if evaluation.triage is not None and chosen[evaluation.triage.normal]:
        normal = chosen[evaluation.triage.normal]
        normal["triage"] = dict(normal["specific"])
    return chosen


def _rates_of(point: OperatingFigures) -> dict[str, float]:
    return {
        # A threshold above every probability takes no image for positive.
        "threshold": min(point.threshold, 1.0),
        "sensitivity": point.sensitivity.value or 0.0,
        "specificity": point.specificity.value or 0.0,
    }


def _with_interval(figure: Figure) -> CardFigures | None:
    if figure.value is None:
        return None
    interval = None if figure.low is None else [figure.low, figure.high]
    return {"value": figure.value, "interval": interval}

"""Train one network on prepared images: fit, calibrate on validation, evaluate on test."""

import math
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from cxrbatch.errors import CxrbatchError
from cxrbatch.model.card import Card, Normalisation, describe_features
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.network import RadiographResNet, build_model
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.model.weight_files import round_as_stored
from cxrbatch.results.figures import Evaluation
from cxrbatch.training.dataset import ImageSubset, TrainingData
from cxrbatch.training.initial import InitialWeights, start_from
from cxrbatch.training.loop import EpochMetrics, TrainingListener, best_epoch, fit
from cxrbatch.training.model_evaluation import (
    Logits,
    card_figures,
    card_operating_points,
    evaluate_controls,
    evaluate_logits,
    features_of,
    predict,
)
from cxrbatch.training.trainer import TrainingOptions, TrainingSetup

LIMITS = (
    "For research only; not a medical device.",
    "Scores are valid for images like the training images and were not tested on others.",
    "Where a class comes from one source only, a score may tell sources apart, not diseases.",
)
"""Limits of use in the card of every trained checkpoint."""

_SMALLEST_STD = 0.01
_MOST_FOR_NORMALISATION = 2000
_MOST_FEATURES = 20_000
# Ordinary ones are below 100; the squares of these no longer fit their float32 statistics.
_LARGEST_FEATURE = 1e15
_TEMPERATURE_RANGE = (math.log(0.05), math.log(20.0))


def new_card(
    data: TrainingData, options: TrainingOptions, *, name: str, limits: Sequence[str]
) -> Card:
    """Make the card of a checkpoint that is not trained yet.

    Args:
        data: Its classes are copied. The normalisation is the mean and the standard deviation
            (at least 0.01) of the grey levels, in [0, 1], of some thousand training images.
        options: Architecture, input size and geometry are copied.
        name: Name of the checkpoint.
        limits: Sentences about what the data cannot show; `LIMITS` come before them.

    Returns:
        A card with temperature 1, without operating points and without figures.
    """
    train = data.subsets["train"]
    sample = train.every(max(1, len(train) // _MOST_FOR_NORMALISATION))
    values = sample.images(np.arange(len(sample))).astype(np.float32) / 255.0
    std = max(round(float(values.std()), 4), _SMALLEST_STD)
    return Card(
        name,
        options.architecture,
        data.classes,
        Recipe(size=options.size, geometry=options.geometry),
        Normalisation(round(float(values.mean()), 4), std),
        limits=(*LIMITS, *limits),
    )


def train_network(
    data: TrainingData,
    setup: TrainingSetup,
    *,
    initial: InitialWeights | None = None,
    listener: TrainingListener | None = None,
) -> Checkpoint | None:
    """Fit a network, calibrate it on validation, then evaluate it on test once.

    Args:
        data: Labelled images, prepared for the recipe of `setup.card`.
        setup: Card, options, device, folder and processes; every process of `setup.group` calls
            this.
        initial: Weights to start from; None for random ones.
        listener: Its methods are called as the training progresses.

    Returns:
        The checkpoint, in memory; None in all processes but the first.

    Raises:
        CheckpointError: A teacher has other classes or another geometry.
        CxrbatchError: The loss is no longer finite, the features are too large to be described,
            or a state cannot be written.
        UsageError: The state to resume is of another training, or damaged; or the processes
            cannot divide a batch equally.
    """
    torch.manual_seed(setup.options.seed)
    model = build_model(setup.card)
    if initial is not None:
        start_from(initial, model, classes=data.classes)
    history = fit(model, data.subsets["train"], data.subsets["val"], setup, listener)
    if not setup.group.leads:
        return None
    return finish(
        model, data, setup, history, initial_weights=initial.sha256 if initial else "random"
    )


def finish(
    model: RadiographResNet,
    data: TrainingData,
    setup: TrainingSetup,
    history: Sequence[EpochMetrics],
    *,
    initial_weights: str,
) -> Checkpoint:
    """Calibrate a fitted network on validation, then evaluate it with weights as a file has them.

    `model` is changed in place: an offset for each class is added to the bias of the head, and the
    weights are rounded to float16. Temperature and operating points come from validation, controls
    from test, or from validation if test has no image.

    Args:
        model: The fitted network.
        data: Labelled images; nothing before this uses the subset test.
        setup: As for `fit`.
        history: The metrics of every epoch, for the card.
        initial_weights: Hash of the file of initial weights, or "random", for the card.

    Returns:
        The checkpoint, in memory: the network, its card with all figures, and mean and covariance
        of its features over up to 20,000 training images.

    Raises:
        CxrbatchError: A score is not finite, or the features are too large to be described.
    """
    card, classes = setup.card, data.classes

    def score(subset: ImageSubset) -> Logits:
        return predict(model, card=card, subset=subset, device=setup.device)

    train, val, test = (data.subsets[name] for name in ("train", "val", "test"))
    logits = score(val)
    offsets = fit_offsets(logits, val.truth, temperature=fit_temperature(logits, val.truth))
    with torch.no_grad():
        model.fc.bias.add_(torch.from_numpy(offsets).to(model.fc.bias))
    round_as_stored(model)
    logits = score(val)
    temperature = fit_temperature(logits, val.truth)

    def evaluated(name: str, logits: Logits) -> Evaluation:
        return evaluate_logits(
            data.subsets[name].truth,
            logits,
            classes=classes,
            temperature=temperature,
            groups=data.groups(name),
        )

    control = "test" if len(test) else "val"
    controls = evaluate_controls(
        data.subsets[control], score, classes=classes, sources=data.sources(control)
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
    thinned = train.every(-(-len(train) // _MOST_FEATURES))
    features = features_of(model, card=card, subset=thinned, device=setup.device)
    if not np.abs(features).max() < _LARGEST_FEATURE:
        raise CxrbatchError("the network's values grew beyond use; try a lower --learning-rate")
    card = replace(
        card,
        temperature=temperature,
        operating_points=card_operating_points(validation),
        training=summary,
    )
    return Checkpoint.of(model, card, describe_features(features))


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


def fit_temperature(logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]) -> float:
    """Find the temperature that minimises the negative log-likelihood.

    The images must be those of validation: neither those that the network was trained on nor those
    that it is tested on.

    Args:
        logits: Shape (n, classes).
        truth: Shape (n,), class indices.

    Returns:
        A number in [0.05, 20]; probabilities are softmax(logits / temperature).

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    rows = np.arange(len(truth))
    scores = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        log_p = log_softmax(scores / math.exp(log_temperature), axis=1)
        return float(-log_p[rows, truth].mean())

    return math.exp(minimize_scalar(loss, bounds=_TEMPERATURE_RANGE, method="bounded").x)


def fit_offsets(
    logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64], *, temperature: float
) -> npt.NDArray[np.float32]:
    """Find a number to add to each class's logits so that no class is predicted too often.

    A rare class that was drawn often is learned by heart and then found too seldom in new images.
    The offsets minimise the negative log-likelihood. A standard normal prior on each offset divided
    by the temperature keeps the offsets small where there are few images.

    Args:
        logits: Of validation images, shape (n, classes).
        truth: Shape (n,), class indices.
        temperature: What the logits are divided by before the softmax.

    Returns:
        Shape (classes,), float32, in units of logits, mean 0.

    Source: Alexandari et al., "Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat
    at Label Shift Adaptation", ICML 2020.
    """
    scores = logits.astype(np.float64) / temperature
    count, classes = scores.shape
    wanted = np.eye(classes)[truth]

    def loss(offsets: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        log_p = log_softmax(scores + offsets, axis=1)
        value = (offsets @ offsets / 2 - (log_p * wanted).sum()) / count
        return float(value), ((np.exp(log_p) - wanted).sum(axis=0) + offsets) / count

    found = minimize(loss, np.zeros(classes), jac=True, method="BFGS").x
    centred: npt.NDArray[np.float32] = ((found - found.mean()) * temperature).astype(np.float32)
    return centred

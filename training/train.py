"""One training run from labels to a checkpoint: split, fit, calibrate, judge."""

import platform
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxrbatch.errors import CheckpointError, LabelError
from cxrbatch.model.card import Card, Normalisation
from cxrbatch.model.checkpoint import Checkpoint, build_model, save_checkpoint
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.results import metrics
from cxrbatch.results.truth import SPLITS, LabelledFile
from cxrbatch.training.calibrate import fit_offsets, fit_temperature
from cxrbatch.training.data import Inputs, Side, Unreadable, sides_of
from cxrbatch.training.fit import Epoch, fit, logits_to_probabilities, predict
from cxrbatch.training.labelled import Labelled
from cxrbatch.training.options import TrainingOptions
from cxrbatch.training.split import split_files

LIMITS = (
    "For research only; not a medical device.",
    "Scores are valid for images like the training images and were not tested on others.",
    "Where a class comes from one source only, a score may tell sources apart, not diseases.",
)


_SMALLEST_STD = 0.01


@dataclass(frozen=True, slots=True)
class Data:
    """Labelled images ready for training.

    Attributes:
        classes: Class names in the order of the logits.
        files: Every labelled file with its side of the split.
        sides: Inputs and truth by side.
        unreadable: Files that gave no image.
        split_given: Whether the split came with the labels.
    """

    classes: tuple[str, ...]
    files: Sequence[LabelledFile]
    sides: dict[str, Side]
    unreadable: Sequence[Unreadable]
    split_given: bool


def prepare_data(labelled: Labelled, inputs: Inputs, *, classes: Sequence[str], seed: int) -> Data:
    """Split labelled images.

    Args:
        labelled: From `collect`.
        inputs: From `prepare_inputs`.
        classes: From `order_classes`.
        seed: Of the split, where none is given.

    Raises:
        LabelError: The split or images cannot be used.
    """
    files = split_files(labelled.files, seed=seed)
    sides = sides_of(files, inputs, classes=classes)
    for side in ("train", "val"):
        if missing := set(range(len(classes))) - set(sides[side].truth.tolist()):
            name = classes[min(missing)]
            raise LabelError(
                f"no image of {name!r} in the {side} split could be read; "
                "look at some with `cxrbatch inspect`"
            )
    given = all(file.split is not None for file in labelled.files)
    return Data(tuple(classes), files, sides, inputs.unreadable(files), given)


def train(
    data: Data,
    *,
    name: str,
    limits: Sequence[str],
    recipe: Recipe,
    options: TrainingOptions,
    initial: Checkpoint | None,
    device: torch.device,
    on_step: Callable[[int], object],
    on_epoch: Callable[[Epoch], object],
) -> Checkpoint:
    """Fit, calibrate on validation, then look at test once.

    Args:
        data: From `prepare_data`.
        name: Of the checkpoint, for people.
        limits: What to know of the data before believing a score, beside `LIMITS`.
        recipe: The one that the data was prepared with.
        options: The run's options.
        initial: A checkpoint whose weights are the start; None for random ones.
        device: Where to compute.
        on_step: Called with the number of images after each step.
        on_epoch: Called after each epoch.

    Raises:
        CheckpointError: `initial` has another architecture or other classes.
        CxrbatchError: The loss stopped being a number.
    """
    torch.manual_seed(options.seed)
    card = Card(
        name,
        options.architecture,
        data.classes,
        recipe,
        _normalisation(data.sides["train"]),
        limits=(*LIMITS, *limits),
    )
    model = build_model(card)
    if initial is not None:
        _check_initial(initial, card)
        model.load_state_dict(initial.model.state_dict())
    history = fit(
        model,
        card=card,
        train=data.sides["train"],
        val=data.sides["val"],
        options=options,
        device=device,
        on_step=on_step,
        on_epoch=on_epoch,
    )
    logits = {
        side: predict(model, card=card, inputs=data.sides[side].inputs, device=device)
        for side in ("val", "test")
        if len(data.sides[side].truth)
    }
    truth = data.sides["val"].truth
    offsets = fit_offsets(logits["val"], truth, temperature=fit_temperature(logits["val"], truth))
    with torch.no_grad():
        model.fc.bias += torch.from_numpy(offsets).to(model.fc.bias)
    logits = {side: found + offsets for side, found in logits.items()}
    temperature = fit_temperature(logits["val"], truth)
    figures = {
        side: _figures(data.sides[side].truth, found, classes=data.classes, temperature=temperature)
        for side, found in logits.items()
    }
    summary = _summary(data, options=options, history=history, figures=figures, initial=initial)
    return Checkpoint(replace(card, temperature=temperature, training=summary), "", model)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a trained checkpoint.

    Raises:
        CheckpointError: The disk refuses.
    """
    save_checkpoint(path, model=checkpoint.model, card=checkpoint.card)


def _normalisation(side: Side) -> Normalisation:
    every = max(1, len(side.inputs) // 2000)
    values = side.inputs[::every].astype(np.float32) / 255.0
    return Normalisation(
        round(float(values.mean()), 4), max(round(float(values.std()), 4), _SMALLEST_STD)
    )


def _check_initial(initial: Checkpoint, card: Card) -> None:
    if (initial.card.architecture, initial.card.classes) != (card.architecture, card.classes):
        raise CheckpointError(
            f"--init is a {initial.card.architecture} for {', '.join(initial.card.classes)}; "
            f"this run trains a {card.architecture} for {', '.join(card.classes)}"
        )


def _figures(
    truth: npt.NDArray[np.int64],
    logits: npt.NDArray[np.float32],
    *,
    classes: Sequence[str],
    temperature: float,
) -> dict[str, Any]:
    predicted = logits.argmax(axis=1)
    probabilities = logits_to_probabilities(logits, temperature=temperature)
    recalls = metrics.recalls(truth, predicted, classes=len(classes))
    areas = metrics.one_vs_rest_auc(truth, probabilities)
    defined = any(area is not None for area in areas)
    return {
        "n": len(truth),
        "balanced_accuracy": metrics.balanced_accuracy(truth, predicted),
        "macro_auc": metrics.macro_auc(truth, probabilities) if defined else None,
        "recall": dict(zip(classes, recalls, strict=True)),
        "auc": dict(zip(classes, areas, strict=True)),
    }


def _summary(
    data: Data,
    *,
    options: TrainingOptions,
    history: Sequence[Epoch],
    figures: dict[str, Any],
    initial: Checkpoint | None,
) -> dict[str, Any]:
    counts = {
        side: {c: int((data.sides[side].truth == i).sum()) for i, c in enumerate(data.classes)}
        for side in SPLITS
    }
    best = max(history, key=lambda epoch: (epoch.val_auc, epoch.number))
    return {
        "images": counts,
        "unreadable": dict(Counter(item.outcome.value for item in data.unreadable)),
        "patients_known": sum(file.patient is not None for file in data.files),
        "split": "given with the labels"
        if data.split_given
        else "made here, by patient where known",
        "options": asdict(options),
        "initial_weights": initial.sha256 if initial else "random",
        "history": [asdict(epoch) for epoch in history],
        "chosen_epoch": best.number,
        "validation": figures["val"],
        "test": figures.get("test"),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "torchvision", "numpy")},
        },
    }

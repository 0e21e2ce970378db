"""One training run from prepared data to a checkpoint: fit, calibrate, judge."""

import platform
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cxrbatch.errors import CxrbatchError, LabelError
from cxrbatch.model.card import Card, Normalisation
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.features import describe_features
from cxrbatch.model.network import RadiographResNet, build_model
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.model.weight_files import round_as_stored
from cxrbatch.training.calibrate import fit_offsets, fit_temperature
from cxrbatch.training.dataset import Inputs, Side, Unreadable, sides_of
from cxrbatch.training.distributed import ALONE, World
from cxrbatch.training.evaluation import (
    Figures,
    Logits,
    features_of,
    judge,
    judge_controls,
    operating_points,
    predict,
)
from cxrbatch.training.initial import Initial, start_from
from cxrbatch.training.labels import Labelled
from cxrbatch.training.loop import Epoch, best_epoch, fit
from cxrbatch.training.options import TrainingOptions
from cxrbatch.training.split import Split

LIMITS = (
    "For research only; not a medical device.",
    "Scores are valid for images like the training images and were not tested on others.",
    "Where a class comes from one source only, a score may tell sources apart, not diseases.",
)

_SMALLEST_STD = 0.01
_MOST_FEATURES = 20_000
# Ordinary ones are below 100; the squares of these no longer fit their float32 statistics.
_LARGEST_FEATURE = 1e15


@dataclass(frozen=True, slots=True)
class Data:
    """Labelled images ready for training.

    Attributes:
        classes: Class names in the order of the logits.
        split: Every labelled file with its side and group.
        sides: Inputs and truth by side.
        unreadable: Files that gave no image.
    """

    classes: tuple[str, ...]
    split: Split
    sides: dict[str, Side]
    unreadable: Sequence[Unreadable]

    def groups(self, side: str) -> list[int]:
        """Whose each image of a side is."""
        return [self.split.groups[row] for row in self._rows(side)]

    def sources(self, side: str) -> list[str | None]:
        """Where each image of a side comes from."""
        return [self.split.files[row].source for row in self._rows(side)]

    def _rows(self, side: str) -> list[int]:
        rows = self.sides[side].rows
        return [] if rows is None else rows.tolist()


def prepare_data(
    labelled: Labelled, inputs: Inputs, split: Split, *, classes: Sequence[str]
) -> Data:
    """Divide the images.

    Args:
        labelled: From `collect`.
        inputs: From `prepare_inputs`.
        split: From `split_files`.
        classes: From `order_classes`.

    Raises:
        LabelError: A class has no image on a side that needs one.
    """
    sides = sides_of(split.files, inputs, classes=classes)
    for side in ("train", "val"):
        if missing := set(range(len(classes))) - set(sides[side].truth.tolist()):
            name = classes[min(missing)]
            raise LabelError(
                f"no image of {name!r} in the {side} split could be read; "
                "look at some with `cxrbatch inspect`"
            )
    return Data(tuple(classes), split, sides, inputs.unreadable(labelled.files))


def train(
    data: Data,
    *,
    name: str,
    limits: Sequence[str],
    recipe: Recipe,
    options: TrainingOptions,
    initial: Initial | None,
    teachers: Sequence[Checkpoint] = (),
    device: torch.device,
    folder: Path | None = None,
    resume: bool = False,
    world: World = ALONE,
    on_start: Callable[[], object] = lambda: None,
    on_step: Callable[[int], object],
    on_epoch: Callable[[Epoch], object],
) -> Checkpoint | None:
    """Fit, calibrate on validation, then look at test once.

    Args:
        data: From `prepare_data`.
        name: Of the checkpoint, for people.
        limits: What to know of the data before believing a score, beside `LIMITS`.
        recipe: The one that the data was prepared with.
        options: The run's options.
        initial: Weights to start from; None for random ones.
        teachers: Checkpoints to learn from too.
        device: Where to compute.
        folder: Where to keep what it needs to go on; None for nowhere.
        resume: Go on with what is there.
        world: The processes that train together.
        on_start: Called once, before the first step, when nothing speaks against it any more.
        on_step: Called with the number of images after each step.
        on_epoch: Called after each epoch.

    Returns:
        The checkpoint; None where another process has it.

    Raises:
        CheckpointError: A teacher has other classes.
        CxrbatchError: The loss or the network grew beyond numbers, or the disk refuses.
        UsageError: What is to be gone on with is another run.
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
        start_from(initial, model, classes=data.classes)
    history = fit(
        model,
        card=card,
        train=data.sides["train"],
        val=data.sides["val"],
        options=options,
        device=device,
        teachers=teachers,
        folder=folder,
        resume=resume,
        world=world,
        on_start=on_start,
        on_step=on_step,
        on_epoch=on_epoch,
    )
    if not world.leads:
        return None
    summary = {
        **_circumstances(data, options, history),
        "initial_weights": initial.sha256 if initial else "random",
        "teachers": [teacher.sha256 for teacher in teachers],
    }
    return _finished(model, card, data, summary, device=device)


def _finished(
    model: RadiographResNet,
    card: Card,
    data: Data,
    summary: dict[str, Any],
    *,
    device: torch.device,
) -> Checkpoint:
    """Calibrate on validation, then judge: what is judged is what will be stored."""

    def score(side: Side) -> Logits:
        return predict(model, card=card, side=side, device=device)

    val, test = data.sides["val"], data.sides["test"]
    found = score(val)
    offsets = fit_offsets(found, val.truth, temperature=fit_temperature(found, val.truth))
    with torch.no_grad():
        model.fc.bias.add_(torch.from_numpy(offsets).to(model.fc.bias))
    round_as_stored(model)
    found = score(val)
    temperature = fit_temperature(found, val.truth)

    def judged(side: str, logits: Logits) -> Figures:
        return judge(
            data.sides[side].truth,
            logits,
            classes=data.classes,
            temperature=temperature,
            groups=data.groups(side),
        )

    summary["validation"] = judged("val", found)
    summary["test"] = judged("test", score(test)) if len(test) else None
    side = "test" if len(test) else "val"
    summary["controls"] = {
        "on": side,
        **judge_controls(data.sides[side], score, classes=data.classes, sources=data.sources(side)),
    }
    points = operating_points(val.truth, found, classes=data.classes, temperature=temperature)
    features = features_of(model, card=card, side=_thinned(data.sides["train"]), device=device)
    if not np.abs(features).max() < _LARGEST_FEATURE:
        raise CxrbatchError("the network's values grew beyond use; try a lower --learning-rate")
    card = replace(card, temperature=temperature, operating_points=points, training=summary)
    return Checkpoint.of(model, card, describe_features(features))


def _thinned(side: Side) -> Side:
    every = -(-len(side) // _MOST_FEATURES)
    positions = np.arange(0, len(side), every)
    rows = positions if side.rows is None else side.rows[positions]
    return Side(side.inputs, side.truth[positions], rows)


def _normalisation(side: Side) -> Normalisation:
    every = max(1, len(side) // 2000)
    values = side.images(np.arange(0, len(side), every)).astype(np.float32) / 255.0
    return Normalisation(
        round(float(values.mean()), 4), max(round(float(values.std()), 4), _SMALLEST_STD)
    )


def _circumstances(
    data: Data, options: TrainingOptions, history: Sequence[Epoch]
) -> dict[str, Any]:
    images = {
        side: {c: int((held.truth == i).sum()) for i, c in enumerate(data.classes)}
        for side, held in data.sides.items()
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

"""The ranges of 8-bit arithmetic, found with labelled images and refused where they cost accuracy.

What is compared is the area under each class's ROC curve against all others, on the same images:
by PyTorch's scores in float32, and by those in 8 bits. Some of these images gave the ranges. They
are not held back, for ranges are extremes of activations, in which no label has a part, and with
fewer images the areas would be known the less exactly.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cxrbatch.errors import CxrbatchError
from cxrbatch.model.checkpoint import Checkpoint
from cxrbatch.model.inference import Scorer, memory_explained, normalised
from cxrbatch.model.preprocessing import image_hash
from cxrbatch.results.paths import shown
from cxrbatch.results.statistics.metrics import one_vs_rest_auc
from cxrbatch.scoring.labelled import LabelledImages, read_labelled
from cxrbatch.scoring.quantisation import MOST_CHANGE, Quantisation
from cxrbatch.scoring.settings import ScoringOptions

_FOR_RANGES = 128
_CPU = torch.device("cpu")


def quantise_network(checkpoint: Checkpoint, labels: Path, options: ScoringOptions) -> Quantisation:
    """Find the ranges of a network, and what they cost.

    Args:
        checkpoint: Of which network.
        labels: Folder of class folders, or a CSV or Parquet file of labels.
        options: The run's.

    Raises:
        LabelError: The labels cannot be used, or a class has too few images that can be read.
        CxrbatchError: An area changes by more than `MOST_CHANGE`.
    """
    from cxrbatch.model.openvino import activation_ranges

    found = read_labelled(labels, checkpoint.card, options)
    hashes = [image_hash(prepared) for prepared in found.inputs]
    # By hash: whatever the order of the files, the same images give the same ranges.
    some = np.argsort(hashes)[:_FOR_RANGES]
    batches = _batches(found.inputs[some], options.batch_size)
    norm = checkpoint.card.normalisation
    with memory_explained(options.batch_size):
        ranges = activation_ranges(
            checkpoint.model, (normalised(torch.from_numpy(b)[:, None], norm) for b in batches)
        )
    made = partial(Scorer, checkpoint, batch_size=options.batch_size, device=_CPU)
    before = made(precision="fp32")
    after = made(precision="int8", backend="openvino", ranges=ranges)
    classes = checkpoint.card.classes
    counts = np.bincount(found.classes, minlength=len(classes)).tolist()
    quantisation = Quantisation(
        ranges,
        images=dict(zip(classes, counts, strict=True)),
        unreadable=found.unreadable,
        sha256=_sha256(hashes, [classes[number] for number in found.classes]),
        auc_before=_areas(found, before, classes),
        auc_after=_areas(found, after, classes),
    )
    _check(quantisation)
    return quantisation


def _check(quantisation: Quantisation) -> None:
    name = quantisation.worst
    change = quantisation.auc_change[name]
    if abs(change) > MOST_CHANGE:
        raise CxrbatchError(
            f"int8 changes the AUC of {shown(name)} by {change:+.4f} on the calibration images, "
            f"more than {MOST_CHANGE}; use --precision bf16 or fp32, or calibrate with more images"
        )


def _areas(found: LabelledImages, scorer: Scorer, classes: Sequence[str]) -> dict[str, float]:
    scores = scorer.score_all(_batches(found.inputs, scorer.batch_size))
    areas = one_vs_rest_auc(found.classes, np.concatenate([s.probabilities for s in scores]))
    # Each class has images, so each has an area.
    return {name: float(area or 0.0) for name, area in zip(classes, areas, strict=True)}


def _sha256(hashes: Sequence[str], labels: Sequence[str]) -> str:
    """A hash of which pictures have which class, in whatever files and order."""
    told = sorted(zip(hashes, labels, strict=True))
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _batches(inputs: npt.NDArray[np.uint8], size: int) -> Iterator[npt.NDArray[np.uint8]]:
    return (inputs[start : start + size] for start in range(0, len(inputs), size))

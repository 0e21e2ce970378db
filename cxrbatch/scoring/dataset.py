"""Loaded files as batches of a DataLoader, scored into rows."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from cxrbatch.model.batch_scores import BatchScores
from cxrbatch.model.card import Card
from cxrbatch.model.predictor import Launched, Predictor
from cxrbatch.reading.outcomes import Outcome
from cxrbatch.results.columns import ImageScores, Row
from cxrbatch.scoring.file_reader import LoadedFile
from cxrbatch.scoring.table_writer import ScoredRow

Loaded: TypeAlias = LoadedFile | pa.Table
"""The rows of a file with their network inputs; or its finished rows in an earlier table."""

Sample: TypeAlias = tuple[Row | pa.Table, npt.NDArray[np.uint8] | None]
"""A row and its input, shape (size, size), if it is to be scored; or finished rows."""


class RadiographDataset(IterableDataset[list[Sample]]):
    """Divides loaded files into batches for a PyTorch DataLoader, in the order of the files.

    A batch ends with its `batch_size`th input, and contains the rows without input in between. A
    row without input ends it at once if it has no input yet. The reading processes are those of
    `workers.pool`, which survive hostile files; those of a DataLoader do not.

    Args:
        loaded: Per file a `LoadedFile` (rows and inputs), or a `pa.Table` of its rows in an earlier
            table, which are finished: none is scored again.
        batch_size: Inputs per batch.
    """

    def __init__(self, loaded: Iterable[Loaded], *, batch_size: int) -> None:
        super().__init__()
        self._loaded = loaded
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[list[Sample]]:
        """Yield the batches as lists of samples; the last one may have fewer inputs."""
        samples: list[Sample] = []
        count = 0
        for loaded in self._loaded:
            if isinstance(loaded, pa.Table):
                samples.append((loaded, None))
                continue
            inputs = iter(loaded.inputs)
            for row, scorable in zip(loaded.rows, loaded.scorable, strict=True):
                samples.append((row, next(inputs) if scorable else None))
                count += scorable
                if count == self._batch_size or not count:
                    yield samples
                    samples, count = [], 0
        if samples:
            yield samples


@dataclass(slots=True)
class Batch:
    """Rows that are scored together: the network inputs of some rows, and rows without input.

    Attributes:
        rows: Each a `Row`, or a `pa.Table` of finished rows; in the order of the files.
        is_scored: For each of `rows`, whether it has an input.
        inputs: Shape (number of true `is_scored`, size, size), uint8; None if there is no input.
    """

    rows: list[Row | pa.Table]
    is_scored: list[bool]
    inputs: Tensor | None

    def pin_memory(self) -> "Batch":
        """Move `inputs`, if any, to page-locked memory, from which a GPU copies by itself.

        Returns:
            This batch.
        """
        if self.inputs is not None:
            self.inputs = self.inputs.pin_memory()
        return self


def collate(samples: Sequence[Sample]) -> Batch:
    """Make a `Batch` of samples: stack their inputs into one tensor.

    Args:
        samples: Pairs: a row and its input, shape (size, size), uint8, or None if it is not to be
            scored; or a table of finished rows, and None.

    Returns:
        The rows in their order; `inputs` is None if no sample has one.
    """
    inputs = [image for _, image in samples if image is not None]
    return Batch(
        [row for row, _ in samples],
        [image is not None for _, image in samples],
        torch.from_numpy(np.stack(inputs)) if inputs else None,
    )


def score_batches(
    loaded: Iterable[Loaded], predictor: Predictor, *, gate: bool = False
) -> Iterator[ScoredRow | pa.Table]:
    """Score the network inputs of loaded files, and yield their rows with the scores.

    The inputs of several files are scored together. While the scores of one batch are awaited, up
    to `predictor.ahead` further batches are being computed.

    Args:
        loaded: Per file a `LoadedFile` (rows and inputs), or a `pa.Table` of its rows in an earlier
            table, which are finished: none is scored again.
        predictor: The network; its `batch_size` is the number of inputs per batch.
        gate: Whether the scores of images that the input gate flags are withheld, with the outcome
            `withheld_by_gate`.

    Yields:
        In the order of `loaded`: for each row of a `LoadedFile` the pair (row, scores), with None
        as scores if the row has no input; each `pa.Table` unchanged.

    Raises:
        CxrbatchError: A score is not finite, or a batch does not fit into memory.
        CheckpointError: The first scores are not those of plain PyTorch.
    """
    loader = DataLoader(
        RadiographDataset(loaded, batch_size=predictor.batch_size),
        batch_size=None,  # the dataset yields whole batches
        collate_fn=collate,
        pin_memory=predictor.device.type == "cuda",
        generator=torch.Generator(),  # a DataLoader draws a seed: not from the caller's generator
    )
    launched: deque[_LaunchedBatch] = deque()
    for batch in loader:
        launched.append(_LaunchedBatch(batch, predictor, gate=gate))
        yield from _finished_rows(launched, ahead=predictor.ahead)
    yield from _finished_rows(launched, ahead=0)


class _LaunchedBatch:
    """A batch whose scores are being computed."""

    def __init__(self, batch: Batch, predictor: Predictor, *, gate: bool) -> None:
        self._batch, self._card, self._gate = batch, predictor.card, gate
        self._wait: Launched | None = None
        if batch.inputs is not None:
            self._wait = predictor.launch(batch.inputs.numpy())

    @property
    def is_computing(self) -> bool:
        return self._wait is not None

    def rows(self) -> Iterator[ScoredRow | pa.Table]:
        scores = _image_scores(self._wait(), self._card) if self._wait else iter(())
        for row, is_scored in zip(self._batch.rows, self._batch.is_scored, strict=True):
            if not isinstance(row, Row):
                yield row
            elif not is_scored:
                yield row, None
            elif (score := next(scores)).is_foreign and self._gate:
                yield _withheld(row, score)
            else:
                yield row, score


def _finished_rows(
    launched: deque[_LaunchedBatch], *, ahead: int
) -> Iterator[ScoredRow | pa.Table]:
    """Remove batches from the front, waiting for scores, until only `ahead` are computing."""
    computing = sum(batch.is_computing for batch in launched)
    while launched and (computing > ahead or not launched[0].is_computing):
        first = launched.popleft()
        computing -= first.is_computing
        yield from first.rows()


def _image_scores(batch: BatchScores, card: Card) -> Iterator[ImageScores]:
    for i in range(len(batch.logits)):
        verdict = batch.gate_verdict(i, card)
        yield ImageScores(
            batch.logits[i],
            batch.probabilities[i],
            batch.heatmaps[i].tobytes(),
            float(batch.heatmap_scale[i]),
            verdict.ood_score,
            verdict.ood_kind,
            verdict.is_foreign,
        )


def _withheld(row: Row, scores: ImageScores) -> ScoredRow:
    kind = scores.ood_kind
    detail = f"to the gate it looks like {kind}" if kind else "it is of no kind that the gate knows"
    outcome = Outcome.WITHHELD_BY_GATE.value
    return row._replace(outcome=outcome, detail=detail), replace(scores, is_withheld=True)

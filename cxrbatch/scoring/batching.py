"""Loaded files to scored rows, in batches of one shape."""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cxrbatch.model.inference import Scorer
from cxrbatch.results.table import ImageScores, Row
from cxrbatch.scoring.loading import Portion
from cxrbatch.scoring.shards import ScoredRow

_Waiting = deque[tuple[Row | pa.Table, npt.NDArray[np.uint8] | None]]


def score_batches(portions: Iterable[Portion], scorer: Scorer) -> Iterator[ScoredRow | pa.Table]:
    """Gather inputs to full batches, score them, and give the rows back in their order.

    Args:
        portions: Rows with their inputs; finished rows pass through.
        scorer: Scores up to its batch size at once.
    """
    waiting: _Waiting = deque()
    ready = 0
    for portion in portions:
        if isinstance(portion, pa.Table):
            waiting.append((portion, None))
            continue
        inputs = iter(portion.inputs)
        for row, scorable in zip(portion.rows, portion.scorable, strict=True):
            waiting.append((row, next(inputs) if scorable else None))
            ready += scorable
            if ready == scorer.batch_size or not ready:
                yield from _scored(waiting, scorer)
                ready = 0
    yield from _scored(waiting, scorer)


def _scored(waiting: _Waiting, scorer: Scorer) -> Iterator[ScoredRow | pa.Table]:
    inputs = [prepared for _, prepared in waiting if prepared is not None]
    scores = _image_scores(np.stack(inputs), scorer) if inputs else iter(())
    while waiting:
        row, prepared = waiting.popleft()
        if isinstance(row, Row):
            yield row, None if prepared is None else next(scores)
        else:
            yield row


def _image_scores(inputs: npt.NDArray[np.uint8], scorer: Scorer) -> Iterator[ImageScores]:
    batch = scorer.score(inputs)
    for i in range(len(inputs)):
        yield ImageScores(
            batch.logits[i],
            batch.probabilities[i],
            batch.heatmaps[i].tobytes(),
            float(batch.heatmap_scale[i]),
        )

"""Loaded files to scored rows, in batches of one shape."""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cxrbatch.model.batch_scores import BatchScores
from cxrbatch.model.inference import Scorer
from cxrbatch.results.table import ImageScores, Row
from cxrbatch.scoring.shards import ScoredRow
from cxrbatch.workers.pool import Portion

_Waiting = list[tuple[Row | pa.Table, npt.NDArray[np.uint8] | None]]


def score_batches(portions: Iterable[Portion], scorer: Scorer) -> Iterator[ScoredRow | pa.Table]:
    """Gather inputs to full batches, score them, and give the rows back in their order.

    Args:
        portions: Rows with their inputs; finished rows pass through.
        scorer: Scores up to its batch size at once.
    """
    waiting: _Waiting = []
    launched: deque[_Launched] = deque()
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
                launched.append(_Launched(waiting, scorer))
                waiting, ready = [], 0
                yield from _settled(launched, ahead=scorer.ahead)
    launched.append(_Launched(waiting, scorer))
    yield from _settled(launched, ahead=0)


class _Launched:
    """Some rows in their order, and the scores of theirs that are on their way."""

    def __init__(self, waiting: _Waiting, scorer: Scorer) -> None:
        inputs = [prepared for _, prepared in waiting if prepared is not None]
        self._rows = [(row, prepared is not None) for row, prepared in waiting]
        self._wait = scorer.launch(np.stack(inputs)) if inputs else None

    @property
    def is_on_its_way(self) -> bool:
        return self._wait is not None

    def rows(self) -> Iterator[ScoredRow | pa.Table]:
        scores = _image_scores(self._wait()) if self._wait else iter(())
        for row, scorable in self._rows:
            if isinstance(row, Row):
                yield row, next(scores) if scorable else None
            else:
                yield row


def _settled(launched: deque[_Launched], *, ahead: int) -> Iterator[ScoredRow | pa.Table]:
    """The rows of all but so many batches, and of what needs no scores in front of those."""
    on_their_way = sum(batch.is_on_its_way for batch in launched)
    while launched and (on_their_way > ahead or not launched[0].is_on_its_way):
        first = launched.popleft()
        on_their_way -= first.is_on_its_way
        yield from first.rows()


def _image_scores(batch: BatchScores) -> Iterator[ImageScores]:
    for i in range(len(batch.logits)):
        yield ImageScores(
            batch.logits[i],
            batch.probabilities[i],
            batch.heatmaps[i].tobytes(),
            float(batch.heatmap_scale[i]),
        )

"""Rows keep their order and get their own scores, however many batches are on their way."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.special import softmax

from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.model.predictor import Launched, Predictor
from cxrbatch.reading.readings import HeaderFacts
from cxrbatch.results.columns import Row, facts_of
from cxrbatch.scoring.dataset import score_batches
from cxrbatch.scoring.file_reader import LoadedFile

CPU = torch.device("cpu")
READY = pa.table({"path": ["of an earlier run"]})


class Ahead(Predictor):
    """Scores like any other, wants batches ahead, and counts those on their way."""

    ahead = 0
    on_their_way = most = 0

    def launch(self, inputs: np.ndarray) -> Launched:
        wait = super().launch(inputs)
        self.on_their_way += 1
        self.most = max(self.most, self.on_their_way)

        def counted() -> object:
            self.on_their_way -= 1
            return wait()

        return counted


def row(number: int) -> Row:
    return Row(
        str(number), 0, 1, 1, "png", "", "", None, None, (), None, None, facts_of(HeaderFacts())
    )


def portions(count: int) -> Iterator[LoadedFile | pa.Table]:
    """Of every seven files four have an image, one has two, one none, and one is ready."""
    rng = np.random.default_rng(3)
    for number in range(count):
        images = {5: 2, 6: 0}.get(number % 7, 1)
        scorable = [True] * images if images else [False]
        inputs = rng.integers(0, 256, (images, 64, 64), dtype=np.uint8)
        yield (
            READY
            if number % 7 == 3
            else LoadedFile([row(number)] * len(scorable), scorable, inputs)
        )


@pytest.mark.parametrize("ahead", [0, 1, 2, 50])
def test_order_and_scores_are_those_of_one_after_the_other(
    tiny_checkpoint: Path, ahead: int
) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    scorer = Ahead(checkpoint, batch_size=4, device=CPU, precision="fp32")
    scorer.ahead = ahead
    found = iter(score_batches(portions(60), scorer))
    alone = Predictor(checkpoint, batch_size=4, device=CPU, precision="fp32")
    for portion in portions(60):
        if isinstance(portion, pa.Table):
            assert next(found) is READY
            continue
        inputs = iter(portion.inputs)
        for expected, scorable in zip(portion.rows, portion.scorable, strict=True):
            given = next(found)
            assert isinstance(given, tuple)
            assert given[0] == expected
            assert (given[1] is not None) == scorable
            if given[1] is not None:
                logits = alone.score(next(inputs)[None]).logits[0]
                assert np.array_equal(given[1].logits, logits)
                np.testing.assert_allclose(given[1].probabilities, softmax(logits), atol=1e-6)
    assert next(found, None) is None
    assert scorer.on_their_way == 0
    assert scorer.most == min(ahead + 1, 13)


def test_rows_without_images_are_not_held_back(tiny_checkpoint: Path) -> None:
    """An archive without images is told row by row."""
    scorer = Predictor(load_checkpoint(tiny_checkpoint), batch_size=4, device=CPU, precision="fp32")
    taken = []

    def files() -> Iterator[LoadedFile]:
        for number in range(3):
            taken.append(number)
            yield LoadedFile([row(number)], [False], np.empty((0, 64, 64), np.uint8))

    found = iter(score_batches(files(), scorer))
    assert next(found) == (row(0), None)
    assert taken == [0]

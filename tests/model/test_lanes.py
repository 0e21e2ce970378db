"""Batches side by side: each by its share of the threads, with the scores of one after another."""

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch

from cxrbatch.model.checkpoint import load_checkpoint
from cxrbatch.model.inference import Backend, Lanes, Precision, divide_threads
from cxrbatch.model.predictor import Predictor

CPU = torch.device("cpu")
BATCH = 4


@pytest.fixture
def four_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("threads", "lanes", "share"),
    [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, 1), (5, 1, 5), (6, 3, 2), (8, 4, 2), (64, 4, 16)],
)
def test_no_thread_is_left_out(threads: int, lanes: int, share: int) -> None:
    assert divide_threads(threads) == (lanes, share)
    assert lanes * share == threads


@pytest.mark.usefixtures("four_threads")
def test_lanes_work_at_once_each_with_its_share() -> None:
    lanes = Lanes()
    # Each waits for all others, which it would do for ever in a lane that came after theirs.
    together = Barrier(lanes.count, timeout=60)

    def meet() -> int:
        together.wait()
        return torch.get_num_threads()

    waits = [lanes.start(meet) for _ in range(lanes.count)]
    assert [wait() for wait in waits] == [1, 1, 1, 1]
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(("backend", "precision"), [("torch", "fp32"), ("openvino", "fp32")])
def test_scores_are_those_of_one_lane(
    tiny_checkpoint: Path, backend: Backend, precision: Precision
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    checkpoint = load_checkpoint(tiny_checkpoint)
    inputs = np.random.default_rng(5).integers(0, 256, (41 * BATCH + 3, 64, 64), dtype=np.uint8)
    batches = [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]

    def scorer() -> Predictor:
        return Predictor(
            checkpoint, batch_size=BATCH, device=CPU, precision=precision, backend=backend
        )

    many = scorer()
    assert many.ahead == 4
    side_by_side = list(many.score_all(batches))
    torch.set_num_threads(1)
    one = scorer()
    assert one.ahead == 1
    assert len(side_by_side) == len(batches)
    for batch, found in zip(batches, side_by_side, strict=True):
        expected = one.score(batch)
        assert np.array_equal(found.logits, expected.logits)
        assert np.array_equal(found.heatmaps, expected.heatmaps)
        assert np.array_equal(found.heatmap_scale, expected.heatmap_scale)


@pytest.mark.usefixtures("four_threads")
def test_a_batch_that_fails_fails_alone(tiny_checkpoint: Path) -> None:
    """What goes wrong in a lane is raised where its scores are waited for, and nowhere else."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    scorer = Predictor(checkpoint, batch_size=BATCH, device=CPU, precision="fp32")
    good = np.zeros((BATCH, 64, 64), np.uint8)
    too_many = np.zeros((BATCH + 1, 64, 64), np.uint8)
    before, wrong, after = map(scorer.launch, [good, too_many, good])
    assert np.array_equal(before().logits, after().logits)
    with pytest.raises(RuntimeError, match="must match"):
        wrong()


@pytest.mark.usefixtures("four_threads")
def test_the_model_is_at_work_for_no_longer_than_there_was(tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    batches = [np.zeros((BATCH, 64, 64), np.uint8)] * 200
    scorer = Predictor(checkpoint, batch_size=BATCH, device=CPU, precision="fp32")
    start = time.perf_counter()
    assert len(list(scorer.score_all(batches))) == 200
    # Four lanes that are all at work all the time are one model at work.
    assert 0 < scorer.seconds < time.perf_counter() - start

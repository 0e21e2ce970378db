"""Classes are drawn equally often, and every image of a class before any comes again."""

import numpy as np
import pytest
import torch

from cxrbatch.training.sampling import DrawSampler, class_weights, draw_epoch


def drawn(truth: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    return draw_epoch(truth, count=count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [1, 63, 64, 192, 1000])
def test_classes_come_equally_often(count: int) -> None:
    truth = np.repeat([0, 1, 2], [4, 60, 13])
    counts = np.bincount(truth[drawn(truth, count)], minlength=3)
    assert counts.sum() == count
    assert counts.max() - counts.min() <= 1


def test_no_image_comes_again_before_all_others_of_its_class() -> None:
    truth = np.repeat([0, 1], [5, 40])
    times = np.bincount(drawn(truth, 64), minlength=45)
    assert set(times[:5]) == {6, 7}
    assert set(times[5:]) == {0, 1}


def test_a_seed_gives_the_same_order_and_it_is_mixed() -> None:
    truth = np.repeat([0, 1], 50)
    order = drawn(truth, 100)
    assert np.array_equal(order, drawn(truth, 100))
    assert not np.array_equal(order, drawn(truth, 100, seed=1))
    assert 30 < np.count_nonzero(np.diff(truth[order])) < 70


def test_one_stratum_draws_every_image_equally_often() -> None:
    sampler = DrawSampler(
        np.zeros(20, np.int64), steps=3, batch_size=8, generator=torch.Generator().manual_seed(0)
    )
    times = np.bincount([draw.position for batch in sampler for draw in batch], minlength=20)
    assert (times.min(), times.max(), times.sum()) == (1, 2, 24)


def test_weights_let_classes_weigh_alike_and_images_one_on_average() -> None:
    truth = np.repeat([0, 1, 2], [4, 60, 16])
    weights = class_weights(truth, classes=3).numpy()
    assert weights == pytest.approx([80 / 12, 80 / 180, 80 / 48])
    assert weights[truth].mean() == pytest.approx(1.0)
    assert np.bincount(truth, weights[truth]) == pytest.approx([80 / 3] * 3)


def test_a_class_without_an_image_is_left_out() -> None:
    assert set(drawn(np.array([0, 0, 2]), 10)) == {0, 1, 2}

"""Which epoch is the best, and when there is no use in more."""

import pytest

from cxrbatch.training.loop import EpochMetrics, best_epoch, should_stop


def epochs(*figures: tuple[float, float]) -> list[EpochMetrics]:
    return [EpochMetrics(i + 1, 1.0, auc, loss) for i, (auc, loss) in enumerate(figures)]


@pytest.mark.parametrize(
    ("figures", "best"),
    [
        ([(0.5, 1.0), (0.9, 1.0), (0.8, 0.1)], 2),
        ([(0.9, 1.0), (0.9, 0.9), (0.9, 1.1)], 2),
        ([(0.9, 1.0), (0.9, 1.0)], 1),
    ],
)
def test_the_higher_area_is_best_and_then_the_lower_loss(
    figures: list[tuple[float, float]], best: int
) -> None:
    assert best_epoch(epochs(*figures)).number == best


def test_it_is_over_after_all_epochs_or_when_patience_is_at_its_end() -> None:
    falling = epochs((0.9, 1.0), (0.8, 1.0), (0.7, 1.0))
    assert not should_stop([], epochs=1, patience=1)
    assert not should_stop(falling, epochs=4, patience=None)
    assert should_stop(falling, epochs=3, patience=None)
    assert not should_stop(falling, epochs=9, patience=3)
    assert should_stop(falling, epochs=9, patience=2)

"""Images and labels are mixed in the same shares, pair by pair."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from cxrbatch.training.augment import draw_shares, mix, mixed_cross_entropy, mixed_weights


def shares(count: int, seed: int = 0) -> Tensor:
    return draw_shares(count, generator=torch.Generator().manual_seed(seed))


def test_both_of_a_pair_have_one_share_and_most_stay_nearly_whole() -> None:
    drawn = shares(10_001)
    assert torch.equal(drawn[:-1:2], drawn[1::2])
    assert ((drawn >= 0) & (drawn <= 1)).all()
    # The distribution function of Beta(1/2, 1/2) is 2/pi asin(sqrt(x)): 0.205 lie below 0.1.
    for bound, expected in ((0.1, 0.2048), (0.5, 0.5), (0.9, 0.7952)):
        assert (drawn < bound).float().mean().item() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_the_loss_is_that_of_the_mixed_labels(count: int) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 1, 4, 4, generator=generator)
    logits = torch.randn(count, 3, generator=generator)
    truth = torch.randint(3, (count,), generator=generator)
    own = shares(count)
    # Labels as images of one row: mixed by the same function, given to PyTorch's own soft loss.
    labels = mix(one_hot(truth, 3).float()[:, None, None], own)[:, 0, 0]
    expected = cross_entropy(logits, labels, label_smoothing=0.1)
    found = mixed_cross_entropy(logits, truth, own, label_smoothing=0.1)
    torch.testing.assert_close(found, expected)
    mixed = mix(images, own)
    for i in range(count):
        partner = min(i ^ 1, count - 1)
        by_hand = own[i] * images[i] + (1 - own[i]) * images[partner]
        torch.testing.assert_close(mixed[i], by_hand)


WEIGHTS = torch.tensor([0.5, 4.0, 1.25])


def test_class_weights_are_those_of_pytorch() -> None:
    """PyTorch divides by the weights of the batch, and this loss by the number of its images."""
    generator = torch.Generator().manual_seed(2)
    logits, truth = torch.randn(8, 3, generator=generator), torch.arange(8) % 3
    found = mixed_cross_entropy(
        logits, truth, torch.ones(8), label_smoothing=0.0, class_weights=WEIGHTS
    )
    expected = cross_entropy(logits, truth, weight=WEIGHTS)
    torch.testing.assert_close(found * 8 / WEIGHTS[truth].sum(), expected)


def test_of_mixed_images_each_label_has_the_weight_of_its_class() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, truth, own = torch.randn(4, 3, generator=generator), torch.arange(4) % 3, shares(4)
    found = mixed_cross_entropy(logits, truth, own, label_smoothing=0.1, class_weights=WEIGHTS)
    expected, weights = 0.0, []
    for i in range(4):
        parts = [(own[i], truth[i]), (1 - own[i], truth[i ^ 1])]
        for share, label in parts:
            loss = cross_entropy(logits[i], label, label_smoothing=0.1)
            expected += float(share * WEIGHTS[label] * loss) / 4
        weights.append(float(sum(share * WEIGHTS[label] for share, label in parts)))
    assert float(found) == pytest.approx(expected)
    assert mixed_weights(WEIGHTS, truth, own).tolist() == pytest.approx(weights)


def test_whole_shares_change_nothing() -> None:
    images = torch.rand(6, 1, 4, 4)
    assert torch.equal(mix(images, torch.ones(6)), images)

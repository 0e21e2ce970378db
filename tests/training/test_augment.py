"""Changes are mild, repeatable and in range, and never mirror a chest unless told to."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import affine, gaussian_blur

from cxrbatch.training.augment import Changes, augment, draw_changes


def changed(images: Tensor, *, seed: int = 0, flip: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return augment(images, draw_changes(len(images), generator=generator, flip=flip))


def films(count: int, *, size: int = 48) -> Tensor:
    """A bright disc on the left, a smaller one low on the right: no two orientations agree."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    heart = ((x + 0.4) ** 2 + y**2 < 0.12).float() * 0.8
    stomach = ((x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.03).float() * 0.5
    return (0.1 + heart + stomach).clamp(0, 1).expand(count, 1, size, size).contiguous()


def correlation(a: Tensor, b: Tensor) -> Tensor:
    flat = [(t - t.mean((1, 2, 3), keepdim=True)).flatten(1) for t in (a, b)]
    return (flat[0] * flat[1]).sum(1) / (flat[0].norm(dim=1) * flat[1].norm(dim=1))


def mirrored(images: Tensor, originals: Tensor) -> Tensor:
    """Which images are more like the mirror image of the original than like the original."""
    return correlation(images, originals.flip(3)) > correlation(images, originals)


def test_a_seed_gives_the_same_images() -> None:
    images = films(4)
    assert torch.equal(changed(images, seed=1), changed(images, seed=1))
    assert not torch.equal(changed(images, seed=1), changed(images, seed=2))


def test_the_global_generator_is_not_touched() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    changed(films(2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_argument_is_left_alone() -> None:
    images = films(2)
    changed(images)
    assert torch.equal(images, films(2))


@pytest.mark.parametrize("flip", [False, True])
def test_values_stay_in_range_and_shape(flip: bool) -> None:
    for images in (films(16), torch.rand(16, 1, 33, 33), torch.ones(4, 1, 32, 32)):
        found = changed(images, flip=flip)
        assert found.shape == images.shape
        assert found.dtype == torch.float32
        assert found.min() >= 0
        assert found.max() <= 1


def test_no_image_is_mirrored_by_default() -> None:
    images = films(300)
    assert not mirrored(changed(images), images).any()
    assert mirrored(images.flip(3), images).all()


def test_half_of_the_images_are_mirrored_when_told_to() -> None:
    images = films(300)
    assert 110 < int(mirrored(changed(images, flip=True), images).sum()) < 190


def test_nothing_is_turned_upside_down() -> None:
    images = films(300)
    found = changed(images, flip=True)
    upright = torch.maximum(correlation(found, images), correlation(found, images.flip(3)))
    turned = torch.maximum(
        correlation(found, images.flip(2)), correlation(found, images.flip(2, 3))
    )
    assert (upright > turned).all()


def test_changes_are_mild_but_differ_from_image_to_image() -> None:
    images = films(200)
    found = changed(images)
    likeness = correlation(found, images)
    assert likeness.min() > 0.5
    assert likeness.median() > 0.75
    assert likeness.max() < 1
    assert len({float(mean) for mean in found.mean((1, 2, 3))}) == 200


def test_each_image_moves_on_its_own_whatever_else_is_in_the_batch() -> None:
    """The centre of the bright disc wanders in both directions around its place."""
    found = changed(films(200))
    rows = torch.linspace(-1, 1, 48)
    bright = (found[:, 0] - 0.45).clamp(min=0)
    weight = bright.sum((1, 2))
    x = (bright.sum(1) * rows).sum(1) / weight
    y = (bright.sum(2) * rows).sum(1) / weight
    for centre, place in ((x, -0.35), (y, 0.05)):
        assert abs(float(centre.mean()) - place) < 0.1
        assert 0.02 < float(centre.std()) < 0.2


def test_a_part_of_a_batch_is_changed_as_in_the_whole() -> None:
    """So that any number of processes sees the same images."""
    images = torch.rand(6, 1, 40, 40)
    changes = draw_changes(6, generator=torch.Generator().manual_seed(2), flip=True)
    whole = augment(images, changes)
    for rows in (slice(0, 3), slice(3, 6), slice(5, 6)):
        torch.testing.assert_close(augment(images[rows], changes.of(rows)), whole[rows])


def test_grain_is_normal_and_differs_from_image_to_image() -> None:
    changes = draw_changes(8, generator=torch.Generator().manual_seed(4), flip=False)
    none, one = torch.zeros(8), torch.ones(8)
    noise = torch.full((8,), 0.05)
    alone = Changes(none, one, none, none, one, none + 1e-2, one, one, none, noise, changes.start)
    grain = (augment(torch.full((8, 1, 64, 64), 0.5), alone) - 0.5) / 0.05
    for image in grain:
        assert kstest(image.flatten().numpy(), "norm").pvalue > 1e-4
    for image, other in pairwise(grain):
        assert abs(float((image * other).mean())) < 0.1


def test_blurring_agrees_with_torchvision() -> None:
    images = torch.rand(3, 1, 40, 40)
    still = draw_changes(3, generator=torch.Generator(), flip=False)
    one, none = torch.ones(3), torch.zeros(3)
    sigma = torch.tensor([0.4, 0.7, 1.0])
    still = Changes(none, one, none, none, one, sigma, one, one, none, none, still.start)
    inside = (..., slice(2, -2), slice(2, -2))  # at the border it mirrors, this repeats
    for image, found, width in zip(images, augment(images, still), sigma, strict=True):
        expected = gaussian_blur(image, [5, 5], [float(width)] * 2)
        torch.testing.assert_close(found[inside], expected[inside], rtol=0, atol=1e-5)


def test_moving_agrees_with_torchvision() -> None:
    images = films(2, size=64)
    one, none = torch.ones(2), torch.zeros(2)
    angle, zoom = torch.tensor([0.1, -0.05]), torch.tensor([1.1, 0.95])
    sharp = torch.full((2,), 1e-2)
    start = torch.zeros(2, dtype=torch.int64)
    changes = Changes(angle, zoom, none, none, one, sharp, one, one, none, none, start)
    for image, found, turn, factor in zip(
        images, augment(images, changes), angle, zoom, strict=True
    ):
        expected = affine(
            image,
            angle=-math.degrees(float(turn)),
            translate=[0, 0],
            scale=1 / float(factor),
            shear=[0.0, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)

"""Changes are mild, repeatable and in range, and never mirror a chest unless told to."""

import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest
from torch import Tensor
from torch.utils.data import DataLoader

from cxrbatch.training.augment import (
    BLUR,
    BRIGHTNESS,
    CONTRAST,
    GAMMA,
    JPEG_QUALITY,
    NOISE,
    ROTATION,
    SCALE,
    SHIFT,
    RandomBlur,
    RandomGamma,
    RandomJpeg,
    augmentation,
    kept_random_state,
)
from cxrbatch.training.dataset import AugmentedImages, ImageSubset
from cxrbatch.training.sampling import Draw


def changed(images: Tensor, *, seed: int = 0, flip: bool = False) -> Tensor:
    """Augment as the loader does; images are rounded to grey levels of 8 bits."""
    levels = (images * 255).round().byte()
    subset = ImageSubset(levels[:, 0].numpy(), np.zeros(len(images), np.int64))
    augmented = AugmentedImages(subset, flip=flip)
    draws = [Draw(i, 1000 * seed + i, 1.0) for i in range(len(images))]
    return torch.stack([image for image, _, _ in augmented.__getitems__(draws)])


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


def test_an_image_is_changed_by_its_draw_alone() -> None:
    """So that any number of processes, or workers of the loader, sees the same images."""
    subset = ImageSubset((torch.rand(6, 40, 40) * 255).byte().numpy(), np.arange(6))
    augmented = AugmentedImages(subset, flip=True)
    draws = [Draw(position, 7 * position, 0.25) for position in (0, 3, 3, 5)]
    whole = augmented.__getitems__(draws)
    for draw, (image, label, share) in zip(draws, whole, strict=True):
        again, _, _ = augmented[draw]
        assert torch.equal(image, again)
        assert (label, share) == (draw.position, 0.25)
    sampler = [draws[:2], draws[2:]]
    loader = DataLoader(augmented, batch_sampler=sampler, num_workers=2)
    images = torch.cat([batch[0] for batch in loader])
    assert torch.equal(images, torch.stack([image for image, _, _ in whole]))


def test_noise_is_normal_and_differs_from_image_to_image() -> None:
    """The flat background of a flat image, which neither blur nor contrast changes."""
    found = changed(torch.full((8, 1, 96, 96), 0.5))[:, 0, 36:60, 36:60]
    residue = (found - found.mean((1, 2), keepdim=True)) / NOISE
    for image in residue:
        assert kstest(image.flatten().numpy(), "norm").pvalue > 1e-4
    for image, other in pairwise(residue):
        assert abs(float((image * other).mean())) < 0.2


def test_gamma_stays_in_its_range_and_keeps_black_and_white() -> None:
    transform = RandomGamma(*GAMMA)
    image = torch.tensor([[[0.0, 0.5, 1.0]]])
    with kept_random_state():
        torch.manual_seed(0)
        found = torch.stack([transform(image)[0, 0] for _ in range(300)])
    assert (found[:, 0] == 0).all()
    assert (found[:, 2] == 1).all()
    gammas = found[:, 1].log() / math.log(0.5)
    assert GAMMA[0] - 1e-4 <= gammas.min() < 0.75
    assert 1.3 < gammas.max() <= GAMMA[1] + 1e-4


def test_jpeg_is_that_of_some_quality_in_its_range() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    possible = set()
    for quality in range(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1):
        Image.fromarray(grey).save(file := io.BytesIO(), "JPEG", quality=quality)
        possible.add(np.array(Image.open(file)).tobytes())
    transform = RandomJpeg(*JPEG_QUALITY)
    with kept_random_state():
        torch.manual_seed(0)
        found = {transform(Image.fromarray(grey)).tobytes() for _ in range(60)}
    assert found <= possible
    assert len(found) > 20


def test_blur_is_a_gaussian_of_some_width_in_its_range() -> None:
    grey = (films(1, size=40)[0, 0] * 255).byte().numpy()
    possible = np.stack([gaussian_filter(grey.astype(float), s) for s in np.linspace(*BLUR, 40)])
    transform = RandomBlur(*BLUR)
    with kept_random_state():
        torch.manual_seed(0)
        found = [np.array(transform(Image.fromarray(grey)), float) for _ in range(40)]
    inner = slice(4, -4)
    nearest = [np.abs(possible - image)[:, inner, inner].max((1, 2)) for image in found]
    assert max(distances.min() for distances in nearest) < 4.0
    assert len({distances.argmin() for distances in nearest}) > 10


def test_the_ranges_are_part_of_what_names_the_augmentation() -> None:
    """A change of any range refuses to resume an older training."""
    text = repr(augmentation(flip=False))
    changes = (ROTATION, *SCALE, SHIFT, *BLUR, *GAMMA, NOISE, 1 - CONTRAST, 1 + BRIGHTNESS)
    for value in (*changes, *JPEG_QUALITY):
        assert f"{value}" in text
    assert "Flip" not in text
    assert "Flip" in repr(augmentation(flip=True))

"""One picture is found in every guise, and persons of like build are told apart."""

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cxrbatch.model.preprocessing import area_resize
from cxrbatch.sample.phantom import CLASSES, PhantomRequest, draw_frontal
from cxrbatch.sample.projection import Detector
from cxrbatch.training.duplicates import DuplicatePair, near_duplicates

Inputs = npt.NDArray[np.uint8]
PERSONS = 24


def prepared(image: Image.Image, size: int = 112) -> Inputs:
    grey = np.asarray(image, np.float32)
    small = area_resize(grey, rows=size, columns=size)
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def films() -> list[Image.Image]:
    """Women of several classes, 320 x 288 pixels, drawn alike but for their proportions."""
    requests = [
        PhantomRequest(CLASSES[i % len(CLASSES)], i, "F", Detector(320, 288))
        for i in range(PERSONS)
    ]
    return [Image.fromarray((255 * draw_frontal(r)).astype(np.uint8)) for r in requests]


def encoded(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("L")


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)))


def cropped(
    image: Image.Image, left: float, top: float, right: float, bottom: float
) -> Image.Image:
    width, height = image.size
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    return image.crop(tuple(map(round, box)))


def bent(image: Image.Image, gamma: float) -> Image.Image:
    return image.point([round(255 * (level / 255) ** gamma) for level in range(256)])


GUISES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "encoded at 95": lambda image: encoded(image, 95),
    "encoded at 50": lambda image: encoded(image, 50),
    "smaller": lambda image: scaled(image, 0.5),
    "larger": lambda image: scaled(image, 1.7),
    "smaller and encoded": lambda image: encoded(scaled(image, 0.7), 80),
    "1 % less all round": lambda image: cropped(image, 0.01, 0.01, 0.01, 0.01),
    "1 % less at the left": lambda image: cropped(image, 0.01, 0, 0, 0),
    "1 % less at the top": lambda image: cropped(image, 0, 0.01, 0, 0),
    "3 % less all round": lambda image: cropped(image, 0.03, 0.03, 0.03, 0.03),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "gamma 0.7": lambda image: bent(image, 0.7),
    "gamma 1.4": lambda image: bent(image, 1.4),
    "turned by a degree": lambda image: image.rotate(1, Image.Resampling.BICUBIC),
    "negative": ImageOps.invert,
}


def found(inputs: list[Inputs]) -> set[tuple[int, int]]:
    return {(pair.first, pair.second) for pair in near_duplicates(np.stack(inputs))}


@pytest.mark.parametrize("guise", GUISES)
def test_a_picture_is_found_in_another_guise(films: list[Image.Image], guise: str) -> None:
    copies = [GUISES[guise](film) for film in films[:6]]
    pairs = found([prepared(image) for image in [*films, *copies]])
    assert pairs == {(i, PERSONS + i) for i in range(6)}


@pytest.mark.parametrize("size", [64, 112, 224])
def test_no_two_persons_are_one_picture(films: list[Image.Image], size: int) -> None:
    assert found([prepared(film, size) for film in films]) == set()


@pytest.mark.parametrize("size", [48, 64, 224])
def test_inputs_of_other_sizes_are_compared_too(films: list[Image.Image], size: int) -> None:
    copies = [encoded(cropped(film, 0.01, 0, 0, 0.01), 80) for film in films[:6]]
    pairs = found([prepared(image, size) for image in [*films[:6], *copies]])
    assert pairs == {(i, 6 + i) for i in range(6)}


def test_the_smallest_inputs_show_copies_that_are_not_cropped(films: list[Image.Image]) -> None:
    copies = [encoded(scaled(film, 0.7), 80) for film in films[:6]]
    pairs = found([prepared(image, 32) for image in [*films[:6], *copies]])
    assert pairs == {(i, 6 + i) for i in range(6)}


def test_equal_inputs_are_pairs_with_the_first_of_them(films: list[Image.Image]) -> None:
    first, other = prepared(films[0]), prepared(films[1])
    assert near_duplicates(np.stack([first, other, first, first])) == [
        DuplicatePair(0, 2, 1.0),
        DuplicatePair(0, 3, 1.0),
    ]


def test_near_equal_inputs_are_less_alike_than_equal_ones(films: list[Image.Image]) -> None:
    changed = prepared(films[0])
    changed[50, 50] ^= 1
    (pair,) = near_duplicates(np.stack([prepared(films[0]), changed]))
    assert 0.99 < pair.likeness < 1


def test_unreadable_inputs_are_not_looked_at(films: list[Image.Image]) -> None:
    blank = np.zeros((112, 112), np.uint8)
    inputs = np.stack([blank, prepared(films[0]), blank, prepared(films[0])])
    readable = np.array([False, True, False, True])
    assert near_duplicates(inputs, readable=readable) == [DuplicatePair(1, 3, 1.0)]


def test_flat_and_noisy_inputs_are_no_pictures_of_each_other() -> None:
    rng = np.random.default_rng(0)
    inputs = [np.full((64, 64), level, np.uint8) for level in (0, 1, 128, 255)]
    inputs += [rng.integers(0, 256, (64, 64)).astype(np.uint8) for _ in range(20)]
    inputs += [(128 + rng.integers(0, 2, (64, 64))).astype(np.uint8) for _ in range(20)]
    assert found(inputs) == set()


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_to_compare(count: int) -> None:
    assert near_duplicates(np.zeros((count, 32, 32), np.uint8)) == []


def test_many_copies_hang_together(films: list[Image.Image]) -> None:
    """More near copies than any one of them is compared with."""
    first = prepared(films[0], 32)
    inputs = np.repeat(first[None], 80, axis=0)
    inputs[np.arange(80), 16, np.arange(80) % 32] ^= 1 + (np.arange(80) // 32).astype(np.uint8)
    reached = {0}
    pairs = sorted(found(list(inputs)))
    for _ in inputs:
        for pair in pairs:
            if reached & set(pair):
                reached |= set(pair)
    assert reached == set(range(80))

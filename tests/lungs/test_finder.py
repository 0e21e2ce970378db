"""The lung finder: masks of drawings whose lungs are known, doubts, and one mask whatever else."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cxrbatch
from cxrbatch.errors import CxrbatchError, UsageError
from cxrbatch.lungs.finder import LungFinder, find_lungs
from cxrbatch.lungs.unet import LungUNet, standardised, without_norms
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.reading.display import GreyImage
from cxrbatch.sample import anatomy
from cxrbatch.sample.anatomy import LEFT, RIGHT, Body
from cxrbatch.sample.phantom import PhantomRequest, draw_forearm, draw_frontal
from cxrbatch.sample.projection import Detector

DETECTOR = Detector(320, 300)


def drawing(seed: int) -> np.ndarray:
    """A drawn chest without a finding, float32 in [0, 1]."""
    return draw_frontal(PhantomRequest("Normal", seed, "FM"[seed % 2], DETECTOR)).astype(np.float32)


def drawn_lungs(seed: int) -> np.ndarray:
    """Where that drawing has lung above the diaphragm, behind the heart, too."""
    request = PhantomRequest("Normal", seed, "FM"[seed % 2], DETECTOR)
    body = Body.drawn(request.person_generator(), sex=request.sex)
    x, y = DETECTOR.grid()
    air = sum(anatomy.lung(DETECTOR, body, side=side) for side in (RIGHT, LEFT))
    return np.asarray((air > 0.05) & (y <= body.diaphragm(x)))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.fixture(scope="module")
def finder() -> LungFinder:
    return LungFinder()


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    """Four chests as a network of 112 px sees them."""
    recipe = Recipe(112)
    return np.stack([recipe.prepare(GreyImage(drawing(seed))) for seed in range(4)])


@pytest.mark.parametrize("seed", range(3))
def test_drawn_lungs_are_found(seed: int) -> None:
    lungs = cxrbatch.find_lungs(drawing(seed))
    assert lungs.mask.dtype == np.bool_
    assert lungs.mask.shape == (320, 300)
    assert lungs.probability.dtype == np.float32
    assert dice(lungs.mask, drawn_lungs(seed)) > 0.8
    assert lungs.measures.parts == 2
    assert 0.3 < lungs.measures.left < 0.7
    assert lungs.area == pytest.approx(lungs.mask.mean(), abs=0.01)


def test_a_file_an_array_and_a_reading_give_one_mask(tmp_path: Path) -> None:
    grey = np.rint(drawing(1) * 255).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "film.png")
    (reading,) = cxrbatch.read_radiographs(tmp_path / "film.png")
    masks = [find_lungs(item).mask for item in (str(tmp_path / "film.png"), grey, reading)]
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_image_is_doubted(level: int) -> None:
    lungs = find_lungs(np.full((200, 180), level, np.uint8))
    assert lungs.doubts
    assert not lungs.plausible


def test_a_forearm_and_noise_are_doubted() -> None:
    forearm = draw_forearm(PhantomRequest("Normal", 0, "M", DETECTOR))
    noise = np.random.default_rng(0).random((200, 200))
    for image in (forearm, noise):
        assert find_lungs(image.astype(np.float32)).doubts


def test_a_mask_does_not_depend_on_the_batch(finder: LungFinder, inputs: np.ndarray) -> None:
    together = finder.masks(inputs)
    assert together.masks.shape == inputs.shape
    for place in range(len(inputs)):
        alone = finder.masks(inputs[place : place + 1])
        assert np.array_equal(alone.masks[0], together.masks[place])
        assert alone.doubts[0] == together.doubts[place]
    backwards = LungFinder().masks(inputs[::-1])
    assert np.array_equal(backwards.masks[::-1], together.masks)


def test_a_mirrored_image_has_the_mirrored_mask(finder: LungFinder, inputs: np.ndarray) -> None:
    mirrored = finder.masks(np.ascontiguousarray(inputs[:, :, ::-1])).masks[:, :, ::-1]
    # The resizing of the input may round another way.
    assert (mirrored != finder.masks(inputs).masks).mean() < 1e-3


def test_padded_inputs_are_understood(finder: LungFinder) -> None:
    image, truth = GreyImage(drawing(0)), GreyImage(drawn_lungs(0).astype(np.float32))
    recipe = Recipe(112, geometry="pad")
    (mask,) = finder.masks(recipe.prepare(image)[None]).masks
    assert dice(mask, recipe.prepare(truth) > 127) > 0.8


def test_no_inputs_give_no_masks(finder: LungFinder) -> None:
    found = finder.masks(np.zeros((0, 64, 64), np.uint8))
    assert found.masks.shape == (0, 64, 64)
    assert found.doubts == ()


@pytest.mark.parametrize(
    "inputs", [np.zeros((2, 64, 32), np.uint8), np.zeros((64, 64), np.uint8), np.zeros((1, 64, 64))]
)
def test_inputs_that_are_no_squares_of_bytes_are_refused(
    finder: LungFinder, inputs: np.ndarray
) -> None:
    with pytest.raises(UsageError, match="no squares"):
        finder.masks(inputs)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note").write_text("a note")
    with pytest.raises(CxrbatchError, match=r"no lungs can be looked for: not_an_image"):
        find_lungs(tmp_path / "note")
    with pytest.raises(UsageError, match="values outside"):
        find_lungs(np.full((9, 9), 2.0))
    numbers: Callable[[object], object] = find_lungs
    with pytest.raises(UsageError, match="int is no image"):
        numbers(7)


def test_lungs_cannot_be_changed() -> None:
    lungs = find_lungs(drawing(0))
    field = "doubts"
    with pytest.raises(FrozenInstanceError):
        setattr(lungs, field, ())


def test_an_overlay_has_square_pixels_and_tints_the_lungs_alone() -> None:
    lungs = find_lungs(drawing(0))
    picture = np.asarray(lungs.overlay()).astype(int)
    assert picture.shape == (320, 300, 3)
    tinted = picture[:, :, 2] > picture[:, :, 0]
    assert np.array_equal(tinted, lungs.mask)


def test_extreme_shapes_have_masks() -> None:
    for shape in [(1, 1), (1, 400), (700, 3)]:
        lungs = find_lungs(np.zeros(shape, np.uint8))
        assert lungs.mask.shape == shape
        assert lungs.overlay().size == shape[::-1]


def test_folding_changes_no_output() -> None:
    torch.manual_seed(0)
    trained = LungUNet(normed=True)
    images = standardised(np.random.default_rng(0).integers(0, 256, (4, 32, 32), np.uint8))
    with torch.no_grad():
        trained(images)  # moves the running statistics away from 0 and 1
        expected = trained.eval()(images)
        assert torch.allclose(without_norms(trained)(images), expected, atol=1e-5)


def test_brightness_and_contrast_do_not_matter() -> None:
    grey = np.random.default_rng(0).integers(0, 100, (1, 32, 32), np.uint8)
    assert torch.allclose(standardised(grey), standardised(2 * grey + 50), atol=1e-6)


def test_measures_and_cards_import_no_torch() -> None:
    code = "import sys, cxrbatch.lungs.shape, cxrbatch.lungs.lung_card; "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)

"""Drawings look like what they are called, and are the same everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from cxrbatch.sample.anatomy import Body
from cxrbatch.sample.phantom import (
    CLASSES,
    FINDINGS,
    PhantomRequest,
    draw_forearm,
    draw_frontal,
    draw_lateral,
)
from cxrbatch.sample.projection import Detector, Plane, blur

DETECTOR = Detector(320, 300)
SEEDS = range(4)
PINNED = {
    "draw_frontal": "045b7c46fe2ea942",
    "draw_lateral": "748a1fc06c3a041f",
    "draw_forearm": "9c631e28e1212158",
}
"""SHA-256 of the drawings as bytes, its first 16 digits."""


@cache
def frontal(label: str, seed: int, *, visit: int = 1) -> np.ndarray:
    return draw_frontal(PhantomRequest(label, seed, "FM"[seed % 2], DETECTOR, visit))


def lungs(drawing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fields inside the viewer's left and right lung, clear of the heart."""
    return drawing[90:190, 50:110], drawing[90:190, 200:250]


@pytest.mark.parametrize("label", CLASSES)
def test_a_drawing_is_a_radiograph_in_range(label: str) -> None:
    drawing = frontal(label, 1)
    assert drawing.shape == (320, 300)
    assert drawing.min() >= 0.0
    assert drawing.max() <= 1.0
    assert drawing[0:8, 0:8].mean() < 0.1  # air beside the neck
    assert drawing[120:200, 145:155].mean() > 0.6  # spine and heart


@pytest.mark.parametrize("seed", SEEDS)
def test_lungs_are_dark_and_tissue_is_bright(seed: int) -> None:
    drawing = frontal("Normal", seed)
    for lung in lungs(drawing):
        assert lung.mean() < 0.42
    assert drawing[280:310, 60:240].mean() > 0.6


@pytest.mark.parametrize("seed", SEEDS)
def test_covid_is_in_both_lungs_and_in_their_outer_parts(seed: int) -> None:
    added = frontal("COVID-19", seed) - frontal("Normal", seed)
    for outer in (added[100:200, 36:75], added[100:200, 225:264]):
        assert outer.mean() > 0.02
    inner = np.concatenate([added[100:190, 105:130], added[100:130, 170:195]])
    assert inner.mean() < added[100:200, 36:75].mean() + added[100:200, 225:264].mean()


@pytest.mark.parametrize("seed", SEEDS)
def test_viral_pneumonia_is_fine_and_all_over(seed: int) -> None:
    added = frontal("Viral Pneumonia", seed) - frontal("Normal", seed)
    sides = [side.mean() for side in lungs(added)]
    assert min(sides) > 0.02
    assert max(sides) < 2.5 * min(sides)


@pytest.mark.parametrize("seed", SEEDS)
def test_viral_pneumonia_is_finer_than_covid(seed: int) -> None:
    def detail(label: str) -> float:
        generator = np.random.default_rng(seed)
        finding = FINDINGS[label](DETECTOR, Body.drawn(generator, sex="F"), generator)
        return float((finding - blur(finding, radius=3))[90:200, 50:110].std())

    assert detail("Viral Pneumonia") > 1.5 * detail("COVID-19")


@pytest.mark.parametrize("seed", SEEDS)
def test_lung_opacity_is_on_one_side(seed: int) -> None:
    added = frontal("Lung Opacity", seed) - frontal("Normal", seed)
    sides = sorted([added[60:200, 30:130].mean(), added[60:200, 170:270].mean()])
    assert sides[1] > 0.03
    assert abs(sides[0]) < 0.2 * sides[1]


def test_equal_requests_give_equal_drawings_and_visits_differ() -> None:
    assert np.array_equal(frontal("COVID-19", 3), frontal.__wrapped__("COVID-19", 3))
    assert not np.array_equal(frontal("COVID-19", 3), frontal("COVID-19", 3, visit=2))


@pytest.mark.parametrize("draw", [draw_frontal, draw_lateral, draw_forearm])
def test_drawings_are_the_same_on_every_machine(draw: Callable[[PhantomRequest], Plane]) -> None:
    request = PhantomRequest("Viral Pneumonia", 5, "F", Detector(160, 144))
    levels = np.floor(draw(request) * 255 + 0.5).astype(np.uint8)
    assert hashlib.sha256(levels.tobytes()).hexdigest()[:16] == PINNED[draw.__name__]


def test_a_tube_has_the_volume_of_a_cylinder() -> None:
    knots = [[-0.3, 0.5, 0.0, 0.02], [0.3, 0.5, 0.0, 0.02]]
    plane = Detector(200, 200).tubes([knots], spacing=0.4, rim=0.3)
    volume = plane.sum() / 200**2
    assert volume == pytest.approx(np.pi * 0.02**2 * 0.6, rel=0.01)


def test_a_tube_along_the_beam_is_long_for_the_ray() -> None:
    detector = Detector(200, 200)
    along = [[0.0, 0.5, 0.0, 0.02], [0.0, 0.5, 0.2, 0.02]]
    across = [[-0.1, 0.5, 0.0, 0.02], [0.1, 0.5, 0.0, 0.02]]
    deep = detector.tubes([along], spacing=0.4).max()
    flat = detector.tubes([across], spacing=0.4).max()
    assert deep > 4 * flat


def test_an_ellipsoid_has_its_volume() -> None:
    plane = Detector(400, 400).ellipsoid(center=(0.0, 0.5), radii=(0.2, 0.3))
    assert plane.sum() / 400**2 == pytest.approx(2 / 3 * np.pi * 0.2 * 0.3, rel=0.01)


@pytest.mark.parametrize("radius", [1, 3])
def test_blur_is_the_mean_of_a_box(radius: int) -> None:
    plane = np.random.default_rng(0).random((30, 20))
    blurred = blur(plane, radius=radius, passes=1)
    box = plane[10 - radius : 11 + radius, 8 - radius : 9 + radius]
    assert blurred[10, 8] == pytest.approx(box.mean(), abs=1e-12)
    assert blur(np.ones((9, 9)), radius=radius) == pytest.approx(1.0)

"""Phantom radiographs, drawn by numpy from a seed: chests from two sides, and a forearm.

A phantom is a drawing, not a patient: it is for trying and testing the program, and no number
computed on phantoms says anything about its worth on people.

The drawing follows how a film comes about: lengths of the ray in tissue are added up, weighted and
turned to grey by a saturating curve; grain comes last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cxrbatch.sample import anatomy, skeleton
from cxrbatch.sample import skeleton as other_views
from cxrbatch.sample.anatomy import LEFT, RIGHT, Body
from cxrbatch.sample.projection import (
    Film,
    Plane,
    Points,
    blur,
    cloud,
    curve,
    ellipsoid,
    smoothstep,
    tubes,
)

Finding = Callable[[Film, Body, np.random.Generator], Plane]
"""Share of the lung's air that is replaced at each pixel, in [0, 1]."""


def clear(film: Film, body: Body, generator: np.random.Generator) -> Plane:
    """Nothing: the lungs of a Normal film."""
    return np.zeros((film.rows, film.columns))


def peripheral_haze(film: Film, body: Body, generator: np.random.Generator) -> Plane:
    """COVID-19: hazy opacities in both lungs, at the edges and mostly in the lower zones."""
    total = np.zeros((film.rows, film.columns))
    for side in (RIGHT, LEFT):
        for low in (0.30, 0.42, 0.52, 0.58, 0.62):
            inward, lower, width, height, strength = generator.random(5).tolist()
            y = low + 0.08 * lower
            edge = float(body.half_cage(np.array(y)))
            patch = ellipsoid(
                film,
                center=(side * (edge - 0.03 - 0.08 * inward), y),
                radii=(0.06 + 0.06 * width, 0.05 + 0.06 * height),
                lean=side * 0.2,
            )
            total = np.maximum(total, (0.45 + 0.55 * strength) * (0.7 + 0.5 * (y - 0.3)) * patch)
    texture = cloud(film, generator, grain=0.055)
    ragged = blur(total * smoothstep(texture, low=0.2, high=0.62), radius=film.rows // 70)
    return np.clip(1.1 * ragged, 0.0, 0.8)


def interstitial_lines(film: Film, body: Body, generator: np.random.Generator) -> Plane:
    """Viral Pneumonia: a net of fine lines and cuffed bronchi all over, densest near the hila."""
    x, y = film.grid()
    net = np.zeros((film.rows, film.columns))
    for grain in (0.045, 0.024):
        ridge = 1.0 - np.abs(2.0 * cloud(film, generator, grain=grain, octaves=2) - 1.0)
        net += smoothstep(ridge, low=0.86, high=1.0)
    mist = cloud(film, generator, grain=0.08)
    from_hila = np.maximum(0.0, 1.0 - 2.2 * np.sqrt((np.abs(x) - 0.09) ** 2 + (y - 0.42) ** 2))
    strength = 0.45 + 0.55 * from_hila
    return np.clip(strength * (0.12 * net + 0.38 * mist) + _cuffs(film, generator), 0.0, 0.75)


def _cuffs(film: Film, generator: np.random.Generator) -> Plane:
    """Rings: thickened bronchial walls seen end on, around both hila."""
    step = 0.5 / film.rows
    parts: list[Points] = []
    for side in (RIGHT, LEFT):
        for _ in range(9):
            out, down, size = generator.random(3).tolist()
            x, y, radius = side * (0.08 + 0.11 * out), 0.30 + 0.25 * down, 0.006 + 0.004 * size
            parts.append(curve(np.array([[x, y, 0, radius], [x, y, 0.02, radius]]), step=step))
    return 6.0 * tubes(film, np.concatenate(parts), step=step, rim=1.0)


def lobar_consolidation(film: Film, body: Body, generator: np.random.Generator) -> Plane:
    """Lung Opacity: one lobe filled, dense, with a straight fissure and air in its bronchi."""
    x, y = film.grid()
    side = RIGHT if generator.random() < 0.6 else LEFT
    upper = side == RIGHT and generator.random() < 0.5
    tilt, level, edge = generator.random(3).tolist()
    fissure = 0.44 + 0.03 * (level - 0.5) + (0.10 + 0.1 * tilt) * (side * x - 0.15)
    if upper:
        lobe = smoothstep(y - fissure, low=0.010, high=-0.010)
        lobe = lobe * smoothstep(y, low=body.apex + 0.02, high=0.30 + 0.05 * edge)
    else:
        lobe = smoothstep(y - fissure - 0.06, low=-0.05, high=0.16)
    texture = cloud(film, generator, grain=0.06)
    filled = lobe * (side * x > 0) * (0.62 + 0.3 * texture)
    return np.clip(filled - 5.0 * lobe * _air_bronchogram(film, generator, side, upper), 0.0, 0.92)


def _air_bronchogram(film: Film, generator: np.random.Generator, side: float, upper: bool) -> Plane:
    """Bronchi that stay dark inside a filled lobe."""
    step = 0.5 / film.rows
    end = 0.27 if upper else 0.64
    parts: list[Points] = []
    for _ in range(4):
        out, down, bend = generator.random(3).tolist()
        knots = [
            [side * 0.075, 0.41, 0, 0.007],
            [side * (0.11 + 0.03 * bend), (0.41 + end) / 2, 0, 0.0055],
            [side * (0.12 + 0.14 * out), end + 0.06 * (down - 0.5), 0, 0.0035],
        ]
        parts.append(curve(np.array(knots), step=step))
    return np.minimum(tubes(film, np.concatenate(parts), step=step), 0.03)


FINDINGS: dict[str, Finding] = {
    "Normal": clear,
    "COVID-19": peripheral_haze,
    "Viral Pneumonia": interstitial_lines,
    "Lung Opacity": lobar_consolidation,
}
"""Class name to what is added to the lungs."""


CLASSES = tuple(FINDINGS)
"""The classes that can be drawn."""

BONE = 2.6
SOFT = 1.0
HALF_GREY = 0.31
"""Attenuation that gives half of the film's range."""

LETTER_R = ("11110", "10001", "10001", "11110", "10100", "10010", "10001")


@dataclass(frozen=True, slots=True)
class PhantomRequest:
    """What to draw.

    Attributes:
        label: One of `CLASSES`.
        seed: Decides the person's proportions; equal requests give equal pictures.
        sex: "F" or "M".
        film: Size in pixels.
        visit: Another visit draws the same person with other findings and grain.
    """

    label: str
    seed: int
    sex: str
    film: Film
    visit: int = 1


def draw_frontal(request: PhantomRequest) -> Plane:
    """Draw a frontal chest radiograph.

    Returns:
        Shape (rows, columns), float64 in [0, 1]; 1 is the brightest (bone), 0 is air.

    Raises:
        KeyError: If the label is not one of `CLASSES`.
    """
    film = request.film
    person, visit = _generators(request)
    body = anatomy.Body.drawn(person, sex=request.sex)
    finding = FINDINGS[request.label](film, body, visit)
    air = _air(film, body, person, finding=finding)
    soft = anatomy.torso(film, body) - 0.92 * air - anatomy.airways(film)
    soft -= anatomy.abdomen(film, body, person)
    bone = (
        skeleton.ribs(film, body, person)
        + skeleton.clavicles(film, body, person)
        + skeleton.shoulders(film, body)
        + skeleton.spine(film)
    )
    return _expose(film, _attenuation(soft, bone) + _marker(film), visit)


def draw_lateral(request: PhantomRequest) -> Plane:
    """Draw the same person from the side, without a finding: other arguments as `draw_frontal`."""
    film = request.film
    person, visit = _generators(request)
    body = anatomy.Body.drawn(person, sex=request.sex)
    soft = other_views.trunk(film, body) - other_views.air(film, body, person)
    bone = skeleton.ribs(film, body, person, lateral=True) + other_views.bones(film, body)
    return _expose(film, _attenuation(soft, bone), visit)


def draw_forearm(request: PhantomRequest) -> Plane:
    """Draw two long bones in soft tissue: a radiograph that is no chest."""
    _, visit = _generators(request)
    soft, bone = other_views.forearm(request.film)
    return _expose(request.film, _attenuation(soft, bone), visit)


def _generators(request: PhantomRequest) -> tuple[np.random.Generator, np.random.Generator]:
    """Chance that stays with the person, and chance that changes with the visit."""
    person = np.random.Generator(np.random.PCG64([request.seed, 0]))
    visit = np.random.Generator(np.random.PCG64([request.seed, request.visit]))
    return person, visit


def _air(film: Film, body: anatomy.Body, person: np.random.Generator, *, finding: Plane) -> Plane:
    """Air that is left in both lungs beside heart, vessels and findings."""
    total = np.zeros((film.rows, film.columns))
    for side in (anatomy.RIGHT, anatomy.LEFT):
        lung = anatomy.lung(film, body, side=side)
        vessels = anatomy.vessel_tree(film, person, body=body, side=side)
        total += np.maximum(0.0, lung - 3.2 * np.minimum(vessels, lung))
    heart = anatomy.mediastinum(film, body)
    return np.maximum(0.0, total - heart) * (1.0 - finding)


def _attenuation(soft: Plane, bone: Plane) -> Plane:
    """Bone beyond the thickness of a vertebra adds nothing: the film saturates."""
    return SOFT * np.maximum(soft, 0.0) + BONE * np.minimum(bone, 0.09)


def _marker(film: Film) -> Plane:
    """A lead letter at the patient's right."""
    letter = np.array([[float(mark) for mark in line] for line in LETTER_R])
    size = max(1, film.rows // 160)
    lead = np.kron(letter, np.ones((size, size)))
    plane = np.zeros((film.rows, film.columns))
    top, left = film.rows // 28, film.columns // 22
    plane[top : top + lead.shape[0], left : left + lead.shape[1]] = 0.8 * lead
    return plane


def _expose(film: Film, attenuation: Plane, generator: np.random.Generator) -> Plane:
    """Turn attenuation to grey, with the unsharpness and the grain of a detector."""
    sharp = blur(attenuation, radius=1, passes=1)
    grey = sharp * sharp / (sharp * sharp + HALF_GREY * HALF_GREY)
    grain = blur(generator.random((film.rows, film.columns)), radius=1, passes=1) - 0.5
    mottle = generator.random((film.rows, film.columns)) - 0.5
    noisy = grey + (0.05 * grain + 0.012 * mottle) * (1.15 - grey)
    return np.clip(0.02 + 1.08 * noisy, 0.0, 1.0)

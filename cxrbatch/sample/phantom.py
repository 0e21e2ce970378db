"""Phantom radiographs, drawn by numpy from a seed: chests from two sides, and a forearm.

A phantom is a drawing, not a patient: it is for trying and testing the program, and no number
computed on phantoms says anything about its worth on people.

The drawing follows how a film comes about: lengths of the ray in tissue are added up, weighted and
turned to grey by a saturating curve; grain comes last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrbatch.sample import anatomy, other_views, skeleton
from cxrbatch.sample.findings import FINDINGS
from cxrbatch.sample.projection import Film, Plane, blur

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

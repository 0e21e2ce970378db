"""A drawn thorax: its proportions, soft tissue, lungs, heart and vessels, as lengths of the ray.

Proportions follow what an adult's frontal film shows (the lungs' apices above the clavicles, the
right dome of the diaphragm higher than the left, the heart half as wide as the chest). No film of
a person was traced or copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxrbatch.sample.projection import (
    Film,
    Plane,
    Points,
    curve,
    ellipsoid,
    smoothstep,
    tubes,
)

RIGHT, LEFT = -1.0, 1.0
"""The patient's sides as signs of x: the patient's right is at the viewer's left."""

WIDEST = 0.74
"""Height on the film, from its upper edge, where the rib cage is widest."""


@dataclass(frozen=True, slots=True)
class Body:
    """One drawn person, in film heights.

    Attributes:
        cage: Half width of the rib cage where it is widest.
        apex: y of the lungs' apices.
        dome: y of the right dome of the diaphragm; the left one lies a little lower.
        heart: Size of the heart, 1 for a usual one.
        depth: Front-to-back thickness of the chest.
        drop: How far a rib descends from the spine to its front end.
        breasts: Thickness of breast shadows, 0 for none.
    """

    cage: float
    apex: float
    dome: float
    heart: float
    depth: float
    drop: float
    breasts: float

    @classmethod
    def drawn(cls, generator: np.random.Generator, *, sex: str) -> Body:
        """A person with proportions within the usual range; `sex` is "F" or "M"."""
        cage, apex, dome, heart, depth, drop = generator.random(6).tolist()
        female = sex == "F"
        return cls(
            cage=(0.365 if female else 0.385) + 0.02 * cage,
            apex=0.115 + 0.025 * apex,
            dome=0.655 + 0.045 * dome,
            heart=0.92 + 0.16 * heart,
            depth=0.46 + 0.08 * depth,
            drop=0.23 + 0.05 * drop,
            breasts=0.055 if female else 0.0,
        )

    def half_cage(self, y: Plane) -> Plane:
        """Half width of the rib cage at heights `y`: a dome on upright walls."""
        rest = 1.0 - np.clip((y - self.apex) / (WIDEST - self.apex), 0.0, 1.0)
        return self.cage * np.sqrt(1.0 - rest * rest * np.sqrt(rest))

    def diaphragm(self, x: Plane) -> Plane:
        """y of the upper edge of the diaphragm at `x`."""
        dome = np.where(x < 0, self.dome, self.dome + 0.025)
        away = (np.abs(x) - 0.16) / (self.cage - 0.16)
        return dome + np.where(away > 0, 0.115, 0.02) * away * away


def torso(film: Film, body: Body) -> Plane:
    """Soft tissue from skin to skin: neck, shoulders, trunk, upper arms, as if it held no air."""
    x, y = film.grid()
    wide = body.cage / 0.36
    heights = [0.0, 0.03, 0.06, 0.09, 0.12, 0.16, 0.22, 0.30, 0.38, 0.55, 0.75, 1.0]
    widths = [0.15, 0.17, 0.21, 0.28, 0.36, 0.43, 0.46, 0.455, 0.43, 0.41, 0.415, 0.43]
    half = np.interp(y, heights, np.array(widths) * wide)
    depth = np.interp(y, [0.0, 0.08, 0.2, 0.4, 1.0], [0.24, 0.30, 0.42, body.depth, body.depth])
    across = x / half
    trunk = depth * np.sqrt(np.maximum(0.0, 1.0 - across * across))
    total = np.maximum(trunk, _arms(film, wide=wide))
    for side in (RIGHT, LEFT):
        breast = ellipsoid(film, center=(side * 0.19 * wide, 0.60), radii=(0.125, 0.125))
        total += body.breasts * breast * smoothstep(y, low=0.45, high=0.62)
    return total


def _arms(film: Film, *, wide: float) -> Plane:
    """Upper arms held away from the trunk."""
    x, y = film.grid()
    middle = wide * (0.47 + 0.16 * y)
    across = (np.abs(x) - middle) / (0.085 * wide)
    return 0.15 * np.sqrt(np.maximum(0.0, 1.0 - across * across)) * smoothstep(y, low=0.1, high=0.2)


def lung(film: Film, body: Body, *, side: float) -> Plane:
    """Air in one lung.

    Args:
        film: Where it lands.
        body: Whose lung.
        side: `RIGHT` or `LEFT`.

    Returns:
        Shape (rows, columns): length of the ray in air-filled lung, before vessels.
    """
    x, y = film.grid()
    out = side * x
    half = body.half_cage(y) * 0.965
    across = np.clip(out / np.maximum(half, 1e-6), 0.0, 1.0)
    profile = np.sqrt(np.maximum(0.0, 1.0 - across * across * np.sqrt(across)))
    depth = 0.86 * body.depth * smoothstep(y, low=body.apex - 0.16, high=0.36)
    medial = np.interp(y, [0.1, 0.2, 0.3, 0.45, 1.0], [0.066, 0.050, 0.052, 0.040, 0.045])
    air = depth * profile * smoothstep(out, low=medial - 0.012, high=medial + 0.03)
    below = y - body.diaphragm(x)
    recess = 0.16 * smoothstep(below, low=0.1, high=0.0) * (below <= 0.1)
    return air * np.where(below <= 0.0, 1.0 - 0.35 * smoothstep(below, low=-0.07, high=0.0), recess)


def airways(film: Film) -> Plane:
    """Air in the windpipe and the main bronchi."""
    step = 0.5 / film.rows
    windpipe = np.array([[0.0, 0.0, 0, 0.019], [0.002, 0.12, 0, 0.018], [-0.006, 0.31, 0, 0.017]])
    right = np.array([[-0.006, 0.305, 0, 0.014], [-0.06, 0.365, 0, 0.011]])
    left = np.array([[-0.004, 0.305, 0, 0.013], [0.075, 0.375, 0, 0.010]])
    points = np.concatenate([curve(part, step=step) for part in (windpipe, right, left)])
    return np.minimum(tubes(film, points, step=step), 0.045)


def mediastinum(film: Film, body: Body) -> Plane:
    """Heart and great vessels, where they displace lung."""
    x, y = film.grid()
    size = body.heart
    base = body.dome + 0.015
    ventricle = ellipsoid(
        film,
        center=(0.062 * size, base - 0.12 * size),
        radii=(0.125 * size, 0.155 * size),
        lean=0.42,
    )
    atrium = ellipsoid(film, center=(-0.012, base - 0.105), radii=(0.085 * size, 0.125 * size))
    knob = ellipsoid(film, center=(0.044, 0.305), radii=(0.05, 0.048))
    pulmonary = ellipsoid(film, center=(0.046, 0.395), radii=(0.055, 0.07), lean=0.3)
    vena_cava = ellipsoid(film, center=(-0.036, 0.33), radii=(0.040, 0.22))
    aorta = ellipsoid(film, center=(0.03, 0.58), radii=(0.024, 0.30))
    heart = np.maximum(0.31 * ventricle, 0.26 * atrium)
    vessels = np.maximum(0.22 * knob, 0.2 * pulmonary) + 0.14 * vena_cava + 0.07 * aorta
    above = smoothstep(y - body.diaphragm(x), low=0.10, high=0.0)
    tissue: Plane = np.maximum(heart, vessels) * above
    return tissue


def abdomen(film: Film, body: Body, generator: np.random.Generator) -> Plane:
    """Gas under the left dome: the stomach's bubble, as a length of the ray in air."""
    shift, size = generator.random(2).tolist()
    stomach = ellipsoid(
        film,
        center=(0.15 + 0.04 * shift, body.dome + 0.105),
        radii=(0.055 + 0.025 * size, 0.03 + 0.02 * size),
        lean=-0.3,
    )
    bowel = ellipsoid(film, center=(0.26, body.dome + 0.2), radii=(0.05, 0.028), lean=0.6)
    return 0.10 * stomach + (0.06 * float(size)) * bowel


def vessel_tree(film: Film, generator: np.random.Generator, *, body: Body, side: float) -> Plane:
    """Branching vessels of one lung, from its hilum outwards.

    Args:
        film: Where they land.
        generator: Decides the branches.
        body: Whose lung.
        side: `RIGHT` or `LEFT`.

    Returns:
        Shape (rows, columns): length of the ray in vessels; clip it to the lung.
    """
    hilum = (side * 0.068, 0.40 if side == RIGHT else 0.385)
    directions = [(0.35, -0.95), (0.75, -0.66), (0.95, -0.25), (0.97, 0.2), (0.8, 0.6), (0.42, 0.9)]
    parts: list[Points] = []
    step = 0.6 / film.rows
    for across, down in directions:
        jitter_x, jitter_y = (0.03 * (generator.random(2) - 0.5)).tolist()
        start = (hilum[0] + jitter_x, hilum[1] + 0.03 * down + jitter_y)
        _branch(
            parts,
            generator,
            start=start,
            heading=(side * across, down),
            radius=0.0125,
            reach=0.12 * body.cage / 0.36,
            step=step,
        )
    return tubes(film, np.concatenate(parts), step=step)


def _branch(
    parts: list[Points],
    generator: np.random.Generator,
    *,
    start: tuple[float, float],
    heading: tuple[float, float],
    radius: float,
    reach: float,
    step: float,
) -> None:
    """Append one slightly bent vessel to `parts`, then its two or three branches."""
    bend, length = generator.random(2).tolist()
    turn = 0.5 * (bend - 0.5)
    middle_heading = (heading[0] - turn * heading[1], heading[1] + turn * heading[0])
    reach_here = reach * (0.7 + 0.5 * length)
    middle = (start[0] + heading[0] * reach_here / 2, start[1] + heading[1] * reach_here / 2)
    end = (
        middle[0] + middle_heading[0] * reach_here / 2,
        middle[1] + middle_heading[1] * reach_here / 2,
    )
    thin = 0.68 * radius
    knots = [[*start, 0.0, radius], [*middle, 0.0, (radius + thin) / 2], [*end, 0.0, thin]]
    parts.append(curve(np.array(knots), step=step))
    if thin < 0.0015:
        return
    for spread in (-0.42, 0.38):
        turn = spread + 0.4 * (float(generator.random()) - 0.5)
        across = middle_heading[0] - turn * middle_heading[1]
        down = middle_heading[1] + turn * middle_heading[0]
        norm = float(np.sqrt(across * across + down * down))
        _branch(
            parts,
            generator,
            start=end,
            heading=(across / norm, down / norm),
            radius=thin * 0.93,
            reach=reach * 0.76,
            step=step,
        )

"""Other views for the sample archive: the thorax from the side, and a forearm.

In the lateral view x runs from the front of the body (the viewer's left) to its back.
"""

from __future__ import annotations

import numpy as np

from cxrbatch.sample.anatomy import Body
from cxrbatch.sample.projection import (
    Film,
    Plane,
    blur,
    curve,
    ellipsoid,
    rounded,
    smoothstep,
    tubes,
)


def trunk(film: Film, body: Body) -> Plane:
    """Soft tissue from flank to flank: a side view crosses far more of it than a frontal one."""
    x, y = film.grid()
    heights = [0.0, 0.08, 0.16, 0.3, 0.5, 0.7, 1.0]
    front = _outline(y, heights, [-0.10, -0.12, -0.22, -0.29, -0.32, -0.31, -0.30])
    back = _outline(y, heights, [0.13, 0.17, 0.27, 0.33, 0.33, 0.30, 0.28])
    middle, half = (front + back) / 2, (back - front) / 2
    across = (x - middle) / half
    depth = np.interp(y, [0.0, 0.1, 0.25, 0.6, 1.0], [0.28, 0.55, 0.66, 0.62, 0.62])
    tissue = depth * np.sqrt(np.maximum(0.0, 1.0 - across * across * np.abs(across)))
    shoulder = 0.22 * ellipsoid(film, center=(0.0, 0.02), radii=(0.17, 0.2), lean=-0.4)
    return tissue + shoulder


def _outline(y: Plane, heights: list[float], positions: list[float]) -> Plane:
    knots = rounded(np.stack([np.array(heights), np.array(positions)], axis=1))
    return np.interp(y, knots[:, 0], knots[:, 1])


def air(film: Film, body: Body, generator: np.random.Generator) -> Plane:
    """Air of both lungs, one behind the other, less heart and vessels; and the windpipe."""
    x, y = film.grid()
    half = 0.86 * np.sqrt(np.maximum(0.0, body.half_cage(y) * body.cage)) * 0.78
    middle = 0.015 + 0.02 * y
    across = (x - middle) / np.maximum(half, 1e-6)
    shape = np.sqrt(np.maximum(0.0, 1.0 - across * across * across * across))
    dome = body.dome + 0.02 + 0.9 * np.where(x < 0, 0.35, 1.5) * (x + 0.03) ** 2
    above = smoothstep(y - dome, low=0.012, high=-0.012)
    lungs = 0.5 * shape * above * smoothstep(y, low=body.apex - 0.06, high=0.33)
    heart = 0.36 * ellipsoid(
        film, center=(-0.08, body.dome - 0.115), radii=(0.125, 0.15 * body.heart), lean=-0.35
    )
    heart = blur(heart, radius=film.rows // 60)
    arch = blur(0.1 * ellipsoid(film, center=(0.02, 0.33), radii=(0.08, 0.045)), radius=4)
    step = 0.6 / film.rows
    parts = []
    for _ in range(22):
        out, down, bend = generator.random(3).tolist()
        end = [0.02 + 0.42 * (out - 0.5), 0.43 + 0.5 * (down - 0.5), 0.0, 0.002]
        way = [0.02 + 0.2 * (out - 0.5), 0.42 + 0.3 * (down - 0.5) * bend, 0.0, 0.006]
        parts.append(curve(np.array([[0.015, 0.42, 0.0, 0.006], way, end]), step=step))
    vessels = tubes(film, np.concatenate(parts), step=step)
    windpipe = np.array([[0.0, 0.05, 0.0, 0.02], [0.02, 0.25, 0.0, 0.018], [0.03, 0.4, 0.0, 0.016]])
    tube = np.minimum(tubes(film, curve(windpipe, step=step), step=step), 0.05)
    return np.maximum(0.0, lungs - heart - arch - 2.0 * np.minimum(vessels, lungs)) + 2.0 * tube


def bones(film: Film, body: Body) -> Plane:
    """Spine and breastbone from the side."""
    x, y = film.grid()
    middle = _outline(y, [0.0, 0.15, 0.4, 0.65, 1.0], [0.04, 0.10, 0.185, 0.17, 0.10])
    half = 0.030 + 0.017 * y
    level = (y / 0.058) % 1.0
    disc = smoothstep(np.abs(level - 0.5), low=0.37, high=0.44)
    inside = smoothstep(np.abs(x - middle), low=half + 0.003, high=half - 0.003)
    wall = smoothstep(np.abs(x - middle), low=half - 0.012, high=half - 0.002)
    column = inside * (0.045 + 0.015 * wall) * (1.0 - 0.6 * disc)
    step = 0.7 / film.rows
    breastbone = np.array([[-0.19, 0.2, 0, 0.014], [-0.255, 0.33, 0, 0.012], [-0.29, 0.5, 0, 0.01]])
    return column + 1.5 * tubes(film, curve(rounded(breastbone), step=step), step=step, rim=0.5)


def forearm(film: Film) -> tuple[Plane, Plane]:
    """Soft tissue and bone of a forearm that lies upright on the film.

    Returns:
        Both of shape (rows, columns), as lengths of the ray.
    """
    x, y = film.grid()
    half = _outline(y, [0.0, 0.3, 0.8, 1.0], [0.17, 0.16, 0.10, 0.11])
    soft = 0.24 * np.sqrt(np.maximum(0.0, 1.0 - (x / half) ** 2))
    step = 0.7 / film.rows
    heights = [0.0, 0.1, 0.3, 0.6, 0.85, 0.93]
    radius = [0.030, 0.020, 0.021, 0.022, 0.034, 0.036]
    ulna = [0.036, 0.030, 0.023, 0.019, 0.018, 0.018]
    outer = [-0.045, -0.055, -0.075, -0.065, -0.04, -0.035]
    inner = [0.035, 0.040, 0.045, 0.045, 0.055, 0.055]
    bone = np.zeros((film.rows, film.columns))
    for across, thickness in ((outer, radius), (inner, ulna)):
        knots = np.stack([across, heights, np.zeros(6), thickness], axis=1)
        bone += 1.6 * tubes(film, curve(rounded(knots), step=step), step=step, rim=0.85)
    for carpal_x, carpal_y in ((-0.05, 0.985), (0.0, 0.98), (0.045, 0.985)):
        bone += 0.03 * ellipsoid(film, center=(carpal_x, carpal_y), radii=(0.026, 0.024))
    return soft, bone

"""The bones of a drawn thorax, as lengths of the ray: ribs, spine, clavicles, shoulder blades."""

from __future__ import annotations

import numpy as np

from cxrbatch.sample.anatomy import LEFT, RIGHT, Body
from cxrbatch.sample.projection import (
    Film,
    Plane,
    Points,
    blur,
    curve,
    ellipsoid,
    rounded,
    smoothstep,
    tubes,
)

RIB_PAIRS = 11


def ribs(film: Film, body: Body, generator: np.random.Generator, *, lateral: bool = False) -> Plane:
    """Ribs as tubes of cortical bone around the chest, from the spine to the cartilage in front.

    Seen from the side where `lateral`: the spine is then at the viewer's right.
    """
    step = 0.7 / film.rows
    first = body.apex - 0.005
    parts: list[Points] = []
    for pair in range(RIB_PAIRS):
        wobble = 0.006 * (float(generator.random()) - 0.5)
        y = first + 0.0585 * pair + wobble
        for side in (RIGHT, LEFT):
            parts.append(curve(_rib(body, pair=pair, y=y, side=side), step=step))
    points = np.concatenate(parts)
    if lateral:
        points = points[:, [2, 1, 0, 3]]
    return tubes(film, points, step=step, rim=0.5)


def _rib(body: Body, *, pair: int, y: float, side: float) -> Points:
    """Knots of one rib, shape (n, 4): half an ellipse from back to front that descends.

    The angle runs over t, the tangent of its half, so that sine and cosine are fractions.
    """
    t = np.linspace(0.06, 2.6 if pair < 7 else 1.5, 60)
    sine, cosine = 2 * t / (1 + t * t), (1 - t * t) / (1 + t * t)
    drop = body.drop * (0.45 + 0.55 * min(pair, 5) / 5)
    height = y + drop * (1 - cosine) / 2 - 0.035 * sine * (1 + cosine) / 2
    half = body.half_cage(np.maximum(height, body.apex + 0.012)) * 1.005
    depth = 0.42 * body.depth * (0.55 + 0.45 * min(pair, 5) / 5)
    radius = (0.0125 if pair else 0.014) * (1.0 - 0.12 * (1 - cosine))
    return np.stack([side * half * sine, height, depth * cosine, radius], axis=1)


def spine(film: Film) -> Plane:
    """Vertebral bodies with their end plates, pedicles and spinous processes."""
    x, y = film.grid()
    borders = [-0.02]
    while borders[-1] < 1.05:
        borders.append(borders[-1] + 0.036 + 0.026 * max(0.0, borders[-1]))
    edges = np.array(borders)
    which = np.clip(np.searchsorted(edges, y) - 1, 0, len(edges) - 2)
    height = edges[which + 1] - edges[which]
    level = (y - edges[which]) / height
    disc = smoothstep(np.abs(level - 0.5), low=0.36, high=0.45)
    plate = smoothstep(np.abs(level - 0.5), low=0.26, high=0.34) * (1.0 - disc)
    half = (0.026 + 0.016 * y) * (1.0 + 0.16 * (2 * level - 1) ** 2)
    inside = smoothstep(np.abs(x), low=half + 0.003, high=half - 0.003)
    wall = smoothstep(np.abs(x), low=half - 0.010, high=half - 0.002)
    body = inside * (0.030 + 0.010 * wall) * (1.0 - 0.45 * disc) + inside * 0.010 * plate
    return body + _arches(film, edges)


def _arches(film: Film, edges: Points) -> Plane:
    step = 0.5 / film.rows
    parts: list[Points] = []
    for top, bottom in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        pitch = bottom - top
        y = top + 0.42 * pitch
        offset = 0.017 + 0.013 * y
        for x in (-offset, offset):
            ring = np.array([[x, y, 0.0, 0.13 * pitch], [x, y, 0.03, 0.13 * pitch]])
            parts.append(curve(ring, step=step))
        tip = [[0.0, y + 0.2 * pitch, 0.0, 0.006], [0.0, y + 0.75 * pitch, 0.01, 0.007]]
        parts.append(curve(np.array(tip), step=step))
    return tubes(film, np.concatenate(parts), step=step, rim=0.8)


def clavicles(film: Film, body: Body, generator: np.random.Generator) -> Plane:
    """Two S-shaped bones from the breastbone to the shoulders."""
    wide = body.cage / 0.36
    parts: list[Points] = []
    step = 0.7 / film.rows
    for side in (RIGHT, LEFT):
        lift = 0.02 * (float(generator.random()) - 0.5)
        x = np.array([0.032, 0.06, 0.12, 0.20, 0.28, 0.36, 0.41]) * wide
        y = np.array([0.222, 0.207, 0.197, 0.187, 0.165, 0.147, 0.15]) + lift * x / 0.4
        radius = np.array([0.0185, 0.016, 0.0135, 0.0125, 0.013, 0.015, 0.015])
        knots = np.stack([side * x, y, np.zeros(7), radius], axis=1)
        parts.append(curve(rounded(knots), step=step))
    return 1.7 * tubes(film, np.concatenate(parts), step=step, rim=0.45)


def shoulders(film: Film, body: Body) -> Plane:
    """Shoulder blades (thin plates with a thick outer border) and heads of the upper arms."""
    wide = body.cage / 0.36
    step = 0.7 / film.rows
    parts: list[Points] = []
    plates = np.zeros((film.rows, film.columns))
    for side in (RIGHT, LEFT):
        border = [
            [0.405, 0.215, 0, 0.012],
            [0.372, 0.28, 0, 0.008],
            [0.345, 0.36, 0, 0.007],
            [0.318, 0.425, 0, 0.008],
        ]
        ridge = [[0.41, 0.165, 0, 0.012], [0.35, 0.185, 0, 0.008], [0.285, 0.205, 0, 0.005]]
        arm = [[0.455, 0.205, 0, 0.031], [0.485, 0.27, 0, 0.024], [0.53, 0.5, 0, 0.021]]
        for knots in (border, ridge, arm):
            scale = np.array([side * wide, 1.0, 1.0, 1.0])
            parts.append(curve(rounded(np.array(knots) * scale), step=step))
        plates += ellipsoid(
            film, center=(side * 0.345 * wide, 0.29), radii=(0.05, 0.13), lean=-side * 0.32
        )
    plate = 0.009 * smoothstep(plates, low=0.0, high=0.5)
    return tubes(film, np.concatenate(parts), step=step, rim=0.6) + blur(plate, radius=3)


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

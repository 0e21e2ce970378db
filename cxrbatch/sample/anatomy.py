"""Draws the organs and bones of a chest, and a forearm, as lengths of the ray in each tissue.

Proportions follow what an adult's frontal radiograph shows (the lungs' apices above the clavicles,
the right dome of the diaphragm higher than the left, the heart half as wide as the chest). No
radiograph of a person was traced or copied.

Lengths are in image heights, as in `projection`. Each function that draws returns the length of the
ray in one tissue (soft tissue, bone or air) at each pixel, shape (rows, columns), float64.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cxrbatch.sample.projection import (
    Coordinates,
    Detector,
    Plane,
    blur,
    round_edge,
    rounded,
    smoothstep,
)

RIGHT, LEFT = -1.0, 1.0
"""The patient's sides as signs of x: the patient's right is at the viewer's left."""

_WIDEST = 0.74  # y where the rib cage is widest
_RIB_PAIRS = 11


@dataclass(frozen=True, slots=True)
class Body:
    """The proportions of one drawn person, in image heights.

    Attributes:
        cage: Half width of the rib cage where it is widest.
        apex: y of the lungs' apices.
        dome: y of the right dome of the diaphragm; the left one lies a little lower.
        heart: Size of the heart as a factor, 1 for a usual one.
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
    def drawn(cls, generator: np.random.Generator, *, sex: str) -> "Body":
        """Choose a person's proportions at random within the usual range.

        `sex` is "F" or "M"; it changes the width of the rib cage and whether there are breasts. All
        else depends on the state of `generator` alone.
        """
        cage, apex, dome, heart, depth, drop = generator.random(6).tolist()
        return cls(
            cage=(0.365 if sex == "F" else 0.385) + 0.02 * cage,
            apex=0.115 + 0.025 * apex,
            dome=0.655 + 0.045 * dome,
            heart=0.92 + 0.16 * heart,
            depth=0.46 + 0.08 * depth,
            drop=0.23 + 0.05 * drop,
            breasts=0.055 if sex == "F" else 0.0,
        )

    @property
    def wide(self) -> float:
        """Width of the rib cage as a factor, 1 for a usual one (`cage` of 0.36)."""
        return self.cage / 0.36

    def half_cage(self, y: Plane) -> Plane:
        """Return half the width of the rib cage at heights `y`, in image heights, shape of `y`.

        It is 0 above the lungs' apices and grows to `cage` where the rib cage is widest (y = 0.74);
        below that it stays `cage`.
        """
        rest = 1.0 - np.clip((y - self.apex) / (_WIDEST - self.apex), 0.0, 1.0)
        return self.cage * np.sqrt(1.0 - rest * rest * np.sqrt(rest))

    def diaphragm(self, x: Plane) -> Plane:
        """Return the y of the diaphragm's upper edge at each `x`, in image heights, shape of `x`.

        Two domes, of which the right one (x below 0) is higher; both fall towards the flanks.
        """
        dome = np.where(x < 0, self.dome, self.dome + 0.025)
        away = (np.abs(x) - 0.16) / (self.cage - 0.16)
        return dome + np.where(away > 0, 0.115, 0.02) * away * away


def torso(detector: Detector, body: Body) -> Plane:
    """Draw neck, trunk and upper arms as soft tissue, as if the lungs held no air.

    Returns the length of the ray in that tissue, in image heights, shape (rows, columns).
    """
    x, y = detector.grid()
    heights = [0.0, 0.03, 0.06, 0.09, 0.12, 0.16, 0.22, 0.30, 0.38, 0.55, 0.75, 1.0]
    widths = [0.15, 0.17, 0.21, 0.28, 0.36, 0.43, 0.46, 0.455, 0.43, 0.41, 0.415, 0.43]
    half = np.interp(y, heights, np.array(widths) * body.wide)
    depth = np.interp(y, [0.0, 0.08, 0.2, 0.4, 1.0], [0.24, 0.30, 0.42, body.depth, body.depth])
    arm = round_edge((np.abs(x) - body.wide * (0.47 + 0.16 * y)) / (0.085 * body.wide))
    arms = 0.15 * arm * smoothstep(y, low=0.1, high=0.2)
    total = np.maximum(depth * round_edge(x / half), arms)
    for side in (RIGHT, LEFT):
        breast = detector.ellipsoid(center=(side * 0.19 * body.wide, 0.60), radii=(0.125, 0.125))
        total += body.breasts * breast * smoothstep(y, low=0.45, high=0.62)
    return total


def lung(detector: Detector, body: Body, *, side: float) -> Plane:
    """Draw the lung of a side, `RIGHT` (-1) or `LEFT` (1) of the patient, as if it had no vessels.

    Returns the length of the ray in the lung's air, in image heights, shape (rows, columns), 0
    beside the lung.
    """
    x, y = detector.grid()
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


def airways(detector: Detector) -> Plane:
    """Draw the windpipe and the main bronchi, the same for all persons.

    Returns the length of the ray in their air, in image heights, shape (rows, columns).
    """
    windpipe = [[0.0, 0.0, 0, 0.019], [0.002, 0.12, 0, 0.018], [-0.006, 0.31, 0, 0.017]]
    right = [[-0.006, 0.305, 0, 0.014], [-0.06, 0.365, 0, 0.011]]
    left = [[-0.004, 0.305, 0, 0.013], [0.075, 0.375, 0, 0.010]]
    return np.minimum(detector.tubes([windpipe, right, left]), 0.045)


def mediastinum(detector: Detector, body: Body) -> Plane:
    """Draw the heart and the great vessels, which fade out within 0.1 below the diaphragm.

    Returns the length of the ray in their soft tissue, in image heights, shape (rows, columns), 0
    beside them. The caller subtracts it from the air that `lung` returns.
    """
    x, y = detector.grid()
    size = body.heart
    base = body.dome + 0.015
    ventricle = detector.ellipsoid(
        center=(0.062 * size, base - 0.12 * size), radii=(0.125 * size, 0.155 * size), lean=0.42
    )
    atrium = detector.ellipsoid(center=(-0.012, base - 0.105), radii=(0.085 * size, 0.125 * size))
    knob = detector.ellipsoid(center=(0.044, 0.305), radii=(0.05, 0.048))
    pulmonary = detector.ellipsoid(center=(0.046, 0.395), radii=(0.055, 0.07), lean=0.3)
    vena_cava = detector.ellipsoid(center=(-0.036, 0.33), radii=(0.040, 0.22))
    aorta = detector.ellipsoid(center=(0.03, 0.58), radii=(0.024, 0.30))
    heart = np.maximum(0.31 * ventricle, 0.26 * atrium)
    vessels = np.maximum(0.22 * knob, 0.2 * pulmonary) + 0.14 * vena_cava + 0.07 * aorta
    above = smoothstep(y - body.diaphragm(x), low=0.10, high=0.0)
    tissue: Plane = np.maximum(heart, vessels) * above
    return tissue


def bowel_gas(detector: Detector, body: Body, generator: np.random.Generator) -> Plane:
    """Draw gas in the stomach and in a loop of bowel, under the left dome of the diaphragm.

    `generator` decides the stomach's place and size, and how much gas the loop has. Returns the
    length of the ray in gas, in image heights, shape (rows, columns).
    """
    shift, size = generator.random(2).tolist()
    stomach = detector.ellipsoid(
        center=(0.15 + 0.04 * shift, body.dome + 0.105),
        radii=(0.055 + 0.025 * size, 0.03 + 0.02 * size),
        lean=-0.3,
    )
    bowel = detector.ellipsoid(center=(0.26, body.dome + 0.2), radii=(0.05, 0.028), lean=0.6)
    return 0.10 * stomach + (0.06 * float(size)) * bowel


def vessel_tree(
    detector: Detector, generator: np.random.Generator, *, body: Body, side: float
) -> Plane:
    """Draw the blood vessels of one lung, which branch from its hilum.

    Args:
        detector: Size in pixels.
        generator: Decides the branches.
        body: The person.
        side: `RIGHT` (-1) or `LEFT` (1) of the patient.

    Returns:
        Length of the ray in vessels, in image heights, shape (rows, columns). The vessels reach
        beyond the lung: the caller clips them to it.
    """
    hilum = (side * 0.068, 0.40 if side == RIGHT else 0.385)
    reach = 0.12 * body.cage / 0.36
    directions = [(0.35, -0.95), (0.75, -0.66), (0.95, -0.25), (0.97, 0.2), (0.8, 0.6), (0.42, 0.9)]
    axes: list[list[list[float]]] = []
    for across, down in directions:
        jitter_x, jitter_y = (0.03 * (generator.random(2) - 0.5)).tolist()
        start = (hilum[0] + jitter_x, hilum[1] + 0.03 * down + jitter_y)
        _add_branch(axes, generator, start, (side * across, down), radius=0.0125, reach=reach)
    return detector.tubes(axes, spacing=0.6)


def _add_branch(
    axes: list[list[list[float]]],
    generator: np.random.Generator,
    start: tuple[float, float],
    heading: tuple[float, float],
    *,
    radius: float,
    reach: float,
) -> None:
    """Append the knots of one slightly bent vessel to `axes`, then those of its two branches."""
    bend, length = generator.random(2).tolist()
    turn = 0.5 * (bend - 0.5)
    later = (heading[0] - turn * heading[1], heading[1] + turn * heading[0])
    own = reach * (0.7 + 0.5 * length)
    middle = (start[0] + heading[0] * own / 2, start[1] + heading[1] * own / 2)
    end = (middle[0] + later[0] * own / 2, middle[1] + later[1] * own / 2)
    thin = 0.68 * radius
    axes.append([[*start, 0.0, radius], [*middle, 0.0, (radius + thin) / 2], [*end, 0.0, thin]])
    if thin < 0.0015:
        return
    for spread in (-0.42, 0.38):
        turn = spread + 0.4 * (float(generator.random()) - 0.5)
        across, down = later[0] - turn * later[1], later[1] + turn * later[0]
        norm = float(np.sqrt(across * across + down * down))
        direction = (across / norm, down / norm)
        _add_branch(axes, generator, end, direction, radius=thin * 0.93, reach=reach * 0.76)


def ribs(
    detector: Detector, body: Body, generator: np.random.Generator, *, from_side: bool = False
) -> Plane:
    """Draw eleven pairs of ribs, from the spine towards the front, the last four shorter.

    If `from_side`, they are seen from the side, with the spine at the viewer's right. Returns the
    length of the ray in bone, in image heights, shape (rows, columns).
    """
    axes = []
    for pair in range(_RIB_PAIRS):
        wobble = 0.006 * (float(generator.random()) - 0.5)
        y = body.apex - 0.005 + 0.0585 * pair + wobble
        axes += [_rib(body, pair=pair, y=y, side=side) for side in (RIGHT, LEFT)]
    return detector.tubes(axes, spacing=0.7, rim=0.5, from_side=from_side)


def _rib(body: Body, *, pair: int, y: float, side: float) -> Coordinates:
    """Knots of one rib, shape (n, 4): half an ellipse that descends from back to front.

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


def spine(detector: Detector) -> Plane:
    """Draw the vertebrae with end plates, pedicles and spinous processes, the same for all persons.

    Returns the length of the ray in bone, in image heights, shape (rows, columns).
    """
    x, y = detector.grid()
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
    bodies = inside * (0.030 + 0.010 * wall) * (1.0 - 0.45 * disc) + inside * 0.010 * plate
    arches = []
    for top, bottom in pairwise(borders):
        pitch = bottom - top
        y_ring = top + 0.42 * pitch
        offset = 0.017 + 0.013 * y_ring
        for x_ring in (-offset, offset):
            ring = [x_ring, y_ring, 0.0, 0.13 * pitch]
            arches.append([ring, [x_ring, y_ring, 0.03, 0.13 * pitch]])
        tip = [0.0, y_ring + 0.2 * pitch, 0.0, 0.006]
        arches.append([tip, [0.0, y_ring + 0.75 * pitch, 0.01, 0.007]])
    return bodies + detector.tubes(arches, rim=0.8)


def clavicles(detector: Detector, body: Body, generator: np.random.Generator) -> Plane:
    """Draw both clavicles, S-shaped, from the breastbone to the shoulders.

    Returns the length of the ray in bone, in image heights, shape (rows, columns).
    """
    axes = []
    for side in (RIGHT, LEFT):
        lift = 0.02 * (float(generator.random()) - 0.5)
        x = np.array([0.032, 0.06, 0.12, 0.20, 0.28, 0.36, 0.41]) * body.wide
        y = np.array([0.222, 0.207, 0.197, 0.187, 0.165, 0.147, 0.15]) + lift * x / 0.4
        radius = np.array([0.0185, 0.016, 0.0135, 0.0125, 0.013, 0.015, 0.015])
        axes.append(rounded(np.stack([side * x, y, np.zeros(7), radius], axis=1)))
    return 1.7 * detector.tubes(axes, spacing=0.7, rim=0.45)


def shoulders(detector: Detector, body: Body) -> Plane:
    """Draw shoulder blades (thin plates, thick borders) and the bones of the upper arms.

    Returns the length of the ray in bone, in image heights, shape (rows, columns).
    """
    border = [[0.405, 0.215], [0.372, 0.28], [0.345, 0.36], [0.318, 0.425]]
    ridge = [[0.41, 0.165], [0.35, 0.185], [0.285, 0.205]]
    arm = [[0.455, 0.205], [0.485, 0.27], [0.53, 0.5]]
    radii = [[0.012, 0.008, 0.007, 0.008], [0.012, 0.008, 0.005], [0.031, 0.024, 0.021]]
    axes = []
    plates = detector.empty()
    for side in (RIGHT, LEFT):
        for places, thickness in zip((border, ridge, arm), radii, strict=True):
            x, y = np.array(places).T
            knots = np.stack([x * (side * body.wide), y, np.zeros(len(x)), thickness], axis=1)
            axes.append(rounded(knots))
        plates += detector.ellipsoid(
            center=(side * 0.345 * body.wide, 0.29), radii=(0.05, 0.13), lean=-side * 0.32
        )
    plate = 0.009 * smoothstep(plates, low=0.0, high=0.5)
    return detector.tubes(axes, spacing=0.7, rim=0.6) + blur(plate, radius=3)

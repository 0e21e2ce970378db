"""What a class looks like: tissue and fluid added to drawn lungs.

These are drawings of textbook patterns, not of a patient. They exist so that an archive for trying
the program holds four kinds of picture that a person can tell apart.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

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

"""Draws phantom radiographs from a seed: chests from the front and the side, and a forearm.

A phantom is a drawing, not a patient: it is for trying and testing the program, and no number
computed on phantoms says anything about its worth on people.

A drawing follows how a radiograph comes about: lengths of the ray in tissue are added up, weighted
and turned to grey by a saturating curve; grain comes last.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cxrbatch.sample import anatomy
from cxrbatch.sample.anatomy import LEFT, RIGHT, Body
from cxrbatch.sample.projection import Detector, Plane, blur, rounded, smoothstep

Finding = Callable[[Detector, Body, np.random.Generator], Plane]
"""Draws a finding: the share of the lungs' air that it replaces at each pixel, in [0, 1], of shape
(rows, columns)."""

_BONE = 2.6
_HALF_GREY = 0.31
"""Attenuation that gives half of the range of grey."""

_LETTER_R = ("11110", "10001", "10001", "11110", "10100", "10010", "10001")


@dataclass(frozen=True, slots=True)
class PhantomRequest:
    """What to draw; equal requests give equal drawings.

    Attributes:
        label: One of `CLASSES`.
        seed: Decides the person and, with `visit`, place and size of the finding, and the grain.
        sex: "F" or "M".
        detector: Size in pixels.
        visit: From 1; another visit draws the same person, the finding anew and other grain.
    """

    label: str
    seed: int
    sex: str
    detector: Detector
    visit: int = 1

    def person_generator(self) -> np.random.Generator:
        """Make a random generator from `seed` alone, so that all visits draw the same person."""
        return np.random.Generator(np.random.PCG64([self.seed, 0]))

    def visit_generator(self) -> np.random.Generator:
        """Make a random generator from `seed` and `visit`, for findings and grain of that visit."""
        return np.random.Generator(np.random.PCG64([self.seed, self.visit]))


def draw_frontal(request: PhantomRequest) -> Plane:
    """Draw a frontal chest radiograph with the finding of the label, and grain.

    Returns:
        Shape (rows, columns), float64 in [0, 1]; 1 is the brightest.

    Raises:
        KeyError: If the label is not one of `CLASSES`.
    """
    detector = request.detector
    person, visit = request.person_generator(), request.visit_generator()
    body = Body.drawn(person, sex=request.sex)
    finding = FINDINGS[request.label](detector, body, visit)
    air = detector.empty()
    for side in (RIGHT, LEFT):
        lung = anatomy.lung(detector, body, side=side)
        vessels = anatomy.vessel_tree(detector, person, body=body, side=side)
        air += np.maximum(0.0, lung - 3.2 * np.minimum(vessels, lung))
    air = np.maximum(0.0, air - anatomy.mediastinum(detector, body)) * (1.0 - finding)
    soft = anatomy.torso(detector, body) - 0.92 * air - anatomy.airways(detector)
    soft -= anatomy.bowel_gas(detector, body, person)
    bone = (
        anatomy.ribs(detector, body, person)
        + anatomy.clavicles(detector, body, person)
        + anatomy.shoulders(detector, body)
        + anatomy.spine(detector)
    )
    return _expose(_attenuation(soft, bone) + _marker(detector), visit)


def draw_lateral(request: PhantomRequest) -> Plane:
    """Draw a person's chest from the side, facing the viewer's left; the label does not count.

    Returns:
        As `draw_frontal`: shape (rows, columns), float64 in [0, 1], 1 is the brightest.
    """
    detector, person = request.detector, request.person_generator()
    body = Body.drawn(person, sex=request.sex)
    soft = _lateral_trunk(detector) - _lateral_air(detector, body, person)
    ribs = anatomy.ribs(detector, body, person, from_side=True)
    bone = ribs + _lateral_spine_and_breastbone(detector)
    return _expose(_attenuation(soft, bone), request.visit_generator())


def draw_forearm(request: PhantomRequest) -> Plane:
    """Draw an upright forearm: a radiograph that is no chest.

    Of `request` only the size, and for the grain the seed and the visit, count.

    Returns:
        As `draw_frontal`: shape (rows, columns), float64 in [0, 1], 1 is the brightest.
    """
    detector = request.detector
    x, y = detector.grid()
    half = _outline(y, [0.0, 0.3, 0.8, 1.0], [0.17, 0.16, 0.10, 0.11])
    soft = 0.24 * np.sqrt(np.maximum(0.0, 1.0 - (x / half) ** 2))
    heights = [0.0, 0.1, 0.3, 0.6, 0.85, 0.93]
    radius = [-0.045, -0.055, -0.075, -0.065, -0.04, -0.035]
    ulna = [0.035, 0.040, 0.045, 0.045, 0.055, 0.055]
    radius_widths = [0.030, 0.020, 0.021, 0.022, 0.034, 0.036]
    ulna_widths = [0.036, 0.030, 0.023, 0.019, 0.018, 0.018]
    bone = detector.empty()
    for across, widths in ((radius, radius_widths), (ulna, ulna_widths)):
        knots = np.stack([across, heights, np.zeros(6), widths], axis=1)
        bone += 1.6 * detector.tubes([rounded(knots)], spacing=0.7, rim=0.85)
    for center in ((-0.05, 0.985), (0.0, 0.98), (0.045, 0.985)):
        bone += 0.03 * detector.ellipsoid(center=center, radii=(0.026, 0.024))
    return _expose(_attenuation(soft, bone), request.visit_generator())


def _attenuation(soft: Plane, bone: Plane) -> Plane:
    """Sum of ray lengths, weighted by tissue; bone thicker than a vertebra counts as one."""
    return np.maximum(soft, 0.0) + _BONE * np.minimum(bone, 0.09)


def _marker(detector: Detector) -> Plane:
    """Attenuation of a lead letter R at the patient's right."""
    letter = np.array([[float(mark) for mark in line] for line in _LETTER_R])
    size = max(1, detector.rows // 160)
    lead = np.kron(letter, np.ones((size, size)))
    plane = detector.empty()
    top, left = detector.rows // 28, detector.columns // 22
    plane[top : top + lead.shape[0], left : left + lead.shape[1]] = 0.8 * lead
    return plane


def _expose(attenuation: Plane, generator: np.random.Generator) -> Plane:
    """Turn attenuation to grey, with the unsharpness and the grain of a detector."""
    sharp = blur(attenuation, radius=1, passes=1)
    grey = sharp * sharp / (sharp * sharp + _HALF_GREY * _HALF_GREY)
    grain = blur(generator.random(grey.shape), radius=1, passes=1) - 0.5
    mottle = generator.random(grey.shape) - 0.5
    noisy = grey + (0.05 * grain + 0.012 * mottle) * (1.15 - grey)
    return np.clip(0.02 + 1.08 * noisy, 0.0, 1.0)


def _no_finding(detector: Detector, body: Body, generator: np.random.Generator) -> Plane:
    return detector.empty()


def _peripheral_haze(detector: Detector, body: Body, generator: np.random.Generator) -> Plane:
    """Hazy opacities in both lungs, at the edges and mostly in the lower zones."""
    total = detector.empty()
    for side in (RIGHT, LEFT):
        for low in (0.30, 0.42, 0.52, 0.58, 0.62):
            inward, lower, width, height, strength = generator.random(5).tolist()
            y = low + 0.08 * lower
            edge = float(body.half_cage(np.array(y)))
            patch = detector.ellipsoid(
                center=(side * (edge - 0.03 - 0.08 * inward), y),
                radii=(0.06 + 0.06 * width, 0.05 + 0.06 * height),
                lean=side * 0.2,
            )
            total = np.maximum(total, (0.45 + 0.55 * strength) * (0.7 + 0.5 * (y - 0.3)) * patch)
    texture = detector.cloud(generator, grain=0.055)
    ragged = blur(total * smoothstep(texture, low=0.2, high=0.62), radius=detector.rows // 70)
    return np.clip(1.1 * ragged, 0.0, 0.8)


def _interstitial_lines(detector: Detector, body: Body, generator: np.random.Generator) -> Plane:
    """A net of fine lines, densest near the hila, and rings of thickened bronchi seen end on."""
    x, y = detector.grid()
    net = detector.empty()
    for grain in (0.045, 0.024):
        ridge = 1.0 - np.abs(2.0 * detector.cloud(generator, grain=grain, octaves=2) - 1.0)
        net += smoothstep(ridge, low=0.86, high=1.0)
    mist = detector.cloud(generator, grain=0.08)
    from_hila = np.maximum(0.0, 1.0 - 2.2 * np.sqrt((np.abs(x) - 0.09) ** 2 + (y - 0.42) ** 2))
    strength = 0.45 + 0.55 * from_hila
    rings = []
    for side in (RIGHT, LEFT):
        for _ in range(9):
            out, down, size = generator.random(3).tolist()
            center = [side * (0.08 + 0.11 * out), 0.30 + 0.25 * down]
            radius = 0.006 + 0.004 * size
            rings.append([[*center, 0, radius], [*center, 0.02, radius]])
    cuffs = 6.0 * detector.tubes(rings, rim=1.0)
    return np.clip(strength * (0.12 * net + 0.38 * mist) + cuffs, 0.0, 0.75)


def _lobar_consolidation(detector: Detector, body: Body, generator: np.random.Generator) -> Plane:
    """One lobe filled, dense, with a straight fissure and with air left in its bronchi."""
    x, y = detector.grid()
    side = RIGHT if generator.random() < 0.6 else LEFT
    upper = side == RIGHT and generator.random() < 0.5
    tilt, level, edge = generator.random(3).tolist()
    fissure = 0.44 + 0.03 * (level - 0.5) + (0.10 + 0.1 * tilt) * (side * x - 0.15)
    if upper:
        lobe = smoothstep(y - fissure, low=0.010, high=-0.010)
        lobe = lobe * smoothstep(y, low=body.apex + 0.02, high=0.30 + 0.05 * edge)
    else:
        lobe = smoothstep(y - fissure - 0.06, low=-0.05, high=0.16)
    texture = detector.cloud(generator, grain=0.06)
    filled = lobe * (side * x > 0) * (0.62 + 0.3 * texture)
    end = 0.27 if upper else 0.64
    bronchi = []
    for _ in range(4):
        out, down, bend = generator.random(3).tolist()
        way = [side * (0.11 + 0.03 * bend), (0.41 + end) / 2, 0, 0.0055]
        tip = [side * (0.12 + 0.14 * out), end + 0.06 * (down - 0.5), 0, 0.0035]
        bronchi.append([[side * 0.075, 0.41, 0, 0.007], way, tip])
    air = np.minimum(detector.tubes(bronchi), 0.03)
    return np.clip(filled - 5.0 * lobe * air, 0.0, 0.92)


FINDINGS: dict[str, Finding] = {
    "Normal": _no_finding,
    "COVID-19": _peripheral_haze,
    "Viral Pneumonia": _interstitial_lines,
    "Lung Opacity": _lobar_consolidation,
}
"""The finding that is drawn for each class."""

CLASSES = tuple(FINDINGS)
"""The classes that can be drawn."""


def _outline(y: Plane, heights: list[float], positions: list[float]) -> Plane:
    """A smooth curve through positions at some heights, looked up at the heights `y`."""
    knots = rounded(np.stack([np.array(heights), np.array(positions)], axis=1))
    return np.interp(y, knots[:, 0], knots[:, 1])


def _lateral_trunk(detector: Detector) -> Plane:
    """Soft tissue from flank to flank: a side view crosses far more of it than a frontal one."""
    x, y = detector.grid()
    heights = [0.0, 0.08, 0.16, 0.3, 0.5, 0.7, 1.0]
    front = _outline(y, heights, [-0.10, -0.12, -0.22, -0.29, -0.32, -0.31, -0.30])
    back = _outline(y, heights, [0.13, 0.17, 0.27, 0.33, 0.33, 0.30, 0.28])
    middle, half = (front + back) / 2, (back - front) / 2
    across = (x - middle) / half
    depth = np.interp(y, [0.0, 0.1, 0.25, 0.6, 1.0], [0.28, 0.55, 0.66, 0.62, 0.62])
    tissue = depth * np.sqrt(np.maximum(0.0, 1.0 - across * across * np.abs(across)))
    return tissue + 0.22 * detector.ellipsoid(center=(0.0, 0.02), radii=(0.17, 0.2), lean=-0.4)


def _lateral_air(detector: Detector, body: Body, generator: np.random.Generator) -> Plane:
    """Air of both lungs, one behind the other, less heart and vessels; and of the windpipe."""
    x, y = detector.grid()
    half = 0.86 * np.sqrt(np.maximum(0.0, body.half_cage(y) * body.cage)) * 0.78
    across = (x - (0.015 + 0.02 * y)) / np.maximum(half, 1e-6)
    shape = np.sqrt(np.maximum(0.0, 1.0 - across * across * across * across))
    dome = body.dome + 0.02 + 0.9 * np.where(x < 0, 0.35, 1.5) * (x + 0.03) ** 2
    above = smoothstep(y - dome, low=0.012, high=-0.012)
    lungs = 0.5 * shape * above * smoothstep(y, low=body.apex - 0.06, high=0.33)
    heart = 0.36 * detector.ellipsoid(
        center=(-0.08, body.dome - 0.115), radii=(0.125, 0.15 * body.heart), lean=-0.35
    )
    heart = blur(heart, radius=detector.rows // 60)
    arch = blur(0.1 * detector.ellipsoid(center=(0.02, 0.33), radii=(0.08, 0.045)), radius=4)
    axes = []
    for _ in range(22):
        out, down, bend = generator.random(3).tolist()
        end = [0.02 + 0.42 * (out - 0.5), 0.43 + 0.5 * (down - 0.5), 0.0, 0.002]
        way = [0.02 + 0.2 * (out - 0.5), 0.42 + 0.3 * (down - 0.5) * bend, 0.0, 0.006]
        axes.append([[0.015, 0.42, 0.0, 0.006], way, end])
    vessels = detector.tubes(axes, spacing=0.6)
    windpipe = [[0.0, 0.05, 0.0, 0.02], [0.02, 0.25, 0.0, 0.018], [0.03, 0.4, 0.0, 0.016]]
    tube = np.minimum(detector.tubes([windpipe], spacing=0.6), 0.05)
    return np.maximum(0.0, lungs - heart - arch - 2.0 * np.minimum(vessels, lungs)) + 2.0 * tube


def _lateral_spine_and_breastbone(detector: Detector) -> Plane:
    """Bone of the spine and the breastbone from the side."""
    x, y = detector.grid()
    middle = _outline(y, [0.0, 0.15, 0.4, 0.65, 1.0], [0.04, 0.10, 0.185, 0.17, 0.10])
    half = 0.030 + 0.017 * y
    level = (y / 0.058) % 1.0
    disc = smoothstep(np.abs(level - 0.5), low=0.37, high=0.44)
    inside = smoothstep(np.abs(x - middle), low=half + 0.003, high=half - 0.003)
    wall = smoothstep(np.abs(x - middle), low=half - 0.012, high=half - 0.002)
    column = inside * (0.045 + 0.015 * wall) * (1.0 - 0.6 * disc)
    breastbone = np.array([[-0.19, 0.2, 0, 0.014], [-0.255, 0.33, 0, 0.012], [-0.29, 0.5, 0, 0.01]])
    return column + 1.5 * detector.tubes([rounded(breastbone)], spacing=0.7, rim=0.5)

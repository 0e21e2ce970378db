"""Where X-rays of drawn solids land: a film, round solids, tubes and clouds.

Lengths are in film heights: x is 0 in the middle of the film and grows to the viewer's right (the
patient's left), y is 0 at the upper edge and 1 at the lower, z points from the front of the body
to the back and is the direction of the beam. A plane holds, for each pixel, the length of the ray
inside one kind of tissue.

Only arithmetic that IEEE 754 fixes to the last bit and sums in a set order touch a plane (no BLAS,
no transcendental function), so a drawing does not depend on the processor that made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

Plane = NDArray[np.float64]
Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Film:
    """The detector: its size in pixels.

    Attributes:
        rows: Height in pixels, at least 64.
        columns: Width in pixels.
    """

    rows: int
    columns: int

    @property
    def half_width(self) -> float:
        """Half of the width, in film heights."""
        return self.columns / self.rows / 2

    def grid(self) -> tuple[Plane, Plane]:
        """Coordinates of the pixel centres: x of shape (1, columns), y of shape (rows, 1)."""
        x = (np.arange(self.columns, dtype=np.float64) + 0.5) / self.rows - self.half_width
        y = (np.arange(self.rows, dtype=np.float64) + 0.5) / self.rows
        return x[np.newaxis, :], y[:, np.newaxis]


def smoothstep(values: Plane, *, low: float | Plane, high: float | Plane) -> Plane:
    """Ramp from 0 at `low` to 1 at `high` without a corner; falls where `low` is above `high`."""
    ramp = np.clip((values - low) / (high - low), 0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)


def ellipsoid(
    film: Film, *, center: tuple[float, float], radii: tuple[float, float], lean: float = 0.0
) -> Plane:
    """Ray length through an ellipsoid of depth 1 at its middle.

    Args:
        film: Where it lands.
        center: x and y of the middle.
        radii: Half axes along x and y.
        lean: Shear of x by y: positive leans the lower half to the viewer's right.

    Returns:
        Shape (rows, columns): 1 in the middle, 0 outside.
    """
    x, y = film.grid()
    down = y - center[1]
    across = (x - center[0] - lean * down) / radii[0]
    return np.sqrt(np.maximum(0.0, 1.0 - across * across - (down / radii[1]) ** 2))


def curve(knots: Points, *, step: float) -> Points:
    """Points at equal distances along the polyline through `knots`.

    Args:
        knots: Shape (n, k): the first columns are x, y, z; further ones are carried along.
        step: Distance of neighbours, in film heights.

    Returns:
        Shape (m, k).
    """
    gaps = np.diff(knots[:, :3], axis=0)
    lengths = np.sqrt(gaps[:, 0] ** 2 + gaps[:, 1] ** 2 + gaps[:, 2] ** 2)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    stations = np.arange(0.0, along[-1], step)
    columns = [np.interp(stations, along, knots[:, k]) for k in range(knots.shape[1])]
    return np.stack(columns, axis=1)


def rounded(knots: Points) -> Points:
    """Corners cut four times (Chaikin), so that a few knots give a smooth curve."""
    for _ in range(4):
        near = 0.75 * knots[:-1] + 0.25 * knots[1:]
        far = 0.25 * knots[:-1] + 0.75 * knots[1:]
        between = np.stack([near, far], axis=1).reshape(-1, knots.shape[1])
        knots = np.concatenate([knots[:1], between, knots[-1:]])
    return knots


def _stamp(rim: float, *, fineness: int) -> tuple[Points, NDArray[np.float64]]:
    """Offsets in the unit disc, shape (k, 2), and their shares of the mass, which sum to 1."""
    ticks = np.arange(-fineness, fineness + 1, dtype=np.float64) / fineness
    across, down = np.meshgrid(ticks, ticks)
    squared = across * across + down * down
    inside = squared <= 1.0
    ball = np.sqrt(np.maximum(0.0, 1.0 - squared))
    shell = (squared >= 0.6).astype(np.float64)
    solid_share = ball[inside] / np.cumsum(ball[inside])[-1]
    shell_share = shell[inside] / np.cumsum(shell[inside])[-1]
    offsets = np.stack([across[inside], down[inside]], axis=1)
    return offsets, (1.0 - rim) * solid_share + rim * shell_share


def tubes(film: Film, points: Points, *, step: float, rim: float = 0.0) -> Plane:
    """Ray length through tubes given by points on their axes.

    A tube that runs along the beam is long for the ray: the bright edge of a rib cage comes out
    by itself.

    Args:
        film: Where they land.
        points: Shape (n, 4): x, y, z, radius of points that are `step` apart along their tube.
        step: That distance, in film heights.
        rim: Share of the mass that lies in the shell (cortical bone), 0 to 1.

    Returns:
        Shape (rows, columns).
    """
    pixels = points[:, 3] * film.rows
    total = np.zeros(film.rows * film.columns)
    for fineness, thinnest, thickest in ((2, 0.0, 2.0), (5, 2.0, 12.0), (16, 12.0, np.inf)):
        chosen = points[(pixels >= thinnest) & (pixels < thickest)]
        if len(chosen):
            total += _deposit(film, chosen, step=step, stamp=_stamp(rim, fineness=fineness))
    return blur(total.reshape(film.rows, film.columns), radius=1)


def _deposit(
    film: Film, points: Points, *, step: float, stamp: tuple[Points, NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Put a disc of the right mass around each point; shape (rows * columns,)."""
    offsets, shares = stamp
    radius = points[:, 3:4]
    column = (points[:, 0:1] + film.half_width + radius * offsets[:, 0]) * film.rows
    row = (points[:, 1:2] + radius * offsets[:, 1]) * film.rows
    mass = 3.14159265 * radius * radius * (step * film.rows * film.rows) * shares
    inside = (column >= 0) & (column < film.columns) & (row >= 0) & (row < film.rows)
    index = row[inside].astype(np.int64) * film.columns + column[inside].astype(np.int64)
    flat: NDArray[np.float64] = np.bincount(
        index, weights=mass[inside], minlength=film.rows * film.columns
    ).astype(np.float64)
    return flat


def blur(plane: Plane, *, radius: int, passes: int = 2) -> Plane:
    """Repeated box blur with the edge pixels continued; `radius` in pixels, 0 for none."""
    if radius < 1:
        return plane
    for _ in range(passes):
        for axis in (0, 1):
            plane = _box(plane, radius=radius, axis=axis)
    return plane


def _box(plane: Plane, *, radius: int, axis: int) -> Plane:
    if radius == 1:
        wide = np.pad(plane, [(1, 1), (0, 0)] if axis == 0 else [(0, 0), (1, 1)], mode="edge")
        rows, columns = plane.shape
        ahead = wide[2:] if axis == 0 else wide[:, 2:]
        return (wide[:rows, :columns] + plane + ahead) / 3.0
    width = 2 * radius + 1
    padding = [(0, 0), (0, 0)]
    padding[axis] = (radius + 1, radius)
    running = np.cumsum(np.pad(plane, padding, mode="edge"), axis=axis)
    upper = running[width:] if axis == 0 else running[:, width:]
    lower = running[:-width] if axis == 0 else running[:, :-width]
    return (upper - lower) / width


def cloud(film: Film, generator: np.random.Generator, *, grain: float, octaves: int = 3) -> Plane:
    """Smooth random texture in [0, 1], with structures of about `grain` film heights."""
    total = np.zeros((film.rows, film.columns))
    weight, norm = 1.0, 0.0
    for _ in range(octaves):
        total += weight * _value_noise(film, generator, grain=grain)
        norm += weight
        weight, grain = weight / 2, grain / 2.1
    return total / norm


def _value_noise(film: Film, generator: np.random.Generator, *, grain: float) -> Plane:
    """Random numbers on a lattice, joined by smoothstep."""
    pitch = max(1.0, grain * film.rows)
    lattice = generator.random((int(film.rows / pitch) + 3, int(film.columns / pitch) + 3))
    down, down_share = _lattice_steps(film.rows, pitch=pitch, shift=float(generator.random()))
    across, across_share = _lattice_steps(
        film.columns, pitch=pitch, shift=float(generator.random())
    )
    share = down_share[:, np.newaxis]
    joined = lattice[down] * (1.0 - share) + lattice[down + 1] * share
    return joined[:, across] * (1.0 - across_share) + joined[:, across + 1] * across_share


def _lattice_steps(
    count: int, *, pitch: float, shift: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    position = np.arange(count, dtype=np.float64) / pitch + shift
    whole = position.astype(np.int64)
    return whole, smoothstep(position - whole, low=0.0, high=1.0)


Stored = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int16]


class Voi(StrEnum):
    """How a phantom's header says what to show (VOI LUT module, PS3.3 C.11.2)."""

    WINDOW = "one window, LINEAR, over the drawing's range"
    TWO_WINDOWS = "two windows; the first shows the drawing"
    SIGMOID = "one window with the function SIGMOID"
    NONE = "no window: the drawing fills all stored values"


@dataclass(frozen=True, slots=True)
class Grey:
    """How grey becomes stored values.

    Attributes:
        bits: Bits Stored, 8 to 16; 8 bits are allocated 8, more are allocated 16.
        inverted: Stored as MONOCHROME1.
        voi: What the header says about the range to show.
        signed: Stored as two's complement, half of the range subtracted; the Rescale Intercept
            adds it back.
    """

    bits: int = 12
    inverted: bool = False
    voi: Voi = Voi.WINDOW
    signed: bool = False

    @property
    def top(self) -> int:
        """The largest unsigned value."""
        return (1 << self.bits) - 1

    def window(self) -> tuple[float, float]:
        """Center and width of the LINEAR window that shows the drawing as it was (C.11.2.1.2)."""
        low, span = self._range()
        low = self.top - low - span if self.inverted else low
        return low + span / 2 + 0.5, span + 1.0

    def store(self, drawing: Plane) -> Stored:
        """Stored values of a drawing.

        Args:
            drawing: Shape (rows, columns), in [0, 1].

        Returns:
            Same shape, uint8, uint16 or int16.
        """
        low, span = self._range()
        levels = low + np.floor(drawing * span + 0.5).astype(np.int64)
        if self.inverted:
            levels = self.top - levels
        if self.signed:
            return (levels - (1 << self.bits - 1)).astype(np.int16)
        return levels.astype(np.uint8) if self.bits == 8 else levels.astype(np.uint16)

    def describe(self, header: Dataset) -> None:
        """Put the pixel, Modality LUT and VOI attributes into a header."""
        header.SamplesPerPixel = 1
        header.PhotometricInterpretation = "MONOCHROME1" if self.inverted else "MONOCHROME2"
        header.BitsAllocated = 8 if self.bits == 8 else 16
        header.BitsStored = self.bits
        header.HighBit = self.bits - 1
        header.PixelRepresentation = int(self.signed)
        if self.signed:
            header.RescaleIntercept = str(1 << self.bits - 1)
            header.RescaleSlope = "1"
            header.RescaleType = "US"
        self._describe_voi(header)

    def _describe_voi(self, header: Dataset) -> None:
        if self.voi is Voi.NONE:
            return
        center, width = self.window()
        if self.voi is Voi.TWO_WINDOWS:
            header.WindowCenter = [f"{center:g}", f"{center * 0.8:.1f}"]
            header.WindowWidth = [f"{width:g}", f"{width * 0.5:.1f}"]
            header.WindowCenterWidthExplanation = ["STANDARD", "LUNG"]
            return
        header.WindowCenter, header.WindowWidth = f"{center:g}", f"{width:g}"
        if self.voi is Voi.SIGMOID:
            header.VOILUTFunction = "SIGMOID"

    def _range(self) -> tuple[int, int]:
        """Smallest stored value of a drawing, and the steps up to its largest."""
        if self.voi is Voi.NONE:
            return 0, self.top
        low = (1 << self.bits) // 20
        return low, 2 * ((self.top - 3 * low) // 2)

"""Adds up the lengths of X-rays in drawn solids: ellipsoids, tubes and clouds.

Lengths are in image heights: x is 0 in the middle of the image and grows to the viewer's right (the
patient's left), y is 0 at the upper edge and 1 at the lower, z points from the front of the body
to the back and is the direction of the beam. A plane holds, for each pixel, the length of the ray
inside one kind of tissue.

A plane is made only by arithmetic that IEEE 754 fixes to the last bit and by sums in a set order
(no BLAS, no transcendental function), so a drawing does not depend on the processor that made it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Plane = NDArray[np.float64]
Coordinates = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Detector:
    """The plate that the rays meet, and what solids in front of it look like.

    Attributes:
        rows: Height in pixels, at least 64.
        columns: Width in pixels.
    """

    rows: int
    columns: int

    @property
    def half_width(self) -> float:
        """Half of the width, in image heights: the x of the right edge, as x is 0 in the middle."""
        return self.columns / self.rows / 2

    def grid(self) -> tuple[Plane, Plane]:
        """Return the coordinates of the pixel centres, in image heights.

        Returns x of shape (1, columns), 0 in the middle, and y of shape (rows, 1), 0 at the upper
        edge and 1 at the lower.
        """
        x = (np.arange(self.columns, dtype=np.float64) + 0.5) / self.rows - self.half_width
        y = (np.arange(self.rows, dtype=np.float64) + 0.5) / self.rows
        return x[np.newaxis, :], y[:, np.newaxis]

    def empty(self) -> Plane:
        """Return a plane of zeros, shape (rows, columns), float64."""
        return np.zeros((self.rows, self.columns))

    def ellipsoid(
        self, *, center: tuple[float, float], radii: tuple[float, float], lean: float = 0.0
    ) -> Plane:
        """Draw an ellipsoid: the length of the ray inside it, scaled to 1 in its middle.

        Args:
            center: x and y of the middle, in image heights.
            radii: Half axes along x and y, in image heights.
            lean: Shear of x by y: positive leans the lower half to the viewer's right.

        Returns:
            Shape (rows, columns): 1 in the middle, 0 outside.
        """
        x, y = self.grid()
        down = y - center[1]
        across = (x - center[0] - lean * down) / radii[0]
        return np.sqrt(np.maximum(0.0, 1.0 - across * across - (down / radii[1]) ** 2))

    def tubes(
        self,
        axes: Iterable[ArrayLike],
        *,
        spacing: float = 0.5,
        rim: float = 0.0,
        from_side: bool = False,
    ) -> Plane:
        """Draw tubes: the length of the ray inside them, in image heights.

        Where tubes overlap their lengths are added. A tube that runs along the beam is long for the
        ray: the bright edge of a rib cage comes out by itself.

        Args:
            axes: Of each tube the knots of its axis, shape (n, 4): x, y, z and the tube's radius.
            spacing: Distance of the points that are set along each axis, in pixels.
            rim: Share of a tube's mass that lies in its shell (cortical bone), 0 to 1; with 0 the
                tube is solid.
            from_side: Look from the side: exchange x and z.

        Returns:
            Shape (rows, columns), blurred by up to two pixels beyond the tubes, and 0 farther away;
            parts outside the image are cut off.
        """
        step = spacing / self.rows
        points = np.concatenate([curve(np.asarray(knots), step=step) for knots in axes])
        if from_side:
            points = points[:, [2, 1, 0, 3]]
        pixels = points[:, 3] * self.rows
        total = np.zeros(self.rows * self.columns)
        for fineness, thinnest, thickest in ((2, 0.0, 2.0), (5, 2.0, 12.0), (16, 12.0, np.inf)):
            chosen = points[(pixels >= thinnest) & (pixels < thickest)]
            if len(chosen):
                total += self._deposit(chosen, step=step, stamp=_stamp(rim, fineness=fineness))
        return blur(total.reshape(self.rows, self.columns), radius=1)

    def _deposit(
        self, points: Coordinates, *, step: float, stamp: tuple[Coordinates, Coordinates]
    ) -> NDArray[np.float64]:
        """Put a disc of the right mass around each point; shape (rows * columns,)."""
        offsets, shares = stamp
        radius = points[:, 3:4]
        column = (points[:, 0:1] + self.half_width + radius * offsets[:, 0]) * self.rows
        row = (points[:, 1:2] + radius * offsets[:, 1]) * self.rows
        mass = 3.14159265 * radius * radius * (step * self.rows * self.rows) * shares
        inside = (column >= 0) & (column < self.columns) & (row >= 0) & (row < self.rows)
        index = row[inside].astype(np.int64) * self.columns + column[inside].astype(np.int64)
        flat = np.bincount(index, weights=mass[inside], minlength=self.rows * self.columns)
        return flat.astype(np.float64)

    def cloud(self, generator: np.random.Generator, *, grain: float, octaves: int = 3) -> Plane:
        """Draw a smooth random texture.

        Args:
            generator: Makes the random numbers.
            grain: Size of the largest structures, in image heights.
            octaves: Number of textures that are added, each half as strong as the last and finer.

        Returns:
            Shape (rows, columns), in [0, 1].
        """
        total = self.empty()
        weight, norm = 1.0, 0.0
        for _ in range(octaves):
            total += weight * self._value_noise(generator, grain=grain)
            norm += weight
            weight, grain = weight / 2, grain / 2.1
        return total / norm

    def _value_noise(self, generator: np.random.Generator, *, grain: float) -> Plane:
        """Random numbers on a lattice, joined by smoothstep."""
        pitch = max(1.0, grain * self.rows)
        lattice = generator.random((int(self.rows / pitch) + 3, int(self.columns / pitch) + 3))
        down, down_share = _lattice_steps(self.rows, pitch, generator)
        across, across_share = _lattice_steps(self.columns, pitch, generator)
        share = down_share[:, np.newaxis]
        joined = lattice[down] * (1.0 - share) + lattice[down + 1] * share
        return joined[:, across] * (1.0 - across_share) + joined[:, across + 1] * across_share


def _lattice_steps(
    count: int, pitch: float, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each pixel along a side: the lattice point in front of it, and how far it is past that."""
    position = np.arange(count, dtype=np.float64) / pitch + float(generator.random())
    whole = position.astype(np.int64)
    return whole, smoothstep(position - whole, low=0.0, high=1.0)


def smoothstep(values: Plane, *, low: float | Plane, high: float | Plane) -> Plane:
    """Rise smoothly from 0 at `low` and below to 1 at `high` and above; fall if `low` > `high`.

    Returns a number in [0, 1] for each of `values`; `low` and `high` must differ.
    """
    ramp = np.clip((values - low) / (high - low), 0.0, 1.0)
    return ramp * ramp * (3.0 - 2.0 * ramp)


def round_edge(across: Plane) -> Plane:
    """Return sqrt(1 - across^2), and 0 where `across` is beyond -1 or 1.

    It is half the thickness of a cylinder of radius 1, at each distance from its axis.
    """
    return np.sqrt(np.maximum(0.0, 1.0 - across * across))


def curve(knots: Coordinates, *, step: float) -> Coordinates:
    """Return points at equal distances along the polyline through `knots`, from its first knot on.

    Args:
        knots: Shape (n, k): the first columns are x, y, z; further ones are interpolated too.
        step: Distance of neighbours, in image heights.

    Returns:
        Shape (m, k); the points end at most `step` before the last knot, or at it.
    """
    gaps = np.diff(knots[:, :3], axis=0)
    lengths = np.sqrt(gaps[:, 0] ** 2 + gaps[:, 1] ** 2 + gaps[:, 2] ** 2)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    stations = np.arange(0.0, along[-1], step)
    columns = [np.interp(stations, along, knots[:, k]) for k in range(knots.shape[1])]
    return np.stack(columns, axis=1)


def rounded(knots: Coordinates) -> Coordinates:
    """Cut the corners of a polyline four times (Chaikin), which makes it a smooth curve.

    Args:
        knots: Shape (n, k): n points in order, of k numbers each.

    Returns:
        Shape (m, k), m over n, with the first and last knot as they were.
    """
    for _ in range(4):
        near = 0.75 * knots[:-1] + 0.25 * knots[1:]
        far = 0.25 * knots[:-1] + 0.75 * knots[1:]
        between = np.stack([near, far], axis=1).reshape(-1, knots.shape[1])
        knots = np.concatenate([knots[:1], between, knots[-1:]])
    return knots


def _stamp(rim: float, *, fineness: int) -> tuple[Coordinates, Coordinates]:
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


def blur(plane: Plane, *, radius: int, passes: int = 2) -> Plane:
    """Blur by the mean of a square box, with the edge pixels continued beyond the edge.

    Args:
        plane: Shape (rows, columns).
        radius: Pixels on each side of the box's centre; below 1 nothing is blurred.
        passes: How often the box is applied.

    Returns:
        Same shape; `plane` itself if nothing is blurred.
    """
    if radius < 1:
        return plane
    for _ in range(passes):
        plane = _row_means(plane, radius=radius)
        plane = np.ascontiguousarray(_row_means(plane.T, radius=radius).T)
    return plane


def _row_means(plane: Plane, *, radius: int) -> Plane:
    """Mean of each pixel and its `radius` neighbours above and below."""
    if radius == 1:
        wide = np.pad(plane, [(1, 1), (0, 0)], mode="edge")
        return (wide[:-2] + plane + wide[2:]) / 3.0
    width = 2 * radius + 1
    padded = np.pad(plane, [(radius + 1, radius), (0, 0)], mode="edge")
    running = np.cumsum(padded, axis=0)
    return (running[width:] - running[:-width]) / width

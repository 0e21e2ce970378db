"""Treatments: what is taken away from films, or left alone of them, before a network scores them.

Each treatment is a function of the network's inputs, and of the masks of their lungs where it needs
them. The same input always gives the same pixels: noise is drawn by a seed of the input's content.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects, gaussian_filter, label

from cxrbatch.model.preprocessing import area_resize, image_hash

Films = npt.NDArray[np.uint8]
"""Network inputs, shape (n, size, size), uint8."""

LungFields = npt.NDArray[np.bool_]
"""Where lung is, shape (n, size, size)."""

MARGIN, CORNER = 0.1, 0.2
"""Width of the border, and edge of a corner's square, as shares of the film's edge."""

COARSE_EDGE = 16
"""Edge in pixels of the film that is blurred to its coarse layout."""

# A tenth of the edge: ribs and vessels are gone, the brightness of a lung stays.
_BLUR = 0.1
_TREATMENTS_VERSION = 1
_WHITE = 255
# A marker is nearly as bright as the film's brightest pixel, small, and not in the middle.
_BRIGHT, _LEAST_LEVEL, _LARGEST_MARKER, _MIDDLE = 0.92, 160, 0.01, 0.3


def fill_black(films: Films, lungs: LungFields) -> Films:
    """Set the lungs to 0. Their outline stays."""
    return np.where(lungs, np.uint8(0), films)


def fill_mean(films: Films, lungs: LungFields) -> Films:
    """Set the lungs to the mean of the film outside of them.

    The mean of the whole film would tell how bright the lungs were.
    """
    mean, _ = _outside(films, lungs)
    return np.where(lungs, np.rint(mean)[:, None, None].astype(np.uint8), films)


def fill_noise(films: Films, lungs: LungFields) -> Films:
    """Fill the lungs with normal noise of the mean and deviation that the film has outside."""
    mean, spread = _outside(films, lungs)
    noise = np.empty(films.shape, np.float32)
    for place, film in enumerate(films):
        rng = np.random.default_rng(int(image_hash(film), 16))
        noise[place] = rng.standard_normal(film.shape, np.float32)
    drawn = noise * spread[:, None, None] + mean[:, None, None]
    return np.where(lungs, np.rint(drawn).clip(0, _WHITE).astype(np.uint8), films)


def fill_blurred(films: Films, lungs: LungFields) -> Films:
    """Replace the lungs by the film blurred so far that texture is gone and brightness stays."""
    sigma = films.shape[1] * _BLUR
    blurred = gaussian_filter(films.astype(np.float32), (0, sigma, sigma), mode="nearest")
    return np.where(lungs, np.rint(blurred).clip(0, _WHITE).astype(np.uint8), films)


def keep_lungs(films: Films, lungs: LungFields) -> Films:
    """Set everything but the lungs to 0. Their outline stays."""
    return np.where(lungs, films, np.uint8(0))


def black_box(films: Films, lungs: LungFields) -> Films:
    """Set the smallest box that holds both lungs to 0, the heart with it; no outline stays."""
    treated = films.copy()
    for film, field in zip(treated, lungs, strict=True):
        for box in find_objects(field.astype(np.int8)):
            film[box] = 0
    return treated


def silhouette(films: Films, lungs: LungFields) -> Films:
    """Return the mask of the lungs alone: 255 where lung is, else 0; no grey level of the film."""
    return np.where(lungs, np.uint8(_WHITE), np.uint8(0))


def border_only(films: Films) -> Films:
    """Set all pixels to 0 but those of the margins, a tenth of the edge on each side."""
    width = _pixels(films, MARGIN)
    kept = films.copy()
    kept[:, width:-width, width:-width] = 0
    return kept


def edges_only(films: Films) -> Films:
    """Set all pixels to 0 but those of the margins outside of the four corners."""
    return black_corners(border_only(films))


def corners_only(films: Films) -> Films:
    """Set all pixels to 0 but four squares in the corners, a fifth of the edge each."""
    kept = np.zeros_like(films)
    for corner in _corners(films):
        kept[corner] = films[corner]
    return kept


def black_corners(films: Films) -> Films:
    """Set four squares in the corners to 0, a fifth of the edge each."""
    hidden = films.copy()
    for corner in _corners(films):
        hidden[corner] = 0
    return hidden


def hide_markers(films: Films) -> Films:
    """Black the corners, and paint over small things nearly as bright as the film's brightest.

    Such are letters and wires that lie away from the middle of the film. Each is painted over with
    the median of what surrounds it. A marker that is darker or larger stays.
    """
    hidden = black_corners(films)
    for film in hidden:
        bright = film >= max(_BRIGHT * float(film.max()), _LEAST_LEVEL)
        labels, _ = label(bright)
        sizes = np.bincount(labels.ravel())
        for number, box in enumerate(find_objects(labels), 1):
            if sizes[number] <= _LARGEST_MARKER * film.size and _is_aside(box, len(film)):
                _paint_over(film, box)
    return hidden


def mirror(films: Films) -> Films:
    """Exchange left and right."""
    return np.ascontiguousarray(films[:, :, ::-1])


def blur_coarse(films: Films) -> Films:
    """Average each film to 16 x 16 pixels, and enlarge these again to its size."""
    size = films.shape[1]
    treated = np.empty_like(films)
    for place, film in enumerate(films):
        small = area_resize(film.astype(np.float32), rows=COARSE_EDGE, columns=COARSE_EDGE)
        treated[place] = np.rint(area_resize(small, rows=size, columns=size)).clip(0, _WHITE)
    return treated


def _outside(
    films: Films, lungs: LungFields
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean and standard deviation of each film outside of its lungs; 0 where all of it is lung."""
    count = (~lungs).sum(axis=(1, 2)).clip(min=1)
    levels = np.where(lungs, 0.0, films.astype(np.float64))
    mean = levels.sum(axis=(1, 2)) / count
    squares = (np.where(lungs, 0.0, levels - mean[:, None, None]) ** 2).sum(axis=(1, 2))
    return mean.astype(np.float32), np.sqrt(squares / count).astype(np.float32)


def _pixels(films: Films, share: float) -> int:
    return max(1, round(int(films.shape[1]) * share))


def _corners(films: Films) -> list[tuple[slice, slice, slice]]:
    edge = _pixels(films, CORNER)
    ends = slice(None, edge), slice(-edge, None)
    return [(slice(None), rows, columns) for rows in ends for columns in ends]


def _is_aside(box: tuple[slice, slice], size: int) -> bool:
    """Whether the middle of a box lies in the outer part of a film, at its sides, top or bottom."""
    middles = ((part.start + part.stop) / 2 / size for part in box)
    return any(not _MIDDLE <= middle <= 1 - _MIDDLE for middle in middles)


def _paint_over(film: npt.NDArray[np.uint8], box: tuple[slice, slice]) -> None:
    rows, columns = (slice(max(part.start - 1, 0), part.stop + 1) for part in box)
    around = tuple(slice(max(part.start - 4, 0), part.stop + 4) for part in box)
    ring = film[around].astype(np.float32)
    ring[rows.start - around[0].start :, columns.start - around[1].start :][
        : rows.stop - rows.start, : columns.stop - columns.start
    ] = np.nan
    film[rows, columns] = np.uint8(np.nanmedian(ring)) if not np.isnan(ring).all() else 0


@dataclass(frozen=True, slots=True)
class Treatment:
    """One way to treat films.

    Attributes:
        name: What is left or taken, for a reader; the value of the column `treatment`.
        shows: What a score on such films says, and what it cannot say.
        of_lungs: The function of films and lungs; None where no lungs are needed.
        of_film: The function of films alone; None where lungs are needed.
    """

    name: str
    shows: str
    of_lungs: Callable[[Films, LungFields], Films] | None = None
    of_film: Callable[[Films], Films] | None = None

    @property
    def needs_lungs(self) -> bool:
        """Whether the treatment needs the masks of the lungs."""
        return self.of_lungs is not None

    def apply(self, films: Films, lungs: LungFields | None) -> Films:
        """Treat films.

        Args:
            films: Shape (n, size, size), uint8; they are not changed.
            lungs: Where lung is, the same shape; not used where `needs_lungs` is False.

        Returns:
            The same shape and type.
        """
        if self.of_lungs is not None:
            assert lungs is not None
            return self.of_lungs(films, lungs)
        assert self.of_film is not None
        return self.of_film(films)


WHOLE = "whole film"

FILLS = (
    Treatment(
        "lungs black",
        "What is left without the lungs. Their black outline stays: a score can come from the "
        "outline.",
        of_lungs=fill_black,
    ),
    Treatment(
        "lungs mean",
        "The same with the mean of the film outside the lungs: a softer outline.",
        of_lungs=fill_mean,
    ),
    Treatment(
        "lungs noise",
        "The same with noise. A network takes noise for texture: compare with the other fills.",
        of_lungs=fill_noise,
    ),
    Treatment(
        "lungs blurred",
        "The lungs without their texture. How bright a lung is as a whole stays, which can be the "
        "disease itself.",
        of_lungs=fill_blurred,
    ),
)
"""The four fills of the lungs, which are to be read together."""

LUNGS_ONLY = Treatment(
    "lungs only",
    "What the lungs tell with their outline, without the rest of the film.",
    of_lungs=keep_lungs,
)
BOX = Treatment(
    "lung box black",
    "What is left without lungs, heart and outline: shoulders, neck, abdomen, borders, letters.",
    of_lungs=black_box,
)
SILHOUETTE = Treatment(
    "silhouette only",
    "What the shape of the lungs tells: build, age, breath, and disease that changes the shape.",
    of_lungs=silhouette,
)
BORDER = Treatment(
    "border only",
    "What the outer tenth tells: collimation, frames, letters, how a film was cropped.",
    of_film=border_only,
)
EDGES = Treatment(
    "edges only", "The border without the corners: frames and crops.", of_film=edges_only
)
CORNERS = Treatment(
    "corners only", "What the four corners tell: letters, markers, stamps.", of_film=corners_only
)
HIDDEN = Treatment(
    "corners hidden",
    "The film with black corners, and small bright letters and wires painted over. What a score "
    "loses here it had from them.",
    of_film=hide_markers,
)
MIRRORED = Treatment(
    "mirrored",
    "Left and right exchanged: what a score loses here it had from the side of heart or letters.",
    of_film=mirror,
)
COARSE_ONLY = Treatment(
    "blurred to 16 px",
    "The coarse layout of light and dark alone: position, build, exposure.",
    of_film=blur_coarse,
)

TREATMENTS = (
    *FILLS,
    LUNGS_ONLY,
    BOX,
    SILHOUETTE,
    BORDER,
    EDGES,
    CORNERS,
    HIDDEN,
    MIRRORED,
    COARSE_ONLY,
)
"""All treatments, in the order in which they are shown; the whole film is none of them."""

TREATMENTS_ID = f"{_TREATMENTS_VERSION}: {', '.join(treatment.name for treatment in TREATMENTS)}"
"""Changes where films would be treated otherwise: a run is continued under the same text alone."""

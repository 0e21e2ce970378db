"""Foreign images: examples of what is no frontal chest film, from a folder and made of films.

The input gate learns them. What is made of films needs no folder: films turned, upside down or
inverted, blank pictures and pages of text.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from cxrbatch.errors import LabelError
from cxrbatch.model.card import MAX_CLASS_NAME, MAX_KINDS
from cxrbatch.model.preprocessing import Recipe
from cxrbatch.scoring.archive import ArchiveFile, Walk
from cxrbatch.training.cache import prepare_inputs
from cxrbatch.training.twins import TwinFiles, TwinInputs

_Images = npt.NDArray[np.uint8]

BLANK, TEXT = "blank", "page of text"
_TURNS: dict[str, Callable[[_Images], _Images]] = {
    "inverted": lambda images: 255 - images,
    "rotated by 90 degrees": lambda images: np.concatenate(
        [np.rot90(images[0::2], 1, (1, 2)), np.rot90(images[1::2], 3, (1, 2))]
    ),
    "rotated by 180 degrees": lambda images: images[:, ::-1, ::-1],
    "upside down": lambda images: images[:, ::-1],
}
MADE_KINDS = (*_TURNS, BLANK, TEXT)
"""The kinds of foreign images that are made of films or drawn."""


@dataclass(frozen=True, slots=True)
class ForeignFiles:
    """The files of a folder with a folder for each kind of foreign images.

    Attributes:
        source: The folder.
        kinds: Names of the kinds, sorted: those of the folders.
        files: All files, with absolute paths.
        kind: Length n, the place in `kinds` of each file's kind.
    """

    source: Path
    kinds: tuple[str, ...]
    files: tuple[ArchiveFile, ...]
    kind: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ForeignImages:
    """Network inputs of foreign images.

    Attributes:
        kinds: Names of the kinds.
        images: Shape (n, size, size), uint8.
        kind: Shape (n,), the place in `kinds` of each image's kind.
    """

    kinds: tuple[str, ...]
    images: _Images
    kind: npt.NDArray[np.int64]

    def of(self, kind: int) -> _Images:
        """Return the images of a kind, shape (m, size, size)."""
        images: _Images = self.images[self.kind == kind]
        return images


@dataclass(frozen=True, slots=True)
class FurtherFiles:
    """Files beside the labelled ones, which a training needs at its end.

    Attributes:
        twins: Pairs of files of one film, for the controls; None for none.
        foreign: Images that are no frontal chest films, for the input gate; None for none.
    """

    twins: TwinFiles | None = None
    foreign: ForeignFiles | None = None

    @property
    def paths(self) -> list[Path]:
        """Paths of all that is read."""
        foreign = self.foreign.files if self.foreign else ()
        found = [Path(os.fsdecode(file.path)) for file in foreign]
        return [*(self.twins.paths if self.twins else []), *found]

    def as_config(self) -> dict[str, Path | None]:
        """Return where they come from, by the keys of a configuration file."""
        given = {"twins": self.twins, "foreign": self.foreign}
        return {name: None if files is None else files.source for name, files in given.items()}


@dataclass(frozen=True, slots=True)
class FurtherImages:
    """Images beside the labelled ones, which a training needs at its end.

    Attributes:
        twins: Pairs of images of one film, for the controls; None for none.
        foreign: Foreign images, for the input gate; None for none.
    """

    twins: TwinInputs | None = None
    foreign: ForeignImages | None = None


NO_FURTHER = FurtherImages()
"""Neither twins nor foreign images."""


def locate_foreign(source: Path) -> ForeignFiles:
    """Find the files of foreign images: those in each folder directly below `source`.

    Files beside the folders are left out, as a list of sources. Containers are looked into.

    Args:
        source: The folder.

    Raises:
        LabelError: It is no folder or has no folder with a file; there are too many kinds; or a
            name is too long, cannot be printed, or is one of `MADE_KINDS`.
    """
    if not source.is_dir():
        raise LabelError(f"{source} is no folder; give one with a folder for each kind of image")
    walk = Walk(source, follow_links=True)
    found = [(os.fsdecode(file.path).split(os.sep), file) for file in walk]
    inside = [(parts[0], file) for parts, file in found if len(parts) > 1]
    kinds = sorted({name for name, _ in inside})
    if not 0 < len(kinds) <= MAX_KINDS - len(MADE_KINDS):
        raise LabelError(
            f"{source} has {len(kinds)} folders with files; give a folder for each kind of image, "
            "such as hands/ and laterals/"
        )
    for name in kinds:
        if not name.isprintable() or len(name) > MAX_CLASS_NAME or name in MADE_KINDS:
            raise LabelError(f"{name[:MAX_CLASS_NAME]!r} cannot be the name of a kind; rename it")
    base = os.fsencode(walk.base.resolve())
    files = (replace(file, path=os.path.join(base, file.path)) for _, file in inside)
    return ForeignFiles(
        source, tuple(kinds), tuple(files), tuple(kinds.index(n) for n, _ in inside)
    )


def read_foreign(
    foreign: ForeignFiles,
    *,
    recipe: Recipe,
    workers: int,
    folder: Path,
    progress: Callable[[int], object],
) -> ForeignImages:
    """Decode foreign images as `prepare_inputs` does; files without an image are left out.

    Args:
        foreign: The files.
        recipe: How images become network inputs.
        workers: Processes that decode; 0 decodes in this process.
        folder: The folder of the cache.
        progress: Called with 1 after each file.

    Raises:
        LabelError: A kind has no image.
        CxrbatchError: The cache cannot be read or written, or no process can be started.
    """
    inputs = prepare_inputs(
        foreign.files, recipe=recipe, workers=workers, folder=folder, progress=progress
    )
    rows = np.flatnonzero(inputs.readable)
    kind = np.array(foreign.kind, np.int64)[rows]
    for place, name in enumerate(foreign.kinds):
        if not (kind == place).any():
            raise LabelError(
                f"no file of the kind {name!r} in {foreign.source} gave an image; look at some "
                "with `cxrbatch inspect`, or remove the folder"
            )
    return ForeignImages(foreign.kinds, inputs.values[rows], kind)


def make_foreign(films: _Images, *, seed: int) -> ForeignImages:
    """Make foreign images of films, and draw as many blank pictures and pages of text.

    Args:
        films: Shape (n, size, size), uint8, frontal chest films.
        seed: Of the drawings.

    Returns:
        The kinds `MADE_KINDS`, n images of each.
    """
    rng = np.random.default_rng(seed)
    count, size = films.shape[:2]
    by_kind = [turn(films) for turn in _TURNS.values()]
    by_kind.append(np.stack([_blank(rng, size) for _ in range(count)]))
    by_kind.append(np.stack([_text(rng, size) for _ in range(count)]))
    kind = np.repeat(np.arange(len(by_kind)), [len(images) for images in by_kind])
    return ForeignImages(MADE_KINDS, np.concatenate(by_kind), kind)


def _blank(rng: np.random.Generator, size: int) -> _Images:
    """A flat grey, or a grey that rises slowly across the picture, with more or less noise."""
    rows, columns = np.indices((size, size)) / size - 0.5
    angle, slope = rng.uniform(0, 2 * np.pi), rng.choice([0.0, rng.uniform(0, 60)])
    noise = rng.normal(0.0, rng.choice([0.0, rng.uniform(0, 12)]), (size, size))
    ramp = slope * (rows * np.cos(angle) + columns * np.sin(angle))
    levels = rng.uniform(0, 255) + ramp + noise
    blank: _Images = levels.clip(0, 255).astype(np.uint8)
    return blank


def _text(rng: np.random.Generator, size: int) -> _Images:
    """Lines of random words, dark on bright or bright on dark."""
    paper, ink = rng.uniform(200, 255), rng.uniform(0, 80)
    page = Image.new("L", (size, size), int(paper))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(int(rng.integers(8, 20)))
    step = int(rng.integers(10, 26))
    for top in range(int(rng.integers(2, 20)), size, step):
        lengths = rng.integers(2, 9, rng.integers(1, 9))
        words = ("".join(map(chr, rng.integers(97, 123, length))) for length in lengths)
        pen.text((int(rng.integers(2, 20)), top), " ".join(words), fill=int(ink), font=font)
    levels = np.asarray(page)
    return 255 - levels if rng.random() < 0.5 else levels

"""The recipe: how a display image becomes the uint8 square that the network sees; without torch.

There is one recipe per checkpoint. It is stored in the checkpoint's card, its hash in every table,
and score, train, inspect, an upload and Python all pass through `Recipe.prepare`.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxrbatch.reading.display import Display, GreyImage
from cxrbatch.reading.outcomes import Outcome, reading_error

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from cxrbatch.reading.radiograph import Reading

ModelInput = npt.NDArray[np.uint8]

Geometry = Literal["squeeze", "pad"]
NoVoiPolicy = Literal["robust", "full_range"]

MIN_SIZE, MAX_SIZE = 32, 2048
_HASH_HEX_DIGITS = 32
# Pixels of the display image that are looked up and averaged at once: few enough to stay in the
# processor's cache, and enough to be worth a call.
_BLOCK_PIXELS = 160_000


@dataclass(frozen=True, slots=True)
class Recipe:
    """All settings that decide which uint8 input a radiograph becomes.

    Attributes:
        size: Edge of the square input in pixels.
        geometry: "squeeze" scales rows and columns to the square independently, "pad" first adds
            black borders; whichever the training images went through.
        no_voi: How the reader turns a DICOM without a VOI transform into grey levels, one of
            `NoVoiPolicy`.
        version: Number of the code that computes the pixels, 1: higher where it would give other
            pixels for the same fields.

    Raises:
        ValueError: The size is not in `MIN_SIZE` to `MAX_SIZE`, or another field is unknown.
    """

    size: int
    geometry: Geometry = "squeeze"
    no_voi: NoVoiPolicy = "robust"
    version: int = 1

    def __post_init__(self) -> None:
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise ValueError(f"input size {self.size} is not in {MIN_SIZE} … {MAX_SIZE}")
        if self.geometry not in get_args(Geometry):
            raise ValueError(f"unknown geometry {self.geometry!r}")
        if self.no_voi not in get_args(NoVoiPolicy):
            raise ValueError(f"unknown policy for images without VOI {self.no_voi!r}")
        if self.version != 1:
            raise ValueError(f"recipe version {self.version} needs a newer cxrbatch")

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> "Recipe":
        """Make a recipe from its JSON form, as a checkpoint's card or a table's metadata has it.

        Raises:
            ValueError: A field is missing, unknown or out of range.
        """
        if set(card) != {"size", "geometry", "no_voi", "version"}:
            raise ValueError(f"recipe has the fields {sorted(card)}")
        if not all(type(card[field]) is int for field in ("size", "version")):
            raise ValueError("recipe size and version must be whole numbers")
        return cls(**card)

    def to_card(self) -> dict[str, Any]:
        """Return the fields as JSON values for a checkpoint's card; `from_card` reads them."""
        return asdict(self)

    @property
    def sha256(self) -> str:
        """SHA-256 of the fields as JSON, 64 hexadecimal digits; equal for equal recipes."""
        canonical = json.dumps(self.to_card(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def least_size(self) -> int:
        """Fewest rows, and fewest columns, that a file decoded at a reduced size must still have.

        That is twice the edge of the network's input, so that each pixel of the input is still a
        mean of four at least.
        """
        return 2 * self.size

    def prepare(self, image: GreyImage) -> ModelInput:
        """Turn a display image into the network's input.

        Args:
            image: The display image. Its pixels' aspect matters to "pad" alone: "squeeze" gives
                the same square whatever shape the pixels have.

        Returns:
            Shape (size, size), uint8, grey levels times 255, rounded.
        """
        extent = image.shape
        if self.geometry == "pad":
            image = with_square_pixels(image)
            extent = (max(image.shape),) * 2
        if min(extent) < self.size or extent == (self.size, self.size):
            padded = _pad(image.whole(), extent)
            return _to_uint8(area_resize(padded, rows=self.size, columns=self.size))
        tall = _average_rows(image, extent[0], self.size)
        weights = _area_weights(image.shape[1], extent[1], self.size)
        return np.ascontiguousarray(_to_uint8(weights @ np.ascontiguousarray(tall.T)).T)

    def prepare_reading(self, reading: "Reading") -> "tuple[Reading, ModelInput | None]":
        """Turn the image of a Reading into the network's input, if the image may be scored.

        Args:
            reading: The result of reading one frame.

        Returns:
            A Reading and its input, shape (size, size), uint8. The input is None unless the
            outcome is `scored` and there is an image. If `prepare` raises, as when memory runs out,
            the input is None, and the Reading has the outcome and detail of that error, no image.
        """
        if reading.outcome is not Outcome.SCORED or reading.image is None:
            return reading, None
        try:
            return reading, self.prepare(reading.image)
        except Exception as error:
            failure = reading_error(error)
            outcome, detail = failure.outcome, failure.detail
            return replace(reading, outcome=outcome, detail=detail, image=None), None


def area_resize(display: Display, *, rows: int, columns: int) -> Display:
    """Resize with antialiasing, every source pixel weighed by the area it covers.

    An axis that grows is interpolated linearly: averaging over areas is nearest neighbour there.

    Args:
        display: Shape (rows, columns), float32.
        rows: Rows of the result.
        columns: Columns of the result.

    Returns:
        Shape (rows, columns), float32.
    """
    tall = _resize_rows(display, rows)
    return np.ascontiguousarray(_resize_rows(np.ascontiguousarray(tall.T), columns).T)


def image_hash(prepared: ModelInput) -> str:
    """Hash the network's input, so that equal inputs have equal hashes whatever file they are from.

    Args:
        prepared: Shape (size, size), uint8.

    Returns:
        The first 128 bits of SHA-256, as 32 hexadecimal digits. Hashed are the size as ASCII, such
        as "224x224:", and the pixels row by row.
    """
    digest = hashlib.sha256(f"{prepared.shape[0]}x{prepared.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(prepared).data)
    return digest.hexdigest()[:_HASH_HEX_DIGITS]


def difference_hash(prepared: ModelInput) -> int:
    """Compute the 64-bit difference hash: one bit per neighbouring pair in an 8 x 9 thumbnail.

    A bit is 1 where the right pixel of a pair is brighter than the left; rows follow each other.
    Hashes of near-duplicates differ in a few bits.

    Source: N. Krawetz, "Kind of Like That", 2013.

    Args:
        prepared: The network's input, shape (size, size), uint8.

    Returns:
        An unsigned 64-bit number; the top left pair is its highest bit.
    """
    small = area_resize(prepared.astype(np.float32), rows=8, columns=9)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def _resize_rows(display: Display, rows: int) -> Display:
    source = display.shape[0]
    if rows == source:
        return display
    if rows > source:
        image = Image.fromarray(np.ascontiguousarray(display))
        grown = image.resize((image.width, rows), Image.Resampling.BILINEAR)
        return cast(Display, np.asarray(grown))
    return cast(Display, _area_weights(source, source, rows) @ display)


def _average_rows(image: GreyImage, extent: int, target: int) -> Display:
    """Average rows to `target` larger ones, block by block.

    A target row is the sum of its own source rows in their order, so that it has the same bits
    as from the whole image at once; but a block stays in the processor's cache.
    """
    columns = image.shape[1]
    averaged = np.empty((target, columns), np.float32)
    # At most `extent`: so small images of different sizes share one cached plan.
    block = max(1, min(extent, _BLOCK_PIXELS // columns))
    for rows, (start, stop), weights in _row_blocks(image.shape[0], extent, target, block):
        averaged[rows] = weights @ image.rows(start, stop)
    return averaged


@lru_cache(maxsize=256)
def _row_blocks(
    source: int, extent: int, target: int, block: int
) -> "tuple[tuple[slice, tuple[int, int], csr_array], ...]":
    """Target rows, the source rows that they need, and the weights, `block` rows at a time."""
    weights = _area_weights(source, extent, target)
    blocks = []
    step = max(1, block * target // extent)
    for first in range(0, target, step):
        part = weights[first : first + step]
        start, stop = int(part.indices.min()), int(part.indices.max()) + 1
        blocks.append((slice(first, first + step), (start, stop), part[:, start:stop]))
    return tuple(blocks)


@lru_cache(maxsize=256)
def _area_weights(source: int, extent: int, target: int) -> "csr_array":
    """Return the share that each of `source` pixels has in each of `target` larger ones.

    The source lies in the middle of `extent` pixels, black on both sides. Pillow's BOX filter
    takes or drops whole pixels, which is near to nearest neighbour where the ratio is small; here
    a pixel that an edge cuts counts with the part that lies inside. The product with a sparse
    matrix adds rows in one fixed order: the bits are the same everywhere.
    """
    # Imported here: a process that reads no image starts a tenth of a second earlier.
    from scipy.sparse import csr_array

    edges = np.arange(target + 1) * (extent / target)
    top, bottom = edges[:-1, None], edges[1:, None]
    pixels = top.astype(np.intp) + np.arange(math.ceil(extent / target) + 1)
    inside = (np.minimum(bottom, pixels + 1) - np.maximum(top, pixels)).clip(min=0.0)
    shares = (inside * (target / extent)).astype(np.float32)
    pixels -= (extent - source) // 2
    shares[(pixels < 0) | (pixels >= source)] = 0
    return csr_array(
        (
            shares.ravel(),
            pixels.clip(min=0, max=source - 1).ravel(),
            np.arange(target + 1) * pixels.shape[1],
        ),
        shape=(target, source),
    )


def with_square_pixels(image: GreyImage) -> GreyImage:
    """Return an image with square pixels: the axis along which pixels are smaller is shrunk.

    An image whose numbers of rows and columns, rounded, stay the same is returned unchanged.
    """
    rows, columns = image.shape
    if image.pixel_aspect > 1:
        columns = max(1, round(columns / image.pixel_aspect))
    elif image.pixel_aspect < 1:
        rows = max(1, round(rows * image.pixel_aspect))
    if (rows, columns) == image.shape:
        return image
    return GreyImage(area_resize(image.whole(), rows=rows, columns=columns))


def _pad(display: Display, extent: tuple[int, int]) -> Display:
    """Lay a display image in the middle of a black one of shape `extent`."""
    if display.shape == extent:
        return display
    padded = np.zeros(extent, dtype=np.float32)
    top, left = (extent[0] - display.shape[0]) // 2, (extent[1] - display.shape[1]) // 2
    padded[top : top + display.shape[0], left : left + display.shape[1]] = display
    return padded


def _to_uint8(display: Display) -> ModelInput:
    return np.rint(display.clip(0.0, 1.0) * 255.0).astype(np.uint8)

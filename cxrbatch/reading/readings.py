"""What reading takes and what it gives: the types that the rest of the project knows."""

from collections.abc import Iterable
from dataclasses import dataclass

from cxrbatch.reading.facts import HeaderFacts
from cxrbatch.reading.grey import Display, GreyImage
from cxrbatch.reading.outcomes import Flag, Outcome, ReadingError

RADIOGRAPH_MODALITIES = frozenset({"CR", "DX", "RG"})


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """What is read, and how far reading goes.

    Attributes:
        max_pixels: Largest claim of frames x rows x columns x samples that is decoded.
        modalities: Values of Modality (0008,0060) that are scored.
        render_all: Render other modalities too; their outcome stays what it is.
        no_voi: How a radiograph without a VOI transform becomes grey levels, one of
            `display.NO_VOI_POLICIES`. Other modalities are rendered over their full range.
        least_size: Rows and columns that grey JPEG and JPEG 2000 are decoded to at least, where
            they can be decoded at a reduced size; None decodes all in full.
    """

    max_pixels: int = 200_000_000
    modalities: frozenset[str] = RADIOGRAPH_MODALITIES
    render_all: bool = False
    no_voi: str = "robust"
    least_size: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What was made of one file, or of one frame of it.

    Attributes:
        frame: 0-based.
        format: "dicom", "png", "jpeg" or "other".
        outcome: `scored` exactly where `image` may be scored.
        detail: One line for a person; empty if there is nothing to say.
        facts: Header values.
        flags: What to know about the image, each once, in the order of `Flag`.
        image: The display image; None if there is none.
    """

    frame: int
    format: str
    outcome: Outcome
    detail: str
    facts: HeaderFacts
    flags: tuple[Flag, ...]
    image: GreyImage | None

    @property
    def display(self) -> Display | None:
        """The image in full, shape (rows, columns), float32 in [0, 1], 1 is white, or None."""
        return None if self.image is None else self.image.whole()


def failed(
    form: str,
    error: ReadingError,
    *,
    facts: HeaderFacts | None = None,
    flags: Iterable[Flag] = (),
    frame: int = 0,
) -> Reading:
    """A Reading without an image."""
    return Reading(
        frame=frame,
        format=form,
        outcome=error.outcome,
        detail=error.detail,
        facts=facts or HeaderFacts(),
        flags=in_order(flags),
        image=None,
    )


def in_order(flags: Iterable[Flag]) -> tuple[Flag, ...]:
    """Each flag once, in the order of their definition."""
    present = frozenset(flags)
    return tuple(flag for flag in Flag if flag in present)


def file_limit(max_pixels: int) -> int:
    """Bytes that a file within the pixel limit can have: 32 bits a sample and a large header."""
    return 4 * max_pixels + (64 << 20)

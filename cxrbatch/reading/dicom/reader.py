"""DICOM to Readings: header, kind of object, limits, then frame by frame to grey levels."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from pydicom.uid import UID

from cxrbatch.reading.allowance import claim
from cxrbatch.reading.codecs.decoders import (
    DECODERS,
    DecodedFrame,
    FrameShape,
    aspect_in_full,
    halvings,
)
from cxrbatch.reading.dicom.colour import (
    GREYSCALES,
    Palette,
    read_palette,
    read_photometric,
    render_colour,
)
from cxrbatch.reading.dicom.description import (
    describe,
    header_flags,
    object_kind,
    pixel_aspect,
    read_modality,
)
from cxrbatch.reading.dicom.elements import quietly, unknown
from cxrbatch.reading.dicom.functional_groups import FRAME_GROUPS, SHARED_GROUPS, FunctionalGroups
from cxrbatch.reading.dicom.header import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    Header,
    PixelElement,
    read_header,
)
from cxrbatch.reading.dicom.pixel_data import (
    EncapsulatedFrames,
    NativeFrames,
    frame_count,
    read_shape,
)
from cxrbatch.reading.dicom.transforms import TransformReader, Transforms
from cxrbatch.reading.display import StoredLayout, render
from cxrbatch.reading.facts import HeaderFacts
from cxrbatch.reading.grey import GreyImage
from cxrbatch.reading.outcomes import Flag, Outcome, ReadingError, reading_error
from cxrbatch.reading.readings import Reading, ReadingOptions, failed, in_order

_UNCOMPRESSED = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)
_INTEGER_PIXELS = 0x7FE00010
# An hour of fluoroscopy has fewer.
_MOST_FRAMES = 50_000
_CONTRADICTION = "photometric interpretation and presentation LUT shape contradict each other"


@dataclass(frozen=True, slots=True)
class _Image:
    """An image that passed all checks of its header.

    Attributes:
        frames: Where its frames come from.
        shape: What the header says about every frame.
        count: How many there are.
        layout: Where the value lies in a pixel cell.
        transforms: Display transforms of the first frame; None for colour.
        frame_transforms: Reads those of the others where they can differ, else None.
        palette: For PALETTE COLOR.
        no_voi: Policy where the header has no VOI transform.
        pixel_aspect: Height of a pixel over its width.
        deviations: As of `Header`.
    """

    frames: NativeFrames | EncapsulatedFrames
    shape: FrameShape
    count: int
    layout: StoredLayout
    transforms: Transforms | None
    frame_transforms: TransformReader | None
    palette: Palette | None
    no_voi: str
    pixel_aspect: float
    deviations: tuple[str, ...]


def read_dicom(stream: BinaryIO, *, size: int, options: ReadingOptions) -> Iterator[Reading]:
    """Read a DICOM file: one Reading, or one per frame, each decoded when it is asked for.

    Args:
        stream: At the start of the file; must stay open while frames are asked for.
        size: Bytes in the file.
        options: What to accept, and limits.

    Raises:
        ReadingError: If the file cannot be inflated.
    """
    with quietly():
        header = read_header(stream, size=size)
        modality = read_modality(header, accepted=options.modalities)
        if modality.deviation:
            header = replace(header, deviations=(*header.deviations, modality.deviation))
        facts = describe(header, modality)
        flags = header_flags(header, facts, modality)
        verdict = object_kind(header) or modality.refusal
        image = _image_or_reason(header, facts, options, verdict)
    if isinstance(image, ReadingError):
        yield failed("dicom", _joined(verdict, image), facts=facts, flags=flags)
        return
    for number in range(image.count):
        yield _read_frame(image, number, facts, flags, verdict)


def _image_or_reason(
    header: Header, facts: HeaderFacts, options: ReadingOptions, verdict: ReadingError | None
) -> _Image | ReadingError:
    """The image, or why there is none; a file that is not asked for is not opened."""
    if header.pixels is None:
        return (
            verdict
            or header.failure
            or ReadingError(Outcome.NO_PIXEL_DATA, "the file has no pixel data")
        )
    if verdict is not None and not options.render_all:
        return verdict
    try:
        return _open_image(header, header.pixels, facts, options, is_radiograph=verdict is None)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return reading_error(error)


def _joined(verdict: ReadingError | None, failure: ReadingError) -> ReadingError:
    """A failure to render what is excluded anyway stays an exclusion, and says both."""
    if verdict is None or verdict is failure:
        return failure
    return ReadingError(verdict.outcome, f"{verdict.detail}; {failure.detail}")


def _transform_flags(transforms: Transforms) -> set[Flag]:
    found = {
        Flag.NO_VOI: transforms.greyscale.voi is None,
        Flag.VOI_IGNORED: transforms.is_ignored,
    }
    return {flag for flag, is_set in found.items() if is_set}


def _read_frame(
    image: _Image,
    number: int,
    facts: HeaderFacts,
    flags: set[Flag],
    verdict: ReadingError | None,
) -> Reading:
    """One frame; its failure is its own and leaves the others alone."""
    transforms = image.transforms
    if transforms is not None:
        if number > 0 and image.frame_transforms is not None:
            with quietly():
                transforms = image.frame_transforms.of_frame(number)
        source = transforms.greyscale.voi_source(image.no_voi)
        facts, flags = replace(facts, voi_source=source), flags | _transform_flags(transforms)
    try:
        grey, is_colour, deviations = _render_frame(image, number, transforms)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        failure = _joined(verdict, reading_error(error))
        return failed("dicom", failure, facts=facts, flags=flags, frame=number)
    shape = image.shape
    found = {
        Flag.COLOUR: is_colour,
        Flag.REDUCED_DECODING: grey.shape != (shape.rows, shape.columns),
        Flag.NONCONFORMING: bool(deviations),
    }
    grey = replace(grey, pixel_aspect=image.pixel_aspect)
    aspect = aspect_in_full(grey, rows=shape.rows, columns=shape.columns)
    remarks = [*deviations]
    if verdict is not None:
        remarks.insert(0, verdict.detail)
    elif transforms is not None and transforms.is_contradictory:
        remarks.append(_CONTRADICTION)
    return Reading(
        frame=number,
        format="dicom",
        outcome=Outcome.SCORED if verdict is None else verdict.outcome,
        detail="; ".join(remarks),
        facts=facts,
        flags=in_order(flags | {flag for flag, is_set in found.items() if is_set}),
        image=replace(grey, pixel_aspect=aspect),
    )


def _render_frame(
    image: _Image, number: int, transforms: Transforms | None
) -> tuple[GreyImage, bool, tuple[str, ...]]:
    """Grey levels, whether the frame has colour, and the deviations of file and frame."""
    decoded = image.frames.frame(number)
    deviations = image.deviations + decoded.deviations
    layout = _layout_of(decoded, image)
    if layout != image.layout:
        deviations += (f"the values have {layout.bits_stored} bits, more than bits stored",)
    if transforms is None:
        grey, is_colour = render_colour(decoded, layout=layout, palette=image.palette)
        return grey, is_colour, deviations
    deviations += transforms.deviations
    greyscale = replace(transforms.greyscale, layout=layout)
    return render(decoded.cells, greyscale, no_voi=image.no_voi), False, deviations


def _layout_of(decoded: DecodedFrame, image: _Image) -> StoredLayout:
    """Where the value lies; in all bits of a codestream whose values need more than Bits Stored.

    Without the upper bits white would become black. Source: DICOM PS3.5 section A.4; so does GDCM.
    """
    layout = image.layout
    if decoded.precision is None or decoded.precision <= layout.high_bit + 1:
        return layout
    cells = decoded.cells
    values = cells.view(f"i{cells.dtype.itemsize}") if layout.is_signed else cells
    shift = layout.high_bit + 1 - layout.bits_stored
    if layout.lowest <= values.min() >> shift and values.max() >> shift <= layout.highest:
        return layout
    if image.transforms is None or decoded.precision > image.shape.bits_allocated:
        raise ReadingError(Outcome.CORRUPT, "the values have more bits than the header gives")
    return StoredLayout(decoded.precision, decoded.precision - 1, layout.is_signed)


def _open_image(
    header: Header,
    pixels: PixelElement,
    facts: HeaderFacts,
    options: ReadingOptions,
    *,
    is_radiograph: bool,
) -> _Image:
    """Check all that the header claims, and find the frames.

    Raises:
        ReadingError: For each way in which a header can be wrong.
    """
    if pixels.tag != _INTEGER_PIXELS:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "floating point pixel data")
    shape, layout = read_shape(header.dataset, facts)
    count = frame_count(header.dataset)
    if count > _MOST_FRAMES:
        raise ReadingError(Outcome.TOO_LARGE, f"the header claims over {_MOST_FRAMES} frames")
    claim(count * shape.rows * shape.columns * shape.samples, limit=options.max_pixels)
    little = header.is_little_endian
    transforms = reader = palette = None
    if shape.photometric in GREYSCALES:
        groups = _functional_groups(header)
        reader = TransformReader(
            header.dataset, groups, layout, shape.photometric, little, header.sop_class
        )
        transforms = reader.of_frame(0)
        reader = None if groups is None else reader
    elif shape.photometric == "PALETTE COLOR":
        palette = read_palette(header.dataset, is_signed=layout.is_signed, little=little)
    if transforms is not None and _are_plain(layout, transforms):
        times = halvings(shape.rows, shape.columns, least_size=options.least_size)
        shape = replace(shape, halvings=times)
    frames: NativeFrames | EncapsulatedFrames
    if header.transfer_syntax in _UNCOMPRESSED:
        frames = NativeFrames(header, pixels, shape, count)
    elif header.transfer_syntax in DECODERS:
        frames = EncapsulatedFrames(header, pixels, shape, count)
    else:
        raise ReadingError(Outcome.UNSUPPORTED_TRANSFER_SYNTAX, _name(header.transfer_syntax))
    # The policy is made for radiographs; the values of other modalities have a meaning to keep.
    no_voi = options.no_voi if is_radiograph else "full_range"
    return _Image(
        frames,
        shape,
        count,
        layout,
        transforms,
        reader,
        palette,
        no_voi,
        pixel_aspect(header.dataset),
        (*header.deviations, *frames.deviations, *_misspelling(header)),
    )


def _functional_groups(header: Header) -> FunctionalGroups | None:
    """The functional groups, None where there are none."""
    shared, frames = (header.groups.get(tag) for tag in (SHARED_GROUPS, FRAME_GROUPS))
    if shared is None and frames is None:
        return None
    return FunctionalGroups(header.stream, shared, frames)


def _are_plain(layout: StoredLayout, transforms: Transforms) -> bool:
    """Whether the mean of neighbouring cells means something.

    Padding is no grey level, and bits above or below the value belong to something else.
    """
    return transforms.greyscale.padding is None and layout.high_bit == layout.bits_stored - 1


def _name(transfer_syntax: str) -> str:
    """A transfer syntax by name and UID if the standard knows it."""
    name = UID(transfer_syntax).name
    if name == transfer_syntax:
        return unknown("transfer syntax", transfer_syntax)
    return f"{name} ({transfer_syntax})"


def _misspelling(header: Header) -> tuple[str, ...]:
    misspelling = read_photometric(header.dataset)[1]
    return (misspelling,) if misspelling else ()

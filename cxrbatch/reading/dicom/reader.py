"""Reads a DICOM file: header, kind of object, limits, then frame by frame to grey levels."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from pydicom.uid import UID

from cxrbatch.reading.codecs.decoders import (
    DECODERS,
    DecodedFrame,
    FrameShape,
    aspect_in_full,
    halvings,
)
from cxrbatch.reading.colour import Palette, render_colour
from cxrbatch.reading.dicom.description import GREYSCALES, Description, describe, pixel_aspect
from cxrbatch.reading.dicom.fragments import EncapsulatedFrames
from cxrbatch.reading.dicom.header import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    DicomHeader,
    PixelElement,
    read_header,
)
from cxrbatch.reading.dicom.lookup_tables import read_palette
from cxrbatch.reading.dicom.pixel_data import NativeFrames, frame_count, read_shape
from cxrbatch.reading.dicom.transforms import FrameTransforms, TransformReader
from cxrbatch.reading.dicom.values import describe_unknown, quietly
from cxrbatch.reading.display import GreyImage, StoredLayout, render_grey
from cxrbatch.reading.outcomes import Flag, Outcome, ReadingError, reading_error
from cxrbatch.reading.readings import (
    Reading,
    ReadingOptions,
    check_samples,
    failed_reading,
    ordered_flags,
)

_UNCOMPRESSED = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)
_INTEGER_PIXELS = 0x7FE00010
# An hour of fluoroscopy has fewer.
_MOST_FRAMES = 50_000
_CONTRADICTION = "photometric interpretation and presentation LUT shape contradict each other"


@dataclass(frozen=True, slots=True)
class _Image:
    """An image that passed all checks of its header.

    Attributes:
        frames: The source of its frames.
        shape: Size and layout of every frame.
        count: Number of frames.
        layout: Which bits of a pixel cell hold the value.
        transforms: Display transforms of the first frame; None for colour.
        transform_reader: Reads those of the other frames where they can differ, else None.
        palette: For PALETTE COLOR.
        no_voi: Policy where the header has no VOI transform.
        pixel_aspect: Height of a pixel over its width.
        deviations: As of `DicomHeader`.
    """

    frames: NativeFrames | EncapsulatedFrames
    shape: FrameShape
    count: int
    layout: StoredLayout
    transforms: FrameTransforms | None
    transform_reader: TransformReader | None
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
        description = describe(header, accepted=options.modalities)
        image = _image_or_reason(header, description, options)
    if isinstance(image, ReadingError):
        error = _joined(description.exclusion, image)
        facts, flags = description.facts, description.flags
        yield failed_reading("dicom", error, facts=facts, flags=flags)
        return
    for number in range(image.count):
        yield _read_frame(image, number, description)


def _image_or_reason(
    header: DicomHeader, description: Description, options: ReadingOptions
) -> _Image | ReadingError:
    """The image, or why there is none; an excluded one is opened only for `render_all`."""
    exclusion = description.exclusion
    if header.pixels is None:
        missing = ReadingError(Outcome.NO_PIXEL_DATA, "the file has no pixel data")
        return exclusion or header.failure or missing
    if exclusion is not None and not options.render_all:
        return exclusion
    try:
        return _open_image(header, header.pixels, description, options)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return reading_error(error)


def _joined(exclusion: ReadingError | None, failure: ReadingError) -> ReadingError:
    """A failure to render what is excluded anyway stays an exclusion, with both details."""
    if exclusion is None or exclusion is failure:
        return failure
    return ReadingError(exclusion.outcome, f"{exclusion.detail}; {failure.detail}")


def _read_frame(image: _Image, number: int, description: Description) -> Reading:
    """One frame; if it fails, the other frames do not."""
    facts, flags, exclusion = description.facts, set(description.flags), description.exclusion
    transforms = image.transforms
    if transforms is not None:
        if number > 0 and image.transform_reader is not None:
            with quietly():
                transforms = image.transform_reader.of_frame(number)
        facts = replace(facts, voi_source=transforms.display.voi_source(image.no_voi))
        flags |= {Flag.NO_VOI} if transforms.display.voi is None else set()
        flags |= {Flag.VOI_IGNORED} if transforms.is_ignored else set()
    try:
        grey, is_colour, deviations = _render_frame(image, number, transforms)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        failure = _joined(exclusion, reading_error(error))
        return failed_reading("dicom", failure, facts=facts, flags=flags, frame=number)
    rows, columns = image.shape.rows, image.shape.columns
    aspect = image.pixel_aspect
    if grey.shape != (rows, columns):
        flags.add(Flag.REDUCED_DECODING)
        aspect = aspect_in_full(replace(grey, pixel_aspect=aspect), rows=rows, columns=columns)
    flags |= {Flag.COLOUR} if is_colour else set()
    flags |= {Flag.NONCONFORMING} if deviations else set()
    remarks = [*deviations]
    if exclusion is not None:
        remarks.insert(0, exclusion.detail)
    elif transforms is not None and transforms.is_contradictory:
        remarks.append(_CONTRADICTION)
    return Reading(
        frame=number,
        format="dicom",
        outcome=Outcome.SCORED if exclusion is None else exclusion.outcome,
        detail="; ".join(remarks),
        facts=facts,
        flags=ordered_flags(flags),
        image=replace(grey, pixel_aspect=aspect),
    )


def _render_frame(
    image: _Image, number: int, transforms: FrameTransforms | None
) -> tuple[GreyImage, bool, tuple[str, ...]]:
    """Grey levels, whether the frame has colour, and the deviations of file and frame."""
    decoded = image.frames.frame(number)
    deviations = image.deviations + decoded.deviations
    layout = _layout_of(decoded, image)
    if layout != image.layout:
        deviations += (f"the values have {layout.bits_stored} bits, more than bits stored",)
    cells = decoded.cells
    if transforms is None:
        grey, is_colour = render_colour(
            cells, decoded.photometric, layout=layout, palette=image.palette
        )
        return grey, is_colour, deviations
    display = replace(transforms.display, layout=layout)
    return (
        render_grey(cells, display, no_voi=image.no_voi),
        False,
        deviations + transforms.deviations,
    )


def _layout_of(decoded: DecodedFrame, image: _Image) -> StoredLayout:
    """Which bits hold the value: all of a codestream whose values need more than Bits Stored.

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
    header: DicomHeader, pixels: PixelElement, description: Description, options: ReadingOptions
) -> _Image:
    """Check all that the header claims, and find the frames.

    Raises:
        ReadingError: For each way in which a header can be wrong.
    """
    if pixels.tag != _INTEGER_PIXELS:
        raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "floating point pixel data")
    dataset = header.dataset
    shape, layout = read_shape(dataset, description)
    count = frame_count(dataset)
    if count > _MOST_FRAMES:
        raise ReadingError(Outcome.TOO_LARGE, f"the header claims over {_MOST_FRAMES} frames")
    check_samples(count * shape.rows * shape.columns * shape.samples, limit=options.max_pixels)
    transforms = reader = palette = None
    if shape.photometric in GREYSCALES:
        reader = TransformReader(header, layout, shape.photometric)
        transforms = reader.of_frame(0)
        reader = reader if reader.has_groups else None
    elif shape.photometric == "PALETTE COLOR":
        little = header.is_little_endian
        palette = read_palette(dataset, is_signed=layout.is_signed, little=little)
    frames: NativeFrames | EncapsulatedFrames
    if header.transfer_syntax in _UNCOMPRESSED:
        frames = NativeFrames(header, pixels, shape, count)
    elif header.transfer_syntax in DECODERS:
        if transforms is not None and _may_be_halved(layout, transforms):
            times = halvings(shape.rows, shape.columns, least_size=options.least_size)
            shape = replace(shape, halvings=times)
        frames = EncapsulatedFrames(header, pixels, shape, count)
    else:
        raise ReadingError(Outcome.UNSUPPORTED_TRANSFER_SYNTAX, _name(header.transfer_syntax))
    problem = description.photometric_problem
    return _Image(
        frames,
        shape,
        count,
        layout,
        transforms,
        reader,
        palette,
        # The policy is made for radiographs; the values of other modalities have a meaning to keep.
        no_voi=options.no_voi if description.exclusion is None else "full_range",
        pixel_aspect=pixel_aspect(dataset),
        deviations=tuple(
            deviation
            for deviation in (
                *header.deviations,
                description.modality_deviation,
                *frames.deviations,
                problem,
            )
            if deviation
        ),
    )


def _may_be_halved(layout: StoredLayout, transforms: FrameTransforms) -> bool:
    """Whether the mean of neighbouring cells means something.

    Padding is no grey level, and bits above or below the value belong to something else.
    """
    return transforms.display.padding is None and layout.high_bit == layout.bits_stored - 1


def _name(transfer_syntax: str) -> str:
    """A transfer syntax by name and UID if the standard knows it."""
    name = UID(transfer_syntax).name
    if name == transfer_syntax:
        return describe_unknown("transfer syntax", transfer_syntax)
    return f"{name} ({transfer_syntax})"

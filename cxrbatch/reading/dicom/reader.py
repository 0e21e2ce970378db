"""Reads a DICOM file: header, kind of object, limits, then frame by frame to grey levels."""

from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from pydicom.uid import UID

from cxrbatch.reading.codecs.decoders import (
    DECODERS,
    DecodedFrame,
    aspect_in_full,
    halvings,
)
from cxrbatch.reading.colour import Palette, render_colour
from cxrbatch.reading.dicom.description import (
    GREYSCALES,
    Description,
    describe,
    frame_count,
    pixel_aspect,
    read_shape,
)
from cxrbatch.reading.dicom.header import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    DicomHeader,
    PixelElement,
    read_header,
)
from cxrbatch.reading.dicom.pixel_data import EncapsulatedFrames, NativeFrames
from cxrbatch.reading.dicom.transforms import FrameTransforms, TransformReader, read_palette
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


def read_dicom(stream: BinaryIO, *, size: int, options: ReadingOptions) -> Iterator[Reading]:
    """Read a DICOM file, frame by frame.

    Args:
        stream: At the start of the file; must stay open while frames are asked for.
        size: Bytes in the file.
        options: What to accept, and limits.

    Yields:
        A Reading for each frame, decoded when it is asked for; one without an image, with the
        reason, if the file is excluded unread, damaged or over the limits. A frame that cannot be
        decoded gives such a Reading, and the next frames are still read.

    Raises:
        OSError, ReadingError: From a read of the first 512 bytes of `stream`; OSError also of the
            file meta. Later errors give a Reading.
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
        yield image.read(number)


def _image_or_reason(
    header: DicomHeader, description: Description, options: ReadingOptions
) -> "_DicomImage | ReadingError":
    """The image, or why there is none; an excluded one is opened only for `render_all`."""
    exclusion = description.exclusion
    if header.pixels is None:
        missing = ReadingError(Outcome.NO_PIXEL_DATA, "the file has no pixel data")
        return exclusion or header.failure or missing
    if exclusion is not None and not options.render_all:
        return exclusion
    try:
        return _DicomImage(header, header.pixels, description, options)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return reading_error(error)


def _joined(exclusion: ReadingError | None, failure: ReadingError) -> ReadingError:
    """A failure to render what is excluded anyway stays an exclusion, with both details."""
    if exclusion is None or exclusion is failure:
        return failure
    return ReadingError(exclusion.outcome, f"{exclusion.detail}; {failure.detail}")


class _DicomImage:
    """An image all of whose header has been checked; reads one frame at a time.

    Attributes:
        count: Number of frames.

    Raises:
        ReadingError: For each way in which a header can be wrong.
    """

    def __init__(
        self,
        header: DicomHeader,
        pixels: PixelElement,
        description: Description,
        options: ReadingOptions,
    ) -> None:
        if pixels.tag != _INTEGER_PIXELS:
            raise ReadingError(Outcome.UNSUPPORTED_IMAGE, "floating point pixel data")
        self._description = description
        shape, self._layout = read_shape(header.dataset, description)
        self.count = count = frame_count(header.dataset)
        if count > _MOST_FRAMES:
            raise ReadingError(Outcome.TOO_LARGE, f"the header claims over {_MOST_FRAMES} frames")
        check_samples(count * shape.rows * shape.columns * shape.samples, limit=options.max_pixels)
        self._transform_reader: TransformReader | None = None
        self._transforms: FrameTransforms | None = None
        self._palette: Palette | None = None
        if shape.photometric in GREYSCALES:
            self._transform_reader = TransformReader(header, self._layout, shape.photometric)
            self._transforms = self._transform_reader.of_frame(0)
        elif shape.photometric == "PALETTE COLOR":
            self._palette = read_palette(
                header.dataset, is_signed=self._layout.is_signed, little=header.is_little_endian
            )
        self._frames: NativeFrames | EncapsulatedFrames
        if header.transfer_syntax in _UNCOMPRESSED:
            self._frames = NativeFrames(header, pixels, shape, count)
        elif header.transfer_syntax in DECODERS:
            if self._may_be_halved():
                times = halvings(shape.rows, shape.columns, least_size=options.least_size)
                shape = replace(shape, halvings=times)
            self._frames = EncapsulatedFrames(header, pixels, shape, count)
        else:
            raise ReadingError(Outcome.UNSUPPORTED_TRANSFER_SYNTAX, _name(header.transfer_syntax))
        self._shape = shape
        # The policy is made for radiographs; the values of other modalities have a meaning to keep.
        self._no_voi = options.no_voi if description.exclusion is None else "full_range"
        self._pixel_aspect = pixel_aspect(header.dataset)
        problems = (description.modality_deviation, *self._frames.deviations)
        problems += (description.photometric_problem,)
        self._deviations = header.deviations + tuple(filter(None, problems))

    def read(self, number: int) -> Reading:
        """Read one frame, counted from 0; if it fails, the other frames do not."""
        facts, exclusion = self._description.facts, self._description.exclusion
        flags = set(self._description.flags)
        try:
            transforms = self._transforms_of(number)
            if transforms is not None:
                facts = replace(facts, voi_source=transforms.display.voi_source(self._no_voi))
                flags |= {Flag.NO_VOI} if transforms.display.voi is None else set()
                flags |= {Flag.VOI_IGNORED} if transforms.is_ignored else set()
            grey, is_colour, deviations = self._render(number, transforms)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            failure = _joined(exclusion, reading_error(error))
            return failed_reading("dicom", failure, facts=facts, flags=flags, frame=number)
        rows, columns, aspect = self._shape.rows, self._shape.columns, self._pixel_aspect
        grey = replace(grey, pixel_aspect=aspect)
        if grey.shape != (rows, columns):
            flags.add(Flag.REDUCED_DECODING)
            aspect = aspect_in_full(grey, rows=rows, columns=columns)
            grey = replace(grey, pixel_aspect=aspect)
        flags |= {Flag.COLOUR} if is_colour else set()
        flags |= {Flag.NONCONFORMING} if deviations else set()
        remarks = list(deviations)
        if exclusion is not None:
            remarks.insert(0, exclusion.detail)
        elif transforms is not None and transforms.is_contradictory:
            remarks.append(_CONTRADICTION)
        outcome = Outcome.SCORED if exclusion is None else exclusion.outcome
        detail, ordered = "; ".join(remarks), ordered_flags(flags)
        return Reading(number, "dicom", outcome, detail, facts, ordered, grey)

    def _transforms_of(self, number: int) -> FrameTransforms | None:
        """The display transforms of a frame; None for an image in colour."""
        reader = self._transform_reader
        if reader is None or number == 0 or not reader.has_groups:
            return self._transforms
        with quietly():
            return reader.of_frame(number)

    def _render(
        self, number: int, transforms: FrameTransforms | None
    ) -> tuple[GreyImage, bool, tuple[str, ...]]:
        """Grey levels, whether the frame has colour, and the deviations of file and frame."""
        decoded = self._frames.frame(number)
        deviations = self._deviations + decoded.deviations
        layout, cells = self._layout_of(decoded), decoded.cells
        if layout != self._layout:
            deviations += (f"the values have {layout.bits_stored} bits, more than bits stored",)
        if transforms is None:
            grey, is_colour = render_colour(
                cells, decoded.photometric, layout=layout, palette=self._palette
            )
            return grey, is_colour, deviations
        display = replace(transforms.display, layout=layout)
        grey = render_grey(cells, display, no_voi=self._no_voi)
        return grey, False, deviations + transforms.deviations

    def _layout_of(self, decoded: DecodedFrame) -> StoredLayout:
        """Which bits hold the value: all of a codestream whose values need more than Bits Stored.

        Without the upper bits white would become black. Source: DICOM PS3.5 section A.4; so does
        GDCM.
        """
        layout = self._layout
        if decoded.precision is None or decoded.precision <= layout.high_bit + 1:
            return layout
        cells = decoded.cells
        values = cells.view(f"i{cells.dtype.itemsize}") if layout.is_signed else cells
        shift = layout.high_bit + 1 - layout.bits_stored
        if layout.lowest <= values.min() >> shift and values.max() >> shift <= layout.highest:
            return layout
        if self._transforms is None or decoded.precision > self._shape.bits_allocated:
            raise ReadingError(Outcome.CORRUPT, "the values have more bits than the header gives")
        return StoredLayout(decoded.precision, decoded.precision - 1, layout.is_signed)

    def _may_be_halved(self) -> bool:
        """Whether the mean of neighbouring cells means something.

        Padding is no grey level, and bits above or below the value belong to something else.
        """
        if self._transforms is None or self._transforms.display.padding is not None:
            return False
        return self._layout.high_bit == self._layout.bits_stored - 1


def _name(transfer_syntax: str) -> str:
    """A transfer syntax by name and UID if the standard knows it."""
    name = UID(transfer_syntax).name
    if name == transfer_syntax:
        return describe_unknown("transfer syntax", transfer_syntax)
    return f"{name} ({transfer_syntax})"

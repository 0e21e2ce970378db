"""Reads the display transforms and palettes that a header asks for.

An invalid transform counts as absent, and is flagged.

Source: DICOM PS3.3 C.11.1.1 and C.11.2.1.1 (LUTs), C.7.6.3.1.5 and C.7.6.3.1.6 (palettes).
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np
from pydicom.dataset import Dataset

from cxrbatch.reading.colour import Palette, expand_segments
from cxrbatch.reading.dicom.element_reader import ElementReader
from cxrbatch.reading.dicom.header import (
    FRAME_GROUPS,
    SHARED_GROUPS,
    DicomHeader,
    ElementCollector,
    FunctionalGroup,
)
from cxrbatch.reading.dicom.values import first_item, listed_numbers, raw_bytes, text, words_of
from cxrbatch.reading.display import (
    DisplayTransforms,
    GreyValues,
    LookupTable,
    Rescale,
    StoredLayout,
    VoiWindow,
)
from cxrbatch.reading.outcomes import ReadingError

_MODALITY_LUT_SEQUENCE, _VOI_LUT_SEQUENCE = 0x00283000, 0x00283010
_LUT_DESCRIPTOR, _LUT_DATA = 0x00283002, 0x00283006
# Of the red table; those of green and blue follow it.
_PALETTE_DESCRIPTOR, _PALETTE_DATA, _SEGMENTED_DATA = 0x00281101, 0x00281201, 0x00281221
_WINDOW_TAGS = (0x00281050, 0x00281051)
_RESCALE_TAGS = (0x00281053, 0x00281052)
_VOI_FUNCTION = 0x00281056
_PADDING_TAGS = (0x00280120, 0x00280121)
_PRESENTATION_LUT_SHAPE = 0x20500020
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
# X-ray angiography, radiofluoroscopy and biplane angiography: their Modality LUT leads back to the
# beam's intensity and away from what is displayed (PS3.3 C.8.7.1.1.2). DCMTK leaves it out too.
_UNRESCALED_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.12.{number}" for number in (1, 2, 3))
# Functional group macros: Frame VOI LUT Sequence, Pixel Value Transformation Sequence.
_FRAME_VOI, _PIXEL_VALUES = 0x00289132, 0x00289145
# An item with more bytes than this holds more than a window or a VOI LUT.
_LARGEST_ITEM = 1 << 18


@dataclass(slots=True)
class _Problems:
    """What is wrong with the transforms of a frame."""

    is_ignored: bool = False
    deviations: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FrameTransforms:
    """The display transforms of a frame, and what was wrong in the header.

    Attributes:
        display: The transforms that `display.render_grey` applies.
        is_ignored: Whether a window, LUT or rescale that was met is invalid, if only in part, and
            left out.
        is_contradictory: Whether photometric interpretation and presentation LUT shape name
            opposite polarities.
        deviations: How the header breaks the standard, as in `DicomHeader`.
    """

    display: DisplayTransforms
    is_ignored: bool
    is_contradictory: bool
    deviations: tuple[str, ...] = ()


class TransformReader:
    """Reads the display transforms of the frames of a greyscale image.

    Args:
        header: Of the image.
        layout: Which bits of a cell hold the value.
        photometric: "MONOCHROME1" or "MONOCHROME2".

    Attributes:
        has_groups: Whether the header has functional groups, so that frames may differ.
    """

    def __init__(self, header: DicomHeader, layout: StoredLayout, photometric: str) -> None:
        self._header = header
        self._little = header.is_little_endian
        self._layout = layout
        self._photometric = photometric
        self.has_groups = bool(header.groups)
        self._shared = self._group_item(SHARED_GROUPS, 0)
        self._latest: tuple[int, Dataset | None] = (-1, None)

    def of_frame(self, number: int) -> FrameTransforms:
        """Read the transforms of a frame, counted from 0: padding, modality, VOI and polarity.

        Modality and VOI are sought in the header itself, the frame's functional groups, the shared
        ones (PS3.3 C.7.6.16). Of modality the first place counts, but none for X-ray angiography;
        of VOI the first that is valid. Invalid ones that were met are reported by `is_ignored`.
        """
        problems = _Problems()
        is_inverted, is_contradictory = self._polarity()
        display = DisplayTransforms(
            self._layout,
            padding=self._padding(),
            modality=self._modality(number, problems),
            is_inverted=is_inverted,
        )
        voi, place = self._voi(number, problems, is_negative=display.full_range()[0] < 0)
        display = replace(display, voi=voi, voi_place=place)
        return FrameTransforms(
            display, problems.is_ignored, is_contradictory, tuple(problems.deviations)
        )

    def _modality(self, number: int, problems: _Problems) -> Rescale | LookupTable | None:
        """First modality LUT, else rescale (PS3.3 C.11.1)."""
        if self._header.sop_class in _UNRESCALED_CLASSES:
            return None
        for _, dataset in self._sources(number, _PIXEL_VALUES):
            if _MODALITY_LUT_SEQUENCE in dataset:
                item = first_item(dataset, _MODALITY_LUT_SEQUENCE)
                lut = read_lut(item, is_signed=self._layout.is_signed, little=self._little)
                if lut is not None:
                    return lut
                problems.is_ignored = True
            if any(tag in dataset for tag in _RESCALE_TAGS):
                return _read_rescale(dataset, problems)
            if _MODALITY_LUT_SEQUENCE in dataset:
                return None
        return None

    def _voi(
        self, number: int, problems: _Problems, *, is_negative: bool
    ) -> tuple[VoiWindow | LookupTable | None, str]:
        """First VOI LUT, else first valid window (PS3.3 C.11.2), and the groups that hold it."""
        for place, dataset in self._sources(number, _FRAME_VOI):
            if _VOI_LUT_SEQUENCE in dataset:
                item = first_item(dataset, _VOI_LUT_SEQUENCE)
                lut = read_lut(item, is_signed=is_negative, little=self._little)
                if lut is not None:
                    return lut, place
                problems.is_ignored = True
            if any(tag in dataset for tag in _WINDOW_TAGS):
                window = _read_window(dataset, problems)
                if window is not None:
                    return window, place
        return None, ""

    def _polarity(self) -> tuple[bool, bool]:
        """Whether low values are white, and whether the header says so twice and differently.

        Presentation LUT Shape (2050,0020) says the same as the photometric interpretation (PS3.3
        C.8.11.3.1.2); where the two contradict each other the former holds, as in DCMTK.
        """
        by_photometric = self._photometric == "MONOCHROME1"
        shape = text(self._header.dataset, _PRESENTATION_LUT_SHAPE)
        if shape not in ("IDENTITY", "INVERSE"):
            return by_photometric, False
        return shape == "INVERSE", (shape == "INVERSE") != by_photometric

    def _padding(self) -> tuple[int, int] | None:
        """Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2), in the sign of the pixels."""
        dataset, little = self._header.dataset, self._little
        ends = [words_of(dataset, tag, little=little)[:1] for tag in _PADDING_TAGS]
        if not ends[0]:
            return None
        values = [signed_word(end[0]) if self._layout.is_signed else end[0] for end in ends if end]
        return min(values), max(values)

    def _sources(self, number: int, macro: int) -> Iterator[tuple[str, Dataset]]:
        """The data sets that may hold a frame's transform, and the name of their groups."""
        yield "", self._header.dataset
        if self.has_groups:
            if self._latest[0] != number:
                self._latest = (number, self._group_item(FRAME_GROUPS, number))
            for place, group in (("per_frame", self._latest[1]), ("shared", self._shared)):
                item = None if group is None else first_item(group, macro)
                if item is not None:
                    yield place, item

    def _group_item(self, sequence: int, number: int) -> Dataset | None:
        """The macros of a functional groups item that say how its frame is displayed."""
        group = self._header.groups.get(sequence)
        if group is None or number >= len(group.places):
            return None
        start, length = group.places[number]
        if length > _LARGEST_ITEM:
            return None
        self._header.stream.seek(start)
        item = self._header.stream.read(length)
        with contextlib.suppress(ReadingError):
            return _parse_item(item, group)
        return None


def _parse_item(item: bytes, group: FunctionalGroup) -> Dataset:
    reader, encoding, position = ElementReader(io.BytesIO(item), size=len(item)), group.encoding, 0
    collector = ElementCollector(reader, encoding)
    while (head := reader.head(position, encoding)) is not None:
        position = reader.end(head, encoding)
        if head.tag in (_FRAME_VOI, _PIXEL_VALUES):
            collector.add(head, position)
    return collector.dataset()


def _read_rescale(dataset: Dataset, problems: _Problems) -> Rescale | None:
    pairs, is_odd = _read_pairs(dataset, _RESCALE_TAGS)
    slope, intercept = pairs[0] if len(pairs) == 1 else (None, None)
    if slope is None or intercept is None or slope == 0:
        problems.is_ignored = True
        return None
    if is_odd:
        problems.deviations.append("the rescale slope or intercept is not written as a number")
    return None if (slope, intercept) == (1, 0) else Rescale(slope, intercept)


def _read_window(dataset: Dataset, problems: _Problems) -> VoiWindow | None:
    """First valid window (PS3.3 C.11.2.1.2)."""
    function = text(dataset, _VOI_FUNCTION) or "LINEAR"
    if function not in _FUNCTIONS:
        function, problems.is_ignored = "LINEAR", True
    pairs, is_odd = _read_pairs(dataset, _WINDOW_TAGS)
    if any(None in pair for pair in pairs):
        problems.is_ignored = True
    for center, width in pairs:
        # LINEAR needs a width of at least 1, the other two any positive one.
        is_wide = width is not None and (width >= 1 if function == "LINEAR" else width > 0)
        if center is not None and width is not None and is_wide:
            if is_odd:
                problems.deviations.append("the window is not written as numbers")
            return VoiWindow(center, width, function)
        problems.is_ignored = True
    problems.is_ignored = True
    return None


def _read_pairs(
    dataset: Dataset, tags: tuple[int, int]
) -> tuple[list[tuple[float | None, float | None]], bool]:
    """The values of two elements side by side, and whether one is not written as a number."""
    (first, is_first_odd), (second, is_second_odd) = (listed_numbers(dataset, t) for t in tags)
    return list(zip_longest(first, second)), is_first_odd or is_second_odd


def read_lut(item: Dataset | None, *, is_signed: bool, little: bool) -> LookupTable | None:
    """Read a modality or VOI LUT from the item of its sequence.

    The raw bytes are read: value representations of these elements depend on other elements and
    are often wrong.

    Args:
        item: The first item of the sequence, or None.
        is_signed: Whether the values that are looked up can be negative.
        little: Whether the data set is in little endian; an item with an order of its own, as in
            UN, keeps to it.

    Returns:
        The table; None without an item, without LUT Descriptor (0028,3002) of three words or LUT
        Data (0028,3006), for entries of other than 1 to 16 bits, or for too few of them.
    """
    if item is None:
        return None
    own = item.original_encoding[1]
    little = little if own is None else own
    descriptor = words_of(item, _LUT_DESCRIPTOR, little=little)
    data = raw_bytes(item, _LUT_DATA)
    if len(descriptor) != 3 or data is None:
        return None
    count, first, bits = descriptor[0] or 1 << 16, descriptor[1], descriptor[2]
    if not 1 <= bits <= 16:
        return None
    element = item.get_item(_LUT_DESCRIPTOR)
    if is_signed or (element is not None and element.VR == "SS"):
        first = signed_word(first)
    entries = _entries(data, count=count, bits=bits, little=little)
    return None if entries is None else LookupTable(entries, first, bits)


def signed_word(word: int) -> int:
    """Return the signed number with the bits of an unsigned 16-bit word: 65535 becomes -1."""
    return word - (1 << 16) if word >= 1 << 15 else word


def _entries(data: bytes, *, count: int, bits: int, little: bool) -> GreyValues | None:
    """Entries of a table, one to a word, or two to a word where 8 bits are packed."""
    order = "<" if little else ">"
    if len(data) >= 2 * count:
        entries = np.frombuffer(data, f"{order}u2", count)
    elif bits <= 8 and len(data) >= count:
        even = data[: len(data) // 2 * 2] + data[len(data) // 2 * 2 :].ljust(len(data) % 2 * 2)
        packed = np.frombuffer(even, f"{order}u2").astype("<u2")
        entries = packed.view(np.uint8)[:count].astype(np.uint16)
    else:
        return None
    capped: GreyValues = np.minimum(entries, (1 << bits) - 1).astype(np.float64)
    return capped


def read_palette(dataset: Dataset, *, is_signed: bool, little: bool) -> Palette | None:
    """Read the three tables of a PALETTE COLOR image: plain ones or, in their place, segmented.

    Args:
        dataset: The image's header.
        is_signed: Whether stored values, and so the value of the first entry, are signed.
        little: Whether the header is in little endian.

    Returns:
        The palette; None if a table (red, green, blue) is missing or invalid, or lengths differ.
    """
    tables = []
    first = 0
    for channel in range(3):
        descriptor = words_of(dataset, _PALETTE_DESCRIPTOR + channel, little=little)
        if len(descriptor) != 3 or descriptor[2] not in (8, 16):
            return None
        count, first, bits = descriptor[0] or 1 << 16, descriptor[1], descriptor[2]
        table = _palette_table(dataset, channel, count=count, bits=bits, little=little)
        if table is None:
            return None
        # Of 16 bits the upper 8 count, as in DCMTK: writers put 8-bit palettes there, with zeros
        # or with copies below them.
        tables.append(np.floor(table / 256 if bits == 16 else table) / 255)
    if len({len(table) for table in tables}) != 1:
        return None
    return Palette(np.stack(tables, axis=1), signed_word(first) if is_signed else first)


def _palette_table(
    dataset: Dataset, channel: int, *, count: int, bits: int, little: bool
) -> GreyValues | None:
    data = raw_bytes(dataset, _PALETTE_DATA + channel)
    if data is not None:
        return _entries(data, count=count, bits=bits, little=little)
    segmented = raw_bytes(dataset, _SEGMENTED_DATA + channel)
    if segmented is None:
        return None
    codes = np.frombuffer(segmented[: len(segmented) // 2 * 2], "<u2" if little else ">u2")
    if bits == 8:
        codes = codes.astype("<u2").view(np.uint8).astype(np.uint16)
    return expand_segments(codes.astype(np.int64).tolist(), count=count)

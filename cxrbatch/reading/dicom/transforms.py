"""Reads the display transforms that a header asks for; an invalid one is as absent, and flagged."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from pydicom.dataset import Dataset

from cxrbatch.reading.dicom.element_reader import ElementReader
from cxrbatch.reading.dicom.header import (
    FRAME_GROUPS,
    SHARED_GROUPS,
    DicomHeader,
    ElementCollector,
    FunctionalGroup,
)
from cxrbatch.reading.dicom.lookup_tables import read_lut, signed_word
from cxrbatch.reading.dicom.values import first_item, listed_numbers, text, words_of
from cxrbatch.reading.display import (
    DisplayTransforms,
    LookupTable,
    Rescale,
    StoredLayout,
    VoiWindow,
)
from cxrbatch.reading.outcomes import ReadingError

_MODALITY_LUT_SEQUENCE, _VOI_LUT_SEQUENCE = 0x00283000, 0x00283010
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
        is_ignored: Whether the header has a window, LUT or rescale that is invalid, if only in
            part, and is left out.
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

        Three places are searched: the header itself, the frame's functional groups, the shared ones
        (PS3.3 C.7.6.16). The first modality transform counts, and the first VOI transform that is
        valid. An invalid one is left out and reported by `is_ignored`; nothing is raised.
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

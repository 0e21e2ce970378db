"""The display transforms that a header asks for; what is invalid is as absent, and flagged."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from pydicom.dataset import Dataset

from cxrbatch.reading.dicom.elements import (
    first_item,
    is_present,
    listed_numbers,
    raw_bytes,
    text,
    words,
)
from cxrbatch.reading.dicom.functional_groups import FRAME_VOI, PIXEL_VALUES, FunctionalGroups
from cxrbatch.reading.display import (
    Greyscale,
    Lut,
    Rescale,
    StoredLayout,
    Values,
    Window,
    full_range,
)

_LUT_DESCRIPTOR = 0x00283002
_LUT_DATA = 0x00283006
_MODALITY_LUT_SEQUENCE = 0x00283000
_VOI_LUT_SEQUENCE = 0x00283010
_WINDOW_TAGS = (0x00281050, 0x00281051)
_RESCALE_TAGS = (0x00281053, 0x00281052)
_VOI_FUNCTION = 0x00281056
_PADDING_TAGS = (0x00280120, 0x00280121)
_PRESENTATION_LUT_SHAPE = 0x20500020
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
# X-ray angiography, radiofluoroscopy and biplane angiography: their Modality LUT leads back to the
# beam's intensity and away from what is displayed (PS3.3 C.8.7.1.1.2). DCMTK leaves it out too.
_UNRESCALED_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.12.{number}" for number in (1, 2, 3))


@dataclass(frozen=True, slots=True)
class Transforms:
    """Display transforms, and what was wrong in the header.

    Attributes:
        greyscale: What `display.render` needs.
        is_ignored: Whether a transform was there but invalid.
        is_contradictory: Whether photometric interpretation and presentation LUT shape name
            opposite polarities.
        deviations: As of `Header`.
    """

    greyscale: Greyscale
    is_ignored: bool
    is_contradictory: bool
    deviations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TransformReader:
    """Reads the display transforms of the frames of a greyscale image.

    Attributes:
        dataset: The header.
        groups: Its functional groups, or None.
        layout: Where the value lies in its cell.
        photometric: "MONOCHROME1" or "MONOCHROME2".
        little: Byte order.
        sop_class: SOP Class UID, or None.
    """

    dataset: Dataset
    groups: FunctionalGroups | None
    layout: StoredLayout
    photometric: str
    little: bool
    sop_class: str | None

    def of_frame(self, number: int) -> Transforms:
        """The transforms of a frame, 0-based.

        What the header itself says comes first, then the frame's functional groups, then the
        shared ones (PS3.3 C.7.6.16).
        """
        findings = _Findings()
        modality = self._modality(number, findings)
        is_negative = full_range(self.layout, modality)[0] < 0
        voi, place = self._voi(number, findings, is_negative=is_negative)
        is_inverted, is_contradictory = _read_polarity(self.dataset, self.photometric)
        greyscale = Greyscale(
            layout=self.layout,
            padding=_read_padding(self.dataset, self.layout, little=self.little),
            modality=modality,
            voi=voi,
            is_inverted=is_inverted,
            voi_place=place,
        )
        return Transforms(
            greyscale, findings.is_ignored, is_contradictory, tuple(findings.deviations)
        )

    def _modality(self, number: int, findings: "_Findings") -> Rescale | Lut | None:
        if self.sop_class in _UNRESCALED_CLASSES:
            return None
        for _, dataset in self._sources(number, PIXEL_VALUES):
            if any(is_present(dataset, tag) for tag in (_MODALITY_LUT_SEQUENCE, *_RESCALE_TAGS)):
                return _read_modality(dataset, self.layout, findings, little=self.little)
        return None

    def _voi(
        self, number: int, findings: "_Findings", *, is_negative: bool
    ) -> tuple[Window | Lut | None, str]:
        for place, dataset in self._sources(number, FRAME_VOI):
            voi = _read_voi(dataset, findings, is_negative=is_negative, little=self.little)
            if voi is not None:
                return voi, place
        return None, ""

    def _sources(self, number: int, macro: int) -> Iterator[tuple[str, Dataset]]:
        yield "", self.dataset
        if self.groups is not None:
            yield from self.groups.of_frame(number, macro)


class _Findings:
    """What is wrong with the transforms of a frame."""

    def __init__(self) -> None:
        self.is_ignored = False
        self.deviations: list[str] = []


def _read_modality(
    dataset: Dataset, layout: StoredLayout, findings: _Findings, *, little: bool
) -> Rescale | Lut | None:
    """First modality LUT, else rescale (PS3.3 C.11.1)."""
    if is_present(dataset, _MODALITY_LUT_SEQUENCE):
        item = first_item(dataset, _MODALITY_LUT_SEQUENCE)
        lut = read_lut(item, is_signed=layout.is_signed, little=little)
        if lut is not None:
            return lut
        findings.is_ignored = True
    if not any(is_present(dataset, tag) for tag in _RESCALE_TAGS):
        return None
    pairs, is_odd = _read_pairs(dataset, _RESCALE_TAGS)
    slope, intercept = pairs[0] if len(pairs) == 1 else (None, None)
    if slope is None or intercept is None or slope == 0:
        findings.is_ignored = True
        return None
    if is_odd:
        findings.deviations.append("the rescale slope or intercept is not written as a number")
    return None if (slope, intercept) == (1, 0) else Rescale(slope, intercept)


def _read_voi(
    dataset: Dataset, findings: _Findings, *, is_negative: bool, little: bool
) -> Window | Lut | None:
    """First VOI LUT, else first valid window (PS3.3 C.11.2)."""
    if is_present(dataset, _VOI_LUT_SEQUENCE):
        item = first_item(dataset, _VOI_LUT_SEQUENCE)
        lut = read_lut(item, is_signed=is_negative, little=little)
        if lut is not None:
            return lut
        findings.is_ignored = True
    if not any(is_present(dataset, tag) for tag in _WINDOW_TAGS):
        return None
    function = text(dataset, _VOI_FUNCTION) or "LINEAR"
    if function not in _FUNCTIONS:
        function, findings.is_ignored = "LINEAR", True
    pairs, is_odd = _read_pairs(dataset, _WINDOW_TAGS)
    if any(None in pair for pair in pairs):
        findings.is_ignored = True
    for center, width in pairs:
        # LINEAR needs a width of at least 1, the other two any positive one.
        is_wide = width is not None and (width >= 1 if function == "LINEAR" else width > 0)
        if center is not None and width is not None and is_wide:
            if is_odd:
                findings.deviations.append("the window is not written as numbers")
            return Window(center, width, function)
        findings.is_ignored = True
    findings.is_ignored = True
    return None


def _read_pairs(
    dataset: Dataset, tags: tuple[int, int]
) -> tuple[list[tuple[float | None, float | None]], bool]:
    """The values of two elements side by side, and whether one is not written as a number."""
    (first, is_first_odd), (second, is_second_odd) = (listed_numbers(dataset, t) for t in tags)
    return list(zip_longest(first, second)), is_first_odd or is_second_odd


def _read_polarity(dataset: Dataset, photometric: str) -> tuple[bool, bool]:
    """Whether low values are white, and whether the header says so twice and differently.

    Presentation LUT Shape (2050,0020) says the same as the photometric interpretation (PS3.3
    C.8.11.3.1.2); where the two contradict each other the former holds, as in DCMTK.
    """
    by_photometric = photometric == "MONOCHROME1"
    shape = text(dataset, _PRESENTATION_LUT_SHAPE)
    if shape not in ("IDENTITY", "INVERSE"):
        return by_photometric, False
    return shape == "INVERSE", (shape == "INVERSE") != by_photometric


def _read_padding(
    dataset: Dataset, layout: StoredLayout, *, little: bool
) -> tuple[int, int] | None:
    """Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2), in the sign of the pixels."""
    ends = [words(dataset, tag, little=little)[:1] for tag in _PADDING_TAGS]
    if not ends[0]:
        return None
    values = [_signed(end[0]) if layout.is_signed else end[0] for end in ends if end]
    return min(values), max(values)


def read_lut(item: Dataset | None, *, is_signed: bool, little: bool) -> Lut | None:
    """A modality or VOI LUT out of its sequence item, None if it is invalid.

    Read from the raw bytes: value representations of these elements depend on other elements and
    are often wrong.

    Args:
        item: Item of a LUT sequence.
        is_signed: Whether the values that are looked up can be negative.
        little: Byte order of the data set; an item that has its own, as in UN, keeps to that.
    """
    if item is None:
        return None
    own = item.original_encoding[1]
    little = little if own is None else own
    descriptor = words(item, _LUT_DESCRIPTOR, little=little)
    data = raw_bytes(item, _LUT_DATA)
    if len(descriptor) != 3 or data is None:
        return None
    count, first, bits = descriptor[0] or 1 << 16, descriptor[1], descriptor[2]
    if not 1 <= bits <= 16:
        return None
    element = item.get_item(_LUT_DESCRIPTOR)
    if is_signed or (element is not None and element.VR == "SS"):
        first = _signed(first)
    entries = lut_entries(data, count=count, bits=bits, little=little)
    return None if entries is None else Lut(entries, first, bits)


def lut_entries(data: bytes, *, count: int, bits: int, little: bool) -> Values | None:
    """Entries of a LUT, one to a word, or two to a word where 8 bits are packed."""
    order = "<" if little else ">"
    if len(data) >= 2 * count:
        entries = np.frombuffer(data, f"{order}u2", count)
    elif bits <= 8 and len(data) >= count:
        even = data[: len(data) // 2 * 2] + data[len(data) // 2 * 2 :].ljust(len(data) % 2 * 2)
        packed = np.frombuffer(even, f"{order}u2").astype("<u2")
        entries = packed.view(np.uint8)[:count].astype(np.uint16)
    else:
        return None
    capped: Values = np.minimum(entries, (1 << bits) - 1).astype(np.float64)
    return capped


def _signed(word: int) -> int:
    return word - (1 << 16) if word >= 1 << 15 else word

"""The display transforms that a header asks for; what is invalid is as absent, and flagged."""

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from cxrbatch.reading.display import (
    Greyscale,
    Lut,
    Rescale,
    StoredLayout,
    Values,
    Window,
    full_range,
)
from cxrbatch.reading.elements import first_item, is_present, numbers, raw_bytes, text, words

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


@dataclass(frozen=True, slots=True)
class Transforms:
    """Display transforms, and what was wrong in the header.

    Attributes:
        greyscale: What `display.render` needs.
        is_ignored: Whether a transform was there but invalid.
        is_contradictory: Whether photometric interpretation and presentation LUT shape name
            opposite polarities.
    """

    greyscale: Greyscale
    is_ignored: bool
    is_contradictory: bool


def read_transforms(
    dataset: Dataset, *, layout: StoredLayout, photometric: str, little: bool
) -> Transforms:
    """Read all display transforms of a greyscale image from its header."""
    modality, is_bad_modality = _read_modality(dataset, layout, little=little)
    is_negative = full_range(layout, modality)[0] < 0
    voi, is_bad_voi = _read_voi(dataset, is_negative=is_negative, little=little)
    is_inverted, is_contradictory = _read_polarity(dataset, photometric)
    greyscale = Greyscale(
        layout=layout,
        padding=_read_padding(dataset, layout, little=little),
        modality=modality,
        voi=voi,
        is_inverted=is_inverted,
    )
    return Transforms(greyscale, is_bad_modality or is_bad_voi, is_contradictory)


def _read_modality(
    dataset: Dataset, layout: StoredLayout, *, little: bool
) -> tuple[Rescale | Lut | None, bool]:
    """First modality LUT, else rescale (PS3.3 C.11.1)."""
    is_ignored = False
    if is_present(dataset, _MODALITY_LUT_SEQUENCE):
        item = first_item(dataset, _MODALITY_LUT_SEQUENCE)
        lut = read_lut(item, is_signed=layout.is_signed, little=little)
        if lut is not None:
            return lut, False
        is_ignored = True
    if not any(is_present(dataset, tag) for tag in _RESCALE_TAGS):
        return None, is_ignored
    slope, intercept = (numbers(dataset, tag) for tag in _RESCALE_TAGS)
    if slope is None or intercept is None or len(slope) != 1 or len(intercept) != 1:
        return None, True
    if slope[0] == 0:
        return None, True
    if (slope[0], intercept[0]) == (1, 0):
        return None, is_ignored
    return Rescale(slope[0], intercept[0]), is_ignored


def _read_voi(
    dataset: Dataset, *, is_negative: bool, little: bool
) -> tuple[Window | Lut | None, bool]:
    """First VOI LUT, else first window (PS3.3 C.11.2)."""
    is_ignored = False
    if is_present(dataset, _VOI_LUT_SEQUENCE):
        item = first_item(dataset, _VOI_LUT_SEQUENCE)
        lut = read_lut(item, is_signed=is_negative, little=little)
        if lut is not None:
            return lut, False
        is_ignored = True
    if not any(is_present(dataset, tag) for tag in _WINDOW_TAGS):
        return None, is_ignored
    function = text(dataset, _VOI_FUNCTION) or "LINEAR"
    if function not in _FUNCTIONS:
        function, is_ignored = "LINEAR", True
    centers, widths = (numbers(dataset, tag) for tag in _WINDOW_TAGS)
    if centers is None or widths is None or len(centers) != len(widths):
        return None, True
    # LINEAR needs a width of at least 1, the other two any positive one.
    if widths[0] <= 0 or (function == "LINEAR" and widths[0] < 1):
        return None, True
    return Window(centers[0], widths[0], function), is_ignored


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
        little: Byte order.
    """
    if item is None:
        return None
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

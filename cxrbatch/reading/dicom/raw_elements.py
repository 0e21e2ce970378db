"""Data elements as pydicom takes them, to convert each when its value is asked for."""

from typing import cast

from pydicom.dataelem import RawDataElement, empty_value_for_VR
from pydicom.tag import BaseTag

from cxrbatch.reading.dicom.element_reader import UNDEFINED, ElementReader, Encoding, Head

_LARGEST_VALUE = 1 << 20


def raw_element(reader: ElementReader, head: Head, end: int, encoding: Encoding) -> RawDataElement:
    """An element by its head; a value of more than a mebibyte is left out.

    Args:
        reader: Of the file.
        head: Of the element.
        end: Offset behind it.
        encoding: Of the data set.

    Raises:
        ReadingError: As of `ElementReader.value`.
    """
    tag, vr, length, start = head
    little = encoding.little
    value: bytes | None = None
    if length == UNDEFINED:
        value = reader.value(head, end)
        vr, little = "SQ", value[:1] == b"\xfe"
    elif length == 0:
        value = cast(bytes | None, empty_value_for_VR(vr, raw=True))
    elif length <= _LARGEST_VALUE:
        value = reader.value(head, end)
    # UN is in little endian in all files (PS3.5 section 6.2.2).
    little = little or vr == "UN"
    return RawDataElement(BaseTag(tag), vr, length, value, start, encoding.implicit, little)

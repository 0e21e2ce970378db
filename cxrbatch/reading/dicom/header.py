"""Reads the header of a DICOM file, within limits and without trusting any value in it.

This module finds the data set in whatever wrapping it has (preamble or none, file meta or none,
deflated or not) and collects the elements that are asked for; pydicom converts their values.
"""

import contextlib
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from cxrbatch.reading.containers.compression import InflatedStream
from cxrbatch.reading.dicom.element_reader import (
    ENCODINGS,
    HEADER_BYTES,
    PIXEL_TAGS,
    UNDEFINED,
    ElementEncoding,
    ElementHead,
    ElementReader,
)
from cxrbatch.reading.dicom.values import element_name, text, values_of
from cxrbatch.reading.outcomes import ReadingError, reading_error
from cxrbatch.reading.sniffing import HEAD_BYTES, is_big_endian, is_implicit, preamble_length

DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"

_GROUP_LENGTH, _META_SOP_CLASS, _TRANSFER_SYNTAX = 0x00020000, 0x00020002, 0x00020010
_META_TAGS = frozenset((_GROUP_LENGTH, _META_SOP_CLASS, _TRANSFER_SYNTAX))
_EXPLICIT_LITTLE = ENCODINGS[False, True]
# What may stand in front of a data set although it belongs elsewhere: the command of a network
# message, and the file meta once more.
_STRAY_GROUPS = (b"\0\0", b"\2\0", b"\0\2")

SHARED_GROUPS, FRAME_GROUPS = 0x52009229, 0x52009230
_UNREADABLE_GROUPS = "the functional groups cannot be read: what they say of frames is ignored"
_LARGEST_VALUE = 1 << 20

# All that is ever asked of a header, by group. Other elements are skipped unread.
_WANTED_ELEMENTS = """
0004: 1220
0008: 0005 0016 0018 0020 0050 0060 0064 0068 0070 1090 2218
0010: 0020 0021 0030 0040 1010
0018: 0015 1164 2010 5101
0020: 000D 000E 0020 0060 0062
0028: 0002 0004 0006 0008 0010 0011 0030 0034 0100 0101 0102 0103 0120 0121 0301 1050 1051
0028: 1052 1053 1056 1101 1102 1103 1201 1202 1203 1221 1222 1223 2110 2112 3000 3010
0054: 0220
2050: 0020
7FE0: 0001 0002
"""
_WANTED = frozenset(
    int(line[:4] + element, 16)
    for line in _WANTED_ELEMENTS.strip().splitlines()
    for element in line[5:].split()
)


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the pixel data lie in the file.

    Attributes:
        tag: Of integer, float or double pixel data.
        vr: Value representation, None where there is none.
        length: Bytes of the value; `element_reader.UNDEFINED` if a delimiter ends it.
        offset: Offset of the value.
    """

    tag: int
    vr: str | None
    length: int
    offset: int


@dataclass(frozen=True, slots=True)
class FunctionalGroup:
    """Where the items of a functional groups sequence lie: header values of one or all frames.

    Attributes:
        places: Offset and length of each item's value in the file; items are read later.
        encoding: How their elements are written.
    """

    places: list[tuple[int, int]]
    encoding: ElementEncoding


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """A parsed header and where to read on.

    Attributes:
        dataset: The wanted elements only; their values are read by the functions of `values`.
        transfer_syntax: UID as the file says, or as its bytes show where it says nothing.
        sop_class: SOP Class UID of the data set or, failing that, of the file meta.
        is_little_endian: Byte order of the data set.
        pixels: Where the pixel data lie; None if the file has none, or its header is damaged.
        stream: The file, inflated if it was deflated.
        size: Bytes in `stream`; None if it is inflated, as its size is not known.
        failure: Why parsing ended early, or None; what came before is in `dataset`.
        deviations: How the file breaks the standard although it can be read: short reasons without
            header values, for the detail of a Reading with the flag `nonconforming`.
        groups: The functional groups sequences whose items could be listed, by tag.
    """

    dataset: Dataset
    transfer_syntax: str
    sop_class: str | None
    is_little_endian: bool
    pixels: PixelElement | None
    stream: BinaryIO
    size: int | None
    failure: ReadingError | None
    deviations: tuple[str, ...] = ()
    groups: dict[int, FunctionalGroup] = field(default_factory=dict)


class ElementCollector:
    """Collects elements of a data set, for pydicom to convert their values.

    Args:
        reader: Reads the elements.
        encoding: How they are written.

    Attributes:
        elements: The collected elements by tag.
        groups: The functional groups sequences by tag.
    """

    def __init__(self, reader: ElementReader, encoding: ElementEncoding) -> None:
        self._reader = reader
        self.encoding = encoding
        self.elements: dict[BaseTag, DataElement | RawDataElement] = {}
        self.groups: dict[int, FunctionalGroup] = {}

    def dataset(self) -> Dataset:
        """Return a pydicom data set of the elements, with their byte order and character set."""
        dataset, encodings = Dataset(self.elements), ["iso8859"]
        # A character set that is unknown counts as none.
        with contextlib.suppress(Exception):
            named = [str(value) for value in values_of(dataset, 0x00080005)]
            encodings = convert_encodings(named) if named else encodings
        dataset.set_original_encoding(self.encoding.implicit, self.encoding.little, encodings)
        return dataset

    def add(self, head: ElementHead, end: int) -> None:
        """Read an element and collect it, unless one of the same tag has been collected.

        So the first of repeated elements counts, as in DCMTK and GDCM. An element with a defined
        length over 1 MiB is collected without its value.

        Args:
            head: The element's head.
            end: Offset behind the element.

        Raises:
            ReadingError: `truncated` inside the value, `too_large` over the limits of the reader.
        """
        tag, vr, length, start = head
        if tag in self.elements:
            return
        little = self.encoding.little
        value: bytes | None = None
        if length == UNDEFINED:
            value = self._reader.value(head, end)
            vr, little = "SQ", value[:1] == b"\xfe"
        elif length == 0:
            value = cast(bytes | None, empty_value_for_VR(vr, raw=True))
        elif length <= _LARGEST_VALUE:
            value = self._reader.value(head, end)
        # UN is in little endian in all files (PS3.5 section 6.2.2).
        little, key, implicit = little or vr == "UN", BaseTag(tag), self.encoding.implicit
        self.elements[key] = RawDataElement(key, vr, length, value, start, implicit, little)

    def collect(self, position: int, last: int = -1) -> PixelElement | None:
        """Add wanted elements and groups up to the pixel data, or to the end of the stream.

        Args:
            position: Offset of the first element.
            last: The tag in front of the first element: a lower or equal one is a deviation.

        Returns:
            Where the pixel data lie; None if the stream ends without any.

        Raises:
            ReadingError: `truncated`, `corrupt` or `too_large`, as raised by `ElementReader`.
        """
        reader, encoding = self._reader, self.encoding
        while (head := reader.head(position, encoding)) is not None:
            tag = head.tag
            if tag <= last:
                reader.note("order", f"{element_name(tag)} is repeated or out of order")
            if tag in PIXEL_TAGS:
                return PixelElement(tag, head.vr, head.length, head.start)
            last = tag
            if head.length & 1 and head.length != UNDEFINED:
                reader.note("odd", f"{element_name(tag)} has an odd length")
            if tag in (SHARED_GROUPS, FRAME_GROUPS):
                # What is of unknown type is written without types (PS3.5 section 6.2.2).
                own = ENCODINGS[True, True] if head.vr == "UN" else encoding
                listed = reader.list_items(head, own)
                if listed is not None:
                    self.groups.setdefault(tag, FunctionalGroup(listed[0], own))
                    position = listed[1]
                    continue
                reader.note("groups", _UNREADABLE_GROUPS)
            position = end = reader.end(head, encoding)
            if tag in _WANTED:
                self.add(head, end)
        return None

    def collect_behind(self, pixels: PixelElement, *, size: int) -> None:
        """Add wanted elements that lie behind uncompressed pixel data, out of their order.

        Of an element both in front and behind, the one in front counts. If the bytes cannot be
        read as elements to the end, none is added and a deviation is recorded.

        Args:
            pixels: The pixel data; nothing is added for a length of `UNDEFINED`.
            size: Bytes in the file.
        """
        position = pixels.offset + pixels.length
        if pixels.length == UNDEFINED or position >= size:
            return
        second = self._reader.again()
        behind = ElementCollector(second, self.encoding)
        try:
            is_whole = behind.collect(position, last=pixels.tag) is None
        except ReadingError:
            is_whole = False
        if not is_whole:
            self._reader.note("behind", "stray bytes lie behind the pixel data")
            return
        for kind, deviation in second.deviations.items():
            self._reader.note(kind, deviation)
        self.elements = behind.elements | self.elements
        self.groups = behind.groups | self.groups


def read_header(stream: BinaryIO, *, size: int) -> DicomHeader:
    """Read the wanted elements in front of the pixel data, and behind if nothing is compressed.

    Any error in the data set, also an OSError or bytes that are no DICOM, becomes `failure`; the
    elements read before it are kept. The position of `stream` afterwards is undefined.

    Args:
        stream: At the start of the file.
        size: Bytes in the file.

    Raises:
        OSError, ReadingError: From a read of the first 512 bytes; OSError also of the file meta.
    """
    start = preamble_length(stream.read(HEAD_BYTES), size=size)
    reader = ElementReader(stream, size=size)
    meta, start = _read_meta(reader, start)
    named = text(meta, _TRANSFER_SYNTAX)
    plain_size: int | None = size
    if named == DEFLATED:
        stream.seek(start)
        stream = cast(BinaryIO, InflatedStream(stream, limit=HEADER_BYTES))
        start, plain_size = 0, None
        deviations, reader = reader.deviations, ElementReader(stream, size=None)
        reader.deviations |= deviations
    collector, pixels, failure = ElementCollector(reader, _EXPLICIT_LITTLE), None, None
    try:
        start = _skip_stray_groups(reader, start)
        collector.encoding = _find_encoding(reader, start, named)
        pixels = collector.collect(start)
        if pixels is not None and plain_size is not None:
            collector.collect_behind(pixels, size=plain_size)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        failure = reading_error(error)
    encoding, dataset = collector.encoding, collector.dataset()
    guessed = IMPLICIT if encoding.implicit else EXPLICIT if encoding.little else BIG_ENDIAN
    return DicomHeader(
        dataset=dataset,
        transfer_syntax=named or guessed,
        sop_class=text(dataset, 0x00080016) or text(meta, _META_SOP_CLASS),
        is_little_endian=encoding.little,
        pixels=pixels,
        stream=stream,
        size=plain_size,
        failure=failure,
        deviations=tuple(reader.deviations.values()),
        groups=collector.groups,
    )


def _read_meta(reader: ElementReader, start: int) -> tuple[Dataset, int]:
    """The file meta group (PS3.10 section 7.1), and where it ends.

    It ends where its group length says, if an element of it does; else with its group, or where
    the group is repeated. It does not end in front of its transfer syntax.
    """
    meta = ElementCollector(reader, _EXPLICIT_LITTLE)
    position, last, declared = start, -1, -1
    with contextlib.suppress(ReadingError):
        while (first := reader.peek(position, 4))[:2] == b"\2\0":
            tag = 0x00020000 | int.from_bytes(first[2:], "little")
            is_over = position == declared or (position > declared and tag <= last)
            if is_over and _TRANSFER_SYNTAX in meta.elements:
                break
            if (head := reader.head(position, _EXPLICIT_LITTLE)) is None:
                break
            end = reader.end(head, _EXPLICIT_LITTLE)
            if tag in _META_TAGS:
                meta.add(head, end)
            if tag == _GROUP_LENGTH and position == start:
                declared = end + int.from_bytes(reader.value(head, end), "little")
            position, last = end, tag
    if declared not in (-1, position):
        reader.note("meta", "the group length of the file meta is wrong")
    return Dataset(meta.elements), position


def _skip_stray_groups(reader: ElementReader, start: int) -> int:
    """Return the offset of the data set, behind groups that do not belong to it."""
    while len(first := reader.peek(start, 8)) == 8 and first[:2] in _STRAY_GROUPS:
        reader.note("group", f"group {max(first[:2]):04x} lies inside the data set")
        # Commands are in implicit VR whatever the data set is in (PS3.7 section 6.3.1).
        encoding = ENCODINGS[is_implicit(first), not is_big_endian(first)]
        head = reader.head(start, encoding)
        if head is None:
            break
        start = reader.end(head, encoding)
    return start


def _find_encoding(reader: ElementReader, start: int, named: str | None) -> ElementEncoding:
    """The encoding of the data set, by its bytes: in real files they contradict the file meta.

    An element without a valid VR is one in explicit VR unless others follow without one.
    """
    first = reader.peek(start, 6)
    implicit, little = is_implicit(first), not is_big_endian(first)
    if implicit and named != IMPLICIT:
        implicit = reader.leads_on(start, ENCODINGS[True, little])
    if named is not None and (implicit, little) != (named == IMPLICIT, named != BIG_ENDIAN):
        reader.note("encoding", "the data set is not encoded as its transfer syntax says")
    return ENCODINGS[implicit, little]

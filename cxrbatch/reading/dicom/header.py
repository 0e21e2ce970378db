"""The header of a DICOM file, read within limits and without trusting any value in it.

This module finds the data set in whatever wrapping it has (preamble or none, file meta or none,
deflated or not) and collects the elements that are asked for; pydicom converts their values.
"""

import contextlib
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from cxrbatch.reading.containers.compression import InflatedStream
from cxrbatch.reading.dicom.element_reader import (
    ENCODINGS,
    HEADER_BYTES,
    PIXEL_TAGS,
    UNDEFINED,
    ElementReader,
    Encoding,
    Head,
    element_name,
)
from cxrbatch.reading.dicom.elements import raw_element, text, values_of
from cxrbatch.reading.dicom.functional_groups import (
    FRAME_GROUPS,
    SHARED_GROUPS,
    GroupItems,
    list_items,
)
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

_FUNCTIONAL_GROUPS = (SHARED_GROUPS, FRAME_GROUPS)
_UNREADABLE_GROUPS = "the functional groups cannot be read: what they say of frames is ignored"

# All that is ever asked of a header. Other elements are skipped unread.
_WANTED = frozenset(
    (
        *(0x00041220, 0x00080005, 0x00080016, 0x00080018, 0x00080020, 0x00080060, 0x00080064),
        *(0x00080068, 0x00080070, 0x00081090, 0x00100020, 0x00100021, 0x00100030, 0x00100040),
        *(0x00101010, 0x00180015, 0x00181164, 0x00182010, 0x00185101, 0x0020000D, 0x0020000E),
        *(0x00200060, 0x00200062, 0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010),
        *(0x00280011, 0x00280030, 0x00280034, 0x00280100),
        *(0x00280101, 0x00280102, 0x00280103, 0x00280120, 0x00280121, 0x00280301, 0x00281050),
        *(0x00281051, 0x00281052, 0x00281053, 0x00281056, 0x00281101, 0x00281102, 0x00281103),
        *(0x00281201, 0x00281202, 0x00281203, 0x00281221, 0x00281222, 0x00281223, 0x00282110),
        *(0x00283000, 0x00283010, 0x20500020, 0x7FE00001, 0x7FE00002),
        *(0x00082218, 0x00200020, 0x00282112, 0x00540220),
    )
)


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the pixel data lie: `offset` is that of the value; length 0xFFFFFFFF is undefined."""

    tag: int
    vr: str | None
    length: int
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header and where to read on.

    Attributes:
        dataset: The wanted elements only; ask through `elements`.
        transfer_syntax: UID as the file says, or as its bytes show where it says nothing.
        sop_class: SOP Class UID of the data set or, failing that, of the file meta.
        is_little_endian: Byte order of the data set.
        pixels: Where the pixel data lie, or None.
        stream: The file, inflated if it was deflated.
        size: Bytes in `stream`, or None where that is not known.
        failure: Why parsing ended early, or None; what came before is in `dataset`.
        deviations: How the file breaks the standard although it can be read: short reasons for
            a person, without values of the header. They go into `detail`, with a flag.
        groups: The items of the functional groups sequences that are there, by tag.
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
    groups: dict[int, GroupItems] = field(default_factory=dict)


_Elements = dict[BaseTag, DataElement | RawDataElement]


@dataclass(slots=True)
class _Found:
    """What parsing has found: wanted elements, and functional groups, whose items are listed."""

    elements: _Elements = field(default_factory=dict)
    groups: dict[int, GroupItems] = field(default_factory=dict)


def read_header(stream: BinaryIO, *, size: int) -> Header:
    """Read the elements in front of the pixel data, and those behind uncompressed pixel data.

    Args:
        stream: At the start of the file.
        size: Bytes in the file.

    Raises:
        ReadingError: `corrupt` or `too_large` if a deflated file cannot be inflated.
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
        outer, reader = reader, ElementReader(stream, size=None)
        reader.deviations |= outer.deviations
    found = _Found()
    encoding, pixels, failure = _EXPLICIT_LITTLE, None, None
    try:
        start = _skip_stray_groups(reader, start)
        encoding = _find_encoding(reader, start, named)
        pixels = _collect(reader, start, encoding, found)
        if pixels is not None and plain_size is not None:
            _collect_behind(reader, pixels, encoding, found, size=plain_size)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        failure = reading_error(error)
    guessed = IMPLICIT if encoding.implicit else EXPLICIT if encoding.little else BIG_ENDIAN
    dataset = _with_encoding(found.elements, encoding)
    return Header(
        dataset=dataset,
        transfer_syntax=named or guessed,
        sop_class=text(dataset, 0x00080016) or text(meta, _META_SOP_CLASS),
        is_little_endian=encoding.little,
        pixels=pixels,
        stream=stream,
        size=plain_size,
        failure=failure,
        deviations=tuple(reader.deviations.values()),
        groups=found.groups,
    )


def _read_meta(reader: ElementReader, start: int) -> tuple[Dataset, int]:
    """The file meta group (PS3.10 section 7.1), and where it ends.

    It ends where its group length says, if an element of it does; else with its group, or where
    the group is repeated. It does not end in front of its transfer syntax.
    """
    elements: _Elements = {}
    position, last, declared = start, -1, -1
    with contextlib.suppress(ReadingError):
        while (first := reader.peek(position, 4))[:2] == b"\2\0":
            tag = 0x00020000 | int.from_bytes(first[2:], "little")
            is_over = position == declared or (position > declared and tag <= last)
            if is_over and _TRANSFER_SYNTAX in elements:
                break
            if (head := reader.head(position, _EXPLICIT_LITTLE)) is None:
                break
            end = reader.end(head, _EXPLICIT_LITTLE)
            if tag in _META_TAGS and tag not in elements:
                elements[BaseTag(tag)] = raw_element(reader, head, end, _EXPLICIT_LITTLE)
            if tag == _GROUP_LENGTH and position == start:
                declared = end + int.from_bytes(reader.value(head, end), "little")
            position, last = end, tag
    if declared not in (-1, position):
        reader.note("meta", "the group length of the file meta is wrong")
    return Dataset(elements), position


def _skip_stray_groups(reader: ElementReader, start: int) -> int:
    """Where the data set itself begins."""
    while len(first := reader.peek(start, 8)) == 8 and first[:2] in _STRAY_GROUPS:
        reader.note("group", f"group {max(first[:2]):04x} lies inside the data set")
        # Commands are in implicit VR whatever the data set is in (PS3.7 section 6.3.1).
        encoding = ENCODINGS[is_implicit(first), not is_big_endian(first)]
        head = reader.head(start, encoding)
        if head is None:
            break
        start = reader.end(head, encoding)
    return start


def _find_encoding(reader: ElementReader, start: int, named: str | None) -> Encoding:
    """The encoding of the data set.

    The bytes decide, not the file meta: the two contradict each other in real files. An element
    without a valid VR is one in explicit VR unless others follow without one.
    """
    first = reader.peek(start, 6)
    implicit, little = is_implicit(first), not is_big_endian(first)
    if implicit and named != IMPLICIT:
        implicit = reader.leads_on(start, ENCODINGS[True, little])
    if named is not None and (implicit, little) != (named == IMPLICIT, named != BIG_ENDIAN):
        reader.note("encoding", "the data set is not encoded as its transfer syntax says")
    return ENCODINGS[implicit, little]


def _collect(
    reader: ElementReader, position: int, encoding: Encoding, found: _Found, last: int = -1
) -> PixelElement | None:
    """Add the wanted elements up to pixel data, which are returned, or to the end.

    Of repeated elements the first one counts, as in DCMTK and GDCM.

    Args:
        reader: Of the file.
        position: Offset of the first element.
        encoding: Of the data set.
        found: Where they are added.
        last: The tag in front.

    Raises:
        ReadingError: As of `ElementReader`.
    """
    while (head := reader.head(position, encoding)) is not None:
        tag = head.tag
        if tag <= last:
            reader.note("order", f"{element_name(tag)} is repeated or out of order")
        if tag in PIXEL_TAGS:
            return PixelElement(tag, head.vr, head.length, head.start)
        last = tag
        if head.length & 1 and head.length != UNDEFINED:
            reader.note("odd", f"{element_name(tag)} has an odd length")
        if tag in _FUNCTIONAL_GROUPS:
            position = _list_groups(reader, head, encoding, found)
            continue
        position = end = reader.end(head, encoding)
        if tag in _WANTED and tag not in found.elements:
            found.elements[BaseTag(tag)] = raw_element(reader, head, end, encoding)
    return None


def _list_groups(reader: ElementReader, head: Head, encoding: Encoding, found: _Found) -> int:
    """List the items of a functional groups sequence; give the offset behind it."""
    stream = reader.stream
    stream.seek(head.start)
    items = list_items(
        stream, head.vr, head.length, implicit=encoding.implicit, little=encoding.little
    )
    if items is None:
        reader.note("groups", _UNREADABLE_GROUPS)
        return reader.end(head, encoding)
    found.groups.setdefault(head.tag, items)
    # Without a length the listing ends in front of the delimiter, which takes 8 bytes.
    return stream.tell() + 8 if head.length == UNDEFINED else head.start + head.length


def _collect_behind(
    reader: ElementReader,
    pixels: PixelElement,
    encoding: Encoding,
    found: _Found,
    *,
    size: int,
) -> None:
    """Add wanted elements that lie behind uncompressed pixel data, out of their order."""
    position = pixels.offset + pixels.length
    if pixels.length == UNDEFINED or position >= size:
        return
    behind = _Found()
    second = reader.again()
    try:
        is_over = _collect(second, position, encoding, behind, last=pixels.tag) is None
    except ReadingError:
        is_over = False
    if not is_over:
        reader.note("behind", "stray bytes lie behind the pixel data")
        return
    for kind, deviation in second.deviations.items():
        reader.note(kind, deviation)
    found.elements = behind.elements | found.elements
    found.groups = behind.groups | found.groups


def _with_encoding(elements: _Elements, encoding: Encoding) -> Dataset:
    """A data set that knows its character set; an unknown one is as none."""
    dataset = Dataset(elements)
    encodings = ["iso8859"]
    with contextlib.suppress(Exception):
        named = [str(value) for value in values_of(dataset, 0x00080005)]
        encodings = convert_encodings(named) if named else encodings
    dataset.set_original_encoding(encoding.implicit, encoding.little, encodings)
    return dataset

"""The functional groups of multi-frame objects: what holds for one frame, or for all of them.

An object of thousands of frames has a hundred thousand elements in its groups. So the header's
parser only lists where each frame's item lies; an item is parsed when its frame is asked for.

Source: DICOM PS3.3 C.7.6.16.
"""

import contextlib
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from cxrbatch.reading.dicom.element_reader import ENCODINGS, ElementReader, Encoding
from cxrbatch.reading.dicom.elements import first_item, raw_element
from cxrbatch.reading.outcomes import ReadingError

SHARED_GROUPS = 0x52009229
FRAME_GROUPS = 0x52009230
FRAME_VOI = 0x00289132
PIXEL_VALUES = 0x00289145

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_LENGTHS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
# Reads before listing gives up: a second of work, and more than any real object needs.
_MOST_READS = 1_000_000
# As many as frames are read.
_MOST_ITEMS = 50_000
_MOST_NESTED = 16
# An item with more bytes than this holds more than a window or a VOI LUT.
_LARGEST_ITEM = 1 << 18


@dataclass(frozen=True, slots=True)
class GroupItems:
    """The items of one functional groups sequence.

    Attributes:
        places: Offset and length of each item's value in the file.
        is_implicit: Whether elements carry no value representation.
        is_little_endian: Byte order.
    """

    places: list[tuple[int, int]]
    is_implicit: bool
    is_little_endian: bool


def list_items(
    stream: BinaryIO, vr: str | None, length: int, *, implicit: bool, little: bool
) -> GroupItems | None:
    """List the items of a sequence whose value starts here.

    Leaves the stream where it was, or, where the sequence has no length, in front of its
    delimiter: a parser that reads on from there finds an empty sequence.

    Returns:
        None where the bytes are no items; the stream is where it was then.
    """
    start = stream.tell()
    # What is of unknown type is written without types (PS3.5 section 6.2.2).
    walk = _Walk(stream, implicit=implicit or vr == "UN", little=little or vr == "UN")
    try:
        places = walk.items(length)
    except (_NoItemsError, struct.error):
        stream.seek(start)
        return None
    if length != _UNDEFINED:
        stream.seek(start)
    return GroupItems(places, walk.is_implicit, walk.is_little_endian)


class _NoItemsError(Exception):
    """The bytes are not the items of a sequence, or too many."""


class _Walk:
    """Goes over items and elements by their lengths; values are not read."""

    def __init__(self, stream: BinaryIO, *, implicit: bool, little: bool) -> None:
        self._stream = stream
        self._reads = _MOST_READS
        self._set_encoding(implicit=implicit, little=little)

    def items(self, length: int, *, depth: int = 0) -> list[tuple[int, int]]:
        """Offset and length of each item; ends in front of the delimiter if there is one."""
        if depth > _MOST_NESTED:
            raise _NoItemsError
        places: list[tuple[int, int]] = []
        end = None if length == _UNDEFINED else self._stream.tell() + length
        while end is None or self._stream.tell() < end:
            tag, _, size = self._head(is_item=True)
            start = self._stream.tell()
            if tag == _SEQUENCE_END:
                self._stream.seek(start - 8)
                break
            if tag != _ITEM or len(places) == _MOST_ITEMS:
                raise _NoItemsError
            if size == _UNDEFINED:
                self._skip_elements(depth)
                size = self._stream.tell() - 8 - start
            else:
                self._stream.seek(start + size)
            places.append((start, size))
        return places

    def _set_encoding(self, *, implicit: bool, little: bool) -> None:
        self.is_implicit = implicit
        self.is_little_endian = little
        order = "<" if little else ">"
        self._tag = struct.Struct(f"{order}HH")
        self._long = struct.Struct(f"{order}I")
        self._short = struct.Struct(f"{order}H")

    def _skip_elements(self, depth: int) -> None:
        """Go behind the delimiter of an item."""
        while True:
            tag, vr, size = self._head()
            if tag == _ITEM_END:
                return
            if size == _UNDEFINED:
                implicit, little = self.is_implicit, self.is_little_endian
                if vr == b"UN":
                    self._set_encoding(implicit=True, little=True)
                self.items(_UNDEFINED, depth=depth + 1)
                self._set_encoding(implicit=implicit, little=little)
                size = 8
            self._stream.seek(size, 1)

    def _head(self, *, is_item: bool = False) -> tuple[int, bytes, int]:
        """Tag, value representation (if there is one) and length of an element or item."""
        self._reads -= 1
        if self._reads < 0:
            raise _NoItemsError
        head = self._stream.read(8)
        group, number = self._tag.unpack_from(head)
        tag, vr = group << 16 | number, head[4:6]
        if is_item or self.is_implicit or group == 0xFFFE:
            return tag, b"", self._long.unpack_from(head, 4)[0]
        if vr in _LONG_LENGTHS:
            return tag, vr, self._long.unpack(self._stream.read(4))[0]
        return tag, vr, self._short.unpack_from(head, 6)[0]


class FunctionalGroups:
    """What the functional groups say about frames.

    Args:
        stream: The file.
        shared: Items of the Shared Functional Groups Sequence (5200,9229), or None.
        frames: Items of the Per-frame Functional Groups Sequence (5200,9230), or None.
    """

    def __init__(
        self, stream: BinaryIO, shared: GroupItems | None, frames: GroupItems | None
    ) -> None:
        self._stream = stream
        self._frames = frames
        self._shared = self._parsed(shared, 0)
        self._latest: tuple[int, Dataset | None] = (-1, None)

    def of_frame(self, number: int, macro: int) -> list[tuple[str, Dataset]]:
        """The item of a functional group macro, such as Frame VOI LUT Sequence (0028,9132).

        Returns:
            Where it was found, "per_frame" or "shared", and the item; the frame's own first.
        """
        if self._latest[0] != number:
            self._latest = (number, self._parsed(self._frames, number))
        items = []
        for place, group in (("per_frame", self._latest[1]), ("shared", self._shared)):
            item = None if group is None else first_item(group, macro)
            if item is not None:
                items.append((place, item))
        return items

    def _parsed(self, group: GroupItems | None, number: int) -> Dataset | None:
        if group is None or number >= len(group.places):
            return None
        start, length = group.places[number]
        if length > _LARGEST_ITEM:
            return None
        self._stream.seek(start)
        item = self._stream.read(length)
        encoding = ENCODINGS[group.is_implicit, group.is_little_endian]
        with contextlib.suppress(ReadingError):
            dataset = Dataset(dict(_elements(item, encoding)))
            dataset.set_original_encoding(group.is_implicit, group.is_little_endian, "iso8859")
            return dataset
        return None


def _elements(item: bytes, encoding: Encoding) -> Iterator[tuple[BaseTag, RawDataElement]]:
    """The macros of an item that say how a frame is displayed.

    Raises:
        ReadingError: As of `ElementReader`.
    """
    reader, position = ElementReader(io.BytesIO(item), size=len(item)), 0
    while (head := reader.head(position, encoding)) is not None:
        end = reader.end(head, encoding)
        if head.tag in (FRAME_VOI, PIXEL_VALUES):
            yield BaseTag(head.tag), raw_element(reader, head, end, encoding)
        position = end

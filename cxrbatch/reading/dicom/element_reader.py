"""Walks over the data elements of a DICOM file, however each of them is encoded.

Files mix encodings: a sequence of VR UN is in implicit VR little endian wherever it lies, private
sequences often are, and some writers put two bytes that are no value representation (VR) where one
belongs. So the bytes decide, for each item and where need be for each element, and an encoding is
believed if the next elements lie where it says. pydicom's own parser believes each length, reads
UN in the file's byte order and lets the last of repeated elements win.

Source: DICOM PS3.5 section 7.1 (elements), 7.5 (sequences), 6.2.2 (UN).
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from cxrbatch.reading.dicom.values import element_name
from cxrbatch.reading.outcomes import Outcome, ReadingError
from cxrbatch.reading.sniffing import VALUE_REPRESENTATIONS

# A header that takes more reads or bytes is a bomb, or belongs to no radiograph.
_HEADER_READS = 50_000
HEADER_BYTES = 64 << 20
# Each item of a sequence counts as so many further reads: pydicom makes a data set of each, which
# takes as long as some twenty reads.
_ITEM_READS = 17
# Of a listing of functional groups: a second of work, and more than any real object needs. Listed
# items are parsed when their frame is, so they count as nothing more.
_LISTING_READS = 1_000_000
_MOST_ITEMS = 50_000  # as many as frames are read
_DEEPEST, _SCAN_STEP = 100, 1 << 16

# Float, double and integer pixel data (PS3.3 C.7.6.24 and C.7.6.3).
PIXEL_TAGS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
UNDEFINED = 0xFFFFFFFF
ITEM, _ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DELIMITING = 0xFFFE


@dataclass(frozen=True, slots=True)
class ElementEncoding:
    """How elements are written: without VR or with one, in which byte order.

    Attributes:
        implicit: Without VR.
        little: In little endian.
        head: Layout of group, number and length; with a VR of group, number, VR, 16-bit length.
        word: Layout of an unsigned number of 32 bits.
    """

    implicit: bool
    little: bool
    head: struct.Struct
    word: struct.Struct


# By whether they are implicit and whether they are little endian.
ENCODINGS = {
    (implicit, order == "<"): ElementEncoding(
        implicit, order == "<", struct.Struct(order + form), struct.Struct(order + "I")
    )
    for implicit, form in ((True, "HHI"), (False, "HH2sH"))
    for order in "<>"
}
_TRUNCATED = Outcome.TRUNCATED, "the file ends inside its header"
_TOO_LONG = Outcome.TOO_LARGE, "the header is longer than any radiograph's"
# Items and delimiters, and whether they are in little endian: their bytes cannot be mistaken.
_MARKERS = {
    struct.pack(order + "HH", tag >> 16, tag & 0xFFFF): (tag, order == "<")
    for tag in (ITEM, _ITEM_END, SEQUENCE_END)
    for order in "<>"
}


class ElementHead(NamedTuple):
    """The part of an element in front of its value.

    `vr` is None where there is none; `length` is `UNDEFINED` where a delimiter ends the value;
    `start` is the value's offset in the stream.
    """

    tag: int
    vr: str | None
    length: int
    start: int


class ElementReader:
    """Reads elements; raises `too_large` over 50,000 reads (an item takes 18 or more) or 64 MiB.

    Args:
        stream: The file.
        size: Its length in bytes, or None where it is not known.

    Attributes:
        deviations: How the elements break the standard, one reason of each kind, by kind.
    """

    def __init__(self, stream: BinaryIO, *, size: int | None) -> None:
        self.deviations: dict[str, str] = {}
        self._stream, self._size = stream, size
        self._read, self._seek = stream.read, stream.seek
        self._reads, self._bytes, self._item_reads = _HEADER_READS, HEADER_BYTES, _ITEM_READS

    def again(self) -> "ElementReader":
        """Return a new reader of the same stream, with its limits unused and no deviations."""
        return ElementReader(self._stream, size=self._size)

    def head(self, position: int, encoding: ElementEncoding) -> ElementHead | None:
        """Read the head of the element at an offset; None at the end of the stream.

        Raises:
            ReadingError: `truncated` inside the head, `too_large`, or `corrupt` with the element's
                tag if it has no valid VR and no length that leads to another element.
        """
        data = self.peek(position, 12)
        if len(data) < 8:
            if data or (self._size is not None and position > self._size):
                raise ReadingError(*_TRUNCATED)
            return None
        if encoding.implicit:
            group, number, length = encoding.head.unpack_from(data)
            return ElementHead(group << 16 | number, None, length, position + 8)
        group, number, vr, length = encoding.head.unpack_from(data)
        tag = group << 16 | number
        representation = VALUE_REPRESENTATIONS.get(vr)
        if representation is None:
            return self._head_without_representation(data, tag, position, encoding)
        name, is_long = representation
        if not is_long:
            return ElementHead(tag, name, length, position + 8)
        if len(data) < 12:
            raise ReadingError(*_TRUNCATED)
        return ElementHead(tag, name, encoding.word.unpack_from(data, 8)[0], position + 12)

    def value(self, head: ElementHead, end: int) -> bytes:
        """Read the bytes of an element's value, from `head.start` up to the offset `end`.

        Raises:
            ReadingError: `truncated` if the stream ends before `end`; `too_large` over the limits
                of this reader.
        """
        data = self.peek(head.start, end - head.start)
        if len(data) < end - head.start:
            raise ReadingError(*_TRUNCATED)
        return data

    def peek(self, position: int, count: int) -> bytes:
        """Read `count` bytes from an offset; fewer if the stream ends before.

        Raises:
            ReadingError: `too_large` over the limits of this reader.
        """
        self._reads -= 1
        self._bytes -= count
        if self._reads < 0 or self._bytes < 0:
            raise ReadingError(*_TOO_LONG)
        self._seek(position)
        return self._read(count)

    def note(self, kind: str, deviation: str) -> None:
        """Record a deviation from the standard in `deviations`, unless one of this kind is there.

        Args:
            kind: A word of the caller's choice.
            deviation: How the file breaks the standard, in one sentence for a person.
        """
        self.deviations.setdefault(kind, deviation)

    def end(self, head: ElementHead, encoding: ElementEncoding, *, depth: int = 0) -> int:
        """Return the offset behind an element; of undefined length, behind its delimiter.

        Raises:
            ReadingError: `truncated`, `corrupt` for bytes that are no elements, or `too_large`,
                also if `depth`, the number of sequences around the element, is over 100.
        """
        if head.length != UNDEFINED:
            return head.start + head.length
        if depth > _DEEPEST:
            raise ReadingError(*_TOO_LONG)
        if self.peek(head.start, 4) in _MARKERS:
            return self._items(head, encoding, depth)[1]
        return self._delimiter_end(head, encoding)

    def list_items(
        self, sequence: ElementHead, encoding: ElementEncoding
    ) -> tuple[list[tuple[int, int]], int] | None:
        """List the items of a sequence, which may be very many, without reading their values.

        Returns:
            Offset and length of each item's value, and the offset behind the sequence; None where
            they cannot be listed, as over 50,000 items or bytes that are none. A million reads and
            64 MiB are allowed, whatever this reader has read.
        """
        reader = self.again()
        reader._reads, reader._item_reads = _LISTING_READS, 0
        try:
            return reader._items(sequence, encoding, 0)
        except ReadingError:
            return None

    def _head_without_representation(
        self, data: bytes, tag: int, position: int, encoding: ElementEncoding
    ) -> ElementHead:
        """The head of an element without a valid VR, by the elements that lie behind it."""
        if tag >> 16 == _DELIMITING:
            return ElementHead(tag, None, encoding.word.unpack_from(data, 4)[0], position + 8)
        for start, length in _possible_values(data, position, encoding):
            if self.leads_on(start, encoding, length, tag):
                self.note("vr", f"{element_name(tag)} has no valid value representation")
                return ElementHead(tag, None, length, start)
        detail = f"{element_name(tag)} has no valid value representation, and no length fits"
        raise ReadingError(Outcome.CORRUPT, detail)

    def leads_on(
        self, start: int, encoding: ElementEncoding, length: int = 0, tag: int = -1, steps: int = 3
    ) -> bool:
        """Whether an encoding is right: elements follow behind a value where each length says.

        The end of a stream of known size, pixel data or a delimiter ends the search with True. A
        value of length `UNDEFINED` must begin with an item or a delimiter.

        Args:
            start: Offset of the value.
            encoding: How the elements would be written.
            length: Length of the value, or `UNDEFINED`.
            tag: Tag of the value's element; the next one's is higher or has a valid VR.
            steps: How many elements must follow.
        """
        if steps == 0:
            return True
        if length == UNDEFINED:
            return self.peek(start, 4) in _MARKERS
        position = start + length
        try:
            data = self.peek(position, 12)
        except ReadingError as error:
            # Bytes that are no length may lead beyond what a deflated file may inflate to.
            if error.outcome is not Outcome.TOO_LARGE:
                raise
            return False
        if len(data) < 12:
            # A delimiter may end the stream, as may the element itself.
            return data[:4] in _MARKERS or position == self._size
        group, number = encoding.head.unpack_from(data)[:2]
        following = group << 16 | number
        if following in PIXEL_TAGS or group == _DELIMITING:
            return True
        is_named = not encoding.implicit and data[4:6] in VALUE_REPRESENTATIONS
        if following <= tag and not is_named:
            return False
        return any(
            self.leads_on(begin, encoding, size, following, steps - 1)
            for begin, size in _possible_values(data, position, encoding)
        )

    def _items(
        self, sequence: ElementHead, encoding: ElementEncoding, depth: int
    ) -> tuple[list[tuple[int, int]], int]:
        """Offset and length of each item of a sequence, and the offset behind the sequence."""
        places: list[tuple[int, int]] = []
        position, length = sequence.start, sequence.length
        stop = None if length == UNDEFINED else position + length
        while stop is None or position < stop:
            data = self.peek(position, 8)
            if len(data) < 8:
                raise ReadingError(*_TRUNCATED)
            tag, little = _MARKERS.get(data[:4], (None, True))
            length = ENCODINGS[True, little].word.unpack_from(data, 4)[0]
            start = position = position + 8
            if tag == SEQUENCE_END:
                break
            if tag is None:
                detail = f"{element_name(sequence.tag)} is a sequence of something else than items"
                raise ReadingError(Outcome.CORRUPT, detail)
            self._reads -= self._item_reads
            if tag == ITEM and length == UNDEFINED:
                inner = self._item_encoding(position, encoding, little=little)
                if inner is not encoding and sequence.vr != "UN":
                    name = element_name(sequence.tag)
                    self.note("sequence", f"{name} is not encoded as the data set is")
                position = self._item_end(position, inner, depth)
            elif tag == ITEM:
                position += length
            if tag == ITEM:
                places.append((start, position - start))
            if len(places) > _MOST_ITEMS:
                raise ReadingError(*_TOO_LONG)
        return places, position if stop is None else stop

    def _item_encoding(
        self, position: int, outer: ElementEncoding, *, little: bool
    ) -> ElementEncoding:
        """The encoding of an item: inside implicit VR there is no explicit VR again."""
        if outer.implicit:
            return ENCODINGS[True, little]
        explicit, implicit = ENCODINGS[False, little], ENCODINGS[True, little]
        data = self.peek(position, 8)
        if data[4:6] in VALUE_REPRESENTATIONS or data[:4] in _MARKERS or len(data) < 8:
            return explicit
        return implicit if self.leads_on(position, implicit) else explicit

    def _item_end(self, position: int, encoding: ElementEncoding, depth: int) -> int:
        """Offset behind an item of undefined length and its delimiter."""
        while True:
            head = self.head(position, encoding)
            if head is None:
                raise ReadingError(*_TRUNCATED)
            if head.tag == _ITEM_END:
                return head.start
            if head.tag in (SEQUENCE_END, ITEM):
                self.note("item", "an item of a sequence has no delimiter")
                return position
            position = self.end(head, encoding, depth=depth + 1)

    def _delimiter_end(self, head: ElementHead, encoding: ElementEncoding) -> int:
        """Offset behind the next delimiter, for a value of undefined length without items."""
        self.note("undefined", f"{element_name(head.tag)} has neither length nor items")
        delimiter = encoding.word.pack(0xE0DDFFFE if encoding.little else 0xFFFEE0DD)
        position, tail = head.start, b""
        while data := self.peek(position, _SCAN_STEP):
            at = (tail + data).find(delimiter)
            if at >= 0:
                return position - len(tail) + at + 8
            position += len(data)
            tail = data[-3:]
        raise ReadingError(*_TRUNCATED)


def _possible_values(
    data: bytes, position: int, encoding: ElementEncoding
) -> list[tuple[int, int]]:
    """Offset and length of the value behind a head, in each way of reading it, shortest first.

    A longer value may hide elements and end at one by chance. Two bytes that are no VR have a
    16-bit length behind them, as in DCMTK, or belong to the length of an element without VR. Two
    letters may be a new VR, whose length has 32 bits (PS3.5 section 7.1.2).
    """
    word = encoding.word
    without = position + 8, word.unpack_from(data, 4)[0]
    if encoding.implicit:
        return [without]
    vr, length = encoding.head.unpack_from(data)[2:]
    short = position + 8, length
    name, is_long = VALUE_REPRESENTATIONS.get(vr, (None, False))
    if name is not None:
        return [(position + 12, word.unpack_from(data, 8)[0]) if is_long else short]
    values = [short, without]
    if vr.isalpha() and length == 0 and len(data) == 12:
        values.append((position + 12, word.unpack_from(data, 8)[0]))
    return sorted(values, key=sum)

"""The header of a DICOM file, read within limits and without trusting any value in it.

pydicom parses; this module finds the data set in whatever wrapping it has (preamble or none, file
meta or none, deflated or not) and keeps parsing short.
"""

import contextlib
import zlib
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import data_element_generator
from pydicom.tag import BaseTag

from cxrbatch.reading.elements import text, values_of
from cxrbatch.reading.functional_groups import (
    FRAME_GROUPS,
    SHARED_GROUPS,
    GroupItems,
    list_items,
)
from cxrbatch.reading.outcomes import Outcome, ReadingError, reading_error
from cxrbatch.reading.sniffing import is_big_endian, is_implicit

DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"

# Parsing stops here: a longer header is a bomb, or belongs to no radiograph.
_HEADER_READS = 50_000
# What an item of a sequence counts for beside its own: pydicom makes a data set of each, at the
# price of some twenty reads.
_ITEM_READS = 17
_ITEM_STARTS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
_HEADER_BYTES = 64 << 20
_LARGEST_VALUE = 1 << 20
_INFLATE_STEP = 1 << 18
# Data set trailing padding and what else is allowed behind pixel data (PS3.10 section 7.2).
_MOST_TRAILING = 1 << 20

_UNREADABLE_GROUPS = "the functional groups cannot be read: what they say of frames is ignored"

# Float, double and integer pixel data (PS3.3 C.7.6.24 and C.7.6.3).
PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)

# All that is ever asked of a header. Other elements are skipped unread.
_WANTED = [
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
]


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


class InflatedStream:
    """A raw deflate stream read as if it were a file, inflated no further than is asked for."""

    def __init__(self, source: BinaryIO, *, limit: int) -> None:
        self.limit = limit
        self._source = source
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._plain = bytearray()
        self._position = 0

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes; all that the limit allows if negative."""
        end = self.limit if count < 0 else self._position + count
        self._inflate_to(end)
        data = bytes(memoryview(self._plain)[self._position : end])
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset from the start (or from here); nothing is inflated yet."""
        self._position = offset + (self._position if whence == 1 else 0)
        return self._position

    def tell(self) -> int:
        """Offset from the start of the inflated data."""
        return self._position

    def finish(self) -> None:
        """Inflate what little may follow the pixel data.

        Raises:
            ReadingError: `truncated` if the deflate stream has no end, `corrupt`, `too_large`.
        """
        self.limit = len(self._plain) + _MOST_TRAILING
        self._inflate_to(self.limit)
        if not self._inflater.eof:
            raise ReadingError(Outcome.TRUNCATED, "the deflated file ends before its data do")

    def _inflate_to(self, end: int) -> None:
        if end > self.limit:
            raise ReadingError(Outcome.TOO_LARGE, "the deflated file inflates beyond the limit")
        while len(self._plain) < end and not self._inflater.eof:
            packed = self._inflater.unconsumed_tail or self._source.read(_INFLATE_STEP)
            if not packed:
                return
            try:
                self._plain += self._inflater.decompress(packed, _INFLATE_STEP)
            except zlib.error:
                raise ReadingError(Outcome.CORRUPT, "the file cannot be inflated") from None


class _Metered:
    """A stream that ends parsing when the header grows without end, and notes a short read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._reads = _HEADER_READS
        self._bytes = _HEADER_BYTES
        self.tell = stream.tell
        self.seek = stream.seek
        self.is_short = False
        self.is_endless = False

    def read(self, count: int = -1) -> bytes:
        self._reads -= 1
        self._bytes -= max(0, count)
        if self._reads < 0 or self._bytes < 0:
            self.is_endless = True
            raise _endlessness()
        data = self._stream.read(count)
        if count == 8 and data.startswith(_ITEM_STARTS):
            self._reads -= _ITEM_READS
        # No bytes where a tag would start is the end; anything else cut short is a truncation.
        self.is_short |= len(data) < count and not (len(data) == 0 and count == 8)
        return data


def read_header(stream: BinaryIO, *, size: int) -> Header:
    """Read up to the pixel data, which stay unread.

    Args:
        stream: At the start of the file.
        size: Bytes in the file.

    Raises:
        ReadingError: `corrupt` or `too_large` if a deflated file cannot be inflated.
    """
    start = _skip_preamble(stream)
    meta, failure = Dataset(), None
    if stream.read(2) == b"\x02\x00":
        stream.seek(start)
        meta, _, failure = _parse(stream, implicit=False, little=True, stop_after_meta=True)
        start = stream.tell()
    stream.seek(start)
    named = text(meta, 0x00020010)
    plain_size: int | None = size
    if named == DEFLATED:
        stream = cast(BinaryIO, InflatedStream(stream, limit=_HEADER_BYTES))
        start, plain_size = 0, None
    first = stream.read(6)
    stream.seek(start)
    # The bytes decide, not the file meta: the two contradict each other in real files.
    implicit, little = is_implicit(first), not is_big_endian(first)
    groups: dict[int, GroupItems | None] = {}
    dataset, pixels, failure = _parse(stream, implicit=implicit, little=little, groups=groups)
    if pixels is None and failure is None and plain_size is not None:
        failure = _truncation() if stream.tell() > plain_size else None
    guessed = IMPLICIT if implicit else EXPLICIT if little else BIG_ENDIAN
    return Header(
        dataset=dataset,
        transfer_syntax=named or guessed,
        sop_class=text(dataset, 0x00080016) or text(meta, 0x00020002),
        is_little_endian=little,
        pixels=pixels,
        stream=stream,
        size=plain_size,
        failure=failure,
        deviations=(_UNREADABLE_GROUPS,) if None in groups.values() else (),
        groups={tag: items for tag, items in groups.items() if items is not None},
    )


def _skip_preamble(stream: BinaryIO) -> int:
    """Go behind the preamble (PS3.10 section 7.1), if there is one."""
    head = stream.read(132)
    start = 132 if head[128:] == b"DICM" else 4 if head[:4] == b"DICM" else 0
    stream.seek(start)
    return start


def _endlessness() -> ReadingError:
    return ReadingError(Outcome.TOO_LARGE, "the header is longer than any radiograph's")


def _truncation() -> ReadingError:
    return ReadingError(Outcome.TRUNCATED, "the file ends inside its header")


def _parse(
    stream: BinaryIO,
    *,
    implicit: bool,
    little: bool,
    stop_after_meta: bool = False,
    groups: dict[int, GroupItems | None] | None = None,
) -> tuple[Dataset, PixelElement | None, ReadingError | None]:
    """Parse from here; also tells where pixel data were met and why parsing ended early.

    Functional groups are listed in `groups`, None where their bytes are none.
    """
    metered = _Metered(stream)
    found: list[PixelElement] = []

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        if stop_after_meta:
            return tag >> 16 != 2
        if tag < SHARED_GROUPS:
            return False
        if groups is not None and tag in (SHARED_GROUPS, FRAME_GROUPS):
            groups[int(tag)] = list_items(stream, vr, length, implicit=implicit, little=little)
        if tag in PIXEL_TAGS:
            found.append(PixelElement(int(tag), vr, length, stream.tell()))
        return bool(found)

    elements: MutableMapping[BaseTag, DataElement | RawDataElement] = {}
    failure: ReadingError | None = None
    try:
        for element in data_element_generator(
            cast(BinaryIO, metered),
            implicit,
            little,
            stop_when=stop,
            defer_size=_LARGEST_VALUE,
            specific_tags=None if stop_after_meta else [BaseTag(tag) for tag in _WANTED],
        ):
            elements[element.tag] = element
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # pydicom says of some errors of its stream only that a sequence could not be read.
        failure = _endlessness() if metered.is_endless else reading_error(error)
    if metered.is_short and (failure is None or failure.outcome is Outcome.CORRUPT):
        failure = _truncation()
    return _with_encoding(elements, implicit, little), (found[0] if found else None), failure


def _with_encoding(
    elements: MutableMapping[BaseTag, DataElement | RawDataElement], implicit: bool, little: bool
) -> Dataset:
    """A data set that knows its character set; an unknown one is as none."""
    dataset = Dataset(elements)
    encodings = ["iso8859"]
    with contextlib.suppress(Exception):
        named = [str(value) for value in values_of(dataset, 0x00080005)]
        encodings = convert_encodings(named) if named else encodings
    dataset.set_original_encoding(implicit, little, encodings)
    return dataset

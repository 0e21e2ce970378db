"""Reads the footer and page headers of a Parquet file, before any page is expanded.

A page of a few bytes may expand to gigabytes, and the sizes in the footer may be forged. A reader
allocates memory by the sizes in the page headers; they are read here as Apache Arrow reads them.

Source: parquet-format, src/main/thrift/parquet.thrift; Apache Thrift, thrift-compact-protocol.md.
"""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

DICTIONARY_ENCODINGS = (2, 8)
"""Encodings (enum Encoding) of values as indices into a dictionary."""
DELTA_BYTE_ARRAY = 7
"""The encoding that stores each text of a page as its difference from the text before."""

_MAGIC = b"PAR1"
_LARGEST_FOOTER = 32 << 20
_MOST_ENTRIES = 400_000
_MOST_COLUMNS, _MOST_NESTED = 10_000, 256
_USUAL_HEADER, _LARGEST_HEADER = 512, 1 << 20
_DEEPEST = 16

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE = range(1, 8)
_BINARY, _LIST, _SET, _MAP, _STRUCT = range(8, 13)

_DATA_PAGE, _INDEX_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = range(4)
# Page type -> the field of PageHeader that describes such pages, and that field's own field with
# the encoding.
_DESCRIBED_BY = {_DATA_PAGE: (5, 2), _DICTIONARY_PAGE: (7, 2), _DATA_PAGE_V2: (8, 4)}

_Fields = dict[tuple[int, int], Any]
"""The fields of a Thrift structure: (number, type) -> value."""


class TooLarge(Exception):
    """Raised for a Parquet file that would take more memory than allowed.

    The message is a predicate, such as "has pages …": the caller puts the file's name before it.
    """


class ColumnChunk(NamedTuple):
    """Where a file stores one column of one row group.

    Attributes:
        start: Offset of its first byte in the file.
        end: Offset after its last byte.
        values: Number of values, nulls included.
    """

    start: int
    end: int
    values: int


class Page(NamedTuple):
    """The header of one page of a column.

    Attributes:
        is_dictionary: Whether the page holds a dictionary.
        size: Bytes of the page in the file or once decompressed, whichever is more.
        values: Number of values.
        encoding: Encoding of the values, of enum Encoding.
    """

    is_dictionary: bool
    size: int
    values: int
    encoding: int


def check_footer(descriptor: int) -> None:
    """Refuse a footer that is too large, too nested or damaged, before Arrow parses it.

    Args:
        descriptor: Descriptor of the open file.

    Raises:
        TooLarge: The footer has more than 32 MiB, 400,000 entries in its lists and maps, or 10,000
            elements in its schema, or more than 256 of these have others in them.
        ValueError: The footer is damaged, or there is none.
    """
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, 8, max(0, size - 8))
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length > size - 12:
        raise ValueError("it has no Parquet footer")
    if length > _LARGEST_FOOTER:
        raise TooLarge(f"has a footer of more than {_LARGEST_FOOTER >> 20} MiB")
    try:
        footer, _ = _parsed(os.pread(descriptor, length, size - 8 - length))
    except IndexError:
        raise ValueError("its footer is cut") from None
    elements = footer.get((2, _LIST), [])
    nested = sum(e.get((5, _I32), 0) > 0 for e in elements if isinstance(e, dict))
    if len(elements) > _MOST_COLUMNS or nested > _MOST_NESTED:
        raise TooLarge(f"has more than {_MOST_COLUMNS:,} columns or {_MOST_NESTED} nested ones")


def read_pages(descriptor: int, chunk: ColumnChunk) -> Iterator[Page]:
    """Yield the headers of a column's data and dictionary pages; the pages are not read.

    Args:
        descriptor: Descriptor of the open file.
        chunk: Where the file stores the column of one row group.

    Raises:
        TooLarge: A header has more than 1 MiB, or 400,000 entries in lists and maps.
        ValueError: A header is damaged, or the pages have fewer values than the column.
    """
    at, left = chunk.start, chunk.values
    while left > 0:
        if at >= chunk.end:
            raise ValueError("a column ends early")
        header, length = _header(descriptor, at, chunk.end)
        kind, size, stored = (header.get((number, _I32), 0) for number in (1, 2, 3))
        described, encoding = _DESCRIBED_BY.get(kind, (0, 0))
        details: _Fields = header.get((described, _STRUCT), {})
        values = details.get((1, _I32), 0)
        if min(size, stored, values) < 0:
            raise ValueError("a page has a negative size")
        if described:
            is_dictionary = kind == _DICTIONARY_PAGE
            yield Page(is_dictionary, max(size, stored), values, details.get((encoding, _I32), 0))
            left -= 0 if is_dictionary else values
        at += length + stored


def _header(descriptor: int, at: int, end: int) -> tuple[_Fields, int]:
    for most in (_USUAL_HEADER, _LARGEST_HEADER):
        data = os.pread(descriptor, min(most, end - at), at)
        try:
            return _parsed(data)
        except IndexError:
            if len(data) < most:
                raise ValueError("a page header is cut") from None
    raise TooLarge(f"has a page header of more than {_LARGEST_HEADER >> 20} MiB")


def _parsed(data: bytes) -> tuple[_Fields, int]:
    """Parse one Thrift structure; return its fields and its length in bytes.

    Raises:
        IndexError: The structure does not end within `data`.
        TooLarge: Its lists have more than `_MOST_ENTRIES` entries.
        ValueError: `data` is no structure.
    """
    reader = _CompactReader(data)
    fields: _Fields = {}
    reader.read_struct(fields, 0)
    return fields, reader.at


class _CompactReader:
    """Parses Thrift's compact protocol; keeps whole numbers, structures and lists of structures."""

    __slots__ = ("_data", "_left", "at")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = _MOST_ENTRIES
        self.at = 0

    def read_struct(self, into: _Fields, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError("it is nested too deep")
        data, number = self._data, 0
        while kind := (head := data[self.at]) & 15:
            self.at += 1
            number = number + (head >> 4) if head >> 4 else self._integer(16)
            number &= 0xFFFF
            key = number, kind
            if kind in (_I32, _I64):
                into[key] = self._integer(32 if kind == _I32 else 64)
            elif kind == _STRUCT:
                # Arrow merges a structure that is given twice.
                self.read_struct(into.setdefault(key, {}), depth + 1)
            elif kind > _FALSE:
                into[key] = self._value(kind, depth)
        self.at += 1

    def _value(self, kind: int, depth: int) -> object:
        if depth > _DEEPEST:
            raise ValueError("it is nested too deep")
        if kind in (_I16, _I32, _I64):
            return self._integer(16 << (kind - _I16))
        if kind == _STRUCT:
            fields: _Fields = {}
            self.read_struct(fields, depth + 1)
            return fields
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind == _MAP:
            self._map(depth)
            return None
        sizes = {_TRUE: 1, _FALSE: 1, _BYTE: 1, _DOUBLE: 8}
        length = self._varint() if kind == _BINARY else sizes.get(kind)
        if length is None:
            raise ValueError("it has an unknown type")
        self.at += length
        if self.at > len(self._data):
            raise IndexError
        return None

    def _list(self, depth: int) -> list[object]:
        head = self._byte()
        count, kind = head >> 4, head & 15
        if count == 15:
            count = self._varint()
        self._count(count)
        return [self._value(kind, depth + 1) for _ in range(count)]

    def _map(self, depth: int) -> None:
        count = self._varint()
        self._count(count)
        kinds = self._byte() if count else 0
        for _ in range(count):
            self._value(kinds >> 4, depth + 1)
            self._value(kinds & 15, depth + 1)

    def _count(self, entries: int) -> None:
        self._left -= entries
        if self._left < 0:
            raise TooLarge(f"has more than {_MOST_ENTRIES:,} entries in its footer")

    def _byte(self) -> int:
        value = self._data[self.at]
        self.at += 1
        return value

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number is too long")

    def _integer(self, bits: int) -> int:
        """Parse a signed number, cut to its type as Thrift cuts it."""
        value = self._data[self.at]
        if value < 128:
            self.at += 1
        else:
            value = self._varint() & ((1 << max(bits, 32)) - 1)
        return (value >> 1) ^ -(value & 1)


OFFSET_BYTES = 8
"""Bytes that a text takes at most beside its characters: for its offset and its validity."""


def text_lengths(column: pa.Array) -> pa.Array | None:
    """Return the length in bytes of each text of a column, plain or a dictionary array.

    The length of a null is null. None is returned for a column that is not of texts: string or
    binary, or their large forms.
    """
    texts = column.dictionary if pa.types.is_dictionary(column.type) else column
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_binary,
        pa.types.is_large_binary,
    )
    if not any(test(texts.type) for test in tests):
        return None
    lengths = pc.binary_length(texts)
    return lengths if texts is column else lengths.take(column.indices)


def unpacked_size(batch: pa.RecordBatch) -> int:
    """Return about how many bytes a batch takes once its dictionary arrays are plain text."""
    return sum(map(_size, batch.columns))


def unpacked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the same rows with dictionary arrays decoded: each row has its own copy of its text.

    Lists of dictionary-encoded texts are decoded too; other columns stay as they are.
    """
    columns = [_unpacked(column) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def portions(first: int, batch: pa.RecordBatch, most: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Halve a batch until each part takes at most `most` bytes once decoded, or is one row.

    Args:
        first: The number of the batch's first row.
        batch: The batch, which may have dictionary arrays.
        most: Limit in bytes for a part with its dictionary arrays decoded to plain text.

    Yields:
        The number of the part's first row, and the part, its dictionary arrays not yet decoded.
    """
    if len(batch) < 2 or unpacked_size(batch) <= most:
        yield first, batch
        return
    half = len(batch) // 2
    yield from portions(first, batch.slice(0, half), most)
    yield from portions(first + half, batch.slice(half), most)


def _size(column: pa.Array) -> int:
    if pa.types.is_list(column.type):
        return OFFSET_BYTES * len(column) + _size(column.flatten())
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    return (pc.sum(text_lengths(column)).as_py() or 0) + OFFSET_BYTES * len(column)


def _unpacked(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if pa.types.is_list(kind) and pa.types.is_dictionary(kind.value_type):
        # A cast of the lists would also unpack the texts of rows outside of this part.
        first, last = column.offsets[0].as_py(), column.offsets[-1].as_py()
        texts = _unpacked(column.values.slice(first, last - first))
        places = pc.subtract(column.offsets, first)
        return pa.ListArray.from_arrays(places, texts, mask=column.is_null())
    return column

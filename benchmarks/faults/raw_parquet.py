"""Parquet files byte by byte, so that headers and footers may claim what no library would write.

Source: parquet-format, src/main/thrift/parquet.thrift; Apache Thrift, thrift-compact-protocol.md.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

_TRUE, _I32, _I64, _BINARY, _LIST, _STRUCT = 1, 5, 6, 8, 9, 12
UTF8, BYTE_ARRAY, ZSTD = 0, 6, 6
PLAIN, RLE, RLE_DICTIONARY = 0, 3, 8
DATA, DICTIONARY = 0, 2


class I64(int):
    """A number of 64 bits; others have 32."""


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def struct(fields: dict[int, object]) -> bytes:
    """A structure by the numbers of its fields."""
    found, last = bytearray(), 0
    for number, value in sorted(fields.items()):
        kind, content = _value(value)
        found += bytes([(number - last) << 4 | kind]) if number - last < 16 else b""
        if number - last >= 16:
            found += bytes([kind]) + varint(_zigzag(number))
        found += content
        last = number
    return bytes(found) + b"\0"


def _zigzag(value: int) -> int:
    return (value << 1 ^ value >> 63) & (1 << 64) - 1


def _value(value: object) -> tuple[int, bytes]:
    if isinstance(value, I64):
        return _I64, varint(_zigzag(value))
    if isinstance(value, int):
        return _I32, varint(_zigzag(value))
    if isinstance(value, bytes):
        return _BINARY, varint(len(value)) + value
    if isinstance(value, dict):
        return _STRUCT, struct(value)
    assert isinstance(value, list)
    kinds = [_value(item) for item in value]
    kind = kinds[0][0] if kinds else _STRUCT
    head = bytes([len(value) << 4 | kind]) if len(value) < 15 else bytes([15 << 4 | kind])
    count = b"" if len(value) < 15 else varint(len(value))
    return _LIST, head + count + b"".join(content for _, content in kinds)


@dataclass
class RawPage:
    """A page: what it holds, and what its header claims instead of the truth."""

    content: bytes
    values: int
    encoding: int = PLAIN
    kind: int = DATA
    claims: dict[int, object] = field(default_factory=dict)
    codec: str | None = None

    def encode(self) -> bytes:
        """Its header and its bytes."""
        stored = self.content
        if self.codec:
            stored = pa.Codec(self.codec).compress(self.content, asbytes=True)
        described: dict[int, object] = {1: self.values, 2: self.encoding}
        if self.kind == DATA:
            described |= {3: RLE, 4: RLE}
        header: dict[int, object] = {1: self.kind, 2: len(self.content), 3: len(stored)}
        header[5 if self.kind == DATA else 7] = described
        return struct(header | self.claims) + stored


@dataclass
class RawColumn:
    """A column, by default of texts, with its pages.

    Attributes:
        name: Of the column.
        pages: A dictionary first, if there is one.
        element: What the schema says of the column.
        inside: Schema elements of what lies inside of it, where it is a list.
    """

    name: str
    pages: Sequence[RawPage]
    element: dict[int, object] = field(default_factory=lambda: {1: BYTE_ARRAY, 3: 1, 6: UTF8})
    inside: Sequence[dict[int, object]] = ()

    def elements(self) -> list[dict[int, object]]:
        """Its elements in the schema."""
        return [{4: self.name.encode(), **self.element}, *self.inside]

    def chunk(self, body: bytearray) -> dict[int, object]:
        """Append its pages to a file, and describe them."""
        start = first_data = len(body)
        for page in self.pages:
            body += page.encode()
            first_data = len(body) if page.kind == DICTIONARY else first_data
        size = I64(len(body) - start)
        elements = self.elements()
        told: dict[int, object] = {
            1: elements[-1][1],
            2: [PLAIN, RLE, RLE_DICTIONARY],
            3: [element[4] for element in elements],
            4: ZSTD,
            5: I64(sum(page.values for page in self.pages if page.kind != DICTIONARY)),
            6: size,
            7: size,
            9: I64(first_data),
        }
        if first_data != start:
            told[11] = I64(start)
        return {2: I64(start), 3: told}


def texts(values: Iterable[bytes]) -> bytes:
    """Texts in the encoding PLAIN."""
    return b"".join(len(value).to_bytes(4, "little") + value for value in values)


def levels(count: int, level: int = 1) -> bytes:
    """`count` equal definition levels of one bit."""
    run = varint(count << 1) + bytes([level])
    return len(run).to_bytes(4, "little") + run


def repeated(value: bytes, rows: int) -> list[RawPage]:
    """A dictionary of one text, and a page that names it in every row."""
    indices = levels(rows) + bytes([1]) + varint(rows << 1) + b"\0"
    return [
        RawPage(texts([value]), 1, kind=DICTIONARY, codec="zstd"),
        RawPage(indices, rows, RLE_DICTIONARY, codec="zstd"),
    ]


def nulls(rows: int, *, of_lists: bool = False) -> list[RawPage]:
    """A page without a value; in lists, levels of repetition come first."""
    return [RawPage(levels(rows, 0) * (1 + of_lists), rows, codec="zstd")]


def plain_texts(rows: int) -> list[RawPage]:
    """Zeros that expand a thousand times, a text a page."""
    page = RawPage(levels(1) + texts([bytes(1 << 20)]), 1, codec="zstd")
    return [page] * rows


def lying(claims: dict[int, object]) -> list[RawPage]:
    """A page of ten texts whose header lies."""
    return [RawPage(levels(10) + texts([b"a"] * 10), 10, claims=claims, codec="zstd")]


def differences(length: int) -> RawPage:
    """A text, and one that differs in nothing (DELTA_BYTE_ARRAY)."""

    def packed(first: int, second: int) -> bytes:
        step = second - first
        head = varint(128) + varint(4) + varint(2) + varint(first << 1)
        return head + varint(step << 1 if step >= 0 else -2 * step - 1) + bytes(4)

    content = levels(2) + packed(0, length) + packed(length, 0) + bytes(length)
    return RawPage(content, 2, 7, codec="zstd")


def raw_file(
    columns: Sequence[RawColumn],
    rows: int,
    *,
    metadata: dict[bytes, bytes] | None = None,
    claims: dict[int, object] | None = None,
    groups: int = 1,
) -> bytes:
    """A file of these columns; its row groups are all the same bytes of the file."""
    body = bytearray(b"PAR1")
    chunks = [column.chunk(body) for column in columns]
    group = {1: chunks, 2: I64(len(body)), 3: I64(rows)}
    schema: list[dict[int, object]] = [{4: b"schema", 5: len(columns)}]
    schema += [element for column in columns for element in column.elements()]
    footer: dict[int, object] = {1: 2, 2: schema, 3: I64(rows * groups), 4: [group] * groups}
    if metadata:
        footer[5] = [{1: key, 2: value} for key, value in metadata.items()]
    written = struct(footer | (claims or {}))
    return bytes(body) + written + len(written).to_bytes(4, "little") + b"PAR1"

"""Columns whose texts are stored once and named by each row: what they take with a text a row."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

OFFSET_BYTES = 8
"""What a text takes at most beside its bytes: where it starts, and whether it is there."""


def text_lengths(column: pa.Array) -> pa.Array | None:
    """Bytes of each text of a column; None where it is of no texts."""
    texts = column.dictionary if pa.types.is_dictionary(column.type) else column
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        return None
    lengths = pc.binary_length(texts)
    return lengths if texts is column else lengths.take(column.indices)


def unpacked_size(batch: pa.RecordBatch) -> int:
    """Bytes that a batch takes once each text has memory of its own."""
    return sum(map(_size, batch.columns))


def unpacked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows, each text with memory of its own; lists of texts are unpacked too."""
    columns = [_unpacked(column) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def portions(first: int, batch: pa.RecordBatch, most: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Halve a batch until a part unpacks to `most` bytes or is one row.

    Args:
        first: The number of its first row.
        batch: The batch.
        most: In bytes.

    Yields:
        The number of a part's first row, and the part.
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
        # Not by a cast of the lists, which would unpack what lies outside of a part too.
        first, last = column.offsets[0].as_py(), column.offsets[-1].as_py()
        texts = _unpacked(column.values.slice(first, last - first))
        places = pc.subtract(column.offsets, first)
        return pa.ListArray.from_arrays(places, texts, mask=column.is_null())
    return column

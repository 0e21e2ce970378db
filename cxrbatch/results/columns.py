"""Values of a table's rows to Arrow columns.

`pyarrow.array` does the same, but imports pandas wherever that is installed, in the midst of a
run: it takes as long as scoring some hundred images.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa


def column_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Make a column; None is null.

    Args:
        values: As the type asks: numbers, text, bytes of the type's length, or lists of text.
        kind: A number type, string, binary of a fixed length, or list of string.

    Raises:
        OverflowError: A number is out of the type's range.
        UnicodeEncodeError: A text has no UTF-8.
        ValueError: Bytes are not of the type's length.
    """
    nulls = values.count(None)
    if nulls == len(values):
        return pa.nulls(nulls, kind)
    validity = _validity(values) if nulls else None
    if pa.types.is_string(kind):
        encoded = [b"" if value is None else value.encode() for value in values]
        content = [_offsets(encoded), pa.py_buffer(b"".join(encoded))]
    elif pa.types.is_fixed_size_binary(kind):
        nothing = bytes(kind.byte_width)
        cells = [nothing if value is None else value for value in values]
        if any(len(cell) != kind.byte_width for cell in cells):
            raise ValueError(f"bytes are not {kind.byte_width} long")
        content = [pa.py_buffer(b"".join(cells))]
    elif pa.types.is_list(kind):
        lists = [value or () for value in values]
        inner = column_of(list(chain.from_iterable(lists)), kind.value_type)
        buffers = [validity, _offsets(lists)]
        return pa.Array.from_buffers(kind, len(values), buffers, children=[inner])
    else:
        numbers = [0 if value is None else value for value in values]
        content = [pa.py_buffer(np.array(numbers, kind.to_pandas_dtype()))]
    return pa.Array.from_buffers(kind, len(values), [validity, *content])


def _offsets(values: Sequence[Sequence[Any]]) -> pa.Buffer:
    ends = np.zeros(len(values) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, values), np.int32, len(values)), out=ends[1:])
    return pa.py_buffer(ends)


def _validity(values: Sequence[Any]) -> pa.Buffer:
    is_there = np.fromiter((value is not None for value in values), bool, len(values))
    return pa.py_buffer(np.packbits(is_there, bitorder="little"))

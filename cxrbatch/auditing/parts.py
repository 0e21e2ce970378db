"""Parts of an unfinished audit on disk: Arrow files that are whole or absent, by run."""

from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cxrbatch.files import written_whole

_RUN = b"run"
Scalar = TypeVar("Scalar", bound=np.generic)


def write_part(path: Path, columns: dict[str, pa.Array], *, run: str) -> None:
    """Write columns to an Arrow file, whole or not at all; an existing file is replaced.

    Args:
        path: The file.
        columns: Arrays of one length, by name.
        run: Id of the run, which is stored with them.

    Raises:
        OSError: The file cannot be written.
    """
    table = pa.table(columns).replace_schema_metadata({_RUN: run.encode()})
    with written_whole(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_part(path: Path, *, run: str) -> pa.Table | None:
    """Open an Arrow file that `write_part` wrote; its arrays are mapped from the file.

    Returns:
        The columns in one chunk each; None if there is no such file, it is damaged, or it belongs
        to another run.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
    except (OSError, pa.ArrowException):
        return None
    return table if (table.schema.metadata or {}).get(_RUN) == run.encode() else None


def packed(values: npt.NDArray[np.generic]) -> pa.Array:
    """Return an array of n rows of any shape as n cells of bytes of one length."""
    rows = np.ascontiguousarray(values)
    width = rows.itemsize * int(np.prod(rows.shape[1:], dtype=np.int64))
    kind = pa.binary(width)
    return pa.Array.from_buffers(kind, len(rows), [None, pa.py_buffer(rows.tobytes())])


def cells_of(
    column: pa.ChunkedArray, dtype: type[Scalar], shape: tuple[int, ...]
) -> npt.NDArray[Scalar]:
    """Return what `packed` packed: shape (n, *shape), not to be written to, without a copy."""
    count = len(column)
    if not count:
        return np.zeros((0, *shape), dtype)
    (chunk,) = column.chunks
    content = np.frombuffer(chunk.buffers()[1], dtype)
    return content[: count * int(np.prod(shape, dtype=np.int64))].reshape(count, *shape)

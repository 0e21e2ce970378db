"""Reads Parquet files that may be hostile: memory is bounded before anything is expanded.

A text that the file stores once for many rows stays shared until the size of all copies is known.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrbatch.files import shown
from cxrbatch.results.pages import (
    DELTA_BYTE_ARRAY,
    DICTIONARY_ENCODINGS,
    OFFSET_BYTES,
    ColumnChunk,
    Page,
    TooLarge,
    check_footer,
    portions,
    read_pages,
    unpacked,
    unpacked_size,
)

_MOST_ROWS = 65_536
# Bytes that the rows of one batch may take; that their pages and dictionaries may take.
_BATCH_BYTES = 64 << 20
_PAGE_BYTES = 256 << 20
# Bytes of the dictionaries that Arrow copies into every batch, over all batches.
_COPIED_BYTES = 8 << 30
# Bytes of a dictionary's entry in two indexes of Arrow's, which also hold its text twice.
_ENTRY_BYTES = 48
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A column as the file stores it.

    Attributes:
        number: Its number in a row group.
        path: Its name, after the names of the columns that it is nested in.
        width: Bytes of a value; None for texts.
        is_repeated: Whether a row may have several values.
    """

    number: int
    path: str
    width: int | None
    is_repeated: bool


@dataclass(slots=True)
class _Stored:
    """How a column of a row group is stored, from the headers of its pages.

    Attributes:
        values: Number of values.
        largest: Bytes of the largest page.
        densest: Largest number of bytes of a value; of a text outside the dictionary, the mean of
            its page.
        dictionary: The dictionary; None without one.
        is_mixed: Whether texts are stored outside a dictionary.
    """

    values: int
    largest: int
    densest: int
    dictionary: Page | None
    is_mixed: bool


@dataclass(slots=True)
class _Needs:
    """Bytes that reading some columns of a row group takes.

    Attributes:
        pages: For the largest page of each column, and for all values of a column of lists.
        dictionaries: For the dictionaries, which are copied into each batch.
        row: For the largest row.
        shared: Paths of the columns whose texts all are in a dictionary.
    """

    pages: int
    dictionaries: int
    row: int
    shared: frozenset[str]


class BoundedParquet:
    """A Parquet file whose footer was checked; its rows are read in batches of bounded size.

    Attributes:
        schema: Names and types of the columns.
        metadata: The file's footer.
        rows: Number of rows.
        size: Size of the file in bytes.
    """

    def __init__(self, stream: BinaryIO) -> None:
        """Read and check the footer.

        Args:
            stream: A file on disk, which the caller keeps open.

        Raises:
            TooLarge: The footer is larger than `check_footer` allows.
            OSError, ValueError, pa.ArrowException: The footer is damaged.
        """
        check_footer(stream.fileno())
        self._stream = stream
        self._file = pq.ParquetFile(stream, pre_buffer=False)
        self._sharing = {frozenset[str](): self._file}
        self._leaves = [self._leaf(number) for number in range(len(self._file.schema))]
        self.schema: pa.Schema = self._file.schema_arrow
        self.metadata = self._file.metadata
        self.rows = int(self.metadata.num_rows)
        self.size = os.fstat(stream.fileno()).st_size
        self._check_places()

    def batches(
        self, names: Sequence[str], rows: Sequence[int] | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the rows of some columns, at most 65,536 rows and about 64 MiB at a time.

        Args:
            names: Names of the columns.
            rows: Row groups without any of these row numbers are skipped, and others are read
                whole; None to read all.

        Yields:
            The number of the batch's first row, from 0, and the batch. Columns of text are
            dictionary arrays where the file stores all their texts in dictionaries.

        Raises:
            TooLarge: A row takes more than 64 MiB, the largest pages and the dictionaries of a row
                group more than 256 MiB, or the dictionaries, copied into each batch, over 8 GiB.
            OSError, ValueError, pa.ArrowException: The file is damaged.
        """
        leaves = [leaf for leaf in self._leaves if _is_below(leaf.path, names)]
        first = 0
        for number in range(self.metadata.num_row_groups):
            count = self.metadata.row_group(number).num_rows
            place, first = first, first + count
            if rows is not None and not any(place <= row < first for row in rows):
                continue
            needs = self._needs(number, leaves)
            most = max(1, min(_MOST_ROWS, _BATCH_BYTES // max(1, needs.row)))
            _check(needs, batches=-(-count // most))
            for batch in self._shared(needs.shared).iter_batches(
                most, row_groups=[number], columns=list(names), use_threads=False
            ):
                yield place, batch.select(names)
                place += batch.num_rows
            if place != first:
                raise ValueError("a row group has another number of rows")

    def unpacked(
        self, names: Sequence[str], *, room: int, rows: Sequence[int] | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the rows of some columns, with dictionary arrays of text decoded to plain text.

        Args:
            names: Names of the columns.
            room: Bytes that all batches together may take once decoded.
            rows: Row groups without any of these row numbers are skipped, and others are read
                whole; None to read all.

        Yields:
            The number of the batch's first row, from 0, and the batch, of at most about 64 MiB.

        Raises:
            TooLarge: The batches take more than `room`, or as for `batches`.
            OSError, ValueError, pa.ArrowException: The file is damaged, or a text is no UTF-8.
        """
        left = room
        for first, batch in self.batches(names, rows):
            batch.validate(full=True)
            for place, part in portions(first, batch, _BATCH_BYTES):
                left -= unpacked_size(part)
                if left < 0:
                    raise TooLarge(f"expands to more than {room >> 20} MiB")
                yield place, unpacked(part)

    def check_texts(self, names: Sequence[str], *, most: int) -> None:
        """Refuse columns that may hold a text of more than `most` bytes; the rows are not decoded.

        Args:
            names: Names of the columns; those that are not of text are ignored.
            most: Limit in bytes for each text in a dictionary, or for a dictionary of lists. Of
                texts outside a dictionary only the mean length in a page is known, or its size;
                it may not exceed the limit either.

        Raises:
            TooLarge: One of these is larger; or a page or a dictionary takes more than 256 MiB.
            OSError, ValueError, pa.ArrowException: The file is damaged.
        """
        for leaf in self._leaves:
            if leaf.width is None and _is_below(leaf.path, names):
                for number in range(self.metadata.num_row_groups):
                    self._check_texts(leaf, number, most)

    def _check_places(self) -> None:
        """Refuse columns that lie outside the file, or are together larger than the file."""
        groups = [self.metadata.row_group(n) for n in range(self.metadata.num_row_groups)]
        chunks = [_chunk(group.column(n)) for group in groups for n in range(group.num_columns)]
        if any(not 0 <= chunk.start <= chunk.end <= self.size for chunk in chunks):
            raise ValueError("a column lies outside the file")
        if sum(chunk.end - chunk.start for chunk in chunks) > self.size:
            raise ValueError("its columns overlap")
        if any(group.num_rows < 0 or group.num_columns != len(self._leaves) for group in groups):
            raise ValueError("a row group does not fit the schema")
        if sum(group.num_rows for group in groups) != self.rows:
            raise ValueError("its row groups have another number of rows")

    def _check_texts(self, leaf: _Leaf, number: int, most: int) -> None:
        stored = self._stored(leaf, number)
        dictionary, longest = stored.dictionary, stored.densest
        if dictionary is not None:
            if _dictionary_bytes(dictionary) > _PAGE_BYTES:
                raise _large_pages()
            is_short = dictionary.size <= most
            own = dictionary.size if is_short else self._longest(leaf, number, dictionary)
            longest = max(longest, own)
        if longest > most:
            raise TooLarge(f"has texts of more than {most >> 10} KiB in {shown(leaf.path)}")
        if stored.largest > _PAGE_BYTES:
            raise _large_pages()

    def _needs(self, number: int, leaves: Sequence[_Leaf]) -> _Needs:
        """Calculate the bytes that some columns of the row group `number` take."""
        needs = _Needs(0, 0, 0, frozenset())
        for leaf in leaves:
            stored = self._stored(leaf, number)
            densest, dictionary = stored.densest, stored.dictionary
            if dictionary is not None:
                needs.dictionaries += _dictionary_bytes(dictionary)
                if leaf.width is None and not stored.is_mixed:
                    needs.shared |= {leaf.path}
                elif leaf.width is None:
                    densest = max(densest, self._longest(leaf, number, dictionary))
            needs.pages += stored.largest
            if leaf.is_repeated:
                needs.pages += stored.values * (densest + OFFSET_BYTES)
            else:
                needs.row += densest + OFFSET_BYTES
        return needs

    def _stored(self, leaf: _Leaf, number: int) -> _Stored:
        """Read how a column of the row group `number` is stored."""
        chunk = _chunk(self.metadata.row_group(number).column(leaf.number))
        stored = _Stored(chunk.values, 0, leaf.width or 0, None, is_mixed=False)
        for page in read_pages(self._stream.fileno(), chunk):
            stored.largest = max(stored.largest, page.size)
            if page.is_dictionary:
                if stored.dictionary is not None:
                    raise ValueError("a column has two dictionaries")
                stored.dictionary = page
            elif leaf.width is None and page.encoding not in DICTIONARY_ENCODINGS:
                stored.is_mixed = True
                values = 1 if page.encoding == DELTA_BYTE_ARRAY else max(1, page.values)
                stored.densest = max(stored.densest, -(-page.size // values))
        return stored

    def _longest(self, leaf: _Leaf, number: int, dictionary: Page) -> int:
        """Return the bytes of the longest text in a dictionary, or an upper bound."""
        if leaf.is_repeated:
            return dictionary.size
        if _dictionary_bytes(dictionary) > _PAGE_BYTES:
            raise _large_pages()
        # Arrow reads the whole dictionary with the first row.
        file = self._shared(frozenset({leaf.path}))
        batch = next(file.iter_batches(1, row_groups=[number], columns=[leaf.path]))
        texts = batch.column(0).dictionary
        if len(texts) != dictionary.values:
            return dictionary.size
        return int(pc.max(pc.binary_length(texts)).as_py() or 0)

    def _shared(self, paths: frozenset[str]) -> pq.ParquetFile:
        """Return the file, opened so that the columns at `paths` are read as dictionary arrays."""
        if paths not in self._sharing:
            self._sharing[paths] = pq.ParquetFile(
                self._stream, metadata=self.metadata, read_dictionary=[*paths], pre_buffer=False
            )
        return self._sharing[paths]

    def _leaf(self, number: int) -> _Leaf:
        column = self._file.schema.column(number)
        width = _WIDTHS.get(column.physical_type)
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
            width = column.length
        return _Leaf(number, column.path, width, column.max_repetition_level > 0)


def _chunk(column: pq.ColumnChunkMetaData) -> ColumnChunk:
    start, dictionary = column.data_page_offset, column.dictionary_page_offset
    if dictionary is not None and 0 < dictionary < start:
        start = dictionary
    return ColumnChunk(start, start + column.total_compressed_size, column.num_values)


@contextmanager
def open_bounded(path: Path) -> Iterator[BoundedParquet]:
    """Open the file at `path` as a `BoundedParquet`, and close it when the context ends.

    Raises:
        TooLarge: The footer is larger than `check_footer` allows.
        OSError, ValueError, pa.ArrowException: The file cannot be opened, or is no Parquet file.
    """
    # An open file, not a path: Arrow opens no name that is not UTF-8.
    with path.open("rb") as stream:
        yield BoundedParquet(stream)


def _dictionary_bytes(dictionary: Page) -> int:
    return 2 * dictionary.size + _ENTRY_BYTES * dictionary.values


def _large_pages() -> TooLarge:
    return TooLarge(f"has pages that expand to more than {_PAGE_BYTES >> 20} MiB")


def _check(needs: _Needs, *, batches: int) -> None:
    if needs.pages + needs.dictionaries > _PAGE_BYTES:
        raise _large_pages()
    if needs.row > _BATCH_BYTES:
        raise TooLarge(f"has a value of more than {_BATCH_BYTES >> 20} MiB")
    if batches * needs.dictionaries > _COPIED_BYTES:
        raise TooLarge(f"expands to more than {_COPIED_BYTES >> 30} GiB")


def _is_below(path: str, names: Sequence[str]) -> bool:
    """Return whether a leaf belongs to one of the columns `names`."""
    return any(path == name or path.startswith(f"{name}.") for name in names)

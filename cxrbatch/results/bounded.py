"""Parquet files that may be hostile, read so that memory is bounded before anything is expanded.

Texts that a file stores once and names often stay shared until their size is known.
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

from cxrbatch.paths import shown
from cxrbatch.results.pages import (
    DELTA_BYTE_ARRAY,
    DICTIONARY_ENCODINGS,
    OFFSET_BYTES,
    Chunk,
    Page,
    TooLarge,
    check_footer,
    portions,
    read_pages,
    unpacked,
    unpacked_size,
)

_MOST_ROWS = 65_536
# What the rows of one batch may take, and what the pages and dictionaries that they are in.
_BATCH_BYTES = 64 << 20
_PAGE_BYTES = 256 << 20
# Arrow copies the dictionaries into every batch.
_COPIED_BYTES = 8 << 30
# A dictionary's entry takes its place in two indexes of Arrow's, its text is there twice.
_ENTRY_BYTES = 48
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A column as the file stores it.

    Attributes:
        number: Among those of a row group.
        path: Its name, with the names around it.
        width: Bytes of a value; None for texts.
        is_repeated: Whether a row may have several values.
    """

    number: int
    path: str
    width: int | None
    is_repeated: bool


@dataclass(slots=True)
class _Stored:
    """How a column of a row group is stored, by the headers of its pages.

    Attributes:
        values: Number of values.
        largest: Bytes of the largest page.
        densest: Bytes of a value, of a text that is not in the dictionary on average of its page.
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
        pages: The largest page of each column, and all of its values where a row has several.
        dictionaries: What is copied into each batch.
        row: Of one row, at most.
        shared: Paths of the columns with a dictionary.
    """

    pages: int
    dictionaries: int
    row: int
    shared: frozenset[str]


class BoundedParquet:
    """A Parquet file whose footer is sound; its rows come in batches of bounded size.

    Attributes:
        schema: Its columns.
        metadata: What its footer says.
        rows: Number of rows.
        size: Of the file, in bytes.
    """

    def __init__(self, stream: BinaryIO) -> None:
        """Read the footer.

        Args:
            stream: An open file of the disk, which has to stay open.

        Raises:
            TooLarge: The footer is larger than any of use.
            OSError, ValueError, pa.ArrowException: It is damaged.
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
        """Read some columns.

        Args:
            names: Of the columns.
            rows: Row groups without any of these rows are passed over; None for all.

        Yields:
            The number of a batch's first row, and the batch. Texts that the file stores once and
            names often are dictionary arrays: see `shared_texts`.

        Raises:
            TooLarge: A page or a row takes more memory than any of use.
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
        """Read some columns as `batches` does, each text with memory of its own.

        Args:
            names: Of the columns.
            room: Bytes that all batches together may take.
            rows: As for `batches`.

        Raises:
            TooLarge: They take more, or as for `batches`.
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
        """Refuse columns of texts so long that many of them together take too much memory.

        Args:
            names: Of the columns.
            most: Bytes that a text of a dictionary, or a text of a page on average, may have.

        Raises:
            TooLarge: A text is longer, or a page larger than any of use.
            OSError, ValueError, pa.ArrowException: The file is damaged.
        """
        for leaf in self._leaves:
            if leaf.width is None and _is_below(leaf.path, names):
                for number in range(self.metadata.num_row_groups):
                    self._check_texts(leaf, number, most)

    def _check_places(self) -> None:
        """Refuse columns that lie outside the file, or together are more than the file."""
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
        """What some columns of the row group `number` take."""
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
        """How a column of the row group `number` is stored."""
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
        """Bytes of the longest text in a dictionary, or more."""
        if leaf.is_repeated:
            return dictionary.size
        if _dictionary_bytes(dictionary) > _PAGE_BYTES:
            raise _large_pages()
        # The first row brings the whole dictionary along.
        file = self._shared(frozenset({leaf.path}))
        batch = next(file.iter_batches(1, row_groups=[number], columns=[leaf.path]))
        texts = batch.column(0).dictionary
        if len(texts) != dictionary.values:
            return dictionary.size
        return int(pc.max(pc.binary_length(texts)).as_py() or 0)

    def _shared(self, paths: frozenset[str]) -> pq.ParquetFile:
        """The file, opened so that some columns come as dictionary arrays."""
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


def _chunk(column: pq.ColumnChunkMetaData) -> Chunk:
    start, dictionary = column.data_page_offset, column.dictionary_page_offset
    if dictionary is not None and 0 < dictionary < start:
        start = dictionary
    return Chunk(start, start + column.total_compressed_size, column.num_values)


@contextmanager
def open_bounded(path: Path) -> Iterator[BoundedParquet]:
    """Open a file as `BoundedParquet` does."""
    # An open file, not a path: Arrow takes no name that is not UTF-8.
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
    """Whether Arrow reads a leaf where it is asked for these names."""
    return any(path == name or path.startswith(f"{name}.") for name in names)

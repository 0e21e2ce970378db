"""Reads the rows of labels in Parquet and Excel files (.xlsx), in bounded memory.

openpyxl keeps all shared texts of a workbook, and for each row that it passes an empty element. It
has no limits of its own, so each part that may be XML is looked through before openpyxl reads it.
"""

import contextlib
import functools
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from cxrbatch.errors import LabelError
from cxrbatch.reading.containers.zip_directory import find_directory
from cxrbatch.results.bounded import BoundedParquet
from cxrbatch.results.label_names import WantedColumns, choose_columns
from cxrbatch.results.label_rows import (
    LONGEST_VALUE,
    TOO_LONG,
    Chunks,
    LabelTable,
    check_upright,
    chunks_of,
    frame_of,
    header_place,
    text_of,
)
from cxrbatch.results.pages import TooLarge, portions, text_lengths

if TYPE_CHECKING:
    from openpyxl.worksheet._read_only import ReadOnlyWorksheet

# Bytes of the texts of Parquet rows that are checked together.
_PART_BYTES = 8 << 20
_BYTES_OF_A_CHARACTER = 4

_HEAD_ROWS = 10
# Excel's own limit of rows. Each row is filled up to the last column that is read.
_MOST_ROWS, _MOST_COLUMNS = 1 << 20, 1 << 8
# Bytes of the file, of the zip's directory, of one part once unpacked, and of all parts.
_LARGEST_FILE, _MOST_DIRECTORY, _LARGEST_PART, _LARGEST_WHOLE = (
    64 << 20,
    1 << 20,
    256 << 20,
    1 << 30,
)
# The start of a row, of a shared text and of an entry in the list of sheets; how many there may be.
_ITEM = re.compile(rb"<(?:\w{1,20}:)?(row|si|sheet)[\s/>]")
_MOST_ITEMS = {b"row": _MOST_ROWS, b"si": 4 << 20, b"sheet": 64}
# Bytes of a part, read by blocks, that may have no start of a row or text.
_BLOCK, _LARGEST_BARREN, _LONGEST_START = 1 << 20, 2 << 20, 32
# A cell with a formula and no value: its column and row.
_EMPTY_FORMULA = re.compile(
    rb'<c [^<>]{0,80}\br="([A-Z]{1,3})([0-9]{1,7})"[^<>]{0,80}>'
    rb"<f(?:[^<>]{0,200}/>|[^<>]{0,200}>[^<]{0,9000}</f>)(?:<v ?/>|<v></v>)?</c>"
)
_MARKS = (b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf")

_Cells = set[tuple[int, int]]
"""Row, from 1, and column, from 0, of cells."""


def open_parquet(stream: BinaryIO, file: str) -> LabelTable:
    """Read the names of the columns of a Parquet file.

    Args:
        stream: The file on disk, opened for reading bytes.
        file: Its path, for messages.

    Raises:
        LabelError: The file is damaged, or would take too much memory. `LabelTable.read` raises it
            too, and where a column is of a nested type or a field too long.
    """
    with _parquet_explained(file):
        parquet = BoundedParquet(stream)
        names = tuple(parquet.schema.names)
    return LabelTable("Parquet", "row", names, functools.partial(_parquet_chunks, parquet, file))


@contextlib.contextmanager
def _parquet_explained(file: str) -> Iterator[None]:
    try:
        yield
    except LabelError:
        raise
    except TooLarge as error:
        raise LabelError(f"{file} {error}, more than labels may; write it again") from None
    except Exception:
        raise LabelError(f"{file} is not a whole Parquet file; write it again") from None


def _parquet_chunks(parquet: BoundedParquet, file: str, places: Sequence[int]) -> Chunks:
    names = [parquet.schema.names[place] for place in places]
    with _parquet_explained(file):
        for name in names:
            if not _has_text(parquet.schema.field(name).type):
                raise LabelError(f"column {name!r} of {file} is neither text nor numbers")
        for start, batch in parquet.batches(names):
            _check_lengths(file, start, batch)
            # Rows may share a text in the batch; in a frame each row has its own.
            for first, part in portions(start, batch, _PART_BYTES):
                numbers = range(first + 1, first + 1 + len(part))
                yield frame_of([*map(_texts, part.columns)], places, numbers)


def _check_lengths(file: str, first: int, batch: pa.RecordBatch) -> None:
    """Refuse a field that is too long while Arrow still shares its text among rows."""
    for column in batch.columns:
        lengths = text_lengths(column)
        most = LONGEST_VALUE * _BYTES_OF_A_CHARACTER
        if lengths is not None and (pc.max(lengths).as_py() or 0) > most:
            number = first + 1 + pc.index(pc.greater(lengths, most), True).as_py()
            raise LabelError(f"{file}, row {number}: {TOO_LONG}")


def _texts(column: pa.Array) -> list[str]:
    """Convert a column to texts; an entry of a dictionary becomes one text for all its rows."""
    if not pa.types.is_dictionary(column.type) or len(column.dictionary) > len(column):
        return [text_of(value) for value in column.to_pylist()]
    texts = [*map(text_of, column.dictionary.to_pylist()), ""]
    return [texts[index] for index in column.indices.fill_null(len(texts) - 1).to_pylist()]


def _has_text(kind: pa.DataType) -> bool:
    """Whether the values of a column of this type have a text."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return not pa.types.is_nested(kind)


def open_workbook(stream: BinaryIO, file: str, wanted: WantedColumns) -> LabelTable:
    """Read the header of the one sheet that has the columns of labels; hidden sheets do not count.

    Where none has them, it is the one whose header has two names of columns, else one, else any; of
    several the sheet that was open when the file was saved, else the first.

    Args:
        stream: The file on disk, opened for reading bytes.
        file: Its path, for messages.
        wanted: Which columns are looked for.

    Raises:
        LabelError: The file is no workbook, is damaged, has nothing in the first ten rows of its
            sheets, has labels in two sheets or columns written as rows, or would take too much
            memory. `LabelTable.read` raises it too, and where a formula has no stored value.
    """
    import openpyxl

    with _explained(file):
        empty = _check_parts(stream, file)
        book = openpyxl.load_workbook(stream, read_only=True, data_only=True, keep_links=False)
        visible: list[ReadOnlyWorksheet] = [
            sheet for sheet in book.worksheets if sheet.sheet_state == "visible"
        ]
        heads = {sheet: list(_head(sheet)) for sheet in visible}
        found = {
            sheet: _header(rows, wanted, file)
            for sheet in sorted(heads, key=lambda sheet: sheet is not book.active)
            if (rows := heads[sheet])
        }
        if not found:
            raise LabelError(f"{file} is an Excel file without rows")
        sheet = _sheet_of_labels(found, visible, wanted, file)
    number, texts = found[sheet]
    header = tuple(name.strip() for name in texts)
    form = f"Excel, sheet {visible.index(sheet) + 1}" if len(found) > 1 else "Excel"
    read = functools.partial(_chunks, sheet, file, number + 1, empty)
    return LabelTable(form, "row", header, read)


def _header(
    rows: Sequence[tuple[int, list[str]]], wanted: WantedColumns, file: str
) -> tuple[int, list[str]]:
    texts = [row for _, row in rows]
    place = header_place(texts, wanted.count_in)
    check_upright(texts, place, wanted.count_in, file)
    return rows[place]


def _sheet_of_labels(
    found: Mapping["ReadOnlyWorksheet", tuple[int, list[str]]],
    visible: Sequence["ReadOnlyWorksheet"],
    wanted: WantedColumns,
    file: str,
) -> "ReadOnlyWorksheet":
    """Return the sheet that is read, and refuse to choose between two that could be."""
    usable = {sheet: _usability(header, wanted) for sheet, (_, header) in found.items()}
    best = [sheet for sheet, grade in usable.items() if grade == max(usable.values())]
    if usable[best[0]] and len(best) > 1:
        numbers = " and ".join(str(visible.index(sheet) + 1) for sheet in visible if sheet in best)
        raise LabelError(
            f"{file}: sheets {numbers} all have columns of labels; put their rows into one sheet, "
            "or hide the sheets that are not meant"
        )
    if usable[best[0]]:
        return best[0]
    return max(found, key=lambda sheet: min(2, wanted.count_in(found[sheet][1])))


def _usability(header: Sequence[str], wanted: WantedColumns) -> int:
    """Return 2 for a header of labels, 1 where flags may name the class, and 0 for another."""
    try:
        chosen = choose_columns(header, wanted, "")
    except LabelError:
        return 0
    return 2 if "label" in chosen.places or chosen.are_classes else 1


def _head(sheet: "ReadOnlyWorksheet") -> Iterator[tuple[int, list[str]]]:
    """Yield the first rows, without the empty fields at their ends."""
    for number, values in _filled(sheet, 1, _HEAD_ROWS, _MOST_COLUMNS):
        width = max(place for place, value in enumerate(values, 1) if value is not None)
        yield number, [text_of(value) for value in values[:width]]


def _chunks(
    sheet: "ReadOnlyWorksheet", file: str, first: int, empty: _Cells, places: Sequence[int]
) -> Chunks:
    rows = _filled(sheet, first, _MOST_ROWS, max(places) + 1)
    texts = ((number, _fields(file, number, values, empty, places)) for number, values in rows)
    with _explained(file):
        for chunk in chunks_of(texts, range(len(places))):
            yield chunk.set_axis([*places], axis=1)


def _fields(
    file: str, number: int, values: Sequence[object], empty: _Cells, places: Sequence[int]
) -> list[str]:
    if any(values[place] is None and (number, place) in empty for place in places):
        raise LabelError(
            f"{file}, row {number}: a formula has no stored value; open the file in Excel or "
            "LibreOffice, save it, and give it again"
        )
    return [text_of(values[place]) for place in places]


def _filled(
    sheet: "ReadOnlyWorksheet", first: int, last: int, width: int
) -> Iterator[tuple[int, tuple[object, ...]]]:
    """Yield the number and the values of each row that is not empty, all of one width."""
    rows = sheet.iter_rows(first, last, 1, width, values_only=True)  # type: ignore[misc]  # the stubs say Worksheet
    for number, values in enumerate(rows, first):
        if values.count(None) < len(values):
            yield number, values


@contextlib.contextmanager
def _explained(file: str) -> Iterator[None]:
    """Turn errors of openpyxl, which may quote a cell, into one line, and drop its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except LabelError:
        raise
    except Exception:
        raise LabelError(f"{file} is not a whole Excel file; save it again, or as CSV") from None


def _check_parts(stream: BinaryIO, file: str) -> _Cells:
    """Refuse a workbook whose parts openpyxl would turn into too many objects.

    Returns:
        Of each part and column, the first cell whose formula has no stored value.

    Raises:
        LabelError: The file is of another program, or too large.
        ReadingError, zipfile.BadZipFile: It is no zip.
    """
    directory = find_directory(stream)
    if directory.file_end > _LARGEST_FILE or directory.end - directory.start > _MOST_DIRECTORY:
        raise _too_large(file)
    with zipfile.ZipFile(stream) as parts:
        names = parts.namelist()
        if "[Content_Types].xml" not in names:
            is_ods = "mimetype" in names and "content.xml" in names
            what = "an OpenDocument file" if is_ods else "a zip, but no Excel file"
            raise LabelError(f"{file} is {what}; save the table as .xlsx or CSV")
        sizes = [part.file_size for part in parts.infolist()]
        if max(sizes) > _LARGEST_PART or sum(sizes) > _LARGEST_WHOLE:
            raise _too_large(file)
        empty: _Cells = set()
        for part in parts.infolist():
            with parts.open(part) as content:
                empty |= _check_part(content, file)
        return empty


def _check_part(content: IO[bytes], file: str) -> _Cells:
    """Look through a part; one that is no XML stops openpyxl at its first byte."""
    counts = Counter[bytes]()
    formulas: dict[bytes, bytes] = {}
    block, tail, barren = content.read(_BLOCK), b"", 0
    if block.strip() and not block.lstrip().startswith((b"<", *_MARKS)):
        return set()
    while block:
        # A document type may define entities that expand. NULs are UTF-16, which would hide one.
        if b"<!DOCTYPE" in tail + block or b"\0" in block:
            raise LabelError(
                f"{file} holds XML that Excel does not write; save it again, or as CSV"
            )
        found = Counter(match[1] for match in _ITEM.finditer(tail + block))
        counts += found
        barren = 0 if found.keys() & {b"row", b"si"} else barren + len(block)
        if barren > _LARGEST_BARREN or any(n > _MOST_ITEMS[what] for what, n in counts.items()):
            raise _too_large(file)
        for cell in _EMPTY_FORMULA.finditer(block):
            formulas.setdefault(cell[1], cell[2])
        block, tail = content.read(_BLOCK), block[-_LONGEST_START:]
    return {(int(row), _place(column)) for column, row in formulas.items()}


def _place(column: bytes) -> int:
    """Convert the letters of a column to its position, from 0: A is 0, AA is 26."""
    return functools.reduce(lambda place, letter: 26 * place + letter - 64, column, 0) - 1


def _too_large(file: str) -> LabelError:
    return LabelError(f"{file} is a larger Excel file than labels may be; save it as CSV")

"""Reads the rows of labels in CSV of any separator and encoding, in bounded memory."""

import contextlib
import csv
import functools
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import TYPE_CHECKING, BinaryIO, TextIO

import pandas as pd

from cxrbatch.errors import LabelError

if TYPE_CHECKING:
    import _csv

# Characters of a field, and of a row of CSV.
LONGEST_VALUE, _LONGEST_ROW = 1 << 16, 1 << 20
TOO_LONG = f"a field is longer than {LONGEST_VALUE} characters"
# Rows that are checked together, and their characters.
_CHUNK_ROWS, _CHUNK_CHARACTERS = 1 << 16, 1 << 22
# Lines among which the header is looked for: titles and remarks may stand above it.
_HEAD_LINES = 10

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_ENCODINGS = {
    "utf-8": "UTF-8",
    "utf-8-sig": "UTF-8",
    "cp1252": "Windows-1252",
    "utf-32": "UTF-32",
    **dict.fromkeys(("utf-16", "utf-16-le", "utf-16-be"), "UTF-16"),
}
_BOMS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)
_MOST_BLANK = 2_000_000

Count = Callable[[Sequence[str]], int]
"""Returns how many texts of a row are names that columns of labels have."""

Chunks = Iterator[pd.DataFrame]
"""Yields the rows of a file some at a time, each time as a DataFrame of texts without outer spaces.

Its columns are positions of columns in the file, from 0; its index is the row's number, or the line
of CSV, from 1. An empty field, and one that the row lacks, is "".
"""


@dataclass(frozen=True, slots=True)
class LabelTable:
    """A file of labels whose header was read.

    Attributes:
        form: What the file is, for a message: "CSV in UTF-8, separated by commas".
        unit: What numbers its rows in messages: "line" or "row".
        header: Names of the columns.
        read: Takes positions of columns and yields the rows below the header, see `Chunks`; rows
            of blank fields may be left out. May be called once.
    """

    form: str
    unit: str
    header: tuple[str, ...]
    read: Callable[[Sequence[int]], Chunks]


def encodings_of(head: bytes) -> tuple[str, ...]:
    """Return the encodings that a text which starts with these bytes may have, the likeliest first.

    A byte order mark decides; then NULs in every second byte, which UTF-16 has without a mark.
    Else it is UTF-8 or, where it is not, Windows-1252.
    """
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return (encoding,)
    halves = head[0::2], head[1::2]
    for half, other, encoding in ((0, 1, "utf-16-be"), (1, 0, "utf-16-le")):
        if 2 * halves[half].count(0) > len(halves[half]) > 20 * halves[other].count(0):
            return (encoding,)
    return "utf-8", "cp1252"


def frame_of(
    columns: Sequence[Sequence[str]], places: Sequence[int], numbers: Sequence[int] | range
) -> pd.DataFrame:
    """Make a DataFrame of texts, with the spaces around each text removed.

    Args:
        columns: The texts of each column.
        places: Names of the columns of the DataFrame.
        numbers: Its index: the number of each row in its file.
    """
    texts = pd.DataFrame(dict(zip(places, columns, strict=True)), numbers, dtype="string")
    return texts.apply(lambda column: column.str.strip())


class _Lines:
    """The lines of a text; no row is read further than it may be long.

    Attributes:
        characters: Number of characters read.
    """

    def __init__(self, text: TextIO, file: str) -> None:
        self._text = text
        self._file = file
        self._left = _LONGEST_ROW
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self._left)
        self._left -= len(line)
        self.characters += len(line)
        if not self._left:
            raise LabelError(
                f"{self._file} has a row of more than {_LONGEST_ROW:,} characters; "
                "write one image a line"
            )
        if not line:
            raise StopIteration
        return line

    def begin_row(self) -> None:
        """Start to count the characters of the next row."""
        self._left = _LONGEST_ROW

    def first(self, count: int) -> Iterator[str]:
        """Yield up to `count` lines, each of which may be as long as a row."""
        for line in itertools.islice(self, count):
            self.begin_row()
            yield line


def open_csv(stream: BinaryIO, encoding: str, file: str, count: Count) -> LabelTable:
    """Find the separator and the header of a CSV file: comma, semicolon, tab or vertical bar.

    A line `sep=;` names the separator. Else it is the one that divides the header into most names
    of columns; of several, into most parts.

    Args:
        stream: The file, opened for reading bytes.
        encoding: One of `encodings_of`.
        file: Its path, for messages.
        count: Tells the header from other rows.

    Raises:
        LabelError: A row has more than 1,048,576 characters, or a field more than 131,072.
        UnicodeDecodeError: The file is not in this encoding. `LabelTable.read` raises it too.
    """
    # By `csv` and not `pandas.read_csv`, which has no limit for a row without end, and does not say
    # on which line of the file a row stands.
    lines = _Lines(io.TextIOWrapper(stream, encoding=encoding, newline=""), file)
    with _csv_explained(file):
        head = list(lines.first(_HEAD_LINES))
        stated = _SEPARATOR_LINE.fullmatch(head[0]) if head else None
        tried = [stated[1]] if stated else _SEPARATORS
        parsed = {sep: _parsed(head, sep) for sep in tried}
        found = {sep: header_place(rows, count) for sep, rows in parsed.items()}
        headers = {sep: parsed[sep][at] if parsed[sep] else [] for sep, at in found.items()}
        separator = max(tried, key=lambda sep: (count(headers[sep]), len(headers[sep])))
        reader = csv.reader(itertools.chain(head, lines), delimiter=separator)
        for _ in itertools.islice(reader, found[separator] + 1):
            lines.begin_row()
    header = tuple(name.strip() for name in headers[separator])
    by = _SEPARATORS.get(separator, repr(separator))
    form = f"CSV in {_ENCODINGS[encoding]}" + (f", separated by {by}" if len(header) > 1 else "")
    read = functools.partial(_csv_chunks, reader, lines, file, len(header), separator)
    return LabelTable(form, "line", header, read)


def _parsed(head: Sequence[str], separator: str) -> list[list[str]]:
    """The rows that some lines are with a separator, up to a field that is too long."""
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):
        rows.extend(csv.reader(head, delimiter=separator))
    return rows


def header_place(rows: Sequence[Sequence[str]], count: Count) -> int:
    """Return the position of the header among the first rows of a file.

    It is the first row that has two names of columns, else the first that has one, else the first
    that is neither blank nor a remark, which starts with #.
    """
    some = [place for place, row in enumerate(rows) if any(row) and not _is_remark(row[0])]
    return max(some, key=lambda place: min(2, count(rows[place])), default=0)


def _is_remark(text: str) -> bool:
    return text.startswith("#") or _SEPARATOR_LINE.fullmatch(text) is not None


@contextlib.contextmanager
def _csv_explained(file: str) -> Iterator[None]:
    try:
        yield
    except csv.Error:
        longest = csv.field_size_limit()
        raise LabelError(
            f"{file} is no CSV, or a field has more than {longest:,} characters"
        ) from None


def _csv_chunks(
    reader: "_csv.Reader",
    lines: _Lines,
    file: str,
    width: int,
    separator: str,
    places: Sequence[int],
) -> Chunks:
    with _csv_explained(file):
        yield from chunks_of(_csv_rows(reader, lines, file, width, separator), places)


def chunks_of(rows: Iterator[tuple[int, Sequence[str]]], places: Sequence[int]) -> Chunks:
    """Yield some columns of rows, each given with its number, many rows at a time."""
    while some := list(_some(rows)):
        columns = [[row[p] if p < len(row) else "" for _, row in some] for p in places]
        yield frame_of(columns, places, [number for number, _ in some])


def _csv_rows(
    reader: "_csv.Reader", lines: _Lines, file: str, width: int, separator: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with its line number."""
    blank = 0
    for row in reader:
        if row:
            lines.begin_row()
        if not any(row) or (row[0][:1] == "\0" and not "".join(row).strip("\0 ")):
            blank += 1
            if blank > _MOST_BLANK:
                raise LabelError(f"{file} has more than {_MOST_BLANK:,} blank rows; remove them")
            continue
        if len(row) > width and any(row[width:]):
            raise LabelError(
                f"{file}, line {reader.line_num}: more fields than the header; quote those that "
                f"hold {separator!r}"
            )
        yield reader.line_num, row


def _some(rows: Iterator[tuple[int, Sequence[str]]]) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the next rows, as many as are checked together."""
    characters = 0
    for number, row in itertools.islice(rows, _CHUNK_ROWS):
        yield number, row
        characters += sum(map(len, row))
        if characters > _CHUNK_CHARACTERS:
            return


def text_of(value: object) -> str:
    """Convert a field to text.

    None, NaN and NaT become "", a float without fraction like 3.0 "3", as a column of whole numbers
    with gaps holds floats; True "true", bytes the text that they hold in UTF-8, midnight its day.

    Raises:
        UnicodeDecodeError: Bytes are not UTF-8.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, datetime) and value.time() == time():
        value = value.date()
    return value.isoformat() if isinstance(value, date) else str(value)
